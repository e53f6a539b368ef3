"""Pure: Kubernetes' own objects that models refer to, with only the fields that are read: Service, EndpointSlice,
Secret.

Where a field may be absent, absent means what Kubernetes says it means: an endpoint without a `ready` condition is
ready, a Service port without `targetPort` is its own target.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from controller.parsing import Invalid, Parsed, Problem
from xds import ir

SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGER = "spillway"
"""Who we are: the field manager of what we apply, and the value of the label on EndpointSlices of ours."""
SELECTOR_ANNOTATION = "spillway.dev/selector"
"""On a Service: the selector it had before it was taken over ('key=value,key=value'), or that the user put there."""

_HTTP2 = frozenset({"kubernetes.io/h2c", "grpc"})
_NAME_MAX = 63


def key_of(obj: Mapping[str, Any]) -> str:
    """'<namespace>/<name>' of an object as the API server sends it."""
    metadata = obj["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"


def shadow_name(service: str) -> str:
    """The name of the Service that collects the pods of a Service that is taken over."""
    name = f"{service}-spillway-pods"
    if len(name) <= _NAME_MAX:
        return name
    digest = hashlib.blake2b(service.encode(), digest_size=4).hexdigest()
    return f"{service[: _NAME_MAX - len(digest) - 15]}-{digest}-spillway-pods"


def shadow_key(service_key: str) -> str:
    """The same for keys, '<namespace>/<name>'."""
    namespace, _, name = service_key.partition("/")
    return f"{namespace}/{shadow_name(name)}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a Service. `name` is '' for the only port of a Service that does not name it."""

    port: int
    name: str = ""
    target_port: int | str | None = None
    protocol: str = "TCP"
    app_protocol: str | None = None


@dataclass(frozen=True, slots=True)
class Service:
    key: str
    ports: tuple[ServicePort, ...] = ()
    selector: Mapping[str, str] = field(default_factory=dict)
    type: str = "ClusterIP"
    cluster_ip: str | None = None
    taken: bool = False
    """It has no selector, and an annotation says which one it had: its pods are collected by its shadow."""

    def tcp_port(self, port: int | None) -> ServicePort | None:
        """The TCP port of that number; None: its only or first one."""
        ports = (each for each in self.ports if each.protocol == "TCP")
        return next((each for each in ports if port is None or each.port == port), None)


@dataclass(frozen=True, slots=True)
class SliceEndpoint:
    """One pod's addresses of the slice's family."""

    addresses: tuple[str, ...]
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    pod: str = ""
    """The pod's name, '' if it is none."""
    node: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class SlicePort:
    port: int
    name: str = ""
    app_protocol: str | None = None
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """`service_key`: the Service it belongs to, '<namespace>/<name>'."""

    key: str
    service_key: str
    address_type: str
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[SliceEndpoint, ...] = ()
    managed_by: str = ""
    version: str = field(default="", compare=False)
    written_s: float = field(default=0.0, compare=False)
    """When it was written last, since the epoch."""


@dataclass(frozen=True, slots=True)
class Secret:
    key: str
    data: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Workload:
    """What runs a model: a Deployment, StatefulSet, DaemonSet or ReplicaSet.

    `selector`: of its pods, in the API's text form. `desired`: replicas that are asked for; `ready`: those that are.
    `ports`: (name, number) of its containers' ports, in order.
    """

    kind: str
    key: str
    selector: str = ""
    desired: int = 1
    ready: int = 0
    ports: tuple[tuple[str, int], ...] = ()


def equalities(selector: str) -> dict[str, str] | None:
    """A label selector in text as a Service can have it; None if it asks for more than equal values."""
    pairs = [part.partition("=") for part in selector.split(",")]
    if not all(name and equals and name[-1] != "!" and value[:1] != "=" for name, equals, value in pairs):
        return None
    return {name: value for name, _, value in pairs}


@dataclass(frozen=True, slots=True)
class GatewayPod:
    """A pod of the gateway. `name` is also the id that its Envoy gives to the control plane. `addresses`: one of each
    family. `ready`: callers may be sent there.
    """

    name: str
    addresses: tuple[str, ...]
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Resolved:
    """The ready endpoints of a Service port: sorted, each once. `replicas`: pods, however many addresses each has."""

    endpoints: tuple[ir.Endpoint, ...]
    protocol: ir.Protocol = ir.Protocol.HTTP1
    replicas: int = 0


