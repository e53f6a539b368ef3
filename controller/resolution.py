"""Pure: what the manifests of a model come to: endpoints, remotes, metrics; and all that they refer to, found or not.

Nothing is decided here, and what is remembered only saves work: the same objects and settings give the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from controller import policies
from controller.api import MetricSpec, ModelDeployment, RemoteBackend
from controller.credentials import (
    Need,
    certificate_authority,
    inline_secrets,
    need_of,
    secret_keys,
    secret_refs,
)
from controller.destinations import Destinations
from controller.events import Kind, NewService
from controller.exposures import Cluster
from controller.health import HealthPolicy
from controller.inventory import Inventory, Reference
from controller.metrics import Query, ScrapeQuery, Source, Unknown, query_for
from controller.objects import Resolved, ServicePort, Workload, equalities, shadow_key
from controller.record import Target
from controller.remote_backend import issuer_host
from controller.routing import RemoteState, hosts_of, remote_of
from xds.translate import backend_cluster_name


@dataclass(frozen=True, slots=True)
class Config:
    """What the engine takes from the settings. `workspace` None: a model's namespace stands for it. `referable`: the
    namespaces that models of others may refer to, None: all. `cluster` None: there is none.
    """

    source: Source
    default_remote: RemoteBackend | None = None
    workspace: str | None = None
    health: HealthPolicy = field(default_factory=HealthPolicy)
    referable: frozenset[str] | None = None
    destinations: Destinations = field(default_factory=Destinations)
    cluster: Cluster | None = None


@dataclass(frozen=True, slots=True)
class RemoteSide:
    """What a model's remotes come to. `missing`, `forbidden`, `follows`: these are in its Resolution's as well."""

    targets: tuple[Target, ...]
    needs: tuple[Need, ...]
    notes: tuple[str, ...]
    """Sentences on what is not as it may seem; nothing is wrong."""
    inline_secrets: tuple[str, ...]
    """Sentences on secrets that all who may read the manifest can read; none outside a cluster."""
    missing: tuple[str, ...]
    forbidden: tuple[str, ...]
    follows: frozenset[Reference]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a model comes to. `service`: what callers use, and the number of its port, as far as they are known. `local`
    None: its endpoints are not known. `follows`: everything looked up.
    """

    hosts: tuple[str, ...]
    service: tuple[str, int | None] | None
    make: NewService | None
    """The Service that is to be made for a model that names none."""
    is_touched: bool
    """Something of ours leads the Service's callers."""
    local: Resolved | None
    missing: tuple[str, ...]
    """Sentences on what the manifest refers to and is not there."""
    forbidden: tuple[str, ...]
    """Sentences on what it may not refer to."""
    queries: tuple[tuple[MetricSpec, Query | Unknown], ...]
    remote: RemoteSide
    follows: frozenset[Reference]


class Resolver:
    """Pods come and go, and change nothing on the remote side, so that is kept until something of it changes."""

    def __init__(self, inventory: Inventory, config: Config) -> None:
        self._inventory = inventory
        self._config = config
        self._remote_sides: dict[str, tuple[tuple[ModelDeployment, Mapping[str, str], int], RemoteSide]] = {}
        """With what each is made of, by model."""

    def resolve(self, model: ModelDeployment, refused_remotes: Mapping[str, str]) -> Resolution:
        """`refused_remotes`: clusters of remotes that a gateway refused, and its words."""
        side = self._remote_side(model, refused_remotes)
        return _LocalReading(model, self._inventory, self._config).resolution(side)

    def forget(self, key: str) -> None:
        """A model that is gone."""
        self._remote_sides.pop(key, None)

    def _remote_side(self, model: ModelDeployment, refused_remotes: Mapping[str, str]) -> RemoteSide:
        made_of = model, refused_remotes, self._inventory.revision
        kept = self._remote_sides.get(model.key)
        if kept and kept[0] == made_of:
            return kept[1]
        side = _RemoteReading(model, self._inventory, self._config).side(refused_remotes)
        self._remote_sides[model.key] = made_of, side
        return side


