"""A cluster full of models: what their users applied, and the EndpointSlices of their pods, as Kubernetes writes them.
The pods themselves are not there.

Each model has a Deployment (paused, so nobody makes pods of it), a Service, a ModelDeployment, and `SLICES` slices of
`ENDPOINTS` pods each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from controller.adapters.kubernetes.client import Cluster, path_of
from controller.objects import MANAGED_BY_LABEL
from xds.translate.cluster import local_cluster_name

Json = dict[str, Any]

NAMESPACES = 20
SLICES = 5
ENDPOINTS = 4
PORT = 8000

MODELS_API = "deployment.beamlit.com/v1alpha1"
DISCOVERY = "discovery.k8s.io/v1"
SERVICE_NAME = "kubernetes.io/service-name"
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one slice. `cluster`: the xDS name of the model's endpoints, which have `address` afterwards, or
    have it no more.
    """

    path: str
    operations: list[Json]
    cluster: str
    address: str
    present: bool


class ManyModels:
    """`size` models on the API server that `cluster` leads to."""

    def __init__(self, cluster: Cluster, size: int) -> None:
        self.size = size
        self._cluster = cluster
        self._changes = 0

    async def create(self) -> None:
        """Everything there is, as fast as the API server takes it."""
        for number in range(NAMESPACES):
            name = _namespace(number)
            await self._cluster.create(path_of("v1", "namespaces"), {"metadata": {"name": name}})
        await _each(self._cluster, (each for number in range(self.size) for each in _objects(number)))

    def replacement(self, number: int) -> Change:
        """A pod of the slice gives way to another one."""
        self._changes += 1
        address = f"172.{self._changes >> 16}.{self._changes >> 8 & 255}.{self._changes & 255}"
        operations = [{"op": "replace", "path": "/endpoints/0/addresses/0", "value": address}]
        return Change(_slice_path(number), operations, _cluster_of(number), address, present=True)

    def flip(self, number: int, ready: bool) -> Change:
        """The second pod of the slice becomes ready, or ceases to be."""
        operations = [{"op": "replace", "path": "/endpoints/1/conditions/ready", "value": ready}]
        return Change(_slice_path(number), operations, _cluster_of(number), _address(number, 1), present=ready)

    async def make(self, change: Change) -> None:
        await self._cluster.json_patch(change.path, change.operations)


async def _each(cluster: Cluster, objects: Iterable[tuple[str, Json]]) -> None:
    remaining = iter(objects)

    async def work() -> None:
        for path, each in remaining:
            await cluster.create(path, each)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


def _objects(number: int) -> Iterator[tuple[str, Json]]:
    """With the paths that they are created at. What is referred to comes first."""
    namespace, name = _namespace(number), _name(number)
    labels = {"app.kubernetes.io/name": name}
    container = {"name": "main", "image": "example.com/model", "ports": [{"name": "http", "containerPort": PORT}]}
    deployment = {
        "replicas": SLICES * ENDPOINTS,
        "paused": True,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    service = {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}
    yield path_of("apps/v1", "deployments", namespace), _object(name, spec=deployment)
    yield path_of("v1", "services", namespace), _object(name, spec=service)
    for index in range(SLICES):
        yield path_of(DISCOVERY, "endpointslices", namespace), _slice(number * SLICES + index)
    model = {
        "model": name,
        "modelSourceRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "serviceRef": {"name": name, "targetPort": 80},
        "offloadingConfig": {
            "remoteBackend": {"host": "models.example.com", "scheme": "https", "pathPrefix": "/$workspace/$model"},
            "behavior": {"percentage": 50},
            "localLimit": {"maxConcurrentRequestsPerReplica": 16},
        },
    }
    kind = {"apiVersion": MODELS_API, "kind": "ModelDeployment"}
    yield path_of(MODELS_API, "modeldeployments", namespace), kind | _object(name, spec=model)


def _slice(number: int) -> Json:
    namespace, name = _namespace(number // SLICES), _name(number // SLICES)
    endpoints = [
        {
            "addresses": [_address(number, index)],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"node-{(number + index) % 500}",
            "targetRef": {"kind": "Pod", "namespace": namespace, "name": f"{name}-{number}-{index}"},
            "zone": f"zone-{index % 3}",
        }
        for index in range(ENDPOINTS)
    ]
    labels = {SERVICE_NAME: name, MANAGED_BY_LABEL: "endpointslice-controller.example.com"}
    return _object(f"{name}-{number}", labels=labels) | {
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
    }


def _object(name: str, labels: Mapping[str, str] | None = None, **fields: object) -> Json:
    return {"metadata": {"name": name, "labels": dict(labels or {})}, **fields}


def _name(number: int) -> str:
    return f"model-{number:05}"


def _namespace(number: int) -> str:
    return f"team-{number % NAMESPACES:02}"


def _slice_path(number: int) -> str:
    model = number // SLICES
    return path_of(DISCOVERY, "endpointslices", _namespace(model), f"{_name(model)}-{number}")


def _cluster_of(number: int) -> str:
    model = number // SLICES
    return local_cluster_name(f"{_namespace(model)}/{_name(model)}")


def _address(number: int, index: int) -> str:
    place = number * ENDPOINTS + index
    return f"10.{place >> 16}.{place >> 8 & 255}.{place & 255}"


async def at_rate(rate: float, count: int) -> AsyncIterator[int]:
    """Numbers from 0, each at its moment, or late and without a pause."""
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    for number in range(count):
        await asyncio.sleep(started_s + number / rate - loop.time())
        yield number
