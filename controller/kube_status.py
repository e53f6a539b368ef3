"""Pure: a ModelDeployment's status, as the API server is to keep it: for people, and for the next leader.

`decision` is what a `Save` effect said, so whoever reads it back goes on from there. Numbers for people are texts,
rounded, so that a metric that trembles is not written for ever. No secret can appear: what is shown is what
`controller.status` shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.api import ModelDeployment
from controller.metrics import Unknown, target_of
from controller.record import Gauge, Record
from controller.status import UNANSWERED, Condition

Json = dict[str, object]

RESTLESS_FIELDS = frozenset({"currentMetrics", "metric", "readyReplicas"})
"""What may change with every sample, or every pod."""


@dataclass(frozen=True, slots=True)
class Times:
    """In the API server's form: now, and since when the model is in its state."""

    now: str
    since: str


def document(
    record: Record, conditions: Iterable[Condition], before: Json, workspace: str | None, times: Times
) -> Json:
    """The whole status. `before`: the last one, whose times of transition still count."""
    decision, spec = record.decision, record.spec.spec
    metric_service = spec.metric_service_ref
    top = max(record.gauges, key=lambda gauge: gauge.ratio or 0.0, default=None)
    percent = decision.share_ppm / 10_000
    shown: Mapping[str, object] = {
        "observedGeneration": record.wanted.metadata.generation,
        "conditions": dated(conditions, before, times.now),
        "state": str(decision.state),
        "share": f"{percent:.3g}%",
        "percentage": round(percent, 2),
        "since": times.since if decision.since_s else None,  # not before anything is decided
        "reason": str(decision.reason),
        "message": decision.sentence,
        "metric": f"{top.name}: {_value(top)}" if top else None,
        "target": _target(top) if top else None,
        "remote": next((remote.spec.host for remote in record.remotes), None),
        "currentMetrics": [_metric(gauge) for gauge in record.gauges],
        "readyReplicas": record.replicas,
        "gatewayPort": record.gateway_port,
        "offloadingStatus": decision.share_ppm > 0,
        "servingPort": record.service[1] if record.service else None,
        "metricPort": metric_service.target_port if metric_service else None,
        "workspace": workspace or record.spec.metadata.namespace,
        "decision": record.saved,
    }
    return {name: value for name, value in shown.items() if value is not None}


def refused_document(conditions: Iterable[Condition], before: Json, now: str) -> Json:
    """The status of one that was never usable."""
    return {"conditions": dated(conditions, before, now)}


def dated(conditions: Iterable[Condition], before: Json, now: str) -> list[Json]:
    """With the time at which each status last changed."""
    known = _stored(before)
    made = []
    for condition in conditions:
        last = known.get(condition.type, {})
        same = last.get("status") == condition.status
        made.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "lastTransitionTime": last.get("lastTransitionTime") if same else now,
                **({"observedGeneration": g} if (g := condition.observedGeneration) is not None else {}),
            }
        )
    return made


def are_only_unanswered(conditions: Iterable[Condition], before: Json) -> bool:
    """Whether gateways that had this manifest in force have only not answered yet to what has changed since."""
    programmed = next(each for each in conditions if each.type == "Programmed")
    last = _stored(before).get("Programmed", {})
    had = last.get("status") == "True" and last.get("observedGeneration") == programmed.observedGeneration
    return had and programmed.reason in UNANSWERED


def saved_of(status: Mapping[str, object]) -> Mapping[str, object] | None:
    """What the leader saved in a status, None if nothing."""
    saved = status.get("decision")
    return saved if isinstance(saved, Mapping) and saved else None


def order_of(model: ModelDeployment) -> tuple[str, str]:
    """Who of two models that want the same comes first: the older one, in every replica."""
    return model.metadata.creation_timestamp or "", model.key


def _stored(status: Json) -> Mapping[object, Mapping[str, object]]:
    """The conditions by type."""
    stored = status.get("conditions")
    return {each.get("type"): each for each in stored if isinstance(each, Mapping)} if isinstance(stored, list) else {}


def _metric(gauge: Gauge) -> Json:
    shown: Json = {"name": gauge.name, "type": gauge.spec.type, "target": _target(gauge)}
    if gauge.ratio is not None:
        shown |= {"value": _value(gauge), "ratio": float(f"{gauge.ratio:.3g}")}
    if isinstance(gauge.reading, Unknown):
        shown["unknown"] = f"{gauge.reading.reason}: {gauge.reading.message}"
    return shown


def _value(gauge: Gauge) -> str:
    if gauge.value is None or gauge.ratio is None:
        return "unknown"
    return f"{_rounded(gauge.value)}{_unit(gauge)}"


def _target(gauge: Gauge) -> str:
    return f"{_rounded(gauge.target or 0.0)}{_unit(gauge)}"


def _rounded(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 1_000 else f"{number:.3g}"


def _unit(gauge: Gauge) -> str:
    return "%" if target_of(gauge.spec).average_utilization is not None else ""
