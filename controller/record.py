"""Pure: all that the engine knows of one model, and when two versions of it differ in what must be published or
saved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter

from pydantic import TypeAdapter, ValidationError

from controller import offload
from controller.api import MetricSpec, ModelDeployment
from controller.events import Expose, Exposed, NewService
from controller.metrics import Query, Reading, Unknown, judged, target_of
from controller.routing import RemoteState, policy_of, route
from xds import ir
from xds.events import Rejected

FORGOTTEN = frozenset({"heard_s", "streak_from_s", "share_ppm", "restraint"})
"""What a restart may lose of a decision: it is made anew from the first sample."""

SHARED = frozenset({"share_ppm", "restraint"})
"""What those who follow need of that all the same."""

WORDS_MAX = 400
"""Characters of a gateway's own words that are kept: they may repeat a whole resource."""

GATEWAYS_MAX = 1_000
"""What says that there were more is not believed: the limits of all models are divided by it."""
PORT_MAX = 65_535
TIME_MAX_S = 253_402_300_799.0
"""The last second that a time in Kubernetes' form can name."""

_DECISION = TypeAdapter(offload.Decision)
_SAVED = tuple(each.name for each in fields(offload.Decision) if each.name not in FORGOTTEN)
_saved_values = attrgetter(*_SAVED)


@dataclass(slots=True)
class Gauge:
    """One metric of a model. `query` None: no source can answer it, and `reading` says why. The last ratio stands until
    it is stale.
    """

    spec: MetricSpec
    query: Query | None
    reading: Reading
    ratio: float | None = None
    value: float | None = None
    at_s: float = 0.0

    @property
    def name(self) -> str:
        spec = self.spec
        if named := spec.resource or spec.container_resource:
            return named.name
        measured = spec.pods or spec.object or spec.external
        return measured.metric.name if measured else ""

    @property
    def target(self) -> float | None:
        """The target as a number: a quantity, or percent of what the pods request."""
        target = target_of(self.spec)
        value = target.value if target.value is not None else target.average_value
        return float(value) if value is not None else target.average_utilization

    def read(self, reading: Reading, replicas: int | None, now: float) -> None:
        self.reading = judged(self.spec, reading, replicas)
        if not isinstance(self.reading, Unknown):
            self.value, self.ratio, self.at_s = self.reading.value, self.reading.ratio, now


def gauges_of(queries: Iterable[tuple[MetricSpec, Query | Unknown]], known: Collection[Gauge]) -> tuple[Gauge, ...]:
    """A gauge for each metric: the one that was known, where it is asked as before."""
    gauges = []
    for spec, query in queries:
        if isinstance(query, Unknown):
            gauges.append(Gauge(spec, None, query))
            continue
        before = next((gauge for gauge in known if gauge.spec == spec and gauge.query == query), None)
        gauges.append(before or Gauge(spec, query, Unknown("Waiting", "no answer has come yet")))
    return tuple(gauges)


@dataclass(frozen=True, slots=True)
class Target:
    """A remote of a model as far as its manifests go. `credential`: the name of the secret it needs. `cluster`: what
    gateways call it.
    """

    remote: RemoteState
    credential: str | None
    cluster: str


class Readiness(StrEnum):
    """What a remote is good for, as the leader tells it."""

    READY = "Ready"
    RESTS = "Rests"
    NOT_READY = "NotReady"

    @classmethod
    def of(cls, remote: RemoteState) -> Readiness:
        return cls.READY if remote.ready else cls.RESTS if remote.rests else cls.NOT_READY


