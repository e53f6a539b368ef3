"""Shell: objects from the API server's bytes. Of the kinds there are many of, only the fields that are read are made,
and texts that repeat (namespaces, nodes, zones, names of Services and ports) are kept once.

All functions raise UnusableError. What a field left out means is Kubernetes' to say: an endpoint whose readiness is not
told is ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from sys import intern
from typing import Any, TypeVar

import msgspec

from controller import api, objects
from controller.adapters.kubernetes.reflector import UnusableError
from controller.api import LabelSelector, Policy
from controller.events import Kind
from controller.objects import (
    MANAGED_BY_LABEL,
    SERVICE_LABEL,
    EndpointSlice,
    GatewayPod,
    Secret,
    SliceEndpoint,
    SlicePort,
    Workload,
)
from controller.parsing import Invalid, Parsed, Problem
from controller.selector import api_selector

T = TypeVar("T")

Json = dict[str, Any]


class _Struct(msgspec.Struct, rename="camel", gc=False):
    """JSON's camelCase; what is not named is skipped."""


class _Metadata(_Struct):
    name: str
    namespace: str = ""
    labels: dict[str, str] | None = None


class _Written(_Struct):
    """By one field manager."""

    time: datetime | None = None


class _SliceMetadata(_Metadata):
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    managed_fields: list[_Written] | None = None


class _Conditions(_Struct):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Reference(_Struct):
    kind: str = ""
    name: str = ""


class _Endpoint(_Struct):
    addresses: list[str]
    conditions: _Conditions | None = None
    target_ref: _Reference | None = None
    node_name: str | None = None
    zone: str | None = None


class _Port(_Struct):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class _EndpointSlice(_Struct):
    metadata: _SliceMetadata
    address_type: str
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _ContainerPort(_Struct):
    container_port: int
    name: str = ""


class _Container(_Struct):
    ports: list[_ContainerPort] | None = None


class _PodSpec(_Struct):
    containers: list[_Container]


class _Template(_Struct):
    spec: _PodSpec


class _WorkloadSpec(_Struct):
    selector: dict[str, Any]
    template: _Template
    replicas: int = 1


class _WorkloadStatus(_Struct):
    ready_replicas: int = 0
    desired_number_scheduled: int = 0
    number_ready: int = 0


class _Workload(_Struct):
    metadata: _Metadata
    spec: _WorkloadSpec
    status: _WorkloadStatus = msgspec.field(default_factory=_WorkloadStatus)


_endpoint_slice = msgspec.json.Decoder(_EndpointSlice)
_workload = msgspec.json.Decoder(_Workload)
_json = msgspec.json.Decoder(dict[str, Any])


def endpoint_slice(body: bytes) -> EndpointSlice:
    raw = _decoded(_endpoint_slice, body)
    labels = raw.metadata.labels or {}
    service = labels.get(SERVICE_LABEL)
    if not service:
        raise UnusableError(Problem(f"metadata.labels[{SERVICE_LABEL}]", "is required: it names the Service"))
    namespace = raw.metadata.namespace
    return EndpointSlice(
        f"{namespace}/{raw.metadata.name}",
        intern(f"{namespace}/{service}"),
        intern(raw.address_type),
        tuple(_slice_port(each) for each in raw.ports or () if each.port is not None),
        tuple(map(_slice_endpoint, raw.endpoints or ())),
        intern(labels.get(MANAGED_BY_LABEL, "")),
        raw.metadata.resource_version,
        _written_s(raw.metadata),
    )


def _written_s(raw: _SliceMetadata) -> float:
    times = (raw.creation_timestamp, *(each.time for each in raw.managed_fields or ()))
    return max((time.timestamp() for time in times if time), default=0.0)


def _slice_port(raw: _Port) -> SlicePort:
    return SlicePort(
        raw.port or 0,
        intern(raw.name or ""),
        None if raw.app_protocol is None else intern(raw.app_protocol),
        intern(raw.protocol or "TCP"),
    )


def _slice_endpoint(raw: _Endpoint) -> SliceEndpoint:
    conditions = raw.conditions or _UNTOLD
    ready = conditions.ready is not False
    target = raw.target_ref
    return SliceEndpoint(
        tuple(raw.addresses),
        ready,
        ready if conditions.serving is None else conditions.serving,
        conditions.terminating is True,
        target.name if target and target.kind == "Pod" else "",
        intern(raw.node_name or ""),
        intern(raw.zone or ""),
    )


_UNTOLD = _Conditions()


def gateway_pods(slices: Iterable[EndpointSlice]) -> tuple[GatewayPod, ...]:
    """The pods in the slices of the gateway's Service, sorted by name. A pod is ready if it is in each family."""
    addresses: dict[str, dict[str, str]] = {}
    unready: set[str] = set()
    for each in slices:
        for endpoint in each.endpoints if each.address_type in ("IPv4", "IPv6") else ():
            if not endpoint.pod or not endpoint.addresses:
                continue
            addresses.setdefault(endpoint.pod, {})[each.address_type] = endpoint.addresses[0]
            if not endpoint.ready:
                unready.add(endpoint.pod)
    return tuple(
        GatewayPod(name, tuple(addresses[name][family] for family in sorted(addresses[name])), name not in unready)
        for name in sorted(addresses)
    )


def workload(kind: Kind) -> Callable[[bytes], Workload]:
    """For Deployments, StatefulSets, DaemonSets or ReplicaSets, whose JSON in a list does not say which it is."""

    def decode(body: bytes) -> Workload:
        raw = _decoded(_workload, body)
        spec, status = raw.spec, raw.status
        is_daemon_set = kind is Kind.DAEMON_SET
        return Workload(
            kind=str(kind),
            key=f"{raw.metadata.namespace}/{raw.metadata.name}",
            selector=_selector(spec.selector),
            desired=status.desired_number_scheduled if is_daemon_set else spec.replicas,
            ready=status.number_ready if is_daemon_set else status.ready_replicas,
            ports=tuple(
                (intern(port.name), port.container_port)
                for container in spec.template.spec.containers
                for port in container.ports or ()
            ),
        )

    return decode


def _selector(raw: Json) -> str:
    try:
        return api_selector(LabelSelector.model_validate(raw))
    except ValueError:  # pydantic's and ours
        raise UnusableError(Problem("spec.selector", "is no label selector that is understood here")) from None


def secret(body: bytes) -> Secret:
    return _good(objects.parse_secret(plain(body)))


def policy(body: bytes) -> Policy:
    return _good(api.parse_policy(plain(body)))


def plain(body: bytes) -> Json:
    """All of it, as it is."""
    return _decoded(_json, body)


def _good(parsed: Parsed[T] | Invalid) -> T:
    if isinstance(parsed, Invalid):
        raise UnusableError(*parsed.problems)
    return parsed.model


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """msgspec's own words name the field, and repeat nothing of what is in it."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        reason, _, field = str(error).partition(" - at `$")
        raise UnusableError(Problem(field.strip("`.[]"), reason[:1].lower() + reason[1:])) from None
