"""Pure: what can be done to the API server's objects, and the requests that do it.

Each action may fail or be lost without harm: the next plan starts from what is there then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.api import MODEL_API_VERSION
from controller.events import NewService
from controller.objects import (
    MANAGER,
    SELECTOR_ANNOTATION,
    EndpointSlice,
    ServicePort,
    SliceEndpoint,
    shadow_key,
    shadow_name,
)
from controller.takeover.world import MANAGED_BY, MODEL_ANNOTATION, ServiceView, shadow_labels, slice_labels


@dataclass(frozen=True, slots=True)
class MakeService:
    key: str
    new: NewService


@dataclass(frozen=True, slots=True)
class PutShadow:
    """Have the shadow of this Service collect the pods of `selector`. `models`: those it is there for."""

    service: ServiceView
    selector: Mapping[str, str]
    models: str


@dataclass(frozen=True, slots=True)
class PutSlice:
    service: ServiceView
    slice: EndpointSlice


@dataclass(frozen=True, slots=True)
class EditService:
    """Changes the Service, if it is still as it was seen. `selector`: the new one, {} removes it, None leaves it alone.
    `annotations`: None removes one. `disown`: forget that we ever wrote to it.
    """

    service: ServiceView
    selector: Mapping[str, str] | None = None
    annotations: Mapping[str, str | None] = field(default_factory=dict)
    disown: bool = False


@dataclass(frozen=True, slots=True)
class EditPorts:
    """Gives a Service of our own making these ports, if it is still as it was seen."""

    service: ServiceView
    ports: tuple[ServicePort, ...]


@dataclass(frozen=True, slots=True)
class DeleteEndpoints:
    key: str


@dataclass(frozen=True, slots=True)
class EmptySlice:
    """Takes all endpoints out of a slice that somebody else has written, if it is still as it was seen."""

    key: str
    version: str


@dataclass(frozen=True, slots=True)
class DeleteSlice:
    """`version`: the one that may go, '' if any may."""

    key: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class DeleteShadow:
    key: str
    uid: str


Action = (
    MakeService
    | PutShadow
    | PutSlice
    | EditService
    | EditPorts
    | DeleteEndpoints
    | EmptySlice
    | DeleteSlice
    | DeleteShadow
)


@dataclass(frozen=True, slots=True)
class Request:
    """`method`: POST, PATCH (a JSON patch), APPLY (server-side) or DELETE. `uid`, `version`: of what is deleted, if it
    matters.
    """

    method: str
    path: str
    body: Any = None
    uid: str = ""
    version: str = ""


def request_of(action: Action) -> Request:
    """The request that carries out an action."""
    match action:
        case MakeService(key, new):
            return Request("POST", _path("services", key).rpartition("/")[0], _new_service(key, new))
        case PutShadow(service):
            return Request("APPLY", _path("services", shadow_key(service.key)), _shadow(action))
        case PutSlice(service, slice_):
            return Request("APPLY", slice_path(slice_.key), _slice(service, slice_))
        case EditService(service):
            return Request("PATCH", _path("services", service.key), _edit(action))
        case EditPorts(service, ports):
            change = {"op": "replace", "path": "/spec/ports", "value": [_service_port(port) for port in ports]}
            return Request("PATCH", _path("services", service.key), [_unchanged(service.version), change])
        case DeleteEndpoints(key):
            return Request("DELETE", _path("endpoints", key))
        case EmptySlice(key, version):
            change = {"op": "replace", "path": "/endpoints", "value": []}
            return Request("PATCH", slice_path(key), [_unchanged(version), change])
        case DeleteSlice(key, version):
            return Request("DELETE", slice_path(key), version=version)
        case DeleteShadow(key, uid):
            return Request("DELETE", _path("services", key), uid=uid)


def words_of(action: Action) -> str:
    """For a log."""
    match action:
        case MakeService(key):
            return f"makes Service {key}"
        case PutShadow(service):
            return f"collects the pods of Service {service.key} with {shadow_name(service.name)}"
        case PutSlice(_, slice_):
            return f"writes EndpointSlice {slice_.key}"
        case EditService(service, selector):
            change = "annotations" if selector is None else "selector back" if selector else "selector away"
            return f"edits Service {service.key}: {change}"
        case EditPorts(service):
            return f"edits Service {service.key}: ports"
        case DeleteEndpoints(key):
            return f"deletes Endpoints {key}"
        case EmptySlice(key):
            return f"empties EndpointSlice {key}"
        case DeleteSlice(key):
            return f"deletes EndpointSlice {key}"
        case DeleteShadow(key):
            return f"deletes Service {key}"


def slice_path(key: str) -> str:
    namespace, _, name = key.partition("/")
    return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}"


def _path(resource: str, key: str) -> str:
    namespace, _, name = key.partition("/")
    return f"/api/v1/namespaces/{namespace}/{resource}/{name}"


def _new_service(key: str, new: NewService) -> dict[str, Any]:
    namespace, _, name = key.partition("/")
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {MANAGED_BY: MANAGER},
            "ownerReferences": [_owner(MODEL_API_VERSION, "ModelDeployment", new.owner_name, new.owner_uid)],
        },
        "spec": {"selector": dict(new.selector), "ports": [_service_port(port) for port in new.ports]},
    }


def _shadow(action: PutShadow) -> dict[str, Any]:
    service = action.service
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": shadow_name(service.name),
            "namespace": service.namespace,
            "labels": shadow_labels(service),
            "annotations": {MODEL_ANNOTATION: action.models},
            "ownerReferences": [_owner("v1", "Service", service.name, service.uid)],
        },
        "spec": {
            "clusterIP": "None",
            "selector": dict(action.selector),
            "ports": [_service_port(port) for port in service.ports],
            "ipFamilies": list(service.families),
            "ipFamilyPolicy": service.family_policy,
            "publishNotReadyAddresses": service.not_ready_too,
        },
    }


def _slice(service: ServiceView, slice_: EndpointSlice) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": slice_.key.partition("/")[2],
            "namespace": service.namespace,
            "labels": slice_labels(service),
            "ownerReferences": [_owner("v1", "Service", service.name, service.uid)],
        },
        "addressType": slice_.address_type,
        "ports": [
            _given(name=port.name, port=port.port, protocol=port.protocol, appProtocol=port.app_protocol)
            for port in slice_.ports
        ],
        "endpoints": [_endpoint(service, endpoint) for endpoint in slice_.endpoints],
    }


def _endpoint(service: ServiceView, endpoint: SliceEndpoint) -> dict[str, Any]:
    pod = {"kind": "Pod", "namespace": service.namespace, "name": endpoint.pod} if endpoint.pod else None
    return _given(
        addresses=list(endpoint.addresses),
        conditions={
            "ready": endpoint.ready,
            "serving": endpoint.serving,
            "terminating": endpoint.terminating,
        },
        targetRef=pod,
        nodeName=endpoint.node or None,
        zone=endpoint.zone or None,
    )


def _service_port(port: ServicePort) -> dict[str, Any]:
    return _given(
        name=port.name or None,
        port=port.port,
        protocol=port.protocol,
        targetPort=port.target_port,
        appProtocol=port.app_protocol,
    )


def _edit(edit: EditService) -> list[dict[str, Any]]:
    service = edit.service
    operations: list[dict[str, Any]] = [_unchanged(service.version)]
    if edit.selector:
        operations.append({"op": "add", "path": "/spec/selector", "value": dict(edit.selector)})
    elif edit.selector is not None:
        operations.append({"op": "remove", "path": "/spec/selector"})
    if edit.annotations and not service.annotated:
        operations.append({"op": "add", "path": "/metadata/annotations", "value": {}})
    has = {SELECTOR_ANNOTATION: service.kept, MODEL_ANNOTATION: service.models}
    for name, value in edit.annotations.items():
        path = f"/metadata/annotations/{name.replace('/', '~1')}"
        if value is not None:
            operations.append({"op": "add", "path": path, "value": value})
        elif has[name] is not None:
            operations.append({"op": "remove", "path": path})
    if edit.disown:
        # From the end, so that places stay true.
        places = sorted(service.entries_of_ours, reverse=True)
        operations += [{"op": "remove", "path": f"/metadata/managedFields/{place}"} for place in places]
    return operations


def _unchanged(version: str) -> dict[str, Any]:
    return {"op": "test", "path": "/metadata/resourceVersion", "value": version}


def _owner(api_version: str, kind: str, name: str, uid: str) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "name": name, "uid": uid}


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
