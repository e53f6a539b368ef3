"""A whole cluster with one real node: control plane, scheduler, containerd, kubelet, kube-proxy and DNS, on a machine
of its own. Its pods and Services are reached from here by their addresses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tests.cluster.harness import images
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.machine import Machine, require_machine
from tests.cluster.harness.node_files import CONTAINERD_SOCKET, NodeFiles
from tests.cluster.harness.process import START_S, Command, Processes
from tests.cluster.harness.programs import cni_plugins, program
from tests.cluster.harness.slot import take_slot

NAME = "node"
ProxyMode = Literal["iptables", "nftables"]
_ADDONS = Path(__file__).parent / "addons"
_REGISTRY_PORT = 5000
_NEEDED = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kubectl", "kube-scheduler", "kubelet", "kube-proxy"),
    *("containerd", "ctr", "runc", "ip", "iptables", "nft", "coredns", "metrics-server"),
)


class Node:
    """`control_plane` is its API. `proxy_mode`: how kube-proxy programs the kernel now."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.proxy_mode: ProxyMode = "iptables"
        plane = ControlPlane(folder, machine.address, machine.services, enter=machine.enter_network, alone=False)
        self.control_plane = plane
        self.processes = Processes(folder / "node-logs")
        self._tags = folder / "tags"
        self._files = NodeFiles(folder, machine)
        self._dns = machine.services.partition("/")[0].rpartition(".")[0] + ".10"

    def start(self) -> None:
        """Returns when pods run and names are resolved. Raises RuntimeError or TimeoutError."""
        self._run("registry", self.machine.enter_network(*self._registry()))
        self.control_plane.start()
        self._run("containerd", self.machine.enter(program("containerd"), "--config", self._containerd()))
        self._run("kube-scheduler", self.machine.enter_network(program("kube-scheduler"), *self._scheduler()))
        socket = Path(f"/proc/{self.machine.pid}/root{CONTAINERD_SOCKET}")
        self.processes.wait(socket.exists, "containerd listens")
        self._run("kubelet", self.machine.enter(program("kubelet"), *self._kubelet()))
        self._start_proxy()
        self.processes.wait(self._is_ready, "the node is ready")
        self._apply("coredns", dns=self._dns, image=images.COREDNS)
        self.rolled_out("kube-system", "coredns")

    def stop(self) -> None:
        self.processes.stop()
        self.control_plane.stop()

    def add_metrics_server(self) -> None:
        """Returns when metrics.k8s.io knows the node; pods follow as they are measured."""
        self._apply("metrics-server", image=images.METRICS_SERVER)
        path = f"/apis/metrics.k8s.io/v1beta1/nodes/{NAME}"
        self.processes.wait(lambda: self.control_plane.api.serves(path), "metrics.k8s.io answers")

    def rolled_out(self, namespace: str, deployment: str) -> None:
        """Waits until a Deployment is as its spec says."""
        arguments = ("-n", namespace, "rollout", "status", f"deployment/{deployment}", f"--timeout={START_S:.0f}s")
        self.control_plane.kubectl(*arguments)

    def use_proxy_mode(self, mode: ProxyMode) -> None:
        """Restarts kube-proxy in it; it removes the other mode's rules itself."""
        if mode != self.proxy_mode:
            self.proxy_mode = mode
            self.restart_proxy()

    def restart_proxy(self) -> None:
        """It reads everything at once. After an outage of the API server it may wait for a minute before it does."""
        self.processes.kill("kube-proxy")
        self._start_proxy()

    def kill_container(self, namespace: str, pod: str, container: str) -> None:
        """As `kill -9` of its first process would; the kubelet starts it again."""
        status = self.control_plane.api.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")["status"]
        id_ = next(each["containerID"] for each in status["containerStatuses"] if each["name"] == container)
        task = ("tasks", "kill", "--signal", "SIGKILL", id_.removeprefix("containerd://"))
        self.machine.run(program("ctr"), "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", *task)

    def _run(self, name: str, command: Command) -> None:
        found_by_containerd = {program("containerd").parent, program("runc").parent}
        path = ":".join([*map(str, found_by_containerd), os.environ["PATH"]])
        self.processes.run(name, command, {"PATH": path})

    def _apply(self, addon: str, **values: str) -> None:
        self.control_plane.kubectl("apply", "-f", "-", stdin=(_ADDONS / f"{addon}.yaml").read_text() % values)

    def _is_ready(self) -> bool:
        api, path = self.control_plane.api, f"/api/v1/nodes/{NAME}"
        conditions = api.get(path)["status"].get("conditions", ()) if api.exists(path) else ()
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def _registry(self) -> Command:
        store = images.make_all(self._tags)
        return sys.executable, "-m", "tests.cluster.harness.registry", store.blobs, store.tags, str(_REGISTRY_PORT)

    def _containerd(self) -> Path:
        return self._files.containerd(cni_plugins(), images.PAUSE, f"http://127.0.0.1:{_REGISTRY_PORT}")

    def _scheduler(self) -> Command:
        kubeconfig = self.control_plane.kubeconfig_for("system:kube-scheduler")
        limits = ("--kube-api-qps", "200", "--kube-api-burst", "400")
        return "--kubeconfig", kubeconfig, "--leader-elect=false", "--secure-port", "0", *limits

    def _kubelet(self) -> Command:
        plane = self.control_plane
        certificate = plane.authority.issue("kubelet", NAME, self.machine.address)
        kubeconfig = plane.kubeconfig_for(f"system:node:{NAME}", "system:nodes")
        files = ("--config", self._files.kubelet(plane.ca, certificate, self._dns), "--kubeconfig", kubeconfig)
        return *files, "--hostname-override", NAME, "--node-ip", self.machine.address

    def _start_proxy(self) -> None:
        kubeconfig = self.control_plane.kubeconfig_for("system:kube-proxy")
        configuration = self._files.proxy(kubeconfig, self.proxy_mode, NAME)
        self._run("kube-proxy", self.machine.enter_network(program("kube-proxy"), "--config", configuration))


@contextmanager
def running() -> Iterator[Node]:
    """A node; gone, with all it made, when the block ends. Skips the test where there cannot be one."""
    require_machine()
    for name in _NEEDED:
        program(name)
    with take_slot() as slot:
        machine = Machine(slot)
        try:
            machine.start()
            node = Node(machine, slot.folder)
            try:
                node.start()
                yield node
            finally:
                node.stop()
        finally:
            machine.stop()
