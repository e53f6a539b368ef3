"""A real control plane for tests: etcd, kube-apiserver, kube-controller-manager.

Alone it listens on a loopback address of its own; a node of the test's has it inside that node's network namespace.
Everything is thrown away at the end, so everything is ended by SIGKILL.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.harness.api import Api
from tests.cluster.harness.certificates import Authority, certificate_user, signing_key, write_kubeconfig
from tests.cluster.harness.process import START_S, Command, Processes
from tests.cluster.harness.programs import program
from tests.cluster.harness.slot import take_slot

_SERVER_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "*.svc.cluster.local")
_PORT = 6443

Enter = Callable[..., Command]


class ControlPlane:
    """`folder` holds what it needs and writes. `address`: where it listens. `services`: the range of cluster addresses.
    `enter`: makes of a command one that runs in another network. `alone`: without nodes, so nobody may miss their
    heartbeats. `processes`: `etcd`, `kube-apiserver`, `kube-controller-manager`.
    """

    def __init__(
        self, folder: Path, address: str, services: str, *, enter: Enter = lambda *command: command, alone: bool = True
    ) -> None:
        self.folder = folder
        self.address = address
        self.server = f"https://{address}:{_PORT}"
        self._services = services
        self._enter = enter
        self._alone = alone
        self.processes = Processes(folder / "logs")
        self.authority = Authority(folder / "pki")
        self._requesters = Authority(folder / "pki", "requesters")
        self._service_accounts = signing_key(folder / "pki")
        admin = self.authority.issue("admin", user="admin", group="system:masters")
        self.kubeconfig = write_kubeconfig(folder / "admin.kubeconfig", self.server, self.ca, certificate_user(*admin))
        self.api = Api(self.server, self.ca, *admin)

    @property
    def ca(self) -> Path:
        """The authority of the API server's certificate, and of all clients'."""
        return self.authority.certificate

    def start(self) -> None:
        """Returns when pods can be created. Raises RuntimeError or TimeoutError."""
        self._run("etcd", self._etcd())
        self._run("kube-apiserver", self._apiserver())
        self.processes.wait(self.api.ready, "kube-apiserver is ready")
        # Before the API server has made its roles it is refused, and ends.
        self._run("kube-controller-manager", self._controller_manager())
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.processes.wait(lambda: self.api.exists(account), "pods can be created")

    def stop(self) -> None:
        self.api.close()
        self.processes.stop()

    def kill_apiserver(self) -> None:
        """From now on nobody reaches it."""
        self.processes.kill("kube-apiserver")

    async def start_apiserver(self) -> None:
        """The counterpart of `kill_apiserver`: returns when it is ready; the test's loop runs meanwhile."""
        self._run("kube-apiserver", self._apiserver())
        deadline = time.monotonic() + START_S
        while not await asyncio.to_thread(self.api.ready):
            self.processes["kube-apiserver"].check()
            assert time.monotonic() < deadline, self.processes["kube-apiserver"].last_words()

    async def restart_apiserver(self) -> None:
        """Kills it, as a crash would, and returns when it is ready again. etcd, and so all versions, stay."""
        self.kill_apiserver()
        await self.start_apiserver()

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """What it printed. Raises AssertionError with its complaint if it fails."""
        ran = subprocess.run(
            [program("kubectl"), "--kubeconfig", self.kubeconfig, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"kubectl {' '.join(arguments)}: {ran.stderr}"
        return ran.stdout

    def kubeconfig_for(self, user: str, group: str | None = None) -> Path:
        """For somebody whom Kubernetes knows by certificate."""
        name = user.replace(":", "-")
        return self._kubeconfig(name, certificate_user(*self.authority.issue(name, user=user, group=group)))

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """For a ServiceAccount that exists, with a token as its pods get it."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = self.api.create(path, request)["status"]["token"]
        return self._kubeconfig(f"{namespace}-{name}", {"token": token})

    def _kubeconfig(self, name: str, user: dict[str, str]) -> Path:
        return write_kubeconfig(self.folder / f"{name}.kubeconfig", self.server, self.ca, user)

    def _run(self, name: str, arguments: Command) -> None:
        self.processes.run(name, self._enter(program(name), *arguments))

    def _etcd(self) -> list[str | Path]:
        clients, peers = (f"http://{self._etcd_address}:{port}" for port in (2379, 2380))
        return [
            *("--name", "tests", "--data-dir", self.folder / "etcd", "--logger", "zap", "--log-level", "warn"),
            *("--listen-client-urls", clients, "--advertise-client-urls", clients),
            *(
                "--listen-peer-urls",
                peers,
                "--initial-advertise-peer-urls",
                peers,
                "--initial-cluster",
                f"tests={peers}",
            ),
        ]

    @property
    def _etcd_address(self) -> str:
        return self.address if self._alone else "127.0.0.1"

    def _apiserver(self) -> list[str | Path]:
        serving = self.authority.issue("apiserver", *_SERVER_NAMES, *self._server_addresses())
        kubelet_client = self.authority.issue("apiserver-kubelet", user="apiserver-kubelet", group="system:masters")
        proxy_client = self._requesters.issue("front-proxy", user="front-proxy")
        return [
            *("--etcd-servers", f"http://{self._etcd_address}:2379"),
            *("--bind-address", self.address, "--advertise-address", self.address, "--secure-port", str(_PORT)),
            *("--endpoint-reconciler-type", "none" if self._alone else "lease"),
            *("--service-cluster-ip-range", self._services, "--allow-privileged=true", "--profiling=false"),
            *("--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction"),
            *("--tls-cert-file", serving[0], "--tls-private-key-file", serving[1], "--client-ca-file", self.ca),
            *("--service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
            *("--service-account-key-file", self._service_accounts),
            *("--service-account-signing-key-file", self._service_accounts),
            *("--kubelet-client-certificate", kubelet_client[0], "--kubelet-client-key", kubelet_client[1]),
            *("--kubelet-certificate-authority", self.ca, "--kubelet-preferred-address-types", "InternalIP"),
            # Aggregated APIs. Without --enable-aggregator-routing: it refuses Services of type ExternalName, by which
            # an APIService reaches a server of a test's.
            *("--requestheader-client-ca-file", self._requesters.certificate),
            *("--requestheader-allowed-names", "front-proxy", "--requestheader-username-headers", "X-Remote-User"),
            *("--requestheader-group-headers", "X-Remote-Group"),
            *("--requestheader-extra-headers-prefix", "X-Remote-Extra-"),
            *("--proxy-client-cert-file", proxy_client[0], "--proxy-client-key-file", proxy_client[1]),
        ]

    def _server_addresses(self) -> tuple[str, ...]:
        first_service = self._services.partition("/")[0].rpartition(".")[0] + ".1"
        return self.address, first_service

    def _controller_manager(self) -> list[str | Path]:
        user = "system:kube-controller-manager"
        # Nobody heartbeats a node that exists on paper only, and nobody runs its pods: what would call it dead is off.
        controllers = "*,-node-lifecycle-controller,-pod-garbage-collector-controller" if self._alone else "*"
        return [
            *("--kubeconfig", self.kubeconfig_for(user), "--secure-port", "0", "--leader-elect=false"),
            *("--use-service-account-credentials=true", "--kube-api-qps", "200", "--kube-api-burst", "400"),
            *("--service-account-private-key-file", self._service_accounts, "--root-ca-file", self.ca),
            *("--controllers", controllers, "--profiling=false"),
            *("--horizontal-pod-autoscaler-sync-period", "2s"),  # in place of 15, which tests would wait for
        ]


@contextmanager
def running(services: str = "") -> Iterator[ControlPlane]:
    """A control plane alone; gone, with all it wrote, when the block ends. `services`: the range of cluster addresses,
    if it shall be another one than the slot's, which has room for 250.
    """
    for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl"):
        program(name)
    with take_slot() as slot:
        services = services or f"10.91.{slot.number}.0/24,fd00:91:{slot.number:x}::/112"
        plane = ControlPlane(slot.folder, f"127.77.{slot.number}.1", services)
        try:
            plane.start()
            yield plane
        finally:
            plane.stop()
