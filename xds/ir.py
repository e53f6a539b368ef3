"""Pure: what we want from Envoy, in our own words. Frozen values; nothing here knows Kubernetes, metrics or offloading.

One `Route` is one model. It names its *destinations*: `local`, the model's own endpoints, and up to `MAX_REMOTES`
remotes. A destination's place in the route is its *slot* (`local`, `remote-0`, `remote-1`, ...). Whoever builds a Route
decides everything, in its `chains`: which slots get traffic, how much, and in which order the others are tried when an
attempt fails before its first byte. Translation adds no policy.

Equal values mean equal configuration: publishing a Route that equals the last one changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

PPM = 1_000_000
"""Weights and shares are parts per million: the weights of a route add up to this."""

MAX_REMOTES = 8
"""Remotes that a route may have: every gateway has a gate for each."""

LOCAL = "local"
"""The slot of the model's own endpoints."""

UNLIMITED = 1_000_000
"""Concurrent requests of a destination without a limit; Envoy's own default (1024) would be a hidden one."""


def remote_slot(index: int) -> str:
    """The slot of the index-th remote of a route, counted from 0."""
    return f"remote-{index}"


class Protocol(StrEnum):
    """What a destination speaks. AUTO lets ALPN choose, so it needs TLS."""

    HTTP1 = "http1"
    HTTP2 = "http2"
    AUTO = "auto"


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A ready address of a model: an IPv4 or IPv6 literal and a port."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Local:
    """A model's own endpoints (an EDS cluster).

    `initial_limit` is the circuit breaker that the cluster is created with, in concurrent requests of one gateway. It
    must never change while the model lives: a changed cluster drops its counters and connections, so a limit of 5 that
    became 6 let 11 pass. Later values go in `limit`, which travels over RTDS and takes effect at the next request.
    """

    endpoints: tuple[Endpoint, ...] = ()
    protocol: Protocol = Protocol.HTTP1
    initial_limit: int = UNLIMITED
    limit: int = UNLIMITED


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS towards a remote, with the name and the authority pinned. `ca_pem` None: the system's authorities."""

    sni: str
    san: str
    ca_pem: str | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """A reference to a secret and where its value goes. The value itself travels as a `Secret`, over SDS only."""

    secret: str
    header: str = "authorization"
    value_prefix: str = "Bearer "


@dataclass(frozen=True, slots=True)
class Backend:
    """A real remote as Envoy connects to it. Models whose backends are equal share one cluster, one pool and one DNS
    lookup.

    `address` is a DNS name or an IP literal. `headers` overwrite what the request carries; header names are lower case.
    """

    address: str
    port: int
    tls: Tls | None = None
    protocol: Protocol = Protocol.HTTP1
    headers: tuple[tuple[str, str], ...] = ()
    credential: Credential | None = None
    limit: int = UNLIMITED


@dataclass(frozen=True, slots=True)
class Remote:
    """One model's use of a backend: the Host it is addressed by and the prefix put before the path ('' or '/x', no
    slash at the end).
    """

    backend: Backend
    authority: str
    path_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """`status_codes`: answers of a destination that mean "not me" (429), tried elsewhere like a failure before the
    first byte.
    """

    attempts: int
    """Further destinations to try after the first; 0 turns failover by retry off."""
    status_codes: tuple[int, ...] = (429,)


@dataclass(frozen=True, slots=True)
class Chain:
    """A first destination, the part of the traffic that starts there, and where a request goes next if the attempt
    fails.
    """

    first: str
    weight_ppm: int
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One model. `name` is '<namespace>/<name>'. `hosts` are what callers put in Host: lower case, without port,
    sorted, unique over all routes.

    `chains` have distinct `first` slots, in slot order, weights above 0 that add up to `PPM`, and each names only slots
    that the route has. No chains at all: nothing can serve the model; Envoy answers 503.
    """

    name: str
    hosts: tuple[str, ...]
    local: Local
    remotes: tuple[Remote, ...] = ()
    chains: tuple[Chain, ...] = (Chain(LOCAL, PPM),)
    retry: Retry = Retry(attempts=MAX_REMOTES)
    affinity_header: str | None = None
    port: int | None = None
    """A port of the gateway that is this model's own, whatever the Host; unique over all routes. None: none."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A credential's value, as sent after the prefix. Its repr never shows it."""

    name: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """Limits of one gateway's own, by route name, in place of those that all have. They end by themselves: what is
    `lent` to others after `LENT_TTL_S`, what is `borrowed` after `BORROWED_TTL_S`, counted from when the gateway hears
    of it, also of the same once more. `serial` grows with each lease.
    """

    gateway: str
    serial: int
    lent: Mapping[str, int] = field(default_factory=dict)
    borrowed: Mapping[str, int] = field(default_factory=dict)


LENT_TTL_S = 60
BORROWED_TTL_S = 5


@dataclass(frozen=True, slots=True)
class Survey:
    """The routes of which gateways report what is in progress at their own endpoints, and whether that is urgent."""

    routes: frozenset[str] = frozenset()
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """What changed: routes and secrets by name, None where one is gone. What is not named stays."""

    routes: Mapping[str, Route | None] = field(default_factory=dict)
    secrets: Mapping[str, Secret | None] = field(default_factory=dict)
