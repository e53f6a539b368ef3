"""Metrics of a cluster beside the HorizontalPodAutoscaler's own answers: a real one looks at the same pods, through the
same APIServices, and says in its status what it makes of them.

Each row of the table is a ReplicaSet with an autoscaler that may not scale it (minimum and maximum are what there is),
so that the condition ScalingLimited tells in which direction it would.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest

from controller.adapters.kubernetes.client import Cluster
from controller.adapters.kubernetes.metrics_api import MetricsApiSource
from controller.metric_spec import MetricSpec, Source
from controller.metrics import ApiQuery, Reading, Unknown, Value, judged, query_for
from controller.objects import Workload
from controller.quantity import parse_quantity
from controller.settings import MetricsApiSettings
from tests.cluster.harness.api import Api, RequestError, wait_until
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.paper_node import NAME as NODE
from tests.cluster.harness.paper_node import PaperNode
from tests.cluster.hpa_table import DOWN, FAILS, STAY, TABLE, THIS, UP, Json, PaperPod, Row
from tests.controller.manifests import model
from tests.support.metrics_apiserver import SERVED, MetricsApis
from tests.support.outside import Heard, http_server, running

NAMESPACE = "hpa-table"
DEADLINE_S = 150
API_SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
GROUPS = [(version, group) for group, versions in SERVED.items() for version in versions]


@dataclass(frozen=True)
class Outcome:
    """`ours`: a value beside its ratio to the target. `hpa`: the autoscaler's status."""

    ours: Reading
    hpa: Json


@dataclass(frozen=True)
class Answers:
    """`rows`: by name. The rest is what a few queries met: no metrics API at all, APIServices without their server, a
    controller without the rights.
    """

    rows: Mapping[str, Outcome]
    absent: Mapping[ApiQuery, Reading]
    gone: Mapping[ApiQuery, Reading]
    forbidden: Mapping[ApiQuery, Reading]


@pytest.fixture(scope="module")
def answers(control_plane: ControlPlane, paper_node: PaperNode) -> Iterator[Answers]:
    """Ours and the autoscalers' to the whole table, looked at once for all tests."""
    api = control_plane.api
    with _namespace(api):
        for name, row in TABLE.items():
            _make(api, name, row)
        try:
            answers = asyncio.run(_ask(control_plane))
        finally:
            _unregister(api)
        yield answers


@pytest.mark.parametrize("name", TABLE)
def test_the_autoscaler_answers_as_the_table_says(answers: Answers, name: str) -> None:
    assert _verdict(answers.rows[name].hpa) == TABLE[name].hpa, answers.rows[name].hpa


@pytest.mark.parametrize("name", TABLE)
def test_we_answer_as_the_table_says(answers: Answers, name: str) -> None:
    row, ours = TABLE[name], answers.rows[name].ours
    if row.ratio is None:
        assert isinstance(ours, Unknown), ours
        assert ours.message
    else:
        assert isinstance(ours, Value), ours
        assert (ours.value, ours.ratio) == pytest.approx((row.value, row.ratio))


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.hpa != FAILS and row.ratio is not None])
def test_the_value_is_the_autoscalers(answers: Answers, name: str) -> None:
    """Which it cuts to a whole percent or thousandth."""
    ours, status = answers.rows[name].ours, _current(answers.rows[name].hpa)
    assert isinstance(ours, Value)
    if "averageUtilization" in status:
        assert math.floor(ours.value) == status["averageUtilization"]
    else:
        shown = parse_quantity(status.get("averageValue", status.get("value")))
        assert abs(Fraction(ours.value) - shown) < Fraction(1, 1000)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if not row.differs])
def test_defect_13_we_decide_as_the_autoscaler_does(answers: Answers, name: str) -> None:
    found = answers.rows[name]
    ours = found.ours.ratio if isinstance(found.ours, Value) else None
    verdict = _verdict(found.hpa)
    decides_alike = {
        UP: ours is not None and ours > 1,
        DOWN: ours is not None and ours < 1,
        STAY: ours is None or abs(ours - 1) <= 0.1,
        FAILS: ours is None,
    }
    assert decides_alike[verdict], (verdict, found)


def test_the_table_has_every_type_of_metric_and_target_in_both_directions() -> None:
    found = {(row.metric["type"], _member(row.metric)["target"]["type"]) for row in TABLE.values()}
    verdicts = {(row.metric["type"], row.hpa) for row in TABLE.values()}
    types = {
        "Resource": ("Utilization", "AverageValue"),
        "ContainerResource": ("Utilization", "AverageValue"),
        "Pods": ("AverageValue",),
        "Object": ("Value", "AverageValue"),
        "External": ("Value", "AverageValue"),
    }
    assert found == {(type_, target) for type_, targets in types.items() for target in targets}
    assert verdicts >= {(type_, verdict) for type_ in types for verdict in (UP, DOWN, FAILS)}


