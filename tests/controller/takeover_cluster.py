"""A model of the API server and of the controllers that write endpoints, as far as taking over one Service goes.

Each controller's work is one method, so that a test may call them in any order, late, or with what was true before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from controller.objects import (
    MANAGER,
    EndpointSlice,
    ServicePort,
    SliceEndpoint,
    SlicePort,
    shadow_key,
)
from controller.takeover.actions import (
    Action,
    DeleteEndpoints,
    DeleteShadow,
    DeleteSlice,
    EditPorts,
    EditService,
    EmptySlice,
    MakeService,
    PutShadow,
    PutSlice,
)
from controller.takeover.world import BY_SELECTOR, MIRRORED, SETTLE_S, ServiceView, World, selector_of

KEY = "ns/php"
SHADOW = shadow_key(KEY)
PORTS = (ServicePort(80, "http", "web"), ServicePort(9090, "metrics", 9090))
BROAD = {"app": "php"}
NARROW = {"app": "php", "tier": "front"}


class ConflictError(Exception):
    """Something is not any more what an action was meant for."""


@dataclass(frozen=True)
class Pod:
    address: str
    labels: Mapping[str, str]
    web: int = 8080
    ready: bool = True


@dataclass
class Cluster:
    pods: dict[str, Pod] = field(default_factory=dict)
    services: dict[str, ServiceView] = field(default_factory=dict)
    slices: dict[str, EndpointSlice] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    endpoints: dict[str, tuple[SliceEndpoint, ...]] = field(default_factory=dict)
    changes: int = 0
    now: float = 1_000_000.0

    # The API server

    def create(
        self, key: str, selector: Mapping[str, str], *, writer: str = "kubectl", kept: str | None = None
    ) -> None:
        uid = self._next()
        writers = frozenset({writer} if selector else ())
        self.services[key] = ServiceView(key, uid, self._next(), PORTS, selector, writers=writers)

    def edit(self, key: str = KEY, **changes: object) -> None:
        self.services[key] = replace(self.services[key], version=self._next(), **changes)  # type: ignore[arg-type]

    def set_selector(self, selector: Mapping[str, str], writer: str) -> None:
        service = self.services[KEY]
        if service.selector != selector:
            self.edit(selector=selector, writers=frozenset({writer} if selector else ()))

    def delete_service(self) -> None:
        """The controllers' slices go with it at once; ours and the shadow are left to the garbage collector."""
        del self.services[KEY]
        self.endpoints.pop(KEY, None)
        for key in [each.key for each in self.of(KEY) if each.managed_by != MANAGER]:
            del self.slices[key]

    def do(self, action: Action) -> None:
        match action:
            case MakeService(key, new):
                self.create(key, new.selector, writer=MANAGER)
                self.edit(key, owners=frozenset({new.owner_uid}), ports=new.ports)
            case PutShadow():
                self._put_shadow(action)
            case PutSlice(service, slice_):
                self.slices[slice_.key] = slice_
                self.owner[slice_.key] = service.uid
            case EditService(service):
                self._check(service)
                self._edit(action)
            case EditPorts(service, ports):
                self._check(service)
                self.edit(service.key, ports=ports)
            case DeleteEndpoints(key):
                self.endpoints.pop(key, None)
            case EmptySlice(key, version):
                self._write(replace(self._slice(key, version), endpoints=()))
            case DeleteSlice(key, version):
                self._delete_slice(key, version)
            case DeleteShadow(key, uid):
                if key in self.services and self.services[key].uid == uid:
                    self.delete_shadow()

    def delete_shadow(self) -> None:
        """Its slices are left to the garbage collector."""
        self.services.pop(SHADOW, None)

    def seen(self) -> World:
        return World(
            self.services.get(KEY),
            self.services.get(SHADOW),
            self.of(KEY),
            self.of(SHADOW),
            KEY in self.endpoints,
        )

    def of(self, service_key: str) -> tuple[EndpointSlice, ...]:
        return tuple(each for each in self.slices.values() if each.service_key == service_key)

    # Its controllers

    def sync_slices(self, key: str, known: ServiceView | None = None, changes_max: int = 1000) -> None:
        """The endpointslice controller; `known`: what it believes the Service to be. It makes slices, then changes and
        at last deletes some, one by one; `changes_max`: how far it gets.
        """
        service = known or self.services.get(key)
        if service is None or key not in self.services or not service.selector:
            return
        wanted = self._by_ports(service)
        found = {each.ports: each for each in self.of(key) if each.managed_by == BY_SELECTOR}
        makes = [ports for ports in wanted if ports not in found]
        gone = [each for ports, each in found.items() if ports not in wanted]
        changes = [replace(each, endpoints=wanted[ports]) for ports, each in found.items() if ports in wanted]
        while makes and gone and self.owner[gone[-1].key] == self.services[key].uid:
            ports = makes.pop()
            changes.append(replace(gone.pop(), ports=ports, endpoints=wanted[ports]))
        new = [EndpointSlice(f"{key}-{self._next()}", key, "IPv4", each, wanted[each], BY_SELECTOR) for each in makes]
        writes = [each for each in (*new, *changes) if self.slices.get(each.key) != each]
        for each in writes[:changes_max]:
            self._write(each)
            self.owner.setdefault(each.key, self.services[key].uid)
        for each in gone[: max(0, changes_max - len(writes))]:
            del self.slices[each.key]

    def _by_ports(self, service: ServiceView) -> dict[tuple[SlicePort, ...], tuple[SliceEndpoint, ...]]:
        found: dict[tuple[SlicePort, ...], tuple[SliceEndpoint, ...]] = {}
        for name, pod in sorted(self.pods.items()):
            if service.selector.items() <= pod.labels.items():
                ready = pod.ready or service.not_ready_too
                endpoint = SliceEndpoint((pod.address,), ready=ready, serving=ready, pod=name)
                ports = _resolved(service.ports, pod)
                found[ports] = (*found.get(ports, ()), endpoint)
        return found or {(): ()}

    def sync_endpoints(self, known: ServiceView | None = None) -> None:
        service = known or self.services.get(KEY)
        if service is not None and KEY in self.services and service.selector:
            chosen = (pod for pod in self.pods.values() if service.selector.items() <= pod.labels.items())
            self.endpoints[KEY] = tuple(SliceEndpoint((pod.address,)) for pod in chosen if pod.ready)

    def sync_mirror(self) -> None:
        service, name = self.services.get(KEY), f"{KEY}-mirrored"
        if service is not None and not service.selector and KEY in self.endpoints:
            ports = (SlicePort(8080, "http"), SlicePort(9090, "metrics"))
            self.slices[name] = EndpointSlice(name, KEY, "IPv4", ports, self.endpoints[KEY], MIRRORED)
            self.owner[name] = service.uid
        else:
            self.slices.pop(name, None)

    def collect_garbage(self, deletes_max: int = 1000) -> None:
        """One by one; `deletes_max`: how far it gets."""
        service, shadow = self.services.get(KEY), self.services.get(SHADOW)
        if shadow is not None and shadow.owners and (service is None or service.uid not in shadow.owners):
            self.delete_shadow()
        lives = {service.uid for service in self.services.values()}
        for each in [each for each in self.slices if self.owner[each] not in lives][:deletes_max]:
            del self.slices[each]

    def sync_all(self) -> None:
        self.collect_garbage()
        self.sync_slices(KEY)
        self.sync_slices(SHADOW)
        self.sync_endpoints()
        self.sync_mirror()

    # Callers

    def reached(self, port: str) -> set[str]:
        """The ready addresses that callers of the Service's port of that name are sent to."""
        return {
            address
            for each in self.of(KEY)
            if any(slice_port.name == port for slice_port in each.ports)
            and self.owner[each.key] == self.services[KEY].uid
            for endpoint in each.endpoints
            if endpoint.ready
            for address in endpoint.addresses
        }

    def _put_shadow(self, action: PutShadow) -> None:
        service, known = action.service, self.services.get(SHADOW)
        self.services[SHADOW] = ServiceView(
            SHADOW,
            known.uid if known else self._next(),
            self._next(),
            service.ports,
            action.selector,
            headless=True,
            models=action.models,
            shadow_of=service.name,
            owners=frozenset({service.uid}) | (known.owners if known else frozenset()),
            created_s=known.created_s if known else self.now,
        )

    def _edit(self, edit: EditService) -> None:
        service = self.services[edit.service.key]
        if edit.selector is not None:
            writers = frozenset({MANAGER} if edit.selector else ())
            service = replace(service, selector=edit.selector, writers=writers)
        kept = edit.annotations.get("spillway.dev/selector", service.kept)
        if kept != service.kept:
            service = replace(service, kept=kept, kept_by_us=kept is not None)
        service = replace(service, models=edit.annotations.get("spillway.dev/model", service.models))
        if edit.disown:
            service = replace(service, writers=service.writers - {MANAGER})
        annotated = service.kept is not None or service.models is not None
        self.services[service.key] = replace(service, annotated=annotated, version=self._next())

    def _check(self, service: ServiceView) -> None:
        known = self.services.get(service.key)
        if known is None or known.version != service.version:
            raise ConflictError

    def _slice(self, key: str, version: str) -> EndpointSlice:
        known = self.slices.get(key)
        if known is None or known.version != version:
            raise ConflictError
        return known

    def _write(self, new: EndpointSlice) -> None:
        self.slices[new.key] = replace(new, version=self._next(), written_s=self.now)

    def _delete_slice(self, key: str, version: str) -> None:
        known = self.slices.get(key)
        if known is not None and known.managed_by == BY_SELECTOR:
            self._slice(key, version)
            assert self.now - known.written_s >= SETTLE_S, "its writer may wait for it for ever"
        self.slices.pop(key, None)

    def _next(self) -> str:
        self.changes += 1
        return str(self.changes)


def _resolved(ports: Iterable[ServicePort], pod: Pod) -> tuple[SlicePort, ...]:
    """Where a pod serves the ports of a Service."""
    return tuple(SlicePort(pod.web if port.target_port == "web" else port.port, port.name) for port in ports)


def kept_selector(service: ServiceView) -> Mapping[str, str] | None:
    return selector_of(service.kept) if service.kept is not None else None
