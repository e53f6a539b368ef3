"""That the harness does what the other tests here rely on."""

from __future__ import annotations

import pytest

from controller.adapters.kubernetes.client import Cluster
from tests.cluster.harness.api import Api, Json, RequestError, wait_until
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.paper_node import PaperNode

DEADLINE_S = 60
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

        wait_until(holds, DEADLINE_S, lambda: f"{wanted}; last: {endpoints(api, namespace)}")

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


def test_an_error_says_what_the_server_said(control_plane: ControlPlane, namespace: str) -> None:
    with pytest.raises(RequestError, match=r"configmaps.*not found"):
        control_plane.api.get(f"/api/v1/namespaces/{namespace}/configmaps/none")
