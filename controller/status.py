"""Pure: what people are told about a model: Kubernetes-style conditions, and one JSON object per model.

Conditions say in words what the numbers cannot; `status` is "True", "False" or "Unknown". No secret can appear:
credentials are shown by name, readiness and expiry only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

from controller import offload
from controller.credentials import Vault
from controller.events import RELEASED, Refused
from controller.metrics import Unknown
from controller.record import Gauge, Record

_NEEDED = frozenset({"Accepted", "Programmed", "ServiceTakenOver"})
"""What Ready sums up."""

UNANSWERED = frozenset({"NoGateway", "Pending"})
"""Reasons of Programmed that each change has for a moment."""

_NAMED_MAX = 5
"""Gateways that a message names; there may be a thousand."""


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    status: str
    reason: str
    message: str
    observedGeneration: int | None = None  # noqa: N815 - Kubernetes' spelling


def model_status(
    record: Record, refused: Refused | None, vault: Vault, gateways: Iterable[str], now: float
) -> dict[str, object]:
    """One model as JSON values. `gateways`: the connected ones. Shares in parts per million, times in seconds since the
    epoch.
    """
    decision, local = record.decision, record.local
    limited = record.spec.spec.offloading_config.local_limit is not None
    return {
        "key": record.key,
        "model": record.spec.spec.model,
        "environment": record.spec.spec.environment,
        "enabled": record.spec.spec.enabled,
        "mode": str(record.policy.mode),
        "hosts": list(record.hosts),
        "state": str(decision.state),
        "share_ppm": decision.share_ppm,
        "wanted_ppm": decision.wanted_ppm,
        "reason": str(decision.reason),
        "message": decision.sentence,
        "since_s": decision.since_s,
        "buffer_s": record.policy.buffer_s * decision.buffer_growth,
        "metrics": [_metric(gauge, now) for gauge in record.gauges],
        "local": {
            "ready_replicas": record.replicas,
            "endpoints": [f"{e.address}:{e.port}" for e in local.endpoints] if local else [],
            "limit_per_gateway": local.limit if local and limited else None,
        },
        "remotes": [
            {
                "name": remote.spec.name,
                "host": remote.spec.host,
                "ready": remote.ready,
                "reason": remote.reason,
                "token_expires_at_s": vault.expires_at_s(target.credential) if target.credential else None,
            }
            for remote, target in zip(record.remotes, record.targets, strict=False)
        ],
        "conditions": [asdict(each) for each in details(record, refused, gateways, now)],
    }


def refused_status(refused: Refused) -> dict[str, object]:
    """An object that was never usable: it has problems and nothing else."""
    shown = [asdict(_invalid(refused))]
    return {"key": refused.key, "state": None, "share_ppm": 0, "conditions": shown}


def refused_conditions(refused: Refused) -> list[Condition]:
    """The conditions of an object that was never usable."""
    return _summed_up([_invalid(refused)])


def _invalid(refused: Refused) -> Condition:
    return Condition("Accepted", "False", "Invalid", refused.sentence)


def conditions(
    record: Record, refused: Refused | None, gateways: Iterable[str], now: float, *, patient: bool = False
) -> list[Condition]:
    """All conditions of a model, always in the same order, the one that sums them up first. `patient`: that gateways
    have not answered yet is not told.
    """
    return _summed_up(details(record, refused, gateways, now, patient=patient))


def _summed_up(found: list[Condition]) -> list[Condition]:
    """Ready: the model is served as its manifest says. If not, the first obstacle says why. A Service that is not to
    be taken over is none.
    """
    needed = [each for each in found if each.type in _NEEDED and each.reason != RELEASED]
    obstacle = next((each for each in needed if each.status != "True"), None)
    if obstacle:
        return [replace(obstacle, type="Ready"), *found]
    message = "The manifest is in force at every connected gateway."
    return [Condition("Ready", "True", "Ready", message, found[0].observedGeneration), *found]


def details(
    record: Record, refused: Refused | None, gateways: Iterable[str], now: float, *, patient: bool = False
) -> list[Condition]:
    """Each of a model's conditions by itself, always in the same order."""
    found = {
        "Accepted": _accepted(record, refused),
        "ResolvedRefs": _resolved(record),
        "Programmed": _programmed(record, frozenset(gateways), patient=patient),
        "MetricsAvailable": _metrics(record, now),
        "RemoteReady": _remotes(record),
        "Overflowing": _overflowing(record.decision),
    }
    if record.lacks_port:
        message = "All ports that the gateway has for models are taken; the settings can give it more (gateway.ports)."
        found["ServiceTakenOver"] = "False", "NoFreePort", message
    elif exposed := record.exposed:
        found["ServiceTakenOver"] = exposed.status, exposed.reason, _listed([exposed.message])
        if exposed.reason == RELEASED and record.service is None and record.forbidden:
            found["ServiceTakenOver"] = "False", "RefNotPermitted", _listed(record.forbidden)
    generation = record.wanted.metadata.generation
    return [Condition(type_, *rest, generation) for type_, rest in found.items()]


