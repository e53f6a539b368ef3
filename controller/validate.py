"""Shell: `spillway validate`: everything that is wrong in a directory of manifests, at once.

What is wrong with an object by itself is told by its parser. Here is what only shows between objects: a reference to
nothing, a name that two models claim, a metric that nobody can answer. References are resolved by the functions that
`spillway run` resolves them with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from controller import policies
from controller.adapters.files import ManifestDirectory
from controller.api import ModelDeployment, Policy, RemoteBackend, SecretKeyRef, ServiceRef
from controller.credentials import certificate_authority, need_of
from controller.events import Kind
from controller.manifests import FileProblem, Manifest
from controller.metrics import Unknown, query_for
from controller.objects import SERVICE_LABEL, EndpointSlice, Secret, Service, ready_endpoints
from controller.remote_backend import issuer_host
from controller.routing import hosts_of, service_key_of
from controller.settings import Settings


def validate(directory: Path, settings: Settings) -> list[FileProblem]:
    """Every problem and warning, in the order of files and lines. Raises ManifestError."""
    files = ManifestDirectory(directory, lines=True)
    files.load()
    return sorted({*files.problems, *check(files.manifests, settings)})


def render(problems: Sequence[FileProblem]) -> tuple[str, int]:
    """A line for each problem, and the exit status: 1 if there is one that is not only a warning."""
    errors = sum(not problem.warning for problem in problems)
    lines = [f"warning: {problem}" if problem.warning else str(problem) for problem in problems]
    lines.append(f"{_count(errors, 'problem')}, {_count(len(problems) - errors, 'warning')}")
    return "\n".join(lines), 1 if errors else 0


def check(manifests: Sequence[Manifest], settings: Settings) -> Iterator[FileProblem]:
    """What is wrong between objects."""
    world = _World.of(manifests)
    claims = _Claims()
    for manifest in manifests:
        match manifest.value:
            case ModelDeployment() as model:
                if settings.in_scope(model.metadata.namespace):
                    yield from claims.check(manifest, model)
                else:
                    reason = f"not one of the namespaces that the config file names ({settings.namespaces}): not served"
                    yield manifest.problem("metadata.namespace", reason, warning=True)
                yield from _check_services(manifest, model, world)
                yield from _check_metrics(manifest, model, settings)
                yield from _check_policies(manifest, model, world)
                yield from _check_remotes(manifest, model, world, settings)
            case EndpointSlice(service_key=service_key) if (Kind.SERVICE, service_key) not in world.known:
                field = f"metadata.labels[{SERVICE_LABEL}]"
                yield manifest.problem(field, f"Service {service_key} is in no file here", warning=True)
            case _:
                pass


@dataclass(frozen=True, slots=True)
class _World:
    """The objects that models refer to. `known`: good or bad, so that a bad one is not reported as missing too."""

    known: frozenset[tuple[str, str]]
    services: Mapping[str, Service]
    slices: Mapping[str, Sequence[EndpointSlice]]
    secrets: Mapping[str, Secret]
    policies: Mapping[str, Policy]

    @staticmethod
    def of(manifests: Sequence[Manifest]) -> _World:
        slices: defaultdict[str, list[EndpointSlice]] = defaultdict(list)
        services: dict[str, Service] = {}
        secrets: dict[str, Secret] = {}
        rules: dict[str, Policy] = {}
        for manifest in manifests:
            match manifest.value:
                case Service() as service:
                    services[service.key] = service
                case EndpointSlice() as endpoint_slice:
                    slices[endpoint_slice.service_key].append(endpoint_slice)
                case Secret() as secret:
                    secrets[secret.key] = secret
                case Policy() as policy:
                    rules[policy.key] = policy
                case _:
                    pass
        return _World(frozenset((each.kind, each.key) for each in manifests), services, slices, secrets, rules)


class _Claims:
    """Who holds which name, first come, first served: models by (environment, model), and by Host."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], Manifest] = {}
        self._hosts: dict[str, Manifest] = {}

    def check(self, manifest: Manifest, model: ModelDeployment) -> Iterator[FileProblem]:
        """What of the names that a model wants is taken. A model whose name is taken gets no Host either."""
        holder = self._models.setdefault(model.identity, manifest)
        if holder is not manifest:
            environment, name = model.identity
            reason = f"{name!r} in environment {environment!r} is already the model of {_place(holder)}"
            yield manifest.problem("spec.model", reason)
            return
        wanted = hosts_of(model, service_key_of(model))
        lost = {host: holder for host in wanted if (holder := self._hosts.setdefault(host, manifest)) is not manifest}
        if lost:
            others = ", ".join(f"{host} ({_place(holder)})" for host, holder in lost.items())
            field = "spec.serviceRef" if model.spec.service_ref else "spec.model"
            if len(lost) == len(wanted):
                yield manifest.problem(field, f"no Host leads to this model, others have them: {others}")
            else:
                yield manifest.problem(field, f"others have some of its Hosts: {others}", warning=True)


