"""Pure: the status of a controller, as its /status address gives it, as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def show_status(status: Json) -> str:
    """Models, what is not as it should be, gateways, and manifests with problems."""
    models = [model for model in status["models"] if model["state"]]
    rows = [_model_row(model, status["now_s"]) for model in models]
    parts = [_table(("MODEL", "STATE", "SHARE", "REASON", "METRICS", "READY", "REMOTES"), rows)]
    parts += [_sentences(models)]
    wrong = [_conditions(model) for model in status["models"]]
    parts += [text for text in wrong if text]
    gateways = status["gateways"]
    rows = [_gateway_row(gateway, each) for gateway in gateways for each in gateway["types"]]
    columns = ("GATEWAY", "VERSION", "TYPE", "RESOURCES", "STATE", "DETAIL")
    parts.append(_table(columns, rows) or "No gateway is connected.")
    leased = status.get("leased_limits", {}).items()
    parts.append("\n".join(f"Limits of {model}: {_parts(limits)}" for model, limits in leased))
    parts.append("\n".join(f"Refused: {message}" for message in status.get("refused_gateways", {}).values()))
    if status["problems"]:
        problems = [f"{p['source']}: {p['field']}: {p['reason']}".replace(": : ", ": ") for p in status["problems"]]
        parts.append("\n".join(["Problems in manifests:", *(f"  {line}" for line in problems)]))
    return "\n\n".join(part for part in parts if part)


def _model_row(model: Json, now_s: float) -> tuple[str, ...]:
    share = f"{model['share_ppm'] / 10_000:g} %"
    if model["wanted_ppm"] != model["share_ppm"]:
        share += f" (of {model['wanted_ppm'] / 10_000:g} %)"
    metrics = ", ".join(_metric(metric) for metric in model["metrics"]) or "-"
    ready = "?" if model["local"]["ready_replicas"] is None else str(model["local"]["ready_replicas"])
    remotes = ", ".join(_remote(remote, now_s) for remote in model["remotes"]) or "none"
    return model["key"], model["state"], share, model["reason"], metrics, ready, remotes


def _parts(limits: Mapping[str, int]) -> str:
    return ", ".join(f"{gateway} {limit}" for gateway, limit in limits.items())


def _metric(metric: Json) -> str:
    value = "?" if metric["value"] is None else f"{metric['value']:.4g}"
    return f"{metric['name']} {value}/{metric['target']:g}"


def _remote(remote: Json, now_s: float) -> str:
    text = f"{remote['name']} {'ready' if remote['ready'] else 'not ready'}"
    expires_at_s = remote["token_expires_at_s"]
    return text if expires_at_s is None else f"{text} (token for {expires_at_s - now_s:.0f} s)"


def _sentences(models: Sequence[Json]) -> str:
    return "\n".join(f"{model['key']}: {model['message']}" for model in models)


def _conditions(model: Json) -> str:
    """The conditions that are not as they should be."""
    lines = [
        f"  {each['type']}={each['status']} ({each['reason']}): {each['message']}"
        for each in model["conditions"]
        if each["type"] != "Overflowing" and each["status"] != "True"
    ]
    return "\n".join([f"{model['key']}:", *lines]) if lines else ""


def _gateway_row(gateway: Json, each: Json) -> tuple[str, ...]:
    detail = each.get("error") or ""
    return gateway["gateway"], gateway["version"], each["type"], str(each["subscribed"]), each["state"], detail


def _table(header: Sequence[str], rows: Any) -> str:
    """Columns as wide as their widest cell; empty without rows."""
    body = [tuple(row) for row in rows]
    if not body:
        return ""
    widths = [max(len(row[i]) for row in (header, *body)) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *body)]
    return "\n".join(line.rstrip() for line in lines)