@dataclass(frozen=True, slots=True)
class Lost:
    """What a model's manifest names, and another model has. `identity`: its environment and model. `port`: that of its
    Service.
    """

    identity: bool = False
    hosts: frozenset[str] = frozenset()
    port: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What a saved state says of a model. `decision` None: none that can be read. `remotes`: by name. What it does not
    say is as if nothing had been saved.
    """

    decision: offload.Decision | None = None
    initial_limit: int | None = None
    gateway_port: int | None = None
    remotes: Mapping[str, str] = field(default_factory=dict)
    lost: Lost = Lost()


@dataclass(slots=True)
class Record:
    """One model. `spec` is in force; `wanted` is the newest good manifest, which waits while another model serves what
    it names. `route` is what was last published. `lost_hosts`: names that another model has, and which one.
    """

    spec: ModelDeployment
    wanted: ModelDeployment
    policy: offload.Policy
    decision: offload.Decision
    watching_since_s: float
    number: int = 0
    """Models are numbered as they come."""
    initial_limit: int | None = None
    conflict: str = ""
    missing: tuple[str, ...] = ()
    """Sentences on what the manifest refers to and is not there."""
    forbidden: tuple[str, ...] = ()
    """Sentences on what it may not refer to."""
    local: ir.Local | None = None
    replicas: int | None = None
    hosts: tuple[str, ...] = ()
    lost_hosts: Mapping[str, str] = field(default_factory=dict)
    targets: tuple[Target, ...] = ()
    remotes: tuple[RemoteState, ...] = ()
    gauges: tuple[Gauge, ...] = ()
    route: ir.Route | None = None
    routed: object = None
    """What `route` was made of: as long as that is the same, so is the route."""
    programmed: set[str] = field(default_factory=set)
    rejections: dict[str, str] = field(default_factory=dict)
    """By gateway, in its own words."""
    refused_remotes: dict[str, str] = field(default_factory=dict)
    """Clusters of remotes that a gateway refused, with its words. They are left out, so that all else keeps moving."""
    notes: tuple[str, ...] = ()
    """Sentences on what is not as it may seem."""
    inline_secrets: tuple[str, ...] = ()
    """Sentences on secrets that all who may read the manifest can read."""
    service: tuple[str, int | None] | None = None
    """What callers use, and the number of its port, as far as they are known."""
    is_touched: bool = False
    """Something of ours leads the Service's callers."""
    make: NewService | None = None
    """The Service that is to be made for the model, which names none."""
    port_holder: str = ""
    """The model that has this port of the Service instead."""
    gateway_port: int | None = None
    lacks_port: bool = False
    """Callers of its Service cannot be led to a gateway, since all ports for that are taken."""
    listening: set[str] = field(default_factory=set)
    """Gateways that have acknowledged the model's own port, and were ready ever since."""
    expose: Expose | None = None
    exposed: Exposed | None = None
    told: Told | None = None
    """What the leader has decided, as long as that is another."""
    heard: Mapping[str, object] | None = None
    """What was last said to be decided, by whomever, as long as this controller leads."""
    timer_at_s: float | None = None
    saved: Mapping[str, object] | None = None

    @property
    def key(self) -> str:
        return self.spec.key

    @property
    def is_limited(self) -> bool:
        return self.spec.spec.offloading_config.local_limit is not None

    @property
    def lost(self) -> Lost:
        return Lost(bool(self.conflict), frozenset(self.lost_hosts), bool(self.port_holder))

    @property
    def told_lost(self) -> Lost:
        """As the leader tells it."""
        return self.told.lost if self.told else Lost()

    def reroute(self) -> bool:
        """Brings the route in line with all that it is made of. True if it has changed, so no gateway has it yet."""
        decision, local = self.decision, self.local or ir.Local()
        parts = (self.spec, decision.state, decision.share_ppm, self.hosts, local, self.remotes, self.gateway_port)
        if self.route is not None and parts == self.routed:
            return False
        self.routed = parts
        wanted = route(self.spec, decision, self.hosts, local, self.remotes, self.gateway_port)
        if wanted == self.route:
            return False
        if self.route and self.route.port != wanted.port:
            self.listening.clear()
        self.route = wanted
        self.programmed.clear()
        return True

    def accepted_by(self, gateway: str) -> bool:
        """A gateway has what is published. True if it listens at the model's own port only since now."""
        self.programmed.add(gateway)
        self.rejections.pop(gateway, None)
        self.rejections.pop("controller", None)  # what a gateway accepts has been published
        if self.gateway_port is None or gateway in self.listening:
            return False
        self.listening.add(gateway)
        return True

    def rejected_by(self, event: Rejected) -> str:
        """Takes a gateway's refusal. Returns who refused and why, on one line."""
        words = f"{event.gateway}: {' '.join(event.message.split())[:WORDS_MAX]}"
        self.programmed.discard(event.gateway)
        self.rejections[event.gateway] = words
        for target in self.targets:
            if target.cluster in event.resources:
                self.refused_remotes = {**self.refused_remotes, target.cluster: words}
        return words

    def forget_gateway(self, gateway: str) -> None:
        """It may come back with nothing, so it has to show again what it has."""
        self.programmed.discard(gateway)
        self.rejections.pop(gateway, None)

    def observe(self, now: float) -> offload.Observation:
        """What the decision may know. The highest ratio that is not stale counts, with the time of its own sample. A
        remote that rests can take traffic only when local cannot.
        """
        fresh = [g for g in self.gauges if g.ratio is not None and now < g.at_s + self.policy.stale_s]
        known = fresh or [g for g in self.gauges if g.ratio is not None]
        top = max(known, key=lambda gauge: (gauge.ratio or 0.0, gauge.at_s), default=None)
        return offload.Observation(
            ratio=top.ratio if top else None,
            ratio_at_s=top.at_s if top else self.watching_since_s,
            local_ready=None if self.replicas is None else self.replicas > 0,
            remote_ready=any(remote.ready or (remote.rests and self.replicas == 0) for remote in self.remotes),
        )