def test_defect_13_a_pod_without_requests_is_named(answers: Answers) -> None:
    why = answers.rows["no-request"].ours
    assert isinstance(why, Unknown)
    assert "container main of pod no-request-1 requests no cpu" in why.message


def test_apis_that_are_not_there_are_named_with_a_remedy(answers: Answers) -> None:
    assert {_reason(reading) for reading in answers.absent.values()} == {"NotServed"}
    assert all(api in str(answers.absent) for api in SERVED)


def test_apis_whose_server_is_gone_are_unavailable(answers: Answers) -> None:
    assert {_reason(reading) for reading in answers.gone.values()} == {"Unavailable"}


def test_a_controller_without_the_right_is_told_so(answers: Answers) -> None:
    assert {_reason(reading) for reading in answers.forbidden.values()} == {"Forbidden"}


# What the autoscaler says


def _verdict(hpa: Json) -> str:
    conditions = {each["type"]: each for each in hpa["status"].get("conditions", ())}
    if conditions.get("ScalingActive", {}).get("status") != "True":
        reason = conditions.get("ScalingActive", {}).get("reason", "Waiting")
        return FAILS if reason.startswith("FailedGet") else str(reason)
    return str(conditions.get("ScalingLimited", {}).get("reason"))


def _current(hpa: Json) -> Json:
    (metric,) = hpa["status"]["currentMetrics"]
    current: Json = _member(metric)["current"]
    return current


def _member(metric: Json) -> Json:
    """The one that its type names."""
    member: Json = metric[metric["type"][0].lower() + metric["type"][1:]]
    return member


def _reason(reading: Reading) -> str:
    assert isinstance(reading, Unknown), reading
    return reading.reason


# Making the cluster's side of a row


@contextmanager
def _namespace(api: Api) -> Iterator[None]:
    path = f"/api/v1/namespaces/{NAMESPACE}"
    api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    try:
        wait_until(lambda: api.exists(f"{path}/serviceaccounts/default"), 60, "pods can be created")
        yield
    finally:
        api.delete(f"{path}/pods", grace_s=0)
        api.delete(path)


def _make(api: Api, name: str, row: Row) -> None:
    """Its pods, and a ReplicaSet that adopts them and finds that it has enough."""
    for index, pod in enumerate(row.pods):
        _make_pod(api, f"{name}-{index}", name, row, pod)
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": "none"}]}}
    spec = {"replicas": row.replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    api.create(f"/apis/apps/v1/namespaces/{NAMESPACE}/replicasets", {"metadata": {"name": name}, "spec": spec})


def _make_pod(api: Api, name: str, app: str, row: Row, pod: PaperPod) -> None:
    containers = [
        {"name": each, "image": "none", "resources": {"requests": {row.resource: request}} if request else {}}
        for each, request in zip(("main", "side"), pod.requests, strict=False)
    ]
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    spec = {"nodeName": NODE, "containers": containers}
    api.create(path, {"metadata": {"name": name, "labels": {"app": app}}, "spec": spec})
    ready = {"type": "Ready", "status": pod.ready, "lastTransitionTime": _from_now(pod.ready_since_s)}
    status = {"phase": pod.phase, "startTime": _from_now(pod.started_s), "conditions": [ready]}
    api.merge(f"{path}/{name}/status", {"status": status})
    if pod.is_deleted:
        api.delete(f"{path}/{name}")


def _make_autoscaler(api: Api, name: str, row: Row) -> None:
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name},
        "minReplicas": row.replicas,
        "maxReplicas": row.replicas,
        "metrics": [_named(row.metric, name)],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
    }
    path = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
    api.create(path, {"metadata": {"name": name}, "spec": spec})


def _metrics() -> MetricsApis:
    """What the table says that pods, objects and others use and have."""
    apis = MetricsApis()
    usage = apis.usage[NAMESPACE] = {}
    labels = apis.labels[NAMESPACE] = {}
    custom = apis.custom[NAMESPACE] = {}
    apis.external[NAMESPACE] = {name: list(row.external) for name, row in TABLE.items() if row.external}
    for name, row in TABLE.items():
        for index, pod in enumerate(row.pods):
            labels[f"{name}-{index}"] = {"app": name}
            if pod.used:
                used = zip(("main", "side"), pod.used, strict=False)
                usage[f"{name}-{index}"] = {container: {row.resource: quantity} for container, quantity in used}
        for resource, series in row.custom.items():
            owners = {THIS: name, "": "", **{str(index): f"{name}-{index}" for index in range(len(row.pods))}}
            custom[name, resource] = [replace(each, of=owners[each.of]) for each in series]
    return apis


