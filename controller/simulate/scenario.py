"""Pure: from what a user gives (manifests, servers, how often metrics are asked) to all that a simulation depends on.

The outside is taken to be as it should be: gateways connected, credentials and certificates good. So a remote stands
here without them, and their Secrets need not be given. Endpoints that the manifests do not name are made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from controller.api import ModelDeployment, Policy, RemoteBackend, ServiceRef
from controller.manifests import FileProblem, Manifest
from controller.metrics import Unknown, query_for
from controller.objects import EndpointSlice, Resolved, Service, ServicePort, SliceEndpoint, SlicePort, ready_endpoints
from controller.offload import Mode
from controller.policies import policy_keys
from controller.resolution import Config
from controller.settings import Settings
from controller.simulate.expression import ExpressionError
from controller.simulate.meter import MEANINGS, Sampling, Signal, metrics_in
from controller.simulate.plant import Draw, Plant
from controller.simulate.score import Decided, Served
from controller.simulate.steering import EngineSteering, play
from controller.simulate.workload import LOCAL, REMOTE, Arrival, Timing

_PORT = 8000


class ScenarioError(Exception):
    """What is given cannot be simulated; one line for each problem, which names the field or flag and the reason."""


@dataclass(frozen=True, slots=True)
class Servers:
    """What is simulated around the model. `slots`: how many requests one replica serves at a time; None: as many as
    `localLimit` lets in. `replicas` None: the endpoints of the manifests, or 1. `split`: the gateways' parts of the
    arrivals. `interval_s`: between two queries of a metric, None: as the settings say. `scrape_s`: between two of
    Prometheus' scrapes. `leases`: the limit is divided over the gateways by demand, not only evenly. `meanings`: what
    metrics mean whose names are not known.
    """

    slots: int | None = None
    replicas: int | None = None
    local: Timing = LOCAL
    remote: Timing = REMOTE
    split: tuple[float, ...] = (1.0,)
    interval_s: float | None = None
    scrape_s: float = 15.0
    leases: bool = True
    meanings: Mapping[str, Signal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that a simulation depends on but its load and its dice. `notes`: what a user may not expect of it."""

    config: Config
    model: ModelDeployment
    objects: tuple[Service | EndpointSlice | Policy, ...]
    replicas: int
    slots: int
    servers: Servers
    sampling: Sampling
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    served: tuple[Served, ...]
    decided: tuple[Decided, ...]


def simulate(scenario: Scenario, arrivals: Iterable[Arrival], draw: Draw) -> Outcome:
    """Lets the load run through, in virtual time."""
    servers = scenario.servers
    plant = Plant(scenario.replicas, scenario.slots, len(servers.split), servers.local, servers.remote, draw)
    steering = EngineSteering(
        scenario.config,
        scenario.model,
        scenario.objects,
        plant,
        scenario.sampling,
        {**MEANINGS, **servers.meanings},
        leases=servers.leases,
    )
    served = play(arrivals, plant, steering, servers.split, draw)
    return Outcome(tuple(served), tuple(steering.decided))


def scenario_of(manifests: Sequence[Manifest], settings: Settings, servers: Servers) -> Scenario:
    """Exactly one ModelDeployment, and its Service and EndpointSlices if they are there. Raises ScenarioError."""
    models = [manifest for manifest in manifests if isinstance(manifest.value, ModelDeployment)]
    if len(models) != 1:
        found = ", ".join(manifest.key for manifest in models) or "none"
        raise ScenarioError(f"--policy: must hold one ModelDeployment; found: {found}")
    manifest = models[0]
    model = manifest.value
    assert isinstance(model, ModelDeployment)
    informer = settings.metric_informer
    problems = tuple(_unanswerable(manifest, model, settings, servers))
    if errors := [problem for problem in problems if not problem.warning]:
        raise ScenarioError("\n".join(map(str, errors)))
    if not model.spec.offloading_config.remotes and settings.default_remote_backend is None:
        reason = "no remote is given: nothing can leave"
        problems += (manifest.problem("spec.offloadingConfig.remoteBackend", reason, warning=True),)
    policies = {each.value.key: each.value for each in manifests if isinstance(each.value, Policy)}
    for key in sorted(set(policy_keys(model)) - policies.keys()):
        reason = f"Policy {key} is in no file here, which leaves no remote"
        problems += (manifest.problem("spec.policies", reason, warning=True),)
    model = _with_open_remotes(model)
    default = settings.default_remote_backend
    service, endpoint_slice, replicas = _endpoints(model, manifests, servers.replicas)
    limit = model.spec.offloading_config.local_limit
    slots = servers.slots or (limit.max_concurrent_requests_per_replica if limit else None)
    if slots is None:
        raise ScenarioError(
            "--slots: is needed, since the manifest has no localLimit: how many requests a replica serves"
        )
    return Scenario(
        config=Config(informer.type, default and _open(default), settings.workspace),
        model=model,
        objects=(service, endpoint_slice, *policies.values()),
        replicas=replicas,
        slots=slots,
        servers=servers,
        sampling=Sampling(
            prometheus_s=servers.interval_s or informer.prometheus.interval_seconds,
            scrape_s=servers.scrape_s,
            endpoints_s=servers.interval_s or informer.endpoints.interval_seconds,
        ),
        notes=tuple(map(str, problems)),
    )


