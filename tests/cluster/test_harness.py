"""That the harness does what the other tests here rely on."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from controller.adapters.kubernetes.client import Cluster
from tests.cluster.harness.api import Api, Json, RequestError, wait_until
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.paper_node import PaperNode
from tests.cluster.harness.slot import take_slot

DEADLINE_S = 60
ROOT = Path(__file__).parents[2]
SERVICE = {
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
}


def endpoints(api: Api, namespace: str) -> dict[str, Json]:
    """Conditions by address, as the slices of the Service `web` have them."""
    selector = "labelSelector=kubernetes.io/service-name=web"
    slices = api.get(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?{selector}")["items"]
    return {
        address: endpoint["conditions"]
        for each in slices
        for endpoint in each["endpoints"] or ()
        for address in endpoint["addresses"]
    }


def test_the_endpoints_of_a_service_follow_pods_run_by_hand(
    control_plane: ControlPlane, paper_node: PaperNode, namespace: str
) -> None:
    api = control_plane.api
    api.create(f"/api/v1/namespaces/{namespace}/services", SERVICE)
    ports = [{"name": "http", "containerPort": 8080}]
    address = paper_node.run(namespace, "web-1", labels={"app": "web"}, ports=ports)

    def becomes(**wanted: bool) -> None:
        def holds() -> bool:
            return wanted.items() <= endpoints(api, namespace).get(address, {}).items()

        wait_until(holds, DEADLINE_S, f"{address} is {wanted}", lambda: str(endpoints(api, namespace)))

    becomes(ready=True, serving=True, terminating=False)
    paper_node.set(namespace, "web-1", ready=False)
    becomes(ready=False, serving=False)
    paper_node.set(namespace, "web-1")
    becomes(ready=True)
    paper_node.terminate(namespace, "web-1")
    becomes(ready=False, serving=True, terminating=True)
    paper_node.remove(namespace, "web-1")
    wait_until(lambda: endpoints(api, namespace) == {}, DEADLINE_S, "no endpoint")


def test_a_deployment_becomes_available_on_a_paper_node(
    control_plane: ControlPlane, paper_node: PaperNode, namespace: str
) -> None:
    control_plane.kubectl("-n", namespace, "create", "deployment", "web", "--image=none", "--replicas=2")

    def available() -> bool:
        paper_node.run_all(namespace, "app=web")
        deployment = control_plane.api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web")
        return bool(deployment["status"].get("availableReplicas") == 2)

    wait_until(available, DEADLINE_S, "two replicas are available")


async def test_the_products_client_is_an_administrator(cluster: Cluster, namespace: str) -> None:
    assert (await cluster.get(f"/api/v1/namespaces/{namespace}"))["metadata"]["name"] == namespace


async def test_what_was_there_outlives_a_restart_of_the_api_server(control_plane: ControlPlane, namespace: str) -> None:
    api = control_plane.api
    before = api.create(f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": "kept"}})

    control_plane.kill_apiserver()
    assert not api.ready()
    await control_plane.start_apiserver()

    assert api.get(f"/api/v1/namespaces/{namespace}/configmaps/kept")["metadata"] == before["metadata"]


def test_a_kubeconfig_speaks_for_its_user(control_plane: ControlPlane, namespace: str) -> None:
    jane = control_plane.kubeconfig_for("jane", "readers")
    robot = control_plane.service_account_kubeconfig(namespace, "default")

    def who(kubeconfig: object) -> str:
        return control_plane.kubectl(
            "--kubeconfig", str(kubeconfig), "auth", "whoami", "-o", "jsonpath={.status.userInfo}"
        )

    assert '"jane"' in who(jane)
    assert '"readers"' in who(jane)
    assert f'"system:serviceaccount:{namespace}:default"' in who(robot)


def test_two_runs_at_once_share_nothing() -> None:
    with take_slot() as one, take_slot() as other:
        assert one.number != other.number
        (one.folder / "file").touch()
        assert list(other.folder.iterdir()) == []
    assert not one.folder.exists()


KILLED_RUN = """
import sys
from tests.cluster.harness.process import Process
from tests.cluster.harness.slot import take_slot

with take_slot() as slot:
    process = Process("sleep", ["sleep", "600"], slot.folder / "log")
    print(slot.number, slot.folder, process.pid, flush=True)
    sys.stdin.read()
"""


def test_of_a_run_that_is_killed_no_process_and_no_folder_stays() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED_RUN], stdin=-1, stdout=-1, text=True, cwd=ROOT) as run:
        assert run.stdout is not None
        number, folder, pid = run.stdout.readline().split()
        run.send_signal(signal.SIGKILL)
    left = Path(folder) / "log"
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), DEADLINE_S, "its process has ended")

    with ExitStack() as stack:
        for _ in range(int(number)):  # the lowest free number is taken first
            stack.enter_context(take_slot())
        assert not left.exists()


def test_an_error_says_what_the_server_said(control_plane: ControlPlane, namespace: str) -> None:
    with pytest.raises(RequestError, match=r"configmaps.*not found"):
        control_plane.api.get(f"/api/v1/namespaces/{namespace}/configmaps/none")
