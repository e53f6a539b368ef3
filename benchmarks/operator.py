"""What a controller costs in a full cluster: 2,000 models, 10,000 EndpointSlices of four pods each, and a hundred
changes of a slice every second.

The real `spillway controller`, beside a real etcd, API server and controller manager on the same machine. A light
gateway accepts what it is sent; its pod exists on paper. Slices change, any of the 10,000: for a minute each time a pod
is replaced by another, and for a minute a pod becomes ready or ceases to be, which also changes a number in the model's
status.

*Time to the gateway* runs from when a change is sent to the API server until the gateway has the endpoints with it, and
acknowledges them; the API server's own part, until it has answered, stands beside it. *CPU* and *memory* are those of
the controller's process: CPU over that minute.

Not in it: metrics (the models have none), Services that are taken over, and callers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from benchmarks.figures import Report, at_most
from benchmarks.scale.cluster import MODELS_API, SLICES, Change, ManyModels, at_rate
from benchmarks.scale.gateway import Call, LightGateway, light_gateway
from benchmarks.scale.processes import cpu_s, memory_mib, scratch
from controller.adapters.kubernetes.client import Cluster, path_of
from protos.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from protos.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse
from tests.cluster.harness.api import wait_until
from tests.cluster.harness.control_plane import ControlPlane, running
from tests.cluster.harness.paper_node import PaperNode
from xds.snapshot import ENDPOINTS

TITLE = "A controller in a full cluster"
BUDGET_S = 300

MODELS = 2_000
RATE = 100
MEASURED_S = 60
WITHIN_S = 180

HOME, GATEWAY = "spillway", "gateway-1"
CRDS = Path(__file__).parents[1] / "helm/spillway/crds"


class Gateway(LightGateway):
    """Says when endpoints are as a change made them, or a later change of the same slice."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._expected: dict[str, list[tuple[Change, asyncio.Future[float]]]] = defaultdict(list)

    def expect(self, change: Change) -> asyncio.Future[float]:
        """When it is there, on the loop's clock."""
        told: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._expected[change.cluster].append((change, told))
        return told

    def _take(self, response: DeltaDiscoveryResponse) -> set[str]:
        if response.type_url == ENDPOINTS:
            for each in response.resources:
                if each.name in self._expected:
                    self.compare(ClusterLoadAssignment.FromString(each.resource.value))
        return super()._take(response)

    def compare(self, assignment: ClusterLoadAssignment) -> None:
        """Takes a cluster's endpoints as they are now."""
        now_s = asyncio.get_running_loop().time()
        addresses = _addresses(assignment)
        there: set[str] = set()
        waiting = []
        for change, told in reversed(self._expected.pop(assignment.cluster_name)):
            if change.path in there or (change.address in addresses) == change.present:
                there.add(change.path)
                told.set_result(now_s)
            else:
                waiting.append((change, told))
        if waiting:
            self._expected[assignment.cluster_name] = waiting[::-1]


def _addresses(assignment: ClusterLoadAssignment) -> set[str]:
    return {
        host.endpoint.address.socket_address.address
        for locality in assignment.endpoints
        for host in locality.lb_endpoints
    }


@dataclass(frozen=True, slots=True)
class Controller:
    process: subprocess.Popen[bytes]
    xds_port: int


async def run(report: Report, *, quick: bool) -> None:
    try:
        with running(services="10.112.0.0/16") as control_plane, scratch() as temporary:
            await _run(report, control_plane, Path(temporary), quick=quick)
    except pytest.skip.Exception as missing:
        report.note(f"not run: {missing}")


async def _run(report: Report, control_plane: ControlPlane, directory: Path, *, quick: bool) -> None:
    size, seconds = (4, 2) if quick else (MODELS, MEASURED_S)
    control_plane.kubectl("apply", "--server-side", "-f", str(CRDS))
    wait_until(lambda: control_plane.api.serves(path_of(MODELS_API, "modeldeployments")), 60, "models can be created")
    cluster = await Cluster.connect(control_plane.kubeconfig)
    try:
        models = ManyModels(cluster, size)
        _gateway_pod(control_plane)
        await models.create()
        report.say(f"{size:,} models and {size * SLICES:,} EndpointSlices exist, a controller starts")
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        async with _controller(control_plane, directory) as controller:
            pid = controller.process.pid
            report.figure("until gateways can connect", "s", loop.time() - started_s, models=size)
            async with light_gateway(controller.xds_port, (), GATEWAY, Gateway) as gateway:
                assert isinstance(gateway, Gateway)
                await gateway.until_whole(size)
                report.figure("until a gateway has everything", "s", loop.time() - started_s, models=size)
                await _until_quiet(pid)
                report.figure("until all statuses are written", "s", loop.time() - started_s, models=size)
                report.figure("memory then", "MiB", memory_mib(pid), at_most(300), models=size)
                for what, changes in (("pods replaced", _replacements), ("readiness", _flips)):
                    await _measure(report, pid, gateway, models, what, changes(models, RATE * seconds))
                report.figure("memory at its peak", "MiB", memory_mib(pid, "VmHWM"), at_most(300), models=size)
    finally:
        await cluster.close()