def new_record(spec: ModelDeployment, saved: Mapping[str, object] | None, now: float) -> Record:
    """A model that is seen for the first time, or again after a restart: then it goes on where it stopped."""
    told = restore(saved) if saved else Told()
    decision = told.decision or offload.Decision()
    record = Record(spec, spec, policy_of(spec), decision, watching_since_s=now, saved=saved)
    record.initial_limit, record.gateway_port = told.initial_limit, told.gateway_port
    return record


def to_save(
    record: Record, credentials: Mapping[str, float | None], gateways: int, *, shared: bool
) -> Mapping[str, object]:
    """What must survive a restart, as plain JSON values. `credentials`: those that a gateway holds, with their expiry.
    `gateways`: by how many the limit is divided. `shared`: other controllers follow it.
    """
    decision = dict(zip(_SAVED, _saved_values(record.decision), strict=True))
    saved = {"decision": decision, "credentials": dict(credentials), "initial_limit": record.initial_limit}
    if record.is_limited:
        saved["gateways"] = gateways
    if shared:
        decision |= {name: getattr(record.decision, name) for name in SHARED}
        saved["gateway_port"] = record.gateway_port
        saved["remotes"] = {remote.spec.name: str(Readiness.of(remote)) for remote in record.remotes}
        if (lost := record.lost) != Lost():
            saved["lost"] = {"identity": lost.identity, "hosts": sorted(lost.hosts), "port": lost.port}
    return saved


def restore(saved: Mapping[str, object], *, forgotten: Collection[str] = FORGOTTEN) -> Told:
    """The inverse of `to_save` for what a record holds. What does not fit (another version wrote it, or somebody who
    edits statuses) is left out, never an error. `forgotten`: what to leave out of the decision.
    """
    remotes = saved.get("remotes")
    return Told(
        _decision(saved.get("decision"), forgotten),
        _number(saved.get("initial_limit"), ir.UNLIMITED),
        _number(saved.get("gateway_port"), PORT_MAX),
        remotes if isinstance(remotes, Mapping) else {},
        _lost(saved.get("lost")),
    )


def _decision(stored: object, forgotten: Collection[str]) -> offload.Decision | None:
    if not isinstance(stored, Mapping) or not stored:
        return None
    try:
        decision = _DECISION.validate_python({k: v for k, v in stored.items() if k not in forgotten})
    except ValidationError:
        return None
    return decision if _is_possible(decision) else None


def _is_possible(decision: offload.Decision) -> bool:
    shares = decision.share_ppm, decision.wanted_ppm
    times = decision.since_s, decision.heard_s, decision.streak_from_s, decision.stepped_at_s, decision.returned_at_s
    return (
        all(0 <= share <= ir.PPM for share in shares)
        and all(0 <= at_s <= TIME_MAX_S for at_s in times if at_s is not None)
        and 1 <= decision.buffer_growth <= offload.BUFFER_GROWTH_MAX
    )


def _number(stored: object, most: int) -> int | None:
    """From 1 on; None for all else."""
    return stored if isinstance(stored, int) and stored is not True and 1 <= stored <= most else None


def _lost(stored: object) -> Lost:
    if not isinstance(stored, Mapping):
        return Lost()
    hosts = stored.get("hosts")
    names = frozenset(map(str, hosts)) if isinstance(hosts, list) else frozenset()
    return Lost(stored.get("identity") is True, names, stored.get("port") is True)


def saved_ports(saved: Mapping[str, Mapping[str, object]]) -> dict[str, int]:
    """Model key -> its port on the gateway."""
    return {key: port for key, state in saved.items() if (port := _number(state.get("gateway_port"), PORT_MAX))}


def saved_credentials(saved: Mapping[str, Mapping[str, object]]) -> dict[str, float | None]:
    """Credential name -> expiry (None: never), of all that some gateway held."""
    held: dict[str, float | None] = {}
    for state in saved.values():
        credentials = state.get("credentials")
        if isinstance(credentials, Mapping):
            held |= {str(name): float(at) if isinstance(at, int | float) else None for name, at in credentials.items()}
    return held


def saved_gateways(saved: Mapping[str, Mapping[str, object]]) -> int:
    """How many gateways there were."""
    counts = (_number(state.get("gateways"), GATEWAYS_MAX) for state in saved.values())
    return max(filter(None, counts), default=0)
