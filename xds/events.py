"""Pure: what the gateways tell us, as the xDS half reports it to whoever published.

A gateway is one Envoy, known by its `node.id`; it is connected while it has at least one stream.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GatewayConnected:
    """The first stream of a gateway opened. `version` is Envoy's own, like '1.40.0'."""

    gateway: str
    version: str


@dataclass(frozen=True, slots=True)
class GatewayRefused:
    """A gateway that cannot carry our configuration (too old, no node id) was turned away; its stream was told the same
    `message`.
    """

    gateway: str
    version: str
    message: str


@dataclass(frozen=True, slots=True)
class GatewayDisconnected:
    """The last stream of a gateway ended. It keeps serving what it has."""

    gateway: str


@dataclass(frozen=True, slots=True)
class Programmed:
    """Every resource of these routes, as last published, has been accepted by this gateway or was already there."""

    gateway: str
    routes: frozenset[str]


@dataclass(frozen=True, slots=True)
class SecretsDelivered:
    """This gateway has accepted the current values of these secrets (names)."""

    gateway: str
    secrets: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A gateway refused a push. The routes named went back to what it last accepted, or left if it never accepted any.

    `message` holds Envoy's words. `resources` are the names of the resources that were refused, of type `type_url`.
    """

    gateway: str
    type_url: str
    resources: frozenset[str]
    routes: frozenset[str]
    message: str


@dataclass(frozen=True, slots=True)
class BackendLoad:
    """Requests that a remote, one cluster of the gateway's, answered or failed to answer since the last report.
    `controller.health` lists which is which.
    """

    cluster: str
    succeeded: int
    failed: int


@dataclass(frozen=True, slots=True)
class LocalLoad:
    """Requests of one model at its own endpoints: `active` are in progress; `issued` went there since the last report;
    `refused` found the limit reached.
    """

    route: str
    active: int
    issued: int
    refused: int


@dataclass(frozen=True, slots=True)
class LoadReported:
    """What this gateway carried since its last report: the remotes at which requests finished, and the models that are
    not idle, of those in `covered`.
    """

    gateway: str
    backends: tuple[BackendLoad, ...]
    locals: tuple[LocalLoad, ...] = ()
    covered: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LeaseAccepted:
    """This gateway has put the lease with this serial in force, or a later one."""

    gateway: str
    serial: int


GatewayEvent = (
    GatewayConnected
    | GatewayRefused
    | GatewayDisconnected
    | Programmed
    | SecretsDelivered
    | Rejected
    | LoadReported
    | LeaseAccepted
)