class _Reading:
    """One model, while it is looked at."""

    def __init__(self, model: ModelDeployment, inventory: Inventory, config: Config) -> None:
        self.model = model
        self.namespace = model.metadata.namespace
        self.inventory = inventory
        self.config = config
        self.follows: set[Reference] = set()
        self.missing: list[str] = []
        self.forbidden: list[str] = []

    def forbid(self, namespace: str, field_: str) -> str:
        """Why the model may not refer to this namespace, empty if it may."""
        referable = self.config.referable
        if referable is None or namespace == self.namespace or namespace in referable:
            return ""
        why = f"{field_} refers to namespace {namespace}, which the settings do not allow (referenceNamespaces)"
        self.forbidden.append(why)
        return why


class _LocalReading(_Reading):
    def resolution(self, side: RemoteSide) -> Resolution:
        workload = self._workload()
        key = self._service_key()
        local, service = self._local(key, workload) if key else (None, None)
        if isinstance(workload, str) and workload not in self.forbidden:
            self.missing.append(workload)
        metrics = self.model.spec.offloading_config.metrics
        queries = tuple((spec, self._query(spec, workload)) for spec in metrics)
        return Resolution(
            hosts=hosts_of(self.model, key),
            service=service,
            make=self._new_service(workload),
            is_touched=bool(service and self.inventory.is_touched(service[0])),
            local=local,
            missing=tuple(dict.fromkeys((*self.missing, *side.missing))),
            forbidden=tuple(dict.fromkeys((*self.forbidden, *side.forbidden))),
            queries=queries,
            remote=side,
            follows=side.follows.union(self.follows),
        )

    def _workload(self) -> Workload | str | None:
        """What runs the model, why that is not known, or None outside a cluster."""
        if self.config.cluster is None:
            return None
        ref = self.model.spec.model_source_ref
        if forbidden := self.forbid(ref.namespace or self.namespace, "spec.modelSourceRef"):
            return forbidden
        reference = Kind(ref.kind), ref.object_key(self.namespace)
        self.follows.add(reference)
        return self.inventory.workloads.get(reference) or f"{ref.kind} {reference[1]} does not exist"

    def _service_key(self) -> str:
        """The Service that callers use, '' if there is none."""
        ref = self.model.spec.service_ref
        if ref is not None:
            forbidden = self.forbid(ref.namespace or self.namespace, "spec.serviceRef")
            return "" if forbidden else ref.object_key(self.namespace)
        if self.config.cluster is None:
            self.missing.append("spec.serviceRef is missing, so no local endpoint is known")
            return ""
        return self.model.key  # one is made for it

    def _local(self, key: str, workload: Workload | str | None) -> tuple[Resolved | None, tuple[str, int | None]]:
        """The endpoints, None if they are not known; and the Service with the port that callers use."""
        ref = self.model.spec.service_ref
        port = ref.target_port if ref else None
        self.follows.add((Kind.SERVICE, key))
        if self.config.cluster:
            self.follows.add((Kind.SERVICE, shadow_key(key)))
        service = self.inventory.services.get(key)
        taken = service.tcp_port(port) if service else None
        used = key, taken.port if taken else port
        resolved = self.inventory.endpoints(key, port)
        if isinstance(resolved, Resolved):
            return resolved, used
        if resolved is not None:
            self.missing.append(resolved)
        if isinstance(workload, Workload) and not workload.ready and (resolved is None or workload.desired == 0):
            return Resolved(()), used  # nothing runs, so nothing has to be found
        return None, used

    def _new_service(self, workload: Workload | str | None) -> NewService | None:
        """For all pods of the workload, with the ports that they declare; None if that cannot be told."""
        metadata = self.model.metadata
        if self.model.spec.service_ref or not isinstance(workload, Workload) or metadata.uid is None:
            return None
        selector = equalities(workload.selector)
        if selector is None or not workload.ports:
            if self.model.key not in self.inventory.services:
                lacks = "containers declare no port" if selector else "selector is not made of equal labels alone"
                why = f"none can be made for {workload.kind} {workload.key}, whose {lacks}: name one in spec.serviceRef"
                self.missing.append(why)
            return None
        named = len(workload.ports) > 1
        ports = tuple(ServicePort(n, (name or f"port-{n}") if named else name, n) for name, n in workload.ports)
        return NewService(metadata.name, metadata.uid, selector, ports)

    def _query(self, spec: MetricSpec, workload: Workload | str | None) -> Query | Unknown:
        query = query_for(spec, self.model, self.config.source, workload)
        if isinstance(query, ScrapeQuery):
            field_ = "spec.metricServiceRef" if self.model.spec.metric_service_ref else "spec.serviceRef"
            if forbidden := self.forbid(query.service.partition("/")[0], field_):
                return Unknown("RefNotPermitted", forbidden)
            self.follows |= {(Kind.SERVICE, query.service), (Kind.SERVICE, shadow_key(query.service))}
        return query


