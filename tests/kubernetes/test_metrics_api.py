"""Asking metrics APIs: what is asked, how often, and what comes of failures. tests/cluster has them behind real
APIServices.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from controller.adapters.kubernetes import metrics_decode as decode
from controller.adapters.kubernetes.client import Cluster
from controller.adapters.kubernetes.metrics_api import AT_ONCE, MetricsApiSource
from controller.events import Observed
from controller.kube_metrics import Pod, Sample, Usage
from controller.metric_spec import MetricTarget
from controller.metrics import ApiQuery, ExternalQuery, ObjectQuery, PodsQuery, Reading, ResourceQuery, Unknown, Value
from controller.settings import MetricsApiSettings
from tests.kubernetes.fake_api import kubeconfig
from tests.support.metrics_apiserver import SERVED, MetricsApis, Series
from tests.support.outside import Heard, http_server, refusing_port, running

Json = dict[str, Any]
INTERVAL_S = 0.05
LONG_AGO = "2025-01-01T00:00:00Z"


def average(value: str) -> MetricTarget:
    return MetricTarget.model_validate({"type": "AverageValue", "averageValue": value})


def cpu(percent: int = 50, app: str = "llama", namespace: str = "shop") -> ResourceQuery:
    target = MetricTarget(type="Utilization", average_utilization=percent)
    return ResourceQuery(namespace, f"app={app}", "cpu", None, target)


def running_requests(labels: str = "") -> PodsQuery:
    return PodsQuery("shop", "app=llama", "running", labels, average("10"))


def on_ingress(name: str = "main", group: str = "networking.k8s.io", kind: str = "Ingress") -> ObjectQuery:
    return ObjectQuery("shop", group, kind, name, "hits", "")


def queue(metric: str = "queue", labels: str = "") -> ExternalQuery:
    return ExternalQuery("shop", metric, labels)


def pod(name: str, app: str = "llama", request: str = "1") -> Json:
    """Ready for long."""
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": LONG_AGO}
    return {
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": request}}}]},
        "status": {"phase": "Running", "startTime": LONG_AGO, "conditions": [ready]},
    }


@dataclass
class World:
    """An API server with pods, the metrics APIs and one more group."""

    apis: MetricsApis = field(default_factory=MetricsApis)
    pods: list[Json] = field(default_factory=list)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        answer = await self.apis.answer(request)
        if answer.status != 404:
            return answer
        match request.path.strip("/").split("/"):
            case ["api", "v1", "namespaces", _, "pods"]:
                app = request.query["labelSelector"].removeprefix("app=")
                return web.json_response(
                    {"items": [pod for pod in self.pods if pod["metadata"]["labels"]["app"] == app]}
                )
            case ["apis", "networking.k8s.io"]:
                versions = [{"groupVersion": f"networking.k8s.io/{each}"} for each in ("v1", "v1beta1")]
                return web.json_response({"versions": versions, "preferredVersion": versions[0]})
            case ["apis", "networking.k8s.io", "v1"]:
                kinds = {"ingresses/status": "Ingress", "ingresses": "Ingress", "ingressclasses": "IngressClass"}
                return web.json_response({"resources": [{"name": n, "kind": kind} for n, kind in kinds.items()]})
            case ["api", "v1"]:
                return web.json_response({"resources": [{"name": "services", "kind": "Service"}]})
            case _:
                return answer

    def asked(self, part: str) -> list[dict[str, str]]:
        """The queries of all requests whose path has this part."""
        return [query for path, query in self.apis.asked if part in path]


def busy(*names: str, used: str = "600m") -> World:
    """Pods of app=llama that request 1 CPU each."""
    world = World(pods=[pod(name) for name in names])
    world.apis.usage["shop"] = {name: {"main": {"cpu": used, "memory": "1Gi"}} for name in names}
    return world


class Source:
    """An adapter at work."""

    def __init__(self, adapter: MetricsApiSource, heard: Heard) -> None:
        self.watch, self.unwatch = adapter.watch, adapter.unwatch
        self.heard = heard

    async def reading(self, query: ApiQuery, holds: Callable[[Reading], object] = lambda _: True) -> Reading:
        """The first answer from now on, or the first that will do."""
        start = len(self.heard)

        def found() -> list[Reading]:
            return [each.reading for each in self.heard[start:] if each.query == query and holds(each.reading)]

        await self.heard.until(lambda _: found())
        return found()[0]


@contextlib.asynccontextmanager
async def asking(
    world: World, folder: Path, *queries: ApiQuery, interval_s: float = 3600.0, timeout_s: float = 30.0
) -> AsyncIterator[Source]:
    async with http_server(world.answer) as port, contextlib.AsyncExitStack() as stack:
        cluster = await Cluster.connect(kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{port}"))
        stack.push_async_callback(cluster.close)
        heard = Heard()
        settings = MetricsApiSettings.model_construct(interval_seconds=interval_s, timeout_seconds=timeout_s)
        adapter = MetricsApiSource(cluster, settings, heard.append, jitter=lambda: 1.0)
        for query in queries:
            adapter.watch(query)
        async with running(adapter.run()):
            yield Source(adapter, heard)


async def answers(world: World, folder: Path, *queries: ApiQuery, timeout_s: float = 30.0) -> dict[ApiQuery, Reading]:
    """One round."""
    async with asking(world, folder, *queries, timeout_s=timeout_s) as source:
        await source.heard.until(lambda heard: len(heard) == len(queries))
        return {each.query: each.reading for each in source.heard}


async def answer(world: World, folder: Path, query: ApiQuery, timeout_s: float = 30.0) -> Reading:
    return (await answers(world, folder, query, timeout_s=timeout_s))[query]


# Answers


async def test_utilization_is_judged_from_usage_and_requests(tmp_path: Path) -> None:
    world = busy("a", "b")
    world.apis.usage["shop"]["b"]["main"]["cpu"] = "200000000n"
    assert await answer(world, tmp_path, cpu(50)) == Value(40, ratio=0.8)


async def test_a_pods_metric_is_judged_over_the_pods(tmp_path: Path) -> None:
    world = busy("a", "b")
    world.apis.labels["shop"] = {"a": {"app": "llama"}, "b": {"app": "llama"}, "c": {"app": "other"}}
    values = [Series("8", "a"), Series("16", "b"), Series("100", "c")]
    world.apis.custom["shop"] = {("running", "pods"): values}

    assert await answer(world, tmp_path, running_requests()) == Value(12, ratio=1.2)


async def test_the_metrics_own_labels_select_its_series(tmp_path: Path) -> None:
    world = busy("a")
    world.apis.labels["shop"] = {"a": {"app": "llama"}}
    series = [Series("1", "a", {"lora": "no"}), Series("7", "a", {"lora": "yes"})]
    world.apis.custom["shop"] = {("running", "pods"): series}
    world.apis.external["shop"] = {"queue": [Series("1", labels={"q": "a"}), Series("2", labels={"q": "b"})]}
    found = await answers(world, tmp_path, running_requests("lora=yes"), queue(), queue(labels="q=b"))

    assert found == {running_requests("lora=yes"): Value(7, 0.7), queue(): Value(3), queue(labels="q=b"): Value(2)}


@pytest.mark.parametrize(
    ("query", "resource"),
    [
        (on_ingress(), "ingresses.networking.k8s.io"),
        (on_ingress("llama", "", "Service"), "services"),
        (on_ingress("shop", "", "Namespace"), "metrics"),
    ],
)
async def test_an_objects_metric_is_found_by_the_name_of_its_resource(
    tmp_path: Path, query: ObjectQuery, resource: str
) -> None:
    world = World()
    of = "" if resource == "metrics" else query.name
    world.apis.custom["shop"] = {("hits", resource): [Series("2500m", of)]}
    assert await answer(world, tmp_path, query) == Value(2.5)


async def test_an_adapter_that_speaks_only_the_older_version_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SERVED, "custom.metrics.k8s.io", ("v1beta1",))
    world = World()
    world.apis.custom["shop"] = {("hits", "metrics"): [Series("3")]}
    assert await answer(world, tmp_path, on_ingress("shop", "", "Namespace")) == Value(3)
    assert world.asked("custom.metrics.k8s.io/v1beta2") == []


@pytest.mark.parametrize("name", ["s0-rabbitmq-queue", "queue|length", "a b", "größe", "x?y=z#w", "a:b@c;d,e"])
async def test_a_name_reaches_the_api_as_it_is(tmp_path: Path, name: str) -> None:
    world = World()
    world.apis.external["shop"] = {name: [Series("1")]}
    assert await answer(world, tmp_path, queue(name)) == Value(1)


# What is asked


async def test_all_models_of_a_namespace_share_one_list_of_usage(tmp_path: Path) -> None:
    world = busy("a", "b")
    world.pods.append(pod("c", app="qwen"))
    world.apis.usage["shop"]["c"] = {"main": {"cpu": "100m"}}
    queries = [cpu(50), cpu(80), cpu(50, app="qwen"), cpu(20, app="qwen")]
    found = await answers(world, tmp_path, *queries)

    assert [found[query] for query in queries] == [Value(60, 1.2), Value(60, 0.75), Value(10, 0.2), Value(10, 0.5)]
    assert world.asked("metrics.k8s.io") == [{}]
    lists = world.asked("/api/v1/namespaces/shop/pods")
    assert sorted(query["labelSelector"] for query in lists) == ["app=llama", "app=qwen"]


async def test_pods_come_from_the_api_servers_cache(tmp_path: Path) -> None:
    world = busy("a")
    await answer(world, tmp_path, cpu())
    assert world.asked("/api/v1/") == [{"labelSelector": "app=llama", "resourceVersion": "0"}]


async def test_metrics_that_need_no_pods_list_none(tmp_path: Path) -> None:
    world = World()
    world.apis.external["shop"] = {"queue": [Series("1")]}
    await answer(world, tmp_path, queue())
    assert [path for path, _ in world.apis.asked] == ["/apis/external.metrics.k8s.io/v1beta1/namespaces/shop/queue"]


async def test_it_is_asked_again_in_each_interval(tmp_path: Path) -> None:
    world = busy("a")
    async with asking(world, tmp_path, cpu(50), interval_s=INTERVAL_S) as source:
        assert await source.reading(cpu(50)) == Value(60, 1.2)
        world.apis.usage["shop"]["a"]["main"]["cpu"] = "100m"
        assert await source.reading(cpu(50), lambda reading: reading != Value(60, 1.2)) == Value(10, 0.2)


async def test_a_new_query_does_not_wait_for_the_interval_nor_make_others_ask_again(tmp_path: Path) -> None:
    world = busy("a")
    world.apis.external["shop"] = {"queue": [Series("1")]}
    async with asking(world, tmp_path, cpu(50)) as source:
        await source.reading(cpu(50))
        source.watch(queue())
        assert await source.reading(queue()) == Value(1)
        assert [each.query for each in source.heard] == [cpu(50), queue()]
        assert len(world.asked("metrics.k8s.io/v1beta1/namespaces/shop/pods")) == 1


async def test_a_query_that_nobody_wants_is_asked_no_more(tmp_path: Path) -> None:
    world = busy("a")
    other = cpu(50, namespace="elsewhere")
    async with asking(world, tmp_path, cpu(50), cpu(80), other, interval_s=INTERVAL_S) as source:
        for query in (cpu(50), cpu(80), other):
            await source.reading(query)
        source.unwatch(cpu(50))
        source.unwatch(other)
        source.unwatch(other)
        source.heard.clear()
        asked = len(world.asked("/elsewhere/"))
        for _ in range(3):
            await source.reading(cpu(80))
        assert {each.query for each in source.heard} == {cpu(80)}
        assert len(world.asked("/elsewhere/")) <= asked + 1  # one may have been under way

        source.watch(other)
        await source.reading(other)


async def test_namespaces_wait_their_turn(tmp_path: Path) -> None:
    world, most, now, go = World(), 0, 0, asyncio.Event()
    whole = world.answer

    async def counted(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await go.wait()
        now -= 1
        return await whole(request)

    world.answer = counted  # type: ignore[method-assign] # counts what is under way
    queries = [cpu(50, namespace=f"n{number}") for number in range(3 * AT_ONCE)]
    async with asking(world, tmp_path, *queries) as source:
        await source.heard.until(lambda _: now == AT_ONCE)
        go.set()
        await source.heard.until(lambda heard: len(heard) == len(queries))
    assert most == AT_ONCE


async def test_a_slow_api_holds_up_only_what_needs_it(tmp_path: Path) -> None:
    world = busy("a")
    world.apis.external["shop"] = {"queue": [Series("1")]}
    slow, whole = asyncio.Event(), world.apis.answer

    async def answer_slowly(request: web.BaseRequest) -> web.StreamResponse:
        if "external" in request.path:
            await slow.wait()
        return await whole(request)

    world.apis.answer = answer_slowly  # type: ignore[method-assign] # one API of the three
    async with asking(world, tmp_path, cpu(50), queue()) as source:
        assert await source.reading(cpu(50)) == Value(60, 1.2)
        assert [each.query for each in source.heard] == [cpu(50)]
        slow.set()
        await source.heard.until(lambda heard: len(heard) == 2)


# What goes wrong


def unknown(reading: Reading, *words: str) -> str:
    assert isinstance(reading, Unknown), reading
    for word in words:
        assert word in reading.message
    return reading.reason


@pytest.mark.parametrize(
    ("query", "api", "remedy"),
    [
        (cpu(), "metrics.k8s.io", "install metrics-server"),
        (running_requests(), "custom.metrics.k8s.io", "source: endpoints"),
        (on_ingress("shop", "", "Namespace"), "custom.metrics.k8s.io", "install an adapter"),
        (queue(), "external.metrics.k8s.io", "source: prometheus"),
    ],
)
async def test_an_api_that_is_not_there_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: ApiQuery, api: str, remedy: str
) -> None:
    async def nothing(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=404, text="404 page not found\n")

    world = busy("a")
    monkeypatch.setattr(world.apis, "answer", nothing)
    assert unknown(await answer(world, tmp_path, query), f"does not serve {api}", remedy) == "NotServed"


@pytest.mark.parametrize("query", [cpu(), running_requests(), on_ingress(), queue()])
@pytest.mark.parametrize(
    ("status", "expected"), [(503, "Unavailable"), (403, "Forbidden"), (500, "InternalError"), (429, "InternalError")]
)
async def test_an_api_that_refuses_is_quoted(tmp_path: Path, query: ApiQuery, status: int, expected: str) -> None:
    world = busy("a")
    world.apis.failing["/apis/"] = status
    assert unknown(await answer(world, tmp_path, query), "k8s.io", "told to fail") == expected


@pytest.mark.parametrize("query", [cpu(), running_requests()])
async def test_pods_that_cannot_be_listed_are_the_reason(tmp_path: Path, query: ApiQuery) -> None:
    world = busy("a")
    world.apis.custom["shop"] = {("running", "pods"): [Series("8", "a")]}
    world.apis.failing["/api/v1/namespaces/shop/pods"] = 403
    assert unknown(await answer(world, tmp_path, query), "the API server: told to fail") == "Forbidden"


@pytest.mark.parametrize("query", [running_requests(), on_ingress(), queue()])
async def test_a_metric_that_the_api_does_not_have_is_quoted(tmp_path: Path, query: ApiQuery) -> None:
    assert unknown(await answer(busy("a"), tmp_path, query), "could not find the metric") == "NotFound"


async def test_a_metric_without_series_is_unknown_and_not_zero(tmp_path: Path) -> None:
    world = World()
    world.apis.external["shop"] = {"queue": []}
    world.apis.custom["shop"] = {("hits", "metrics"): []}
    found = await answers(world, tmp_path, queue(), on_ingress("shop", "", "Namespace"))
    assert [unknown(reading) for reading in found.values()] == ["Empty", "Empty"]


async def test_two_values_for_one_object_are_none(tmp_path: Path) -> None:
    world = World()
    world.apis.custom["shop"] = {("hits", "ingresses.networking.k8s.io"): [Series("1", "main"), Series("2", "main")]}
    assert unknown(await answer(world, tmp_path, on_ingress()), "2 values for one object") == "BadAnswer"


async def test_old_values_are_unknown_and_say_how_old(tmp_path: Path) -> None:
    world = World()
    world.apis.external["shop"] = {"queue": [Series("1", at=datetime.now(UTC) - timedelta(hours=2))]}
    assert unknown(await answer(world, tmp_path, queue()), "s ago") == "Stale"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (on_ingress(kind="Route"), "has no Route"),
        (on_ingress(group="apps.example.com"), "does not serve apps.example.com"),
    ],
)
async def test_an_object_of_no_known_kind_is_named(tmp_path: Path, query: ObjectQuery, words: str) -> None:
    assert unknown(await answer(World(), tmp_path, query), words, "describedObject") in ("NoSuchKind", "NotServed")


async def test_silence_ends_with_the_timeout(tmp_path: Path) -> None:
    world = busy("a")
    world.apis.delay_s = 60
    assert unknown(await answer(world, tmp_path, cpu(), timeout_s=0.1), "metrics.k8s.io") == "Timeout"


async def test_an_api_server_that_is_gone_is_unreachable(tmp_path: Path) -> None:
    with refusing_port() as port:
        cluster = await Cluster.connect(kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{port}"))
        heard = Heard()
        adapter = MetricsApiSource(cluster, MetricsApiSettings(), heard.append)
        adapter.watch(cpu())
        async with running(adapter.run()):
            await heard.until(len)
        await cluster.close()
    assert isinstance(heard[0], Observed)
    assert unknown(heard[0].reading) == "Unreachable"


async def test_an_adapter_that_is_replaced_by_one_of_another_version_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, query = World(), on_ingress("shop", "", "Namespace")
    world.apis.custom["shop"] = {("hits", "metrics"): [Series("3")]}
    async with asking(world, tmp_path, query, interval_s=INTERVAL_S) as source:
        assert await source.reading(query) == Value(3)
        monkeypatch.setitem(SERVED, "custom.metrics.k8s.io", ("v1beta1",))
        world.apis.failing["/apis/custom.metrics.k8s.io/v1beta2"] = 404
        assert unknown(await source.reading(query, lambda reading: isinstance(reading, Unknown))) == "NotFound"
        assert await source.reading(query, lambda reading: isinstance(reading, Value)) == Value(3)


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"items": 3}', '{"items": [{}]}', "\x00", '{"a":' * 100_000])
@pytest.mark.parametrize("query", [cpu(), running_requests(), on_ingress(), queue()])
async def test_an_answer_that_is_none_crashes_nothing(tmp_path: Path, query: ApiQuery, body: str) -> None:
    class Nonsense(World):
        async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(text=body, content_type="application/json")

    assert unknown(await answer(Nonsense(), tmp_path, query)) == "BadAnswer"


async def test_a_value_that_is_no_quantity_crashes_nothing(tmp_path: Path) -> None:
    world = busy("a", used="much")
    world.apis.external["shop"] = {"queue": [Series("many")]}
    found = await answers(world, tmp_path, cpu(), queue())
    assert [unknown(reading) for reading in found.values()] == ["BadAnswer", "BadAnswer"]


# Decoding


def test_only_what_is_judged_is_kept_of_a_pod() -> None:
    body = b"""{"items": [{
        "metadata": {"name": "p", "deletionTimestamp": "2025-01-01T00:00:00Z", "labels": {"a": "b"}},
        "spec": {
            "resources": {"requests": {"cpu": "2"}},
            "initContainers": [
                {"name": "once", "resources": {"requests": {"cpu": "9"}}},
                {"name": "side", "restartPolicy": "Always", "resources": {}}
            ],
            "containers": [{"name": "main", "image": "i", "resources": {"requests": {"cpu": "1"}, "limits": {}}}]
        },
        "status": {
            "phase": "Running", "startTime": "1970-01-01T00:01:00Z",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": null},
                {"type": "Ready", "status": "False", "lastTransitionTime": "1970-01-01T00:02:00Z"}
            ]
        }
    }]}"""
    containers = {"main": {"cpu": "1"}, "side": {}}
    assert decode.pods(body) == (Pod("p", "Running", True, 60, "False", 120, containers, {"cpu": "2"}),)


KEYS = st.sampled_from(
    [
        *("items", "metadata", "name", "spec", "containers", "resources", "requests", "cpu", "status", "conditions"),
        *("type", "timestamp", "window", "usage", "value", "describedObject", "versions", "preferredVersion", "kind"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["1", LONG_AGO]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_whatever_is_answered_is_read_or_refused(answered: object) -> None:
    body = json.dumps(answered).encode()
    for read in (decode.pods, decode.usages, decode.values, decode.series, decode.group_versions, decode.plurals):
        with contextlib.suppress(ValueError):
            read(body)


def test_a_pod_that_nobody_has_looked_at_yet_is_read() -> None:
    body = b'{"items": [{"metadata": {"name": "p"}, "spec": {"containers": [{"name": "main"}]}, "status": {}}]}'
    assert decode.pods(body) == (Pod("p", phase="", containers={"main": {}}),)


@pytest.mark.parametrize("body", [b"{}", b'{"items": null}', b'{"items": []}'])
def test_an_empty_list_is_one_however_it_is_written(body: bytes) -> None:
    assert not decode.pods(body)
    assert not decode.usages(body)
    assert not decode.values(body)
    assert not decode.series(body)


@pytest.mark.parametrize(
    ("window", "seconds"), [("30s", 30), ("1m0s", 60), ("15.5s", 15.5), ("1h2m3s", 3723), ("500ms", 0.5), ("", 0)]
)
def test_a_window_is_a_duration_as_go_writes_it(window: str, seconds: float) -> None:
    body = f'{{"items": [{{"metadata": {{"name": "p"}}, "timestamp": null, "window": "{window}", "containers": []}}]}}'
    assert decode.usages(body.encode()) == {"p": Usage({}, None, seconds)}


@pytest.mark.parametrize(
    ("fields", "window_s"), [("", 60), ('"windowSeconds": 30,', 30), ('"window": 90,', 90), ('"windowSeconds": 0,', 0)]
)
def test_a_custom_metric_has_its_window_by_either_name(fields: str, window_s: float) -> None:
    body = f'{{"items": [{{"describedObject": {{"name": "o"}}, "timestamp": null, {fields} "value": "1500m"}}]}}'
    assert decode.values(body.encode()) == (("o", Sample(Fraction(3, 2), None, window_s)),)
