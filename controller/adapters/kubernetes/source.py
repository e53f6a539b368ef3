"""Shell: what a cluster says, as events of the engine's.

Models and Policies are read in the namespaces that the settings name; what they may refer to (Services, EndpointSlices,
workloads) also in those that the settings let them refer to; Secrets one by one, those that are referred to. The
gateway's pods are the endpoints of its Service.

Whoever takes Services over looks at the same objects; `onlooker` is shown them as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from controller import api, events, objects
from controller.adapters.kubernetes import decode
from controller.adapters.kubernetes.bursts import Bursts
from controller.adapters.kubernetes.client import Cluster, path_of
from controller.adapters.kubernetes.reflector import Handler, Reflector, Reflectors, Selection, as_events, selections
from controller.events import Event, Kind
from controller.kube_status import saved_of
from controller.objects import SERVICE_LABEL, EndpointSlice, key_of
from controller.parsing import Invalid, Parsed, Problem
from controller.settings import Settings

Json = dict[str, Any]
Emit = Callable[[Event], None]

DEFAULT_GATEWAY = "spillway-gateway"
WORKLOADS = {
    Kind.DEPLOYMENT: "deployments",
    Kind.STATEFUL_SET: "statefulsets",
    Kind.DAEMON_SET: "daemonsets",
    Kind.REPLICA_SET: "replicasets",
}


class Onlooker(Protocol):
    """Who is shown the objects that a Service's callers depend on."""

    def see_service(self, obj: Json) -> None: ...
    def lose_service(self, key: str) -> None: ...
    def see_slice(self, seen: EndpointSlice) -> None: ...
    def lose_slice(self, key: str) -> None: ...
    def see_endpoints(self, key: str) -> None: ...
    def lose_endpoints(self, key: str) -> None: ...
    def see_model(self, obj: Json) -> None: ...
    def lose_model(self, key: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Where:
    """Which namespaces are read; none: all. `gateway`: namespace and name of the gateway's Service."""

    namespaces: tuple[str, ...]
    referable: frozenset[str] | None
    gateway: tuple[str, str]

    def serves(self, namespace: str) -> bool:
        """Whether its models are ours."""
        return not self.namespaces or namespace in self.namespaces

    @property
    def referred(self) -> tuple[str, ...]:
        """Where what models refer to may be."""
        if not self.namespaces or self.referable is None:
            return ()
        return tuple(sorted({*self.namespaces, *self.referable}))


def where_of(settings: Settings, own: str) -> Where:
    """`own`: the namespace that the controllers are in."""
    gateway = settings.proxy_service
    return Where(
        settings.served(),
        settings.referable(in_cluster=True),
        (gateway.namespace or own, gateway.name or DEFAULT_GATEWAY),
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """A ModelDeployment as the API server has it. `reading`: what an Applied or Refused event was made of."""

    uid: str
    reading: tuple[object, ...]
    status: Mapping[str, Any] = field(default_factory=dict)


class Source:
    """Tells `emit` everything that is so, and then everything that changes. `models`: those that exist, good or not."""

    def __init__(self, cluster: Cluster, where: Where, emit: Emit, onlooker: Onlooker) -> None:
        self.emit = emit
        self.models: dict[str, Seen] = {}
        self._cluster = cluster
        self._where = where
        self._onlooker = onlooker
        self._reflectors = Reflectors()
        self._pods = Bursts(emit)
        """What changes with each pod that comes or goes."""
        self._secrets: frozenset[str] = frozenset()
        self._gateway_slices: dict[str, EndpointSlice] = {}
        self._start()

    @property
    def troubles(self) -> list[str]:
        """What cannot be read, and why, one sentence each."""
        return self._reflectors.troubles

    async def run(self) -> None:
        """Until it is cancelled."""
        await self._reflectors.run()

    async def synced(self) -> None:
        """Returns when all there is has been told."""
        await self._reflectors.wait_synced()
        self._pods.tell()

    def follow_secrets(self, keys: AbstractSet[str]) -> None:
        """Reads these Secrets from now on, and no others."""
        if keys == self._secrets:
            return
        wanted = frozenset(keys)
        for key in sorted(self._secrets - wanted):
            self._reflectors.stop(f"Secret {key}")
            self.emit(events.Removed(Kind.SECRET, key))
        for key in sorted(wanted - self._secrets):
            namespace, _, name = key.partition("/")
            selection = Selection(path_of("v1", "secrets", namespace), field_selector=f"metadata.name={name}")
            handler = as_events(Kind.SECRET, decode.secret, self.emit)
            self._reflectors.start(f"Secret {key}", Reflector(self._cluster, selection, handler))
        self._secrets = wanted

    def _start(self) -> None:
        where, onlooker = self._where, self._onlooker
        models = Handler(decode.plain, self._see_model, self._lose_model, partial(self._refuse, Kind.MODEL_DEPLOYMENT))
        self._add("ModelDeployment", selections(api.MODEL_API_VERSION, "modeldeployments", where.namespaces), models)
        policies = selections(api.POLICY_API_VERSION, "policies", where.referred)
        self._add("Policy", policies, as_events(Kind.POLICY, decode.policy, self.emit))
        for kind, plural in WORKLOADS.items():
            workloads = selections("apps/v1", plural, where.referred)
            self._add(str(kind), workloads, as_events(kind, decode.workload(kind), self._pods.add))
        services = Handler(decode.plain, self._see_service, self._lose_service, partial(self._refuse, Kind.SERVICE))
        self._add("Service", selections("v1", "services", where.referred), services)
        slices = Handler(decode.endpoint_slice, self._see_slice, self._lose_slice, self._refuse_slice)
        self._add("EndpointSlice", selections("discovery.k8s.io/v1", "endpointslices", where.referred), slices)
        # Of Endpoints only whether there are any matters, and only to who takes Services over.
        endpoints = Handler(_key, onlooker.see_endpoints, onlooker.lose_endpoints, lambda key, why: None)
        bare = [Selection(each.path, metadata_only=True) for each in selections("v1", "endpoints", where.referred)]
        self._add("Endpoints", bare, endpoints)
        namespace, name = where.gateway
        of_gateway = Selection(
            path_of("discovery.k8s.io/v1", "endpointslices", namespace), label_selector=f"{SERVICE_LABEL}={name}"
        )
        gateways = Handler(decode.endpoint_slice, self._see_gateways, self._lose_gateways, lambda key, why: None)
        self._add("gateway", [of_gateway], gateways)

    def _add(self, kind: str, wanted: Iterable[Selection], handler: Handler[Any]) -> None:
        for selection in wanted:
            self._reflectors.start(f"{kind} {selection}", Reflector(self._cluster, selection, handler))

    def _refuse(self, kind: Kind, key: str, problems: tuple[Problem, ...]) -> None:
        self.emit(events.Refused(kind, key, problems))

    # Models

    def _see_model(self, obj: Json) -> None:
        """An Applied event for what its user changed; of the status only what the leader decided counts."""
        key, metadata, status = key_of(obj), obj["metadata"], obj.get("status") or {}
        reading = metadata["uid"], metadata.get("generation"), metadata.get("deletionTimestamp")
        last = self.models.get(key)
        self.models[key] = Seen(metadata["uid"], reading, status)
        self._onlooker.see_model(obj)
        if last is None or last.reading != reading:
            match api.parse(obj):
                case Parsed(model=model):
                    self.emit(events.Applied(model))
                case Invalid(problems=problems):
                    self.emit(events.Refused(Kind.MODEL_DEPLOYMENT, key, problems))
        saved = saved_of(status) or {}
        if saved != ((saved_of(last.status) or {}) if last else {}):
            self.emit(events.Decided(key, saved))

    def _lose_model(self, key: str) -> None:
        self.models.pop(key, None)
        self._onlooker.lose_model(key)
        self.emit(events.Removed(Kind.MODEL_DEPLOYMENT, key))

    # Services

    def _see_service(self, obj: Json) -> None:
        match objects.parse_service(obj):
            case Parsed(model=service):
                self.emit(events.Applied(service))
            case Invalid(problems=problems):
                self.emit(events.Refused(Kind.SERVICE, key_of(obj), problems))
        self._onlooker.see_service(obj)

    def _lose_service(self, key: str) -> None:
        self.emit(events.Removed(Kind.SERVICE, key))
        self._onlooker.lose_service(key)

    def _see_slice(self, seen: EndpointSlice) -> None:
        self._pods.add(events.Applied(seen))
        self._onlooker.see_slice(seen)

    def _lose_slice(self, key: str) -> None:
        self._pods.add(events.Removed(Kind.ENDPOINT_SLICE, key))
        self._onlooker.lose_slice(key)

    def _refuse_slice(self, key: str, problems: tuple[Problem, ...]) -> None:
        """A slice that belongs to no Service, maybe any more, is nobody's business here."""
        self._lose_slice(key)

    # The gateway

    def _see_gateways(self, seen: EndpointSlice) -> None:
        self._gateway_slices[seen.key] = seen
        self._tell_gateways()

    def _lose_gateways(self, key: str) -> None:
        self._gateway_slices.pop(key, None)
        self._tell_gateways()

    def _tell_gateways(self) -> None:
        self.emit(events.GatewaysSeen(decode.gateway_pods(self._gateway_slices.values())))


def _key(body: bytes) -> str:
    return key_of(decode.plain(body))