def all_local(scenario: Scenario) -> Scenario:
    """The same without Spillway: nothing leaves, whatever happens."""
    spec = scenario.model.spec
    off = spec.offloading_config.behavior.model_copy(update={"mode": Mode.OFF})
    offloading = spec.offloading_config.model_copy(update={"behavior": off, "local_limit": None})
    model = scenario.model.model_copy(update={"spec": spec.model_copy(update={"offloading_config": offloading})})
    return replace(scenario, model=model)


def _unanswerable(
    manifest: Manifest, model: ModelDeployment, settings: Settings, servers: Servers
) -> Iterator[FileProblem]:
    """Metrics that stay unknown, as they would in earnest, and metrics that simulated servers do not have."""
    known = {**MEANINGS, **servers.meanings}
    for index, metric in enumerate(model.spec.offloading_config.metrics):
        place = f"spec.offloadingConfig.metrics[{index}]"
        query = query_for(metric, model, settings.metric_informer.type)
        if isinstance(query, Unknown):
            yield manifest.problem(place, f"stays unknown: {query.message}", warning=True)
            continue
        try:
            missing = sorted(metrics_in(query) - known.keys())
        except ExpressionError as error:
            yield manifest.problem(place, str(error))
            continue
        for name in missing:
            reason = f"a simulated server has no {name}; say what it means: --signal {name}={'|'.join(Signal)}"
            yield manifest.problem(place, reason)


def _with_open_remotes(model: ModelDeployment) -> ModelDeployment:
    """Its remotes without what only a real one asks for; and a Service, if it has none."""
    offloading = model.spec.offloading_config
    one, several = offloading.remote_backend, offloading.remote_backends
    remotes = {"remote_backend": one and _open(one), "remote_backends": tuple(map(_open, several))}
    ref = model.spec.service_ref or ServiceRef(name=model.metadata.name)
    spec = {"offloading_config": offloading.model_copy(update=remotes), "service_ref": ref}
    return model.model_copy(update={"spec": model.spec.model_copy(update=spec)})


def _open(remote: RemoteBackend) -> RemoteBackend:
    return remote.model_copy(update={"auth_config": None, "tls": None})


def _endpoints(
    model: ModelDeployment, manifests: Sequence[Manifest], replicas: int | None
) -> tuple[Service, EndpointSlice, int]:
    """The model's Service and a slice with all its endpoints: those of the manifests, or as many as are asked for."""
    ref = model.spec.service_ref
    assert ref is not None, "a model without one was given one"
    key = ref.object_key(model.metadata.namespace)
    values = [manifest.value for manifest in manifests]
    service = next((value for value in values if isinstance(value, Service) and value.key == key), None)
    if service is not None and replicas is None:
        slices = [value for value in values if isinstance(value, EndpointSlice) and value.service_key == key]
        resolved = ready_endpoints(service, slices, ref.target_port)
        replicas = resolved.replicas if isinstance(resolved, Resolved) else None
    replicas = 1 if replicas is None else replicas
    addresses = (SliceEndpoint((f"10.0.{index // 250}.{index % 250 + 1}",)) for index in range(replicas))
    port = ref.target_port or 80
    made_up = EndpointSlice(f"{key}-simulated", key, "IPv4", (SlicePort(_PORT),), tuple(addresses))
    return Service(key, (ServicePort(port),)), made_up, replicas
