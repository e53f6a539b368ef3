"""Pure: what the API server says about one Service, as far as taking it over depends on it."""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.objects import MANAGED_BY_LABEL, MANAGER, SELECTOR_ANNOTATION, EndpointSlice, ServicePort, key_of

MODEL_ANNOTATION = "spillway.dev/model"
"""On a Service that is taken over, and on its shadow: the models that it is for, '<namespace>/<name>,...'."""
MANAGED_BY = "app.kubernetes.io/managed-by"
SHADOW_LABEL = "spillway.dev/shadow-of"
"""On a shadow, and on its slices: the name of the Service whose pods it collects."""

BY_SELECTOR = "endpointslice-controller.k8s.io"
"""Who writes the slices of a Service that has a selector."""
MIRRORED = "endpointslicemirroring-controller.k8s.io"
"""Who copies an Endpoints object into slices when the Service has no selector."""

SETTLE_S = 5.0
"""How long after it was made a shadow may show only some of its pods: the slices are written one by one, and those of
one that had its name before are removed one by one. Also how long after it wrote a slice its writer may wait for the
answer. The times of two machines are compared; clocks that differ by more hold nothing up.
"""


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A Service, ours or a user's.

    `kept`, `models`: the texts of our annotations. `kept_by_us`: nobody but us has set `kept`. `writers`: the field
    managers of spec.selector. `local_only`: the traffic policy that is Local, '' if none is. `owners`: uids.
    `entries_of_ours`: places in metadata.managedFields. `created_s`: since the epoch.
    """

    key: str
    uid: str
    version: str
    ports: tuple[ServicePort, ...] = ()
    selector: Mapping[str, str] = field(default_factory=dict)
    type: str = "ClusterIP"
    headless: bool = False
    families: tuple[str, ...] = ("IPv4",)
    family_policy: str = "SingleStack"
    local_only: str = ""
    not_ready_too: bool = False
    annotated: bool = False
    kept: str | None = None
    kept_by_us: bool = False
    models: str | None = None
    shadow_of: str | None = None
    owners: frozenset[str] = frozenset()
    writers: frozenset[str] = frozenset()
    entries_of_ours: tuple[int, ...] = ()
    created_s: float = 0.0

    @property
    def name(self) -> str:
        return self.key.partition("/")[2]

    @property
    def namespace(self) -> str:
        return self.key.partition("/")[0]


@dataclass(frozen=True, slots=True)
class World:
    """`slices` are the Service's, whoever made them; `shadow_slices` those of its shadow. `endpoints`: whether there is
    an Endpoints object of its name.
    """

    service: ServiceView | None = None
    shadow: ServiceView | None = None
    slices: tuple[EndpointSlice, ...] = ()
    shadow_slices: tuple[EndpointSlice, ...] = ()
    endpoints: bool = False

    @property
    def ours(self) -> tuple[EndpointSlice, ...]:
        return managed_by(self.slices, MANAGER)

    @property
    def selected(self) -> tuple[EndpointSlice, ...]:
        """Of the Service itself: right while it has a selector, stale once it has none."""
        return managed_by(self.slices, BY_SELECTOR)

    @property
    def pods(self) -> tuple[EndpointSlice, ...]:
        """What the shadow has collected; empty until Kubernetes has looked at it."""
        return managed_by(self.shadow_slices, BY_SELECTOR) if self.owns_shadow else ()

    def is_settled(self, now: float) -> bool:
        """Whether a pod that the shadow does not show is not there."""
        return bool(self.pods) and self.shadow is not None and abs(now - self.shadow.created_s) >= SETTLE_S

    def settles_at_s(self, now: float) -> float | None:
        """When time will have settled it; None if that is past, or not what it lacks."""
        return (
            None if self.shadow is None or not self.pods or self.is_settled(now) else self.shadow.created_s + SETTLE_S
        )

    @property
    def owns_shadow(self) -> bool:
        """Whether the Service of the shadow's name is one, and was not made by somebody else for something else."""
        return self.shadow is not None and self.shadow.shadow_of is not None

    def fresh(self, now: float) -> tuple[EndpointSlice, ...]:
        """Those of the Service that its selector's controller may not yet know to have been written."""
        return tuple(each for each in self.selected if abs(now - each.written_s) < SETTLE_S)

    @property
    def is_touched(self) -> bool:
        """Whether anything of ours is left."""
        service = self.service
        wrote = service and (service.models is not None or service.kept_by_us or MANAGER in service.writers)
        return bool(wrote) or self.owns_shadow or bool(self.ours)


