"""The chart on a real node: what a user does, from `helm install` to `helm uninstall`, while a client calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.harness import images
from tests.cluster.harness.api import Json, wait_until
from tests.cluster.harness.caller import calling
from tests.cluster.harness.node import Node
from tests.cluster.release import Release

EXAMPLE = Path(__file__).parents[2] / "examples/php-apache"
DEADLINE_S = 120


def image(value: str, name: str) -> tuple[str, ...]:
    repository, _, tag = name.rpartition(":")
    return "--set", f"{value}.repository={repository}", "--set-string", f"{value}.tag={tag}"


IMAGES = (*image("controllerManager.manager.image", images.CONTROLLER), *image("gateway.image", images.GATEWAY))


@pytest.fixture
def release(node: Node, node_namespace: str) -> Release:
    return Release(node.control_plane, node_namespace)


def condition(node: Node, namespace: str, type_: str) -> Json:
    path = f"/apis/deployment.beamlit.com/v1alpha1/namespaces/{namespace}/modeldeployments/my-model"
    conditions = node.control_plane.api.get(path).get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == type_), {})


def served_by(node: Node, namespace: str) -> set[str]:
    """Where callers of the Service arrive."""
    selector = "labelSelector=kubernetes.io/service-name=php-apache"
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?{selector}"
    slices = node.control_plane.api.get(path)["items"]
    return {address for each in slices for endpoint in each["endpoints"] or () for address in endpoint["addresses"]}


def gateways(node: Node, namespace: str) -> set[str]:
    selector = "labelSelector=app.kubernetes.io/component=gateway"
    pods = node.control_plane.api.get(f"/api/v1/namespaces/{namespace}/pods?{selector}")["items"]
    return {pod["status"]["podIP"] for pod in pods}


def state_of(node: Node, namespace: str) -> str:
    """For when it does not come to what it should."""
    kubectl = node.control_plane.kubectl
    return "\n".join(
        (
            kubectl("get", "pods,services,endpointslices,modeldeployments", "-n", namespace, "-o", "wide"),
            kubectl("describe", "pods,jobs", "-n", namespace, "-l", "app.kubernetes.io/name=spillway"),
            kubectl("logs", "-n", namespace, "-l", "app.kubernetes.io/name=spillway", "--tail=40", "--prefix"),
        )
    )


def test_the_tutorial_from_install_to_uninstall(node: Node, node_namespace: str, release: Release) -> None:
    kubectl, api = node.control_plane.kubectl, node.control_plane.api
    kubectl("apply", "-n", node_namespace, "-f", str(EXAMPLE / "workload.yaml"))
    node.rolled_out(node_namespace, "php-apache")
    service = f"/api/v1/namespaces/{node_namespace}/services/php-apache"
    before = api.get(service)["spec"]
    with calling(api, node_namespace, "http://php-apache/", rate_per_s=20) as caller:
        caller.wait_for(20)
        release.install(*IMAGES, "--set", "gateway.drainSeconds=5", "--wait", "--timeout=120s")
        manifest = (EXAMPLE / "model.yaml").read_text().replace("namespace: default", f"namespace: {node_namespace}")
        kubectl("apply", "-n", node_namespace, "-f", "-", stdin=manifest)
        wait_until(
            lambda: condition(node, node_namespace, "ServiceTakenOver").get("status") == "True",
            DEADLINE_S,
            "the Service is taken over",
            lambda: state_of(node, node_namespace),
        )
        caller.wait_for(100)
        assert "selector" not in api.get(service)["spec"]
        wait_until(
            lambda: served_by(node, node_namespace) == gateways(node, node_namespace),
            DEADLINE_S,
            "callers arrive at the gateways only",
            lambda: state_of(node, node_namespace),
        )
        release.helm("uninstall", "--wait", "--timeout=180s")
        counts = caller.wait_for(50)
    assert counts.errors == {}
    assert api.get(service)["spec"] == before