def ready_endpoints(service: Service, slices: Iterable[EndpointSlice], port: int | None) -> Resolved | str | None:
    """The ready endpoints behind a port of a Service; a sentence if there is no such port; None while no slice is
    known.

    `port` None: the Service's only port, or its first. As in Kubernetes, the slice's port of the same *name* is the
    one, and when no endpoint is ready, those that still serve while they terminate are there for who has no other
    place to go; they are no replicas. Ports that are not TCP's do not count.
    """
    ports = [each for each in service.ports if each.protocol == "TCP"]
    wanted = service.tcp_port(port)
    if wanted is None:
        has = ", ".join(str(each.port) for each in ports) or "none"
        return f"Service {service.key} has no port {port}; its ports: {has}"
    known = [each for each in slices if each.address_type in ("IPv4", "IPv6")]
    if not known:
        return None
    ready: set[ir.Endpoint] = set()
    draining: set[ir.Endpoint] = set()
    protocols = {wanted.app_protocol}
    for each in known:
        target = next((p for p in each.ports if p.name == wanted.name), None)
        if target is None:
            continue
        protocols.add(target.app_protocol)
        for endpoint in each.endpoints:
            if endpoint.addresses and (endpoint.ready or (endpoint.serving and endpoint.terminating)):
                # Kubernetes: all addresses of an endpoint are one pod's, and the first is enough.
                found = ready if endpoint.ready else draining
                found.add(ir.Endpoint(endpoint.addresses[0], target.port))
    replicas = Counter("v6" if ":" in endpoint.address else "v4" for endpoint in ready)
    protocol = ir.Protocol.HTTP2 if protocols & _HTTP2 else ir.Protocol.HTTP1
    return Resolved(tuple(sorted(ready or draining)), protocol, max(replicas.values(), default=0))


def parse_service(obj: Mapping[str, Any]) -> Parsed[Service] | Invalid:
    """A Service from its decoded manifest."""
    reader = _Reader(obj)
    ports = tuple(
        ServicePort(
            port=reader.port(port.get("port"), f"spec.ports[{index}].port"),
            name=reader.text(port.get("name"), f"spec.ports[{index}].name") or "",
            target_port=reader.target_port(port.get("targetPort"), f"spec.ports[{index}].targetPort"),
            protocol=reader.text(port.get("protocol"), f"spec.ports[{index}].protocol") or "TCP",
            app_protocol=reader.text(port.get("appProtocol"), f"spec.ports[{index}].appProtocol"),
        )
        for index, port in reader.mappings("spec.ports")
    )
    spec = reader.mapping("spec")
    selector = reader.mapping("spec.selector")
    service = Service(
        reader.key,
        ports,
        selector=selector,
        type=reader.text(spec.get("type"), "spec.type") or "ClusterIP",
        cluster_ip=reader.text(spec.get("clusterIP"), "spec.clusterIP"),
        taken=not selector and SELECTOR_ANNOTATION in reader.mapping("metadata.annotations"),
    )
    return reader.result(service)


def parse_endpoint_slice(obj: Mapping[str, Any]) -> Parsed[EndpointSlice] | Invalid:
    """An EndpointSlice from its decoded manifest."""
    reader = _Reader(obj)
    labels = reader.mapping("metadata.labels")
    name = labels.get(SERVICE_LABEL)
    if not isinstance(name, str) or not name:
        reader.problem(f"metadata.labels[{SERVICE_LABEL}]", "is required: it names the Service")
    ports = tuple(
        SlicePort(
            reader.port(port.get("port"), f"ports[{index}].port"),
            reader.text(port.get("name"), f"ports[{index}].name") or "",
            reader.text(port.get("appProtocol"), f"ports[{index}].appProtocol"),
        )
        for index, port in reader.mappings("ports")
    )
    family = reader.text(obj.get("addressType"), "addressType") or ""
    if family not in ("IPv4", "IPv6", "FQDN"):
        reader.problem("addressType", "must be IPv4, IPv6 or FQDN")
    endpoints = tuple(_endpoint(reader, family, index, each) for index, each in reader.mappings("endpoints"))
    manager = str(labels.get(MANAGED_BY_LABEL) or "")
    return reader.result(EndpointSlice(reader.key, f"{reader.namespace}/{name}", family, ports, endpoints, manager))


