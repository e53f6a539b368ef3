"""Pure: the objects that models refer to, and which models to look at again when one changes.

What a model looked up, found or not, is what it depends on. Endpoints that were known stay known when their object
vanishes from view: not seeing is not the same as seeing none.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.api import ModelDeployment, Policy
from controller.events import Kind, Object
from controller.metrics import Query, ScrapeQuery
from controller.objects import (
    MANAGER,
    EndpointSlice,
    Resolved,
    Secret,
    Service,
    Workload,
    ready_endpoints,
    shadow_key,
)
from xds import ir

Reference = tuple[Kind, str]
"""A kind and a key '<namespace>/<name>'. Slices are referred to by their Service."""


class Inventory:
    """The newest version of each object, and the references that each model follows. Owned by the engine."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.secrets: dict[str, Secret] = {}
        self.policies: dict[str, Policy] = {}
        self.workloads: dict[Reference, Workload] = {}
        self._slices: dict[str, EndpointSlice] = {}
        self._slices_of: dict[str, set[str]] = {}
        self._followers: dict[Reference, set[str]] = {}
        self._follows: dict[str, frozenset[Reference]] = {}
        self.revision = 0
        """Of Secrets and Policies: another one whenever any of them changes."""
        self.followed_secrets: set[str] = set()
        """Keys of the Secrets that some model looked up, whether they exist or not."""

    def apply(self, thing: Object) -> frozenset[str]:
        """Stores an object. Returns the models that follow it."""
        match thing:
            case Service():
                self.services[thing.key] = thing
                return self.followers((Kind.SERVICE, thing.key))
            case Secret():
                self.secrets[thing.key] = thing
                self.revision += 1
                return self.followers((Kind.SECRET, thing.key))
            case EndpointSlice():
                before = self.remove(Kind.ENDPOINT_SLICE, thing.key)
                self._slices[thing.key] = thing
                self._slices_of.setdefault(thing.service_key, set()).add(thing.key)
                return before | self.followers((Kind.SERVICE, thing.service_key))
            case Policy():
                self.policies[thing.key] = thing
                self.revision += 1
                return self.followers((Kind.POLICY, thing.key))
            case Workload():
                reference = Kind(thing.kind), thing.key
                self.workloads[reference] = thing
                return self.followers(reference)
            case ModelDeployment():
                return frozenset()  # nothing refers to a model

    def remove(self, kind: Kind, key: str) -> frozenset[str]:
        """Forgets an object. Returns the models that followed it."""
        if kind is Kind.ENDPOINT_SLICE:
            gone = self._slices.pop(key, None)
            if gone is None:
                return frozenset()
            of_service = self._slices_of[gone.service_key]
            of_service.discard(key)
            if not of_service:
                del self._slices_of[gone.service_key]
            return self.followers((Kind.SERVICE, gone.service_key))
        if kind is Kind.SERVICE:
            self.services.pop(key, None)
        elif kind is Kind.SECRET:
            self.secrets.pop(key, None)
            self.revision += 1
        elif kind is Kind.POLICY:
            self.policies.pop(key, None)
            self.revision += 1
        else:
            self.workloads.pop((kind, key), None)
        return self.followers((kind, key))

    def endpoints(self, service_key: str, port: int | None) -> Resolved | str | None:
        """The ready endpoints behind a Service's port; as `ready_endpoints`, and why, if there is no such Service.

        Of a Service that is taken over, those of its shadow; on the way there and back, those of the one that has any.
        Slices of ours may lead to the gateway: they never count.
        """
        service = self.services.get(service_key)
        if service is None:
            return f"Service {service_key} does not exist"
        of_shadow, of_service = self._slices_behind(shadow_key(service_key)), self._slices_behind(service_key)
        slices = (of_shadow or of_service) if service.taken else (of_service or of_shadow)
        return ready_endpoints(service, slices, port)

    def is_touched(self, service_key: str) -> bool:
        """Whether anything of ours leads its callers."""
        service = self.services.get(service_key)
        slices = self._slices_of.get(service_key, ())
        return bool(service and service.taken) or any(self._slices[key].managed_by == MANAGER for key in slices)

    def targets(self, query: Query) -> tuple[ir.Endpoint, ...]:
        """The endpoints that a query asks; none if it goes elsewhere."""
        if not isinstance(query, ScrapeQuery):
            return ()
        resolved = self.endpoints(query.service, query.port)
        return resolved.endpoints if isinstance(resolved, Resolved) else ()

    def _slices_behind(self, service_key: str) -> tuple[EndpointSlice, ...]:
        # By name, so that the answer does not depend on the order of events.
        slices = (self._slices[key] for key in sorted(self._slices_of.get(service_key, ())))
        return tuple(each for each in slices if each.managed_by != MANAGER)

    def follow(self, model: str, references: Iterable[Reference]) -> None:
        """Sets what a model depends on, all of it."""
        new = frozenset(references)
        old = self._follows.get(model, frozenset())
        for reference in old - new:
            self._followers[reference].discard(model)
            if not self._followers[reference]:
                del self._followers[reference]
                if reference[0] is Kind.SECRET:
                    self.followed_secrets.discard(reference[1])
        for reference in new - old:
            self._followers.setdefault(reference, set()).add(model)
            if reference[0] is Kind.SECRET:
                self.followed_secrets.add(reference[1])
        if new:
            self._follows[model] = new
        else:
            self._follows.pop(model, None)

    def followers(self, reference: Reference) -> frozenset[str]:
        return frozenset(self._followers.get(reference, ()))