async def _until_quiet(pid: int) -> None:
    """Waits until a process takes next to nothing for a while."""
    async with asyncio.timeout(WITHIN_S):
        taken_s = 1.0
        while taken_s > 0.1:
            before_s = cpu_s(pid)
            await asyncio.sleep(2)
            taken_s = cpu_s(pid) - before_s


async def _measure(
    report: Report, pid: int, gateway: Gateway, models: ManyModels, what: str, changes: list[Change]
) -> None:
    loop = asyncio.get_running_loop()
    to_gateway_ms, to_answer_ms = list[float](), list[float]()

    async def one(change: Change) -> None:
        told = gateway.expect(change)
        sent_s = loop.time()
        await models.make(change)
        to_answer_ms.append((loop.time() - sent_s) * 1000)
        async with asyncio.timeout(60):
            to_gateway_ms.append((await told - sent_s) * 1000)

    before_cpu_s, before_s = cpu_s(pid), loop.time()
    async with asyncio.TaskGroup() as group:
        async for number in at_rate(RATE, len(changes)):
            group.create_task(one(changes[number]))
    wall_s = loop.time() - before_s
    report.figure("CPU", "cores", (cpu_s(pid) - before_cpu_s) / wall_s, at_most(0.2), what=what)
    report.figure("changes", "a second", len(changes) / wall_s, what=what)
    report.figure("time to the gateway", "ms", to_gateway_ms, what=what)
    report.figure("time to the API server's answer", "ms", to_answer_ms, what=what)


def _places(models: ManyModels, count: int) -> Iterator[int]:
    """All slices in turn, in an order that is the same in each run."""
    order = list(range(models.size * SLICES))
    random.Random(1).shuffle(order)
    return itertools.islice(itertools.cycle(order), count)


def _replacements(models: ManyModels, count: int) -> list[Change]:
    return [models.replacement(number) for number in _places(models, count)]


def _flips(models: ManyModels, count: int) -> list[Change]:
    ready: dict[int, bool] = defaultdict(lambda: True)
    made = []
    for number in _places(models, count):
        ready[number] = not ready[number]
        made.append(models.flip(number, ready[number]))
    return made


def _gateway_pod(control_plane: ControlPlane) -> None:
    api = control_plane.api
    api.create("/api/v1/namespaces", {"metadata": {"name": HOME}})
    labels = {"app": "gateway"}
    spec = {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    api.create(f"/api/v1/namespaces/{HOME}/services", {"metadata": {"name": "gateway"}, "spec": spec})
    account = f"/api/v1/namespaces/{HOME}/serviceaccounts/default"
    wait_until(lambda: api.exists(account), 60, "pods can be created")
    PaperNode(api).run(HOME, GATEWAY, labels=labels)


@asynccontextmanager
async def _controller(control_plane: ControlPlane, directory: Path) -> AsyncIterator[Controller]:
    """One that gateways can connect to."""
    ready = directory / "addresses.json"
    with _process(control_plane, directory, ready) as process:
        while not ready.exists():
            if process.poll() is not None:
                raise RuntimeError((directory / "controller.log").read_text()[-3000:])
            await asyncio.sleep(0.01)
        yield Controller(process, int(json.loads(ready.read_text())["xds"].rpartition(":")[2]))


@contextmanager
def _process(control_plane: ControlPlane, directory: Path, ready: Path) -> Iterator[subprocess.Popen[bytes]]:
    kubeconfig = yaml.safe_load(control_plane.kubeconfig.read_text())
    for context in kubeconfig["contexts"]:
        context["context"]["namespace"] = HOME
    config = {
        "namespaces": "",
        "takeover": "Manual",
        "metricsAddr": "127.0.0.1:0",
        "probeAddr": "127.0.0.1:0",
        "proxyService": {"namespace": HOME, "name": "gateway"},
    }
    for name, content in (("kubeconfig", kubeconfig), ("config.yaml", config)):
        (directory / name).write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "controller", "controller", "--identity", "controller-1"]
    command += ["--config", str(directory / "config.yaml"), "--kubeconfig", str(directory / "kubeconfig")]
    command += ["--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--ready-file", str(ready)]
    with (directory / "controller.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
