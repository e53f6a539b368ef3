"""`spillway controller` as users run it, beside a real control plane, with real Envoys as its gateways.

The gateways are processes on this machine; in the cluster each is a pod on paper with the same name. Models have pods
on paper too, so nobody answers at their addresses: requests that should be served locally are not what is tried here.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.paper_node import PaperNode
from tests.cluster.rights import grant
from tests.support import envoy
from tests.support.ports import free_port
from tests.support.stack import eventually

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
GATEWAY = "spillway-gateway"
API = "deployment.beamlit.com/v1alpha1"
_BIND_WITHIN_S = 60


@dataclass
class Replica:
    """One controller process. `addresses`: xds, admin as host:port, once it serves."""

    identity: str
    process: subprocess.Popen[bytes]
    directory: Path
    addresses: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return (self.directory / f"{self.identity}.log").read_text()

    @property
    def ready_file(self) -> Path:
        return self.directory / f"{self.identity}.json"

    def status(self) -> Json:
        with urllib.request.urlopen(f"http://{self.addresses['admin']}/status", timeout=10) as answer:
            decoded: Json = json.load(answer)
            return decoded

    @property
    def leads(self) -> bool:
        return bool(self.status()["replica"]["leader"] == self.identity)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


class Operator:
    """Controllers and gateways of one namespace, which is also the one that the models are in."""

    def __init__(self, control_plane: ControlPlane, paper_node: PaperNode, namespace: str, directory: Path) -> None:
        self.api = control_plane.api
        self.control_plane = control_plane
        self.node = paper_node
        self.namespace = namespace
        self.directory = directory
        self.replicas: list[Replica] = []
        self.listen = free_port()
        self._stack = AsyncExitStack()

    async def close(self) -> None:
        await self._stack.aclose()
        for replica in self.replicas:
            if replica.process.poll() is None:
                replica.kill()

    async def start(self, identity: str = "controller-1", *, xds: str = "127.0.0.1:0", **settings: Any) -> Replica:
        """Starts a controller with the chart's rights and waits until gateways can connect to it, at `xds`."""
        account = grant(self.control_plane, self.namespace, "--set", f"config.namespaces={self.namespace}")
        replica = self.launch(identity, account, xds=xds, **settings)

        async def serves() -> bool:
            status = replica.process.poll()
            assert status is None, f"the controller ended with {status}: {replica.log[-3000:]}"
            return replica.ready_file.exists()

        await eventually(serves, "the controller serves")
        replica.addresses = json.loads(replica.ready_file.read_text())
        return replica

    def launch(self, identity: str, account: Path, *, xds: str = "127.0.0.1:0", **settings: Any) -> Replica:
        """Starts a controller as the user of a kubeconfig."""
        config = {
            "namespaces": self.namespace,
            "metricsAddr": "127.0.0.1:0",
            "probeAddr": "127.0.0.1:0",
            "proxyService": {"namespace": self.namespace, "name": GATEWAY},
            "gateway": {"address": "127.0.0.1", "listen": self.listen, "ports": "21000-29999"},
            "leaderElection": {"leaseDurationSeconds": 3, "renewDeadlineSeconds": 2, "retryPeriodSeconds": 0.2},
            "destinations": {"deny": []},
            **settings,
        }
        file = self.directory / f"{identity}.yaml"
        file.write_text(yaml.safe_dump(config))
        kubeconfig = _in_namespace(account, self.namespace, self.directory)
        command = [sys.executable, "-m", "controller", "controller", "--config", str(file), "--identity", identity]
        command += ["--kubeconfig", str(kubeconfig), "--xds", xds, "--admin", "127.0.0.1:0", "--log-format", "json"]
        ready_file = self.directory / f"{identity}.json"
        ready_file.unlink(missing_ok=True)
        with (self.directory / f"{identity}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--ready-file", str(ready_file)], stdout=log, stderr=log, cwd=ROOT, env={**os.environ}
            )
        replica = Replica(identity, process, self.directory)
        self.replicas.append(replica)
        return replica

    async def gateway(self, replica: Replica, name: str = "gateway-1") -> envoy.Envoy:
        """A gateway's pod, and the Envoy that is it."""
        if not self.api.exists(f"{self.path('services')}/{GATEWAY}"):
            ports = [{"name": "http", "port": 80, "targetPort": 8080}]
            self.create("services", GATEWAY, spec={"selector": {"app": GATEWAY}, "ports": ports})
        port = int(replica.addresses["xds"].rpartition(":")[2])
        running = envoy.running(self.directory / name, envoy.bootstrap(port, node_id=name))
        started = await self._stack.enter_async_context(running)
        await started.live()
        if not self.api.exists(f"{self.path('pods')}/{name}"):
            self.node.run(self.namespace, name, labels={"app": GATEWAY})
        return started

    # Objects

    def path(self, plural: str, group: str = "api/v1") -> str:
        return f"/{group}/namespaces/{self.namespace}/{plural}"

    def create(self, plural: str, name: str, group: str = "api/v1", **fields: Any) -> Json:
        body = {"metadata": {"name": name, **fields.pop("metadata", {})}, **fields}
        return self.api.create(self.path(plural, group), body)

    @property
    def models(self) -> str:
        return self.path("modeldeployments", f"apis/{API}")

    def serve_model(self, name: str = "llama", pods: int = 1, **spec: Any) -> None:
        """A Deployment on paper with its Service, and the ModelDeployment; `spec` goes into its offloadingConfig."""
        labels = {"app": name}
        container = {"name": "main", "image": "localhost/none", "ports": [{"containerPort": 8000}]}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
        deployment = {"replicas": pods, "selector": {"matchLabels": labels}, "template": template}
        self.create("deployments", name, "apis/apps/v1", spec=deployment)
        self.create("services", name, spec={"selector": labels, "ports": [{"port": 80, "targetPort": 8000}]})
        self.run_pods(name, pods)
        self.apply_model(name, **spec)

    def run_pods(self, name: str, count: int) -> None:
        """Waits for a Deployment's pods and makes them ready."""
        done = 0
        for _ in range(_BIND_WITHIN_S * 20):
            done += len(self.node.run_all(self.namespace, f"app={name}"))
            if done >= count:
                return
            _sleep()
        raise AssertionError(f"only {done} of {count} pods of {name} came")

    def apply_model(self, name: str = "llama", *, service: str | None = "llama", **offloading: Any) -> None:
        offloading.setdefault("remoteBackend", {"host": "127.0.0.1:9"})
        spec: Json = {
            "model": name,
            "modelSourceRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "offloadingConfig": offloading,
        }
        if service:
            spec["serviceRef"] = {"name": name, "targetPort": 80}
        body = {"apiVersion": API, "kind": "ModelDeployment", "metadata": {"name": name}, "spec": spec}
        self.api.create(self.models, body)

    def edit_model(self, name: str = "llama", **spec: Any) -> None:
        """Changes fields of the spec, as an edit of the manifest does."""
        self.api.merge(f"{self.models}/{name}", {"spec": spec})

    def offload(self, name: str = "llama", **behavior: Any) -> None:
        self.edit_model(name, offloadingConfig={"behavior": behavior})

    def model(self, name: str = "llama") -> Json:
        return self.api.get(f"{self.models}/{name}")

    def status(self, name: str = "llama") -> Json:
        status: Json = self.model(name).get("status", {})
        return status

    def condition(self, type_: str, name: str = "llama") -> tuple[str, str, str]:
        """Status, reason and message; '' while it is not there."""
        for each in self.status(name).get("conditions", ()):
            if each["type"] == type_:
                return each["status"], each["reason"], each["message"]
        return "", "", ""

    def service_slices(self, name: str = "llama") -> list[Json]:
        """The EndpointSlices that callers of a Service are sent to."""
        slices = self.api.get(self.path("endpointslices", "apis/discovery.k8s.io/v1"))["items"]
        return [each for each in slices if each["metadata"]["labels"]["kubernetes.io/service-name"] == name]

    def events(self, name: str = "llama") -> list[str]:
        """Reasons, oldest first."""
        items = self.api.get(f"{self.path('events')}?fieldSelector=involvedObject.name={name}")["items"]
        own = [each for each in items if each["involvedObject"]["kind"] == "ModelDeployment"]
        return [each["reason"] for each in sorted(own, key=lambda each: str(each["firstTimestamp"]))]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Waits until `condition` holds; if it never does, statuses and what the controllers wrote are printed."""

        async def holds() -> bool:
            return bool(await asyncio.to_thread(condition))

        try:
            await eventually(holds, what)
        except AssertionError:
            kinds = "modeldeployments,services,endpointslices,pods"
            print(self.control_plane.kubectl("describe", kinds, "-n", self.namespace))
            for each in self.replicas:
                print(f"--- {each.identity}\n{each.log[-3000:]}")
            raise


@asynccontextmanager
async def operating(
    control_plane: ControlPlane, paper_node: PaperNode, namespace: str, directory: Path
) -> AsyncIterator[Operator]:
    """An Operator without a controller yet; everything that it starts ends with it."""
    operator = Operator(control_plane, paper_node, namespace, directory)
    try:
        yield operator
    finally:
        await operator.close()


def _in_namespace(kubeconfig: Path, namespace: str, directory: Path) -> Path:
    """The same cluster and user, in a namespace: where a controller's Lease is."""
    content = yaml.safe_load(kubeconfig.read_text())
    for context in content["contexts"]:
        context["context"]["namespace"] = namespace
    file = directory / "kubeconfig"
    file.write_text(yaml.safe_dump(content))
    return file


def _sleep() -> None:
    time.sleep(0.05)