def _place(manifest: Manifest) -> str:
    return f"{manifest.key} at {manifest.source}"


def _check_services(manifest: Manifest, model: ModelDeployment, world: _World) -> Iterator[FileProblem]:
    if model.spec.service_ref is None:
        reason = "is missing, so no local endpoint is known; only in a cluster a Service is made"
        yield manifest.problem("spec.serviceRef", reason, warning=True)
    for field, ref in (("serviceRef", model.spec.service_ref), ("metricServiceRef", model.spec.metric_service_ref)):
        if ref is not None:
            yield from _check_service(manifest, f"spec.{field}", ref, world)


def _check_service(manifest: Manifest, field: str, ref: ServiceRef, world: _World) -> Iterator[FileProblem]:
    key = ref.object_key(manifest.key.partition("/")[0])
    service = world.services.get(key)
    if service is None:
        if (Kind.SERVICE, key) not in world.known:
            yield manifest.problem(f"{field}.name", f"Service {key} is in no file here")
        return
    slices = world.slices.get(key, ())
    match ready_endpoints(service, slices, ref.target_port):
        case str() as reason:
            yield manifest.problem(f"{field}.targetPort", reason)
        case None:
            reason = f"no EndpointSlice here is labelled {SERVICE_LABEL}: {ref.name}, so its endpoints are unknown"
            yield manifest.problem(f"{field}.name", reason, warning=True)
        case resolved if not resolved.endpoints:
            reason = f"Service {key} has no ready endpoint; the EndpointSlice's port must have the Service port's name"
            yield manifest.problem(f"{field}.name", reason, warning=True)
        case _:
            pass


def _check_metrics(manifest: Manifest, model: ModelDeployment, settings: Settings) -> Iterator[FileProblem]:
    for index, metric in enumerate(model.spec.offloading_config.metrics):
        query = query_for(metric, model, settings.metric_informer.type)
        if isinstance(query, Unknown):
            yield manifest.problem(f"spec.offloadingConfig.metrics[{index}]", query.message, warning=True)


def _check_policies(manifest: Manifest, model: ModelDeployment, world: _World) -> Iterator[FileProblem]:
    for index, ref in enumerate(model.spec.policies):
        key = ref.object_key(model.metadata.namespace)
        if ref.ref_type == "localPolicy" and (Kind.POLICY, key) not in world.known:
            reason = f"Policy {key} is in no file here, which leaves no remote"
            yield manifest.problem(f"spec.policies[{index}].name", reason)


def _check_remotes(
    manifest: Manifest, model: ModelDeployment, world: _World, settings: Settings
) -> Iterator[FileProblem]:
    offloading = model.spec.offloading_config
    if offloading.remote_backend:
        places = [("spec.offloadingConfig.remoteBackend", offloading.remote_backend)]
    elif settings.default_remote_backend and not offloading.remotes:
        places = [("defaultRemoteBackend", settings.default_remote_backend)]
    else:
        places = [(f"spec.offloadingConfig.remoteBackends[{i}]", each) for i, each in enumerate(offloading.remotes)]
    if not places:
        reason = "no remote is given, and no defaultRemoteBackend in the config file: nothing can leave"
        yield manifest.problem("spec.offloadingConfig.remoteBackend", reason, warning=True)
    destinations = settings.reachable(in_cluster=False)
    policies_known = world.policies.keys() >= set(policies.policy_keys(model))
    for field, remote in places:
        if remote is not settings.default_remote_backend:
            for host in filter(None, (remote.address, issuer_host(remote))):
                if denied := destinations.obstacle(host):
                    yield manifest.problem(field, denied)
        if policies_known and (denied := policies.allowed(remote, model, world.policies)):
            yield manifest.problem(field, denied, warning=True)
        for place, ref, missing in _secret_refs(remote, model, world.secrets):
            key = ref.object_key(model.metadata.namespace)
            if missing and (key in world.secrets or (Kind.SECRET, key) not in world.known):
                yield manifest.problem(f"{field}.{place}", missing)


def _secret_refs(
    remote: RemoteBackend, model: ModelDeployment, secrets: Mapping[str, Secret]
) -> Iterator[tuple[str, SecretKeyRef, str]]:
    """Where a remote refers to a Secret, to which, and what is missing of what it needs there."""
    auth = remote.auth_config
    need = need_of(remote, model, "", secrets)
    missing = need.missing if need else ""
    if auth and auth.oauth_config and auth.oauth_config.client_secret_ref:
        yield "authConfig.oauthConfig.clientSecretRef", auth.oauth_config.client_secret_ref, missing
    if auth and auth.api_key_config:
        yield "authConfig.apiKeyConfig.secretRef", auth.api_key_config.secret_ref, missing
    if remote.tls and remote.tls.ca_ref:
        yield "tls.caRef", remote.tls.ca_ref, certificate_authority(remote, model.metadata.namespace, secrets)[1]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
