"""Pure: all that the engine knows of one model, and when two versions of it differ in what must be published or
saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from controller import offload
from controller.api import MetricSpec, ModelDeployment
from controller.metrics import Query, Reading, Unknown, Value, ratio, target_of
from controller.routing import RemoteState, policy_of
from xds import ir

FORGOTTEN = frozenset({"heard_s", "streak_from_s", "share_ppm", "restraint"})
"""What a restart may lose of a decision: it is made anew from the first sample."""


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
        self.reading = reading
        if isinstance(reading, Unknown):
            return
        share_of_target = ratio(self.spec, reading, replicas)
        if isinstance(share_of_target, Value):
            self.value, self.ratio, self.at_s = reading.value, share_of_target.value, now
        else:
            self.reading = share_of_target


@dataclass(frozen=True, slots=True)
class Target:
    """A remote of a model as far as its manifests go. `credential`: the name of the secret it needs. `cluster`: what
    gateways call it.
    """

    remote: RemoteState
    credential: str | None
    cluster: str


@dataclass(slots=True)
class Record:
    """One model. `route` is what was last published, `routed` what it was made from besides the manifests."""

    spec: ModelDeployment
    policy: offload.Policy
    decision: offload.Decision
    watching_since_s: float
    initial_limit: int | None = None
    conflict: str = ""
    unresolved: str = ""
    local: ir.Local | None = None
    replicas: int | None = None
    hosts: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    remotes: tuple[RemoteState, ...] = ()
    gauges: tuple[Gauge, ...] = ()
    route: ir.Route | None = None
    programmed: set[str] = field(default_factory=set)
    rejection: str = ""
    timer_at_s: float | None = None
    saved: Mapping[str, object] | None = None

    @property
    def key(self) -> str:
        return self.spec.key

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
    decision, limit = restore(saved) if saved else (offload.Decision(), None)
    return Record(spec, policy_of(spec), decision, watching_since_s=now, initial_limit=limit, saved=saved)


def to_save(record: Record, credentials: Mapping[str, float | None]) -> Mapping[str, object]:
    """What must survive a restart, as plain JSON values. `credentials`: those that a gateway holds, with their
    expiry.
    """
    decision = {f.name: getattr(record.decision, f.name) for f in fields(offload.Decision) if f.name not in FORGOTTEN}
    return {"decision": decision, "initial_limit": record.initial_limit, "credentials": dict(credentials)}


def restore(saved: Mapping[str, object]) -> tuple[offload.Decision, int | None]:
    """The inverse of `to_save` for what a record holds. What does not fit (another version wrote it) is left out, never
    an error.
    """
    decision = offload.Decision()
    stored = saved.get("decision")
    limit = saved.get("initial_limit")
    if isinstance(stored, Mapping):
        known = {f.name for f in fields(offload.Decision)} - FORGOTTEN
        values = {name: value for name, value in stored.items() if name in known}
        try:
            values["state"] = offload.State(values.get("state", decision.state))
            values["reason"] = offload.Reason(values.get("reason", decision.reason))
        except ValueError:
            return offload.Decision(), limit if isinstance(limit, int) else None
        decision = offload.Decision(**values)
    return decision, limit if isinstance(limit, int) else None


def saved_credentials(saved: Mapping[str, Mapping[str, object]]) -> dict[str, float | None]:
    """Credential name -> expiry (None: never), of all that some gateway held."""
    held: dict[str, float | None] = {}
    for state in saved.values():
        credentials = state.get("credentials")
        if isinstance(credentials, Mapping):
            held |= {str(name): float(at) if isinstance(at, int | float) else None for name, at in credentials.items()}
    return held