def managed_by(slices: Iterable[EndpointSlice], *managers: str) -> tuple[EndpointSlice, ...]:
    return tuple(each for each in slices if each.managed_by in managers)


def models_of(*services: ServiceView | None) -> frozenset[str]:
    """The models that a Service is taken over for, as it and its shadow say."""
    texts = (service.models or "" for service in services if service)
    return frozenset(model for text in texts for model in text.split(",") if model)


def view_of(obj: Mapping[str, Any]) -> ServiceView:
    """A Service as the API server sends it."""
    metadata, spec = obj["metadata"], obj["spec"]
    annotations, entries = metadata.get("annotations") or {}, metadata.get("managedFields") or []
    kept_writers = _writers(entries, "f:metadata", "f:annotations", f"f:{SELECTOR_ANNOTATION}")
    policies = [name for name in ("internalTrafficPolicy", "externalTrafficPolicy") if spec.get(name) == "Local"]
    return ServiceView(
        key=key_of(obj),
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
        ports=tuple(_port(port) for port in spec.get("ports") or ()),
        selector=spec.get("selector") or {},
        type=spec.get("type", "ClusterIP"),
        headless=spec.get("clusterIP") == "None",
        families=tuple(spec.get("ipFamilies") or ("IPv4",)),
        family_policy=spec.get("ipFamilyPolicy", "SingleStack"),
        local_only=next(iter(policies), ""),
        not_ready_too=spec.get("publishNotReadyAddresses", False),
        annotated=bool(annotations),
        kept=annotations.get(SELECTOR_ANNOTATION),
        kept_by_us=kept_writers == {MANAGER},
        models=annotations.get(MODEL_ANNOTATION),
        shadow_of=_shadow_of(metadata.get("labels") or {}),
        owners=frozenset(owner["uid"] for owner in metadata.get("ownerReferences") or ()),
        writers=_writers(entries, "f:spec", "f:selector"),
        entries_of_ours=tuple(
            index
            for index, entry in enumerate(entries)
            if (entry.get("manager"), entry.get("operation"), entry.get("subresource")) == (MANAGER, "Update", None)
        ),
        created_s=_seconds(metadata["creationTimestamp"]),
    )


def _seconds(timestamp: str) -> int:
    """Since the epoch; the API server writes '2006-01-02T15:04:05Z', always in UTC."""
    return timegm(tuple(map(int, re.findall(r"\d+", timestamp))))


def _shadow_of(labels: Mapping[str, str]) -> str | None:
    return labels.get(SHADOW_LABEL) if labels.get(MANAGED_BY) == MANAGER else None


def shadow_labels(service: ServiceView) -> dict[str, str]:
    return {MANAGED_BY: MANAGER, SHADOW_LABEL: service.name}


def slice_labels(service: ServiceView) -> dict[str, str]:
    return {"kubernetes.io/service-name": service.name, MANAGED_BY_LABEL: MANAGER}


def _port(port: Mapping[str, Any]) -> ServicePort:
    return ServicePort(
        port["port"],
        port.get("name") or "",
        port.get("targetPort"),
        port.get("protocol", "TCP"),
        port.get("appProtocol"),
    )


def _writers(entries: Iterable[Mapping[str, Any]], *path: str) -> frozenset[str]:
    """The managers of the field at `path`."""
    found = set()
    for entry in entries:
        at: Any = entry.get("fieldsV1") or {}
        for part in path:
            at = at.get(part) if isinstance(at, Mapping) else None
        if at is not None:
            found.add(str(entry.get("manager", "")))
    return frozenset(found)


def selector_text(selector: Mapping[str, str]) -> str:
    """'key=value,key=value', sorted: how an annotation holds a selector."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))


def selector_of(text: str) -> dict[str, str] | None:
    """The selector that an annotation holds; None if that is none."""
    pairs = [part.partition("=") for part in text.split(",")]
    selector = {key.strip(): value.strip() for key, equals, value in pairs if key.strip() and equals}
    return selector if len(selector) == len(pairs) else None