def _endpoint(reader: _Reader, family: str, index: int, obj: Mapping[str, Any]) -> SliceEndpoint:
    at = f"endpoints[{index}].addresses"
    raw = obj.get("addresses")
    addresses = tuple(str(address) for address in raw) if isinstance(raw, list) else ()
    if not addresses:
        reader.problem(at, "needs at least one address")
    for address in addresses:
        try:
            version = None if "%" in address else ip_address(address).version
        except ValueError:
            version = None
        if family in ("IPv4", "IPv6") and family != f"IPv{version}":
            reader.problem(at, f"{address!r} is no {family} address")
    conditions = obj.get("conditions")
    conditions = conditions if isinstance(conditions, Mapping) else {}
    ready = conditions.get("ready") is not False
    return SliceEndpoint(
        addresses,
        ready=ready,
        serving=ready if conditions.get("serving") is None else bool(conditions["serving"]),
        terminating=conditions.get("terminating") is True,
    )


def parse_secret(obj: Mapping[str, Any]) -> Parsed[Secret] | Invalid:
    """A Secret from its decoded manifest: `data` is base64, `stringData` is text and wins."""
    reader = _Reader(obj)
    values: dict[str, bytes] = {}
    for name, value in reader.mapping("data").items():
        try:
            # Kubernetes reads over line breaks, which a YAML block leaves in.
            values[str(name)] = base64.b64decode("".join(value.split("\n")), validate=True)
        except (binascii.Error, ValueError, AttributeError):
            reader.problem(f"data.{name}", "must be base64; plain text goes into stringData")
    for name, value in reader.mapping("stringData").items():
        if isinstance(value, str):
            values[str(name)] = value.encode()
        else:
            reader.problem(f"stringData.{name}", "must be text (a number needs quotes to be text)")
    return reader.result(Secret(reader.key, values))


class _Reader:
    """Reads one manifest and gathers everything that is wrong with it."""

    def __init__(self, obj: Mapping[str, Any]) -> None:
        self._obj = obj
        self._problems: list[Problem] = []
        metadata = self.mapping("metadata")
        self.name = self.text(metadata.get("name"), "metadata.name") or ""
        self.namespace = self.text(metadata.get("namespace"), "metadata.namespace") or "default"
        if not self.name:
            self.problem("metadata.name", "is required")

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def problem(self, field_: str, reason: str) -> None:
        self._problems.append(Problem(field_, reason))

    def mapping(self, path: str) -> Mapping[str, Any]:
        value = self._at(path)
        if value is None:
            return {}
        if isinstance(value, Mapping):
            return value
        self.problem(path, "must be a mapping of names to values")
        return {}

    def mappings(self, path: str) -> list[tuple[int, Mapping[str, Any]]]:
        """A list of mappings, with their places."""
        value = self._at(path)
        if value is None:
            return []
        if not isinstance(value, list):
            self.problem(path, "must be a list")
            return []
        for index, each in enumerate(value):
            if not isinstance(each, Mapping):
                self.problem(f"{path}[{index}]", "must be a mapping of names to values")
        return [(index, each) for index, each in enumerate(value) if isinstance(each, Mapping)]

    def text(self, value: object, at: str) -> str | None:
        if value is None or isinstance(value, str):
            return value
        self.problem(at, "must be text (a number needs quotes to be text)")
        return None

    def target_port(self, value: object, at: str) -> int | str | None:
        """A pod's port, by number or by name; None: the same as the Service's."""
        return value if value is None or isinstance(value, str) else self.port(value, at)

    def port(self, value: object, at: str) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_535:
            return value
        self.problem(at, "must be a number from 1 to 65535")
        return 0

    def result(self, thing: Any) -> Parsed[Any] | Invalid:
        return Invalid(tuple(dict.fromkeys(self._problems))) if self._problems else Parsed(thing)

    def _at(self, path: str) -> object:
        value: object = self._obj
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value