class _RemoteReading(_Reading):
    def side(self, refused_remotes: Mapping[str, str]) -> RemoteSide:
        remotes = [self._remote(remote, owner, refused_remotes) for remote, owner in self._remotes()]
        configured = self.model.spec.offloading_config.remotes
        return RemoteSide(
            targets=tuple(target for target, _ in remotes),
            needs=tuple(need for _, need in remotes if need is not None),
            notes=policies.notes(configured, self.model, self.inventory.policies),
            inline_secrets=tuple(self._inline_secrets()),
            missing=tuple(self.missing),
            forbidden=tuple(self.forbidden),
            follows=frozenset(self.follows),
        )

    def _remotes(self) -> Iterable[tuple[RemoteBackend, str]]:
        """The remotes in slot order, each with the name of who owns a secret written into it."""
        if configured := self.model.spec.offloading_config.remotes:
            return [(remote, f"{self.model.key}/{remote.name}") for remote in configured]
        default = self.config.default_remote
        return [(default, "config")] if default else []

    def _remote(
        self, remote: RemoteBackend, owner: str, refused_remotes: Mapping[str, str]
    ) -> tuple[Target, Need | None]:
        refused, obstacle = self._obstacle(remote)
        secrets = self.inventory.secrets
        need, ca_pem, missing = None, None, ""
        if not obstacle:
            self.follows |= {(Kind.SECRET, key) for key in secret_keys(remote, self.namespace)}
            need = need_of(remote, self.model, owner, secrets)
            ca_pem, missing = certificate_authority(remote, self.namespace, secrets)
            if need is not None:
                missing = missing or need.missing
        credential = need.credential if need else None
        target = remote_of(remote, self.model, self.config.workspace or self.namespace, credential, ca_pem)
        reason = obstacle or missing
        state = RemoteState(remote, target, ready=not reason, reason=reason, refused=refused)
        cluster = backend_cluster_name(target.backend)
        if words := refused_remotes.get(cluster):
            state = replace(state, ready=False, refused="NotReady", reason=f"refused by {words}")
        return Target(state, credential.secret if credential else None, cluster), need

    def _obstacle(self, remote: RemoteBackend) -> tuple[str, str]:
        """Why the gateway must not even be told of this remote: a CamelCase reason and a sentence, empty if it may."""
        if remote is not self.config.default_remote:  # that is not for those who write models to decide
            for field_, ref in secret_refs(remote).items():
                if forbidden := self.forbid(ref.namespace or self.namespace, f"{field_} of remote {remote.name}"):
                    return "RefNotPermitted", forbidden
            hosts = filter(None, (remote.address, issuer_host(remote)))
            if denied := next(filter(None, map(self.config.destinations.obstacle, hosts)), ""):
                return "DestinationDenied", denied
        for key in policies.policy_keys(self.model):
            if forbidden := self.forbid(key.partition("/")[0], "spec.policies"):
                return "RefNotPermitted", forbidden
            self.follows.add((Kind.POLICY, key))
            if key not in self.inventory.policies:
                self.missing.append(f"Policy {key} does not exist")
        denied = policies.allowed(remote, self.model, self.inventory.policies)
        return ("PolicyDenied" if denied else ""), denied

    def _inline_secrets(self) -> Iterable[str]:
        if self.config.cluster is None:
            return
        for remote in self.model.spec.offloading_config.remotes:
            for field_, remedy in inline_secrets(remote).items():
                yield f"{field_} of remote {remote.name} is in clear for all who may read this object (use {remedy})"
