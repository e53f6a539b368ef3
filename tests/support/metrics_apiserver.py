"""A small server that speaks metrics.k8s.io, custom.metrics.k8s.io and external.metrics.k8s.io, as an API server asks
for them: behind real APIServices, over TLS.

It does not cover: who may ask (it believes everybody), watches, single PodMetrics, NodeMetrics, OpenAPI, protobuf,
selectors other than of equality, and objects outside a namespace except the namespace itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

Json = dict[str, Any]

SERVED = {
    "metrics.k8s.io": ("v1beta1",),
    "custom.metrics.k8s.io": ("v1beta2", "v1beta1"),
    "external.metrics.k8s.io": ("v1beta1",),
}


@dataclass(frozen=True)
class Series:
    """One value of a metric. `of`: '' or the object's name."""

    value: str
    of: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    at: datetime | None = None


@dataclass
class MetricsApis:
    """What it answers, by namespace; a test may change all of it at any time.

    `usage`: by pod, by container, quantities by resource. `custom`: by metric and resource ('pods', 'ingresses.
    networking.k8s.io', 'metrics' for the namespace). `external`: by metric. `labels`: of pods. `failing`: the status of
    every answer, beginning with a path. `asked`: all requests, as path and query.
    """

    usage: dict[str, dict[str, dict[str, dict[str, str]]]] = field(default_factory=dict)
    custom: dict[str, dict[tuple[str, str], list[Series]]] = field(default_factory=dict)
    external: dict[str, dict[str, list[Series]]] = field(default_factory=dict)
    labels: dict[str, dict[str, Mapping[str, str]]] = field(default_factory=dict)
    window: str = "15s"
    failing: dict[str, int] = field(default_factory=dict)
    delay_s: float = 0.0
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, query = request.path, dict(request.query)
        self.asked.append((path, query))
        await asyncio.sleep(self.delay_s)
        if status := next((status for start, status in self.failing.items() if path.startswith(start)), None):
            return _status(status, "told to fail")
        match path.strip("/").split("/"):
            case ["apis", group] if group in SERVED:
                return web.json_response(_group(group))
            case ["apis", group, version] if version in SERVED.get(group, ()):
                return web.json_response(_resources(group, version))
            case ["apis", "metrics.k8s.io", "v1beta1", "namespaces", namespace, "pods"]:
                return self._list("PodMetrics", "metrics.k8s.io/v1beta1", self._usage(namespace, query))
            case ["apis", "custom.metrics.k8s.io", version, "namespaces", namespace, "metrics", metric]:
                return self._custom(version, namespace, "metrics", "", metric, query)
            case ["apis", "custom.metrics.k8s.io", version, "namespaces", namespace, resource, name, metric]:
                return self._custom(version, namespace, resource, name, metric, query)
            case ["apis", "external.metrics.k8s.io", "v1beta1", "namespaces", namespace, metric]:
                return self._external(namespace, metric, query)
            case _:
                return web.Response(status=404, text="404 page not found\n")

    def _usage(self, namespace: str, query: Mapping[str, str]) -> list[Json]:
        return [
            {
                "metadata": {"name": pod, "namespace": namespace},
                "timestamp": _time(None),
                "window": self.window,
                "containers": [{"name": name, "usage": usage} for name, usage in containers.items()],
            }
            for pod, containers in self.usage.get(namespace, {}).items()
            if _matches(query.get("labelSelector"), self.labels.get(namespace, {}).get(pod, {}))
        ]

    def _custom(
        self, version: str, namespace: str, resource: str, name: str, metric: str, query: Mapping[str, str]
    ) -> web.Response:
        found = self.custom.get(namespace, {}).get((metric, resource))
        if found is None:
            return _status(404, f"the server could not find the metric {metric} for {resource}")
        kind = "Namespace" if resource == "metrics" else resource
        items = [
            {
                "describedObject": {"kind": kind, "namespace": namespace, "name": each.of or namespace},
                **({"metricName": metric} if version == "v1beta1" else {"metric": {"name": metric, "selector": None}}),
                "timestamp": _time(each.at),
                "value": each.value,
            }
            for each in found
            if name in ("", "*", each.of)
            and _matches(query.get("labelSelector"), self.labels.get(namespace, {}).get(each.of, {}))
            and _matches(query.get("metricLabelSelector"), each.labels)
        ]
        return self._list("MetricValue", f"custom.metrics.k8s.io/{version}", items)

    def _external(self, namespace: str, metric: str, query: Mapping[str, str]) -> web.Response:
        found = self.external.get(namespace, {}).get(metric)
        if found is None:
            return _status(404, f"the server could not find the metric {metric} for external")
        items = [
            {"metricName": metric, "metricLabels": each.labels, "timestamp": _time(each.at), "value": each.value}
            for each in found
            if _matches(query.get("labelSelector"), each.labels)
        ]
        return self._list("ExternalMetricValue", "external.metrics.k8s.io/v1beta1", items)

    def _list(self, kind: str, version: str, items: Iterable[Json]) -> web.Response:
        body = {"kind": f"{kind}List", "apiVersion": version, "metadata": {}, "items": list(items)}
        return web.json_response(body)


def _time(at: datetime | None) -> str:
    return (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _matches(selector: str | None, labels: Mapping[str, str]) -> bool:
    wanted = [part.partition("=") for part in (selector or "").split(",") if part]
    assert all(equals and " " not in key for key, equals, _ in wanted), f"not covered: {selector}"
    return all(labels.get(key.rstrip("=")) == value.lstrip("=") for key, _, value in wanted)


def _status(code: int, message: str) -> web.Response:
    reason = {404: "NotFound", 403: "Forbidden", 503: "ServiceUnavailable"}.get(code, "InternalError")
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    return web.json_response({**body, "reason": reason, "message": message}, status=code)


def _group(group: str) -> Json:
    versions = [{"groupVersion": f"{group}/{version}", "version": version} for version in SERVED[group]]
    return {"kind": "APIGroup", "name": group, "versions": versions, "preferredVersion": versions[0]}


def _resources(group: str, version: str) -> Json:
    kinds = {"pods": "PodMetrics"} if group == "metrics.k8s.io" else {}
    resources = [
        {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
        for name, kind in kinds.items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{group}/{version}", "resources": resources}
