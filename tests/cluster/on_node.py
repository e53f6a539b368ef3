"""The product on a real node, installed by its chart, and a model in it that is called all the time.

A model is a Deployment `local` behind a Service `model`; its remote is a Deployment `remote` behind a Service of that
name. All answer with their pod's name, so its caller knows who served it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.cluster.harness import images
from tests.cluster.harness.api import Json, wait_until
from tests.cluster.harness.caller import Caller, Counts, calling
from tests.cluster.harness.node import Node
from tests.cluster.release import Release

DEADLINE_S = 120
DELETED_WITHIN_S = 300
"""After an outage of the API server Kubernetes' own controllers wait for a minute or two before they look again."""
RATE_PER_S = 20
MODELS = "apis/deployment.beamlit.com/v1alpha1"


def _image(value: str, name: str) -> tuple[str, ...]:
    repository, _, tag = name.rpartition(":")
    return "--set", f"{value}.repository={repository}", "--set-string", f"{value}.tag={tag}"


VALUES = (
    *_image("controllerManager.manager.image", images.CONTROLLER),
    *_image("gateway.image", images.GATEWAY),
    *_image("metrics-server.image", images.METRICS_SERVER),
    *("--set", "metrics-server.args={--kubelet-insecure-tls,--metric-resolution=10s,--kubelet-request-timeout=5s}"),
    *("--set", "config.metricInformer.kubernetes.intervalSeconds=2"),
    *("--set", "gateway.drainSeconds=5"),
)
"""Images that are made here, and times that a test can wait for."""


class Installed:
    """A release, and its pods by their component: controller or gateway."""

    def __init__(self, node: Node, release: Release) -> None:
        self.node = node
        self.release = release

    def kubectl(self, *arguments: str) -> str:
        return self.node.control_plane.kubectl("-n", self.release.namespace, *arguments)

    def pods(self, component: str) -> list[str]:
        """Those that are ending included."""
        selector = f"app.kubernetes.io/instance={self.release.name},app.kubernetes.io/component={component}"
        names = self.kubectl("get", "pods", "--selector", selector, "--output", "jsonpath={.items[*].metadata.name}")
        return sorted(names.split())

    def kill(self, component: str) -> None:
        """The container of each of its pods, as `kill -9` does; the kubelet starts it again."""
        for pod in self.pods(component):
            self.node.kill_container(self.release.namespace, pod, component)

    @property
    def leader(self) -> str:
        return self.kubectl("get", "lease", "spillway", "--output", "jsonpath={.spec.holderIdentity}")

    def scale(self, component: str, replicas: int) -> None:
        """Returns when there are as many pods, ready ones."""
        name = f"{self.release.name}-spillway-{component}"
        self.kubectl("scale", "deployment", name, f"--replicas={replicas}")
        self.node.rolled_out(self.release.namespace, name)
        wait_until(lambda: len(self.pods(component)) == replicas, DEADLINE_S, f"{replicas} pods of the {component}")

    def roll_out(self, component: str) -> None:
        """Returns when all pods are others."""
        name, before = f"{self.release.name}-spillway-{component}", self.pods(component)
        self.kubectl("rollout", "restart", "deployment", name)
        self.node.rolled_out(self.release.namespace, name)
        wait_until(lambda: not {*before} & {*self.pods(component)}, DEADLINE_S, f"the old pods of the {component} end")

    def state(self) -> str:
        """For when something does not come to what it should."""
        logs = ("logs", "--selector", f"app.kubernetes.io/instance={self.release.name}", "--prefix", "--tail=40")
        return self.kubectl("get", "pods", "--output", "wide") + self.kubectl(*logs)


class Model:
    """A ModelDeployment, its Service and its workloads."""

    def __init__(self, installed: Installed, namespace: str, name: str = "model", service: str = "model") -> None:
        self._installed = installed
        self._service = f"/api/v1/namespaces/{namespace}/services/{service}"
        self._path = f"/{MODELS}/namespaces/{namespace}/modeldeployments/{name}"
        self.namespace = namespace
        self.name = name
        self.url = f"http://{service}/"

    @property
    def node(self) -> Node:
        return self._installed.node

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.node.control_plane.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    @property
    def status(self) -> Json:
        found: Json = self.node.control_plane.api.get(self._path).get("status", {})
        return found

    @property
    def service(self) -> Json:
        """Its spec."""
        found: Json = self.node.control_plane.api.get(self._service)["spec"]
        return found

    def behave(self, **behavior: object) -> None:
        self.node.control_plane.api.merge(self._path, {"spec": {"offloadingConfig": {"behavior": behavior}}})

    def condition(self, type_: str) -> str:
        """Its reason; '' while it is not there."""
        conditions = self.status.get("conditions", ())
        return next((str(each["reason"]) for each in conditions if each["type"] == type_), "")

    def until(self, holds: Callable[[], bool], what: str) -> None:
        def state() -> str:
            described = self.kubectl("describe", "modeldeployments,services,endpointslices")
            return f"{described}\n{self._installed.state()}"

        wait_until(holds, DEADLINE_S, f"{self.namespace}/{self.name}: {what}", state)

    def until_taken_over(self) -> None:
        """Returns when callers reach the gateways and nobody else."""
        self.until(lambda: self.condition("ServiceTakenOver") == "TakenOver", "its Service is taken over")

    def until_state(self, state: str) -> None:
        self.until(lambda: self.status.get("state") == state, state)

    def delete(self) -> None:
        """Returns when it is gone, and so nothing of it is at its Service."""
        self.kubectl("delete", "modeldeployment", self.name, f"--timeout={DELETED_WITHIN_S}s")


