"""Pure: the engine's vocabulary. Events come in from adapters, effects go out to them; both are frozen values.

An adapter turns everything that happens outside, failures included, into an event, and carries out effects without
deciding anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from controller.api import ModelDeployment, Policy, Problem
from controller.metrics import Query, Reading
from controller.objects import EndpointSlice, GatewayPod, Secret, Service, ServicePort, Workload
from controller.peers import PeerReport
from xds import ir
from xds.events import GatewayEvent

Object = ModelDeployment | Policy | Service | EndpointSlice | Secret | Workload


class Kind(StrEnum):
    """The kinds of manifest that are read; values are Kubernetes' own names."""

    MODEL_DEPLOYMENT = "ModelDeployment"
    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    SECRET = "Secret"
    POLICY = "Policy"
    DEPLOYMENT = "Deployment"
    STATEFUL_SET = "StatefulSet"
    DAEMON_SET = "DaemonSet"
    REPLICA_SET = "ReplicaSet"


def kind_of(thing: Object) -> Kind:
    return Kind(thing.kind if isinstance(thing, Workload) else type(thing).__name__)


# Events


@dataclass(frozen=True, slots=True)
class Applied:
    """An object was created or changed. A changed object replaces the one with the same kind and key
    ('<namespace>/<name>').
    """

    object: Object


@dataclass(frozen=True, slots=True)
class Removed:
    kind: Kind
    key: str


@dataclass(frozen=True, slots=True)
class Refused:
    """An object that cannot be used, and everything that is wrong with it. Its last good version stays in force."""

    kind: Kind
    key: str
    problems: tuple[Problem, ...]

    @property
    def sentence(self) -> str:
        return "; ".join(map(str, self.problems)) + "."


@dataclass(frozen=True, slots=True)
class Observed:
    """A metric source's answer to a query, or why there is none."""

    query: Query
    reading: Reading


@dataclass(frozen=True, slots=True)
class TokenIssued:
    """A token for the credential `name`. `expires_at_s`: seconds since the epoch."""

    name: str
    token: str = field(repr=False)
    expires_at_s: float


@dataclass(frozen=True, slots=True)
class TokenFailed:
    """A token could not be had. The last one stays in use until it expires. `reason` never holds a secret."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class GatewaysSeen:
    """The pods of the gateway, all of them. Outside a cluster this never comes."""

    pods: tuple[GatewayPod, ...]


RELEASED = "Released"
"""The reason of `Exposed` when nothing of ours is left at any Service of the model."""


@dataclass(frozen=True, slots=True)
class Exposed:
    """How far callers of a model's Service reach what `Expose` wants. `status`, `reason` and `message` are those of the
    condition ServiceTakenOver.
    """

    key: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Elected:
    """Whether this controller decides from now on. One that does not follows what `Decided` says. To one that does
    already: whoever acts for it has forgotten what it wanted.
    """

    leads: bool


@dataclass(frozen=True, slots=True)
class Decided:
    """What the leader has saved about a model (as in `Save`); empty if somebody took that away. Ignored by the one who
    leads.
    """

    key: str
    saved: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class PeerReported:
    """What another controller, by name, says of the gateways that are connected to it; None: it is gone."""

    replica: str
    report: PeerReport | None


Event = (
    Applied
    | Removed
    | Refused
    | Observed
    | TokenIssued
    | TokenFailed
    | GatewaysSeen
    | Exposed
    | Elected
    | Decided
    | PeerReported
    | GatewayEvent
)


# Effects


@dataclass(frozen=True, slots=True)
class Publish:
    """Hand this to the gateways."""

    update: ir.Update


@dataclass(frozen=True, slots=True)
class Grant:
    """Lease limits to these gateways."""

    leases: tuple[ir.Lease, ...]


@dataclass(frozen=True, slots=True)
class Conduct:
    """Have gateways report this from now on, in place of what they reported before."""

    survey: ir.Survey


@dataclass(frozen=True, slots=True)
class Watch:
    """Ask `query` over and over and report each answer. A second Watch of the same query replaces its targets.

    `targets`: where to scrape, for a ScrapeQuery; empty for queries that go elsewhere.
    """

    query: Query
    targets: tuple[ir.Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Unwatch:
    query: Query


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """A client of an OAuth2 token endpoint. `name` is also the name of the xDS secret that carries its tokens."""

    name: str
    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    scopes: tuple[str, ...] = ()
    audience: str | None = None
    auth_style: str = "basic"
    """How the client shows its secret: 'basic' (Authorization header) or 'post' (in the form)."""


@dataclass(frozen=True, slots=True)
class KeepToken:
    """Get a token for this client and keep it fresh. A second KeepToken of the same name replaces the client."""

    client: OAuthClient


@dataclass(frozen=True, slots=True)
class DropToken:
    name: str


@dataclass(frozen=True, slots=True)
class Announce:
    """A change worth telling people: a log line, an Event in Kubernetes. `reason` is CamelCase, `message` one
    sentence.
    """

    model: str
    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Save:
    """What must survive a restart has changed. `states`: per changed model key, plain JSON values, None where the model
    is gone.
    """

    states: Mapping[str, Mapping[str, object] | None]


@dataclass(frozen=True, slots=True)
class NewService:
    """A Service that is made for a model that names none, and goes with it: it is owned by the ModelDeployment
    `owner_name` of its namespace.
    """

    owner_name: str
    owner_uid: str
    selector: Mapping[str, str]
    ports: tuple[ServicePort, ...]


@dataclass(frozen=True, slots=True)
class Exposure:
    """What callers of a model's Service shall reach: on `port` (None: its only or first one) the `gateways` at
    `gateway_port`, on its other ports the pods; while there are no `gateways`, the pods on all ports.

    `gateways`: ready ones that have acknowledged the model's listener, by name. `make`: the Service, if it is missing.
    `owner_uid`: of the model whose own the Service has to be, None if the manifest names it.
    """

    service: str
    port: int | None
    gateway_port: int
    gateways: tuple[GatewayPod, ...]
    make: NewService | None = None
    owner_uid: str | None = None


@dataclass(frozen=True, slots=True)
class Expose:
    """Have the callers of this model's Service reach this; None: exactly what it was before."""

    key: str
    exposure: Exposure | None


Effect = Publish | Grant | Conduct | Watch | Unwatch | KeepToken | DropToken | Announce | Save | Expose
