"""Shell: what the metrics APIs answer, and pods, from bytes to what `kube_metrics` judges: only the fields it reads.

All functions raise ValueError for what is not such an answer, in words that repeat nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from controller.kube_metrics import Pod, Quantities, Sample, Usage
from controller.quantity import parse_quantity

T = TypeVar("T")

CUSTOM_WINDOW_S = 60.0
"""Of a custom metric that does not say."""

_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(h|ms|m|us|µs|ns|s)")
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


class _Struct(msgspec.Struct, rename="camel"):
    """JSON's camelCase; what is not named is skipped."""


class _List(_Struct, Generic[T]):
    items: list[T] | None = None


class _Named(_Struct):
    name: str


class _Resources(_Struct):
    requests: dict[str, str] | None = None


class _Container(_Struct):
    name: str
    resources: _Resources = msgspec.field(default_factory=_Resources)
    restart_policy: str | None = None


class _PodMetadata(_Struct):
    name: str
    deletion_timestamp: str | None = None


class _PodSpec(_Struct):
    containers: list[_Container]
    init_containers: list[_Container] | None = None
    resources: _Resources | None = None


class _Condition(_Struct):
    type: str
    status: str
    last_transition_time: datetime | None = None


class _PodStatus(_Struct):
    phase: str = ""
    start_time: datetime | None = None
    conditions: list[_Condition] | None = None


class _Pod(_Struct):
    metadata: _PodMetadata
    spec: _PodSpec
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


class _ContainerMetrics(_Struct):
    name: str
    usage: dict[str, str] | None = None


class _PodMetrics(_Struct):
    metadata: _Named
    timestamp: datetime | None = None
    window: str = "0s"
    containers: list[_ContainerMetrics] | None = None


class _MetricValue(_Struct):
    """`window` is v1beta1's name for `window_seconds`."""

    described_object: _Named
    value: str
    timestamp: datetime | None = None
    window_seconds: float | None = None
    window: float | None = None


class _ExternalMetricValue(_Struct):
    value: str
    timestamp: datetime | None = None


class _Version(_Struct):
    group_version: str


class _Group(_Struct):
    preferred_version: _Version
    versions: list[_Version]


class _Resource(_Struct):
    name: str
    kind: str


class _ResourceList(_Struct):
    resources: list[_Resource]


def pods(body: bytes) -> tuple[Pod, ...]:
    return tuple(map(_pod, _decoded(body, _List[_Pod]).items or ()))


def usages(body: bytes) -> Mapping[str, Usage]:
    """By the pod's name, from a list of metrics.k8s.io."""
    return {
        each.metadata.name: Usage(
            {container.name: container.usage or {} for container in each.containers or ()},
            _seconds(each.timestamp),
            _duration_s(each.window),
        )
        for each in _decoded(body, _List[_PodMetrics]).items or ()
    }


def values(body: bytes) -> tuple[tuple[str, Sample], ...]:
    """With the object's name, from a list of custom.metrics.k8s.io."""
    found = []
    for each in _decoded(body, _List[_MetricValue]).items or ():
        said = each.window_seconds if each.window_seconds is not None else each.window
        window_s = CUSTOM_WINDOW_S if said is None else said
        sample = Sample(parse_quantity(each.value), _seconds(each.timestamp), window_s)
        found.append((each.described_object.name, sample))
    return tuple(found)


def series(body: bytes) -> tuple[Sample, ...]:
    """From a list of external.metrics.k8s.io."""
    found = _decoded(body, _List[_ExternalMetricValue]).items or ()
    return tuple(Sample(parse_quantity(each.value), _seconds(each.timestamp)) for each in found)


def group_versions(body: bytes) -> tuple[str, ...]:
    """'custom.metrics.k8s.io/v1beta2' ..., from what the server says of a group: at least one, its favourite first."""
    group = _decoded(body, _Group)
    return tuple(dict.fromkeys(each.group_version for each in (group.preferred_version, *group.versions)))


def plurals(body: bytes) -> Mapping[str, str]:
    """Kind -> the name of its resource, from what the server says of a version of a group."""
    return {each.kind: each.name for each in _decoded(body, _ResourceList).resources if "/" not in each.name}


def _pod(pod: _Pod) -> Pod:
    ready = next((each for each in pod.status.conditions or () if each.type == "Ready"), None)
    sidecars = [each for each in pod.spec.init_containers or () if each.restart_policy == "Always"]
    return Pod(
        pod.metadata.name,
        phase=pod.status.phase,
        is_deleted=pod.metadata.deletion_timestamp is not None,
        started_at_s=_seconds(pod.status.start_time),
        ready=ready.status if ready else "",
        ready_since_s=(ready and _seconds(ready.last_transition_time)) or 0.0,
        containers={each.name: _requests(each.resources) for each in (*pod.spec.containers, *sidecars)},
        requests=_requests(pod.spec.resources),
    )


def _requests(resources: _Resources | None) -> Quantities:
    return (resources and resources.requests) or {}


def _seconds(at: datetime | None) -> float | None:
    return at.timestamp() if at else None


def _duration_s(text: str) -> float:
    """Go's text form of a duration: '1m0.5s'."""
    return sum(float(number) * _UNITS_S[unit] for number, unit in _DURATION.findall(text))


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
