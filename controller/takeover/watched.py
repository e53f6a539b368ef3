"""Pure: what watches have shown of Services and of what belongs to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from controller.objects import EndpointSlice, shadow_key
from controller.takeover.world import ServiceView, World, view_of


class Watched:
    """All Services, since any may turn out to be wanted. Each change returns the key of the Service that it is about;
    a shadow is about the Service whose shadow it is.
    """

    def __init__(self) -> None:
        self._services: dict[str, ServiceView] = {}
        self._slices: dict[str, dict[str, EndpointSlice]] = {}
        self._service_of: dict[str, str] = {}
        self._endpoints: set[str] = set()

    def world(self, key: str) -> World:
        """What is known about a Service."""
        shadow = shadow_key(key)
        return World(
            self._services.get(key),
            self._services.get(shadow),
            tuple(self._slices.get(key, {}).values()),
            tuple(self._slices.get(shadow, {}).values()),
            key in self._endpoints,
        )

    def touched(self) -> Iterator[str]:
        """The Services at which something of ours is."""
        subjects = {self._subject(key) for key in (*self._services, *self._slices)}
        return (key for key in sorted(subjects) if self.world(key).is_touched)

    def see_service(self, obj: Mapping[str, Any]) -> str:
        view = view_of(obj)
        self._services[view.key] = view
        return self._subject(view.key)

    def lose_service(self, key: str) -> str:
        subject = self._subject(key)
        self._services.pop(key, None)
        return subject

    def see_slice(self, seen: EndpointSlice) -> str:
        if self._service_of.get(seen.key, seen.service_key) != seen.service_key:
            self.lose_slice(seen.key)
        self._service_of[seen.key] = seen.service_key
        self._slices.setdefault(seen.service_key, {})[seen.key] = seen
        return self._subject(seen.service_key)

    def lose_slice(self, key: str) -> str | None:
        service = self._service_of.pop(key, None)
        if service is None:
            return None
        slices = self._slices[service]
        del slices[key]
        if not slices:
            del self._slices[service]
        return self._subject(service)

    def see_endpoints(self, key: str) -> str:
        self._endpoints.add(key)
        return self._subject(key)

    def lose_endpoints(self, key: str) -> str:
        self._endpoints.discard(key)
        return self._subject(key)

    def _subject(self, key: str) -> str:
        service = self._services.get(key)
        return f"{service.namespace}/{service.shadow_of}" if service and service.shadow_of else key
