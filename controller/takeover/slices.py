"""Pure: the EndpointSlices of ours that a Service that is taken over has.

One for each slice of the shadow, with the same endpoints and the ports that lead to pods; one for each taken port and
address family, with the gateways. So other ports go straight to the pods, named targetPorts stay resolved pod by pod
(the shadow has a slice for each set of ports), and a slice is written only when its own content changes. A family in
which no gateway has an address goes straight to the pods.

Names hold a hash of the Service's uid: slices of one that was deleted and made again, which the garbage collector is
about to remove, are never taken for the new one's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address

from controller.events import Exposure
from controller.objects import MANAGER, EndpointSlice, GatewayPod, ServicePort, SliceEndpoint, SlicePort
from controller.takeover.world import ServiceView

ENDPOINTS_MAX = 100
"""In one slice, as Kubernetes' own controller does by default."""


def desired_slices(
    service: ServiceView, pods: Iterable[EndpointSlice], taken: Mapping[ServicePort, Exposure]
) -> tuple[EndpointSlice, ...]:
    """All slices of ours: those of gateways first. `taken`: what its callers reach on these ports, else the pods."""
    to_gateways: list[EndpointSlice] = []
    away: set[tuple[str, str]] = set()
    for port, exposure in taken.items():
        for family in service.families:
            slices = list(_gateway_slices(service, family, port, exposure))
            to_gateways += slices
            if slices:
                away.add((family, port.name))
    names = {port.name for port in service.ports}
    to_pods = []
    for each in pods:
        ports = tuple(p for p in each.ports if p.name in names and (each.address_type, p.name) not in away)
        if ports and each.endpoints:
            key = _key(service, each.key.rpartition("-")[2])
            to_pods.append(replace(each, key=key, service_key=service.key, ports=ports, managed_by=MANAGER))
    return (*to_gateways, *to_pods)


def unshown(slices: Iterable[EndpointSlice], pods: Iterable[EndpointSlice]) -> Iterator[EndpointSlice]:
    """What is ready in `slices` and of which `pods` say nothing, be it ready or not."""
    shown = {(each.address_type, endpoint.addresses) for each in pods for endpoint in each.endpoints}
    for each in slices:
        ready = (endpoint for endpoint in each.endpoints if endpoint.ready)
        if endpoints := tuple(e for e in ready if (each.address_type, e.addresses) not in shown):
            yield replace(each, endpoints=endpoints)


def covers(slices: Iterable[EndpointSlice], others: Iterable[EndpointSlice]) -> bool:
    """Whether everything ready in `others` is ready in `slices`."""
    return _ready(others) <= _ready(slices)


def _ready(slices: Iterable[EndpointSlice]) -> set[tuple[str, SlicePort]]:
    return {
        (address, port)
        for each in slices
        for endpoint in each.endpoints
        if endpoint.ready
        for address in endpoint.addresses
        for port in each.ports
    }


def _gateway_slices(
    service: ServiceView, family: str, port: ServicePort, exposure: Exposure
) -> Iterator[EndpointSlice]:
    slice_port = SlicePort(exposure.gateway_port, port.name, port.app_protocol, port.protocol)
    addresses = [address for pod in exposure.gateways if (address := _address(pod, family))]
    for begin in range(0, len(addresses), ENDPOINTS_MAX):
        endpoints = tuple(SliceEndpoint((address,)) for address in addresses[begin : begin + ENDPOINTS_MAX])
        key = _key(service, f"{port.port}-{family.lower()}" + (f"-{begin // ENDPOINTS_MAX}" if begin else ""))
        yield EndpointSlice(key, service.key, family, (slice_port,), endpoints, MANAGER)


def _address(pod: GatewayPod, family: str) -> str | None:
    return next((each for each in pod.addresses if family == f"IPv{ip_address(each).version}"), None)


def _key(service: ServiceView, suffix: str) -> str:
    life = hashlib.blake2b(service.uid.encode(), digest_size=3).hexdigest()
    return f"{service.key}-spillway-{life}-{suffix}"