class Callers:
    """Two: one makes a connection for each request, the other keeps its own."""

    def __init__(self, *callers: Caller) -> None:
        self._callers = callers
        self._lost: Counter[str] = Counter()

    def served_by(self, more: int) -> Counter[str]:
        """Who answers the next requests of each, by Deployment. Raises AssertionError if one was ever lost."""
        before = [caller.counts() for caller in self._callers]
        after = [caller.wait_for(more) for caller in self._callers]
        for counts in after:
            assert not lost(counts), counts
        return sum((served(*pair) for pair in zip(before, after, strict=True)), Counter())

    def until_served_by(self, *deployments: str) -> None:
        """Until these answer requests, and no others do."""
        wait_until(lambda: self.served_by(20).keys() == {*deployments}, DEADLINE_S, str(deployments))


def lost(counts: Counts) -> dict[str, int]:
    """Requests without an answer, or with another than 200."""
    refused = {answer: count for answer, count in counts.answers.items() if not answer.startswith("200 ")}
    return {**counts.errors, **refused}


def served(before: Counts, after: Counts) -> Counter[str]:
    """Who answered between the two, by Deployment."""
    by_deployment: Counter[str] = Counter()
    for answer, count in after.answers.items():
        deployment = answer.removeprefix("200 ").rsplit("-", 2)[0]
        by_deployment[deployment] += count - before.answers.get(answer, 0)
    return +by_deployment


def is_half(part: str, served: Counter[str]) -> bool:
    """Of a hundred requests: what is likely enough that a test may ask for it."""
    return 0.3 < served[part] / served.total() < 0.7


@contextmanager
def calling_all_the_time(model: Model) -> Iterator[Callers]:
    """By the Service's name, from pods beside it, `RATE_PER_S` each. At the end no request has been lost."""
    api, namespace = model.node.control_plane.api, model.namespace
    with (
        calling(api, namespace, model.url, rate_per_s=RATE_PER_S) as fresh,
        calling(api, namespace, model.url, rate_per_s=RATE_PER_S, reuse=True) as kept,
    ):
        callers = Callers(fresh, kept)
        callers.served_by(10)
        yield callers
        callers.served_by(20)


def add_workloads(installed: Installed, namespace: str) -> None:
    """Two pods that the Service has, one that the remote has."""
    api = installed.node.control_plane.api
    for service, workload, replicas in (("model", "local", 2), ("remote", "remote", 1)):
        labels = {"app": workload}
        container = {
            "name": "main",
            "image": images.MODEL_SERVER,
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
        }
        template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
        deployment = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        ports = [{"port": 80, "targetPort": "http"}]
        for path, name, spec in (
            ("apis/apps/v1/namespaces/{}/deployments", workload, deployment),
            ("api/v1/namespaces/{}/services", service, {"selector": labels, "ports": ports}),
        ):
            api.create(f"/{path.format(namespace)}", {"metadata": {"name": name}, "spec": spec})
    for workload in ("local", "remote"):
        installed.node.rolled_out(namespace, workload)


def add_model(installed: Installed, namespace: str, metrics: Sequence[Json] = (), **behavior: object) -> Model:
    """Returns when its Service is taken over."""
    spec = {
        "model": "model",
        "modelSourceRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "local"},
        "serviceRef": {"name": "model", "targetPort": 80},
        "offloadingConfig": {
            "remoteBackend": {"host": f"remote.{namespace}.svc.cluster.local:80"},
            "behavior": {"percentage": 50, **behavior},
            "metrics": list(metrics),
        },
    }
    manifest = {"apiVersion": MODELS.removeprefix("apis/"), "kind": "ModelDeployment", "spec": spec}
    api = installed.node.control_plane.api
    api.create(f"/{MODELS}/namespaces/{namespace}/modeldeployments", {**manifest, "metadata": {"name": "model"}})
    model = Model(installed, namespace)
    model.until_taken_over()
    return model
