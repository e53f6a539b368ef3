"""That a real node does what the tests of traffic rely on."""

from __future__ import annotations

from functools import partial
from typing import get_args

import pytest

from tests.cluster.harness import images
from tests.cluster.harness.api import Json, wait_until
from tests.cluster.harness.caller import calling
from tests.cluster.harness.node import Node, ProxyMode

DEADLINE_S = 90
LABELS = {"app": "web"}


def deployment(replicas: int = 2) -> Json:
    container = {
        "name": "web",
        "image": images.MODEL_SERVER,
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m"}},
    }
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": template}
    return {"metadata": {"name": "web"}, "spec": spec}


def service(port: int = 80) -> Json:
    return {"metadata": {"name": "web"}, "spec": {"selector": LABELS, "ports": [{"port": port, "targetPort": "http"}]}}


@pytest.fixture
def web(node: Node, node_namespace: str) -> str:
    """Two replicas behind a Service; their namespace."""
    api = node.control_plane.api
    api.create(f"/apis/apps/v1/namespaces/{node_namespace}/deployments", deployment())
    api.create(f"/api/v1/namespaces/{node_namespace}/services", service())
    node.rolled_out(node_namespace, "web")
    return node_namespace


def pods(node: Node, namespace: str, selector: str = "app=web") -> list[str]:
    found = node.control_plane.api.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")["items"]
    return sorted(pod["metadata"]["name"] for pod in found)


@pytest.mark.parametrize("mode", get_args(ProxyMode))
def test_a_service_is_called_by_name_and_answers_from_all_its_pods(node: Node, web: str, mode: ProxyMode) -> None:
    node.use_proxy_mode(mode)
    with calling(node.control_plane.api, web, "http://web/") as caller:
        caller.wait_for(1)

        def from_both() -> bool:
            return set(caller.counts().answers) >= {f"200 {pod}" for pod in pods(node, web)}

        wait_until(from_both, DEADLINE_S, "both pods answer", lambda: str(caller.counts()))


def test_no_request_is_lost_over_a_rollout(node: Node, web: str) -> None:
    with calling(node.control_plane.api, web, "http://web/", rate_per_s=100) as caller:
        caller.wait_for(50)
        before = pods(node, web)
        node.control_plane.kubectl("-n", web, "rollout", "restart", "deployment/web")
        node.rolled_out(web, "web")
        counts = caller.wait_for(50)

    assert counts.errors == {}
    assert not set(pods(node, web)) <= set(before)


def test_a_killed_container_is_started_again(node: Node, web: str) -> None:
    pod = pods(node, web)[0]
    path = f"/api/v1/namespaces/{web}/pods/{pod}"
    node.kill_container(web, pod, "web")

    def restarted() -> bool:
        (container,) = node.control_plane.api.get(path)["status"]["containerStatuses"]
        return bool(container["restartCount"] == 1 and container["ready"])

    wait_until(restarted, DEADLINE_S, "it runs again", lambda: str(node.control_plane.api.get(path)["status"]))


def test_a_manifest_that_names_a_public_image_runs_as_it_is_written(node: Node, node_namespace: str) -> None:
    node.control_plane.kubectl("-n", node_namespace, "create", "deployment", "php", f"--image={images.HPA_EXAMPLE}")
    node.control_plane.kubectl("-n", node_namespace, "expose", "deployment", "php", "--port=80")
    node.rolled_out(node_namespace, "php")
    (pod,) = pods(node, node_namespace, "app=php")

    with calling(node.control_plane.api, node_namespace, f"http://php.{node_namespace}.svc.cluster.local") as caller:
        assert set(caller.wait_for(10).answers) == {f"200 {pod}"}


@pytest.mark.usefixtures("metrics_server")
def test_the_use_of_a_pod_is_measured(node: Node, web: str) -> None:
    path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{web}/pods"

    def measured() -> bool:
        return [each["metadata"]["name"] for each in node.control_plane.api.get(path)["items"]] == pods(node, web)

    wait_until(measured, DEADLINE_S, "both pods are measured")


@pytest.mark.parametrize(("image", "says"), [(images.CONTROLLER, "spillway"), (images.GATEWAY, "version:")])
def test_the_products_images_run(node: Node, node_namespace: str, image: str, says: str) -> None:
    container = {"name": "main", "image": image, "args": ["--version"]}
    spec = {"containers": [container], "restartPolicy": "Never", "securityContext": {"runAsNonRoot": True}}
    path = f"/api/v1/namespaces/{node_namespace}/pods"
    node.control_plane.api.create(path, {"metadata": {"name": "once"}, "spec": spec})

    def ended() -> bool:
        return node.control_plane.api.get(f"{path}/once")["status"]["phase"] in {"Succeeded", "Failed"}

    described = partial(node.control_plane.kubectl, "-n", node_namespace, "describe", "pods")
    wait_until(ended, DEADLINE_S, "it has run", described)
    assert says in node.control_plane.kubectl("-n", node_namespace, "logs", "once")