def _named(metric: Json, name: str) -> Json:
    named: Json = json.loads(json.dumps(metric).replace(THIS, name))
    return named


def _from_now(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# Asking


async def _ask(plane: ControlPlane) -> Answers:
    queries = {name: _query(name, row) for name, row in TABLE.items()}
    some = [_query(name, TABLE[name]) for name in ("above", "pods-above", "external-value")]
    absent = await _readings(plane.kubeconfig, some)
    certificate, key = plane.authority.issue("metrics", *(f"{_service(group)}.{NAMESPACE}.svc" for group in SERVED))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with http_server(_metrics().answer, tls) as port:
        await asyncio.to_thread(_register, plane, port)
        for name, row in TABLE.items():
            await asyncio.to_thread(_make_autoscaler, plane.api, name, row)
        autoscalers = await asyncio.to_thread(_settled_autoscalers, plane.api)
        readings = await _readings(plane.kubeconfig, list(queries.values()))
        forbidden = await _readings(await asyncio.to_thread(plane.kubeconfig_for, "nobody-in-particular"), some)
    gone = await _readings(plane.kubeconfig, some, lambda reading: isinstance(reading, Unknown))
    rows = {}
    for name, row in TABLE.items():
        reading = readings[queries[name]]
        spec = MetricSpec.model_validate(_named(row.metric, name))
        rows[name] = Outcome(judged(spec, reading, row.replicas), autoscalers[name])
    return Answers(rows, absent, gone, forbidden)


def _query(name: str, row: Row) -> ApiQuery:
    workload = Workload("ReplicaSet", f"{NAMESPACE}/{name}", f"app={name}")
    metric = MetricSpec.model_validate(_named(row.metric, name))
    query = query_for(metric, model(name, NAMESPACE), Source.KUBERNETES, workload)
    assert isinstance(query, ApiQuery), query
    return query


async def _readings(
    kubeconfig: Path, queries: list[ApiQuery], holds: Callable[[Reading], bool] = lambda _: True
) -> dict[ApiQuery, Reading]:
    """The product's answers, the first that will do."""
    cluster = await Cluster.connect(kubeconfig)
    heard = Heard()
    settings = MetricsApiSettings(interval_seconds=0.5)
    source = MetricsApiSource(cluster, settings, heard.append)
    for query in queries:
        source.watch(query)
    found: dict[ApiQuery, Reading] = {}

    def complete(_: Heard) -> bool:
        for observed in heard:
            if holds(observed.reading):
                found.setdefault(observed.query, observed.reading)
        return len(found) == len(set(queries))

    async with running(source.run()):
        await heard.until(complete)
    await cluster.close()
    return found


def _register(plane: ControlPlane, port: int) -> None:
    """Puts the server behind APIServices. An APIService that says it is available has not tried the certificate."""
    api = plane.api
    for group in SERVED:
        spec: Json = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
        api.create(f"/api/v1/namespaces/{NAMESPACE}/services", {"metadata": {"name": _service(group)}, "spec": spec})
    for version, group in GROUPS:
        spec = {
            "group": group,
            "version": version,
            "groupPriorityMinimum": 100,
            "versionPriority": 200 if version == "v1beta2" else 100,
            "caBundle": base64.b64encode(plane.ca.read_bytes()).decode(),
            "service": {"name": _service(group), "namespace": NAMESPACE, "port": port},
        }
        api.create(API_SERVICES, {"metadata": {"name": f"{version}.{group}"}, "spec": spec})

    def served() -> bool:
        return all(_is_served(api, f"/apis/{group}/{version}") for version, group in GROUPS)

    wait_until(served, DEADLINE_S, "the metrics APIs are served")


def _unregister(api: Api) -> None:
    for version, group in GROUPS:
        api.delete(f"{API_SERVICES}/{version}.{group}")


def _is_served(api: Api, path: str) -> bool:
    try:
        return bool(api.get(path))
    except RequestError:
        return False


def _service(group: str) -> str:
    return group.replace(".", "-")


def _settled_autoscalers(api: Api) -> dict[str, Json]:
    """Once they say what the table says, or the deadline has passed: their first look may be too early."""
    path = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
    found: dict[str, Json] = {}

    def settled() -> bool:
        found.update({each["metadata"]["name"]: each for each in api.get(path)["items"]})
        return all(_verdict(found[name]) == row.hpa for name, row in TABLE.items())

    with suppress(TimeoutError):
        wait_until(settled, DEADLINE_S, "the autoscalers agree with the table")
    return found
