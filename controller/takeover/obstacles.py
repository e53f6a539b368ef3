"""Pure: why a Service, or one port of it, cannot be taken over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.events import Exposure
from controller.objects import MANAGER, SELECTOR_ANNOTATION, ServicePort, shadow_key
from controller.takeover.world import BY_SELECTOR, MIRRORED, ServiceView, World, selector_of

_TLS = frozenset({"https", "kubernetes.io/wss", "tls"})


@dataclass(frozen=True, slots=True)
class Obstacle:
    """As the reason and message of a condition."""

    reason: str
    message: str


def obstacle_of(seen: World, exposure: Exposure) -> Obstacle | None:
    """What keeps the Service, which exists, from being taken over for `exposure`."""
    service = seen.service
    assert service is not None
    if exposure.owner_uid is not None and exposure.owner_uid not in service.owners:
        words = f"Service {service.key} was not made for this model; name it in spec.serviceRef if it is meant."
        return Obstacle("ServiceExists", words)
    port = port_of(service, exposure)
    if isinstance(port, Obstacle):
        return port
    return _of_kind(service) or _of_selector(seen) or _of_others(seen)


def port_of(service: ServiceView, exposure: Exposure) -> ServicePort | Obstacle:
    """The Service's port that is to be taken over: its only or first TCP port where none is named."""
    named = exposure.port is not None
    ports = [each for each in service.ports if (each.port == exposure.port if named else each.protocol == "TCP")]
    if not ports:
        has = ", ".join(f"{each.port}/{each.protocol}" for each in service.ports) or "none"
        wanted = f"port {exposure.port}" if named else "TCP port"
        return Obstacle("PortNotFound", f"Service {service.key} has no {wanted}; its ports: {has}.")
    port = next((each for each in ports if each.protocol == "TCP"), ports[0])
    if port.protocol != "TCP":
        words = f"Port {port.port} of Service {service.key} is one of {port.protocol}, and the gateway serves TCP only."
        return Obstacle("ProtocolNotSupported", words)
    if port.app_protocol in _TLS:
        words = f"The gateway cannot read appProtocol {port.app_protocol} of port {port.port} of Service {service.key}."
        return Obstacle("ProtocolNotSupported", words)
    return port


def selector_behind(seen: World) -> Mapping[str, str] | None:
    """The selector of a Service, wherever it stands; None if nobody knows it."""
    service = seen.service
    assert service is not None
    if service.selector:
        return service.selector
    if service.kept is not None and (kept := selector_of(service.kept)):
        return kept
    shadow = seen.shadow if seen.owns_shadow else None
    return shadow.selector if shadow and shadow.owners <= {service.uid} else None


def _of_kind(service: ServiceView) -> Obstacle | None:
    if service.type == "ExternalName":
        return Obstacle("ExternalName", f"Service {service.key} is a name in DNS and has no endpoints.")
    if service.headless:
        words = f"Service {service.key} is headless: its callers find pods by DNS, which knows no ports."
        return Obstacle("Headless", words)
    if service.local_only:
        words = f"Service {service.key} has {service.local_only}: Local, and a gateway does not run on every node."
        return Obstacle("TrafficPolicyLocal", words)
    return None


def _of_selector(seen: World) -> Obstacle | None:
    service = seen.service
    if service is None or selector_behind(seen):
        return None
    if service.kept is not None:
        words = f"The annotation {SELECTOR_ANNOTATION} of Service {service.key} is not of the form key=value,key=value."
    else:
        words = f"Service {service.key} has no selector, and no annotation {SELECTOR_ANNOTATION} that names its pods."
    return Obstacle("NoSelector", words)


def _of_others(seen: World) -> Obstacle | None:
    service = seen.service
    if service is None:
        return None
    if seen.shadow is not None and not seen.owns_shadow:
        words = f"The Service that is to collect the pods, {shadow_key(service.key)}, is there and somebody else's."
        return Obstacle("NameTaken", words)
    others = sorted({each.managed_by for each in seen.slices} - {MANAGER, BY_SELECTOR, MIRRORED})
    if others:
        words = f"Service {service.key} has EndpointSlices that others write ({', '.join(map(repr, others))})."
        return Obstacle("EndpointSlicesOfOthers", words)
    return None