def _accepted(record: Record, refused: Refused | None) -> tuple[str, str, str]:
    if refused is not None:
        return "False", "Invalid", refused.sentence + " The last good version stays in force."
    if record.conflict:
        in_force = "" if record.route is None else " What was valid before stays in force."
        return "False", "Conflict", record.conflict + in_force
    if record.port_holder and record.service:
        service, port = record.service
        return "False", "Conflict", f"{record.port_holder} already serves port {port} of Service {service}."
    lost = ", ".join(f"{host} ({holder})" for host, holder in sorted(record.lost_hosts.items()))
    if lost and not record.hosts:
        return "False", "HostConflict", f"No Host leads to this model, others have them: {lost}."
    message = f"The manifest is valid, but others have some of its Hosts: {lost}" if lost else "The manifest is valid"
    reason = "InlineSecret" if record.inline_secrets else "Accepted"
    return "True", reason, _listed([message, *record.inline_secrets, *record.notes])


def _listed(parts: Iterable[str]) -> str:
    """One sentence. Some of them are others' words, with or without an end of their own."""
    return "; ".join(part.rstrip(" .") for part in parts) + "."


def _resolved(record: Record) -> tuple[str, str, str]:
    missing = [
        f"remote {t.remote.spec.name}: {t.remote.reason}"
        for t in record.targets
        if not (t.remote.ready or t.remote.refused)
    ]
    if wrong := [*record.forbidden, *record.missing, *missing]:
        return "False", "RefNotPermitted" if record.forbidden else "RefNotFound", _listed(wrong)
    if record.replicas is None:
        return "Unknown", "EndpointsUnknown", "The Service's endpoints are not known yet."
    return "True", "Resolved", "Everything that the manifest refers to exists."


def _programmed(record: Record, gateways: frozenset[str], *, patient: bool) -> tuple[str, str, str]:
    if words := sorted({*record.rejections.values(), *record.refused_remotes.values()}):
        return "False", "ProxyRejected", _listed(words)
    if not gateways and not patient:
        return "Unknown", "NoGateway", "No gateway is connected; one that ran before keeps its last configuration."
    if (waiting := sorted(gateways - record.programmed)) and not patient:
        more = f" and {len(waiting) - _NAMED_MAX} more" if len(waiting) > _NAMED_MAX else ""
        return "False", "Pending", f"Waiting for {', '.join(waiting[:_NAMED_MAX])}{more}."
    return "True", "Programmed", "Every connected gateway has accepted the newest configuration."


def _metrics(record: Record, now: float) -> tuple[str, str, str]:
    if not record.gauges:
        return "True", "NoMetrics", "No metric is configured."
    if record.told is not None:
        return "Unknown", "Following", "Only the controller that leads asks for metrics."
    silent = [f"{g.name}: {g.reading.message}" for g in record.gauges if isinstance(g.reading, Unknown)]
    if any(g.ratio is not None and now < g.at_s + record.policy.stale_s for g in record.gauges):
        message = _listed(["At least one metric is known", *silent]) if silent else "Every metric is known."
        return "True", "Available", message
    first = next((g.reading for g in record.gauges if isinstance(g.reading, Unknown)), None)
    message = _listed(silent) if silent else "No sample has come for too long."
    return "False", first.reason if first else "Stale", message


def _remotes(record: Record) -> tuple[str, str, str]:
    if not record.remotes:
        return "False", "NoRemote", "No remote is configured and there is no default one."
    obstacles = [f"{r.spec.name}: {r.reason}" for r in record.remotes if not r.ready]
    if len(obstacles) == len(record.remotes):
        reasons = {r.refused or "NotReady" for r in record.remotes}
        return "False", reasons.pop() if len(reasons) == 1 else "NotReady", _listed(obstacles)
    message = _listed(["Not all remotes are ready", *obstacles]) if obstacles else "Every remote is ready."
    return "True", "Ready", message


def _overflowing(decision: offload.Decision) -> tuple[str, str, str]:
    away = decision.state is not offload.State.STANDBY
    return str(away), str(decision.reason), decision.sentence


def _metric(gauge: Gauge, now: float) -> dict[str, object]:
    shown: dict[str, object] = {
        "name": gauge.name,
        "type": gauge.spec.type,
        "value": gauge.value,
        "target": gauge.target,
        "ratio": gauge.ratio,
        "age_s": now - gauge.at_s if gauge.ratio is not None else None,
    }
    if isinstance(gauge.reading, Unknown):
        shown |= {"unknown": {"reason": gauge.reading.reason, "message": gauge.reading.message}}
    return shown


def report(
    records: Mapping[str, Record], refused: Iterable[Refused], vault: Vault, gateways: Iterable[str], now: float
) -> list[dict[str, object]]:
    """All models by key, the ones that were never usable included."""
    connected = list(gateways)
    of_models = {r.key: r for r in refused if r.kind == "ModelDeployment"}
    shown = [model_status(r, of_models.pop(key, None), vault, connected, now) for key, r in sorted(records.items())]
    return shown + [refused_status(of_models[key]) for key in sorted(of_models)]
