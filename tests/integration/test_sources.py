"""Where metrics come from: a real Prometheus, one that fails, both sources in one model; and manifests as the
predecessor's documentation printed them. What the user sees, and that traffic was not disturbed.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from tests.integration.objects import PODS_METRIC, Json, Queue, endpoint_slice, model, remote, service
from tests.integration.test_faults import one_model, problem, undisturbed
from tests.support.backends import Backend, Behaviour, hold, http_backend
from tests.support.prometheus import running_prometheus
from tests.support.stack import Stack, running

pytestmark = pytest.mark.integration

QUICK: Json = {"percentage": 50, "activationSeconds": 0.5, "bufferSeconds": 1, "staleSeconds": 2}


@pytest.fixture(scope="module")
def waiting() -> Gauge:
    """What is scraped: the length of a queue for each model, which a test names after itself, and engine."""
    return Gauge("requests_waiting", "Requests that wait.", ["model", "engine"], registry=CollectorRegistry())


@pytest.fixture(scope="module")
def prometheus(waiting: Gauge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real one that scrapes them every second."""
    registry = CollectorRegistry()
    registry.register(waiting)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), server.server_port) as address:
        yield address
    server.shutdown()
    server.server_close()
    thread.join()


def external(name: str, **metric: object) -> Json:
    target = {"type": "Value", "value": "10"}
    return {"type": "External", "external": {"metric": {"name": name, **metric}, "target": target}}


def asks(prometheus: str, **more: object) -> Json:
    """A configuration in which External metrics come from this Prometheus."""
    return {
        "metricInformer": {
            "type": "prometheus",
            "prometheus": {"address": prometheus, "intervalSeconds": 0.2, "timeoutSeconds": 5.0, **more},
        }
    }


@asynccontextmanager
async def asking(
    directory: Path, config: Json, metrics: Sequence[Json], queue: Queue | None = None
) -> AsyncIterator[tuple[Stack, Callable[..., None]]]:
    """A running model with these metrics, while callers ask; and what replaces its offloadingConfig."""
    behave = (queue or Queue()).behaviour()
    async with http_backend("local", behave) as local, http_backend("remote") as far:
        base: Json = {"remoteBackend": remote(far), "metrics": metrics, "behavior": QUICK}
        files = {"model.yaml": [model(**base)], "objects.yaml": [service(), endpoint_slice(local)]}
        async with running(directory, files, config) as stack:
            await stack.until_programmed()

            def change(**changed: object) -> None:
                stack.write("model.yaml", model(**{**base, **changed}))

            async with undisturbed(stack):
                yield stack, change


async def overflowing(stack: Stack) -> Json:
    return await stack.until(lambda m: m["state"] == "Overflowing" and m["share_ppm"] == 500_000)


async def silent(stack: Stack, reason: str, *words: str) -> None:
    """Waits until the status says that no metric is known, for this reason, in these words."""

    def said(found: Json) -> bool:
        condition = next(each for each in found["conditions"] if each["type"] == "MetricsAvailable")
        return (condition["status"], condition["reason"]) == ("False", reason)

    await stack.until(said)
    message = (await stack.condition("MetricsAvailable"))["message"]
    assert all(word in message for word in words), message


# A real Prometheus


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("by-expression", external('max by (model) (requests_waiting{model="by-expression",engine=~"0|1"})')),
        (
            "by-name",
            external(
                "requests_waiting",
                selector={
                    "matchLabels": {"model": "by-name"},
                    "matchExpressions": [{"key": "engine", "operator": "In", "values": ["0", "1"]}],
                },
            ),
        ),
    ],
)
async def test_defect_14_prometheus_drives_an_overflow_out_and_back(
    waiting: Gauge, prometheus: str, tmp_path: Path, name: str, metric: Json
) -> None:
    mine, others = waiting.labels(name, "0"), (waiting.labels(name, "2"), waiting.labels("of-nobody", "0"))
    mine.set(1)
    for other in others:
        other.set(1_000)
    async with asking(tmp_path, asks(prometheus), [metric]) as (stack, _):
        found = await stack.until(lambda m: m["metrics"][0]["value"] == 1)
        assert (found["state"], found["metrics"][0]["target"]) == ("Standby", 10)
        mine.set(20)
        found = await overflowing(stack)
        assert found["metrics"][0]["value"] == 20
        assert (await stack.condition("MetricsAvailable"))["status"] == "True"
        mine.set(1)
        await stack.until(lambda m: m["state"] == "Standby")


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [("nan", "NotANumber", "nan"), ("empty", "Empty", "no series"), ("matrix", "Matrix", "range of values")],
)
async def test_an_answer_that_is_no_number_holds_the_share_and_is_said(
    waiting: Gauge, prometheus: str, tmp_path: Path, name: str, reason: str, words: str
) -> None:
    waiting.labels(name, "0").set(20)
    query = f'requests_waiting{{model="{name}"}}'
    async with asking(tmp_path, asks(prometheus), [external(query)]) as (stack, change):
        await overflowing(stack)
        match name:
            case "nan":
                waiting.labels(name, "0").set(float("nan"))
            case "empty":
                waiting.remove(name, "0")
            case _:
                query += "[1m]"
                change(metrics=[external(query)])
        await silent(stack, reason, query, words)
        found = await stack.until(lambda m: m["reason"] == "MetricsUnavailable")
        assert (found["state"], found["share_ppm"]) == ("Overflowing", 500_000)


async def test_a_pods_metric_and_one_from_prometheus_may_stand_in_one_model_and_each_can_overflow_it(
    waiting: Gauge, prometheus: str, tmp_path: Path
) -> None:
    far_queue, queue = waiting.labels("mixed", "0"), Queue(0)
    far_queue.set(0)
    metrics = [PODS_METRIC, external("requests_waiting", selector={"matchLabels": {"model": "mixed"}})]
    async with asking(tmp_path, asks(prometheus), metrics, queue) as (stack, _):
        await stack.until(lambda m: [each["value"] for each in m["metrics"]] == [0, 0])
        far_queue.set(20)
        assert [each["value"] for each in (await overflowing(stack))["metrics"]] == [0, 20]
        far_queue.set(0)
        await stack.until(lambda m: m["state"] == "Standby")
        queue.length = 20
        assert [each["value"] for each in (await overflowing(stack))["metrics"]] == [20, 0]
        queue.length = None
        await stack.until(lambda m: "unknown" in m["metrics"][0])
        condition = await stack.condition("MetricsAvailable")
        assert condition["status"] == "True"
        assert "At least one metric is known" in condition["message"]
        assert "vllm:num_requests_waiting: 1 of 1 endpoints have no value" in condition["message"]


# A Prometheus that fails


def answering(value: str) -> Behaviour:
    """The answer of a Prometheus to an instant query that gives one series."""

    async def behave(_: Backend, __: web.BaseRequest) -> web.StreamResponse:
        series = {"metric": {}, "value": [1_700_000_000, value]}
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": [series]}})

    return behave


async def test_prometheus_down_at_start_is_said_and_asked_again(tmp_path: Path) -> None:
    """The port is bound all the time, so nobody else gets it, and listened on only later."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await answering("20")(Backend("prometheus", hold), request)

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        handler = web.Server(answer)
        server = await asyncio.get_running_loop().create_server(handler, sock=bound, start_serving=False)
        try:
            async with asking(tmp_path, asks(f"127.0.0.1:{bound.getsockname()[1]}"), [external("up")]) as (stack, _):
                await silent(stack, "Unreachable", "up: Prometheus cannot be asked: Connection refused")
                assert (await stack.model())["state"] == "Standby"
                await server.start_serving()
                await overflowing(stack)
        finally:
            server.close()
            await handler.shutdown(0.1)


async def test_a_prometheus_that_falls_asleep_holds_the_share_and_is_said(tmp_path: Path) -> None:
    async with http_backend("prometheus", answering("20")) as slow:
        config = asks(f"{slow.host}:{slow.port}", timeoutSeconds=0.5)
        async with asking(tmp_path, config, [external("up")]) as (stack, _):
            await overflowing(stack)
            slow.behave = hold
            await silent(stack, "Timeout", "up: Prometheus gives no answer within 0.5 s")
            assert (await stack.model())["share_ppm"] == 500_000
            slow.behave = answering("0")
            await stack.until(lambda m: m["metrics"][0]["value"] == 0)


# Pasted manifests

PASTED = """\
apiVersion: deployment.beamlit.com/v1alpha1
kind: ModelDeployment
metadata:
  name: llama
spec:
  model: llama
  modelSourceRef: {apiVersion: apps/v1, kind: Deployment, name: llama}
  serviceRef: {name: llama, targetPort: 80}
  offloadingConfig:
    metrics:
    - type: External
      external:
        metric:
          name: requests_waiting
          selector:
            matchLabels:
        target: {type: Value, value: "10"}
    behavior: {percentage: 50, activationSeconds: 1}
"""


WRONG = (
    (
        ("        target:", "          target:"),
        ("metrics[0].external", "target stands inside metric; move target one level up, next to metric"),
    ),
    (("  offloadingConfig:", "\toffloadingConfig:"), ("line 9", "tab", "use spaces")),
    (("  model: llama\n", ""), ("spec.model", "is required")),
)
"""What is printed otherwise, and what is said of it."""


async def test_a_pasted_manifest_that_is_wrong_says_what_to_change_and_the_last_good_one_stays(tmp_path: Path) -> None:
    async with one_model(tmp_path) as (stack, _, _), undisturbed(stack):
        for (right, wrong), words in WRONG:
            (stack.manifests / "model.yaml").write_text(PASTED.replace(right, wrong))
            await problem(stack, "model.yaml", *words)
            assert (await stack.model())["metrics"][0]["name"] == "vllm:num_requests_waiting"


async def test_null_match_labels_match_everything(tmp_path: Path) -> None:
    """By scraping: an External metric is what the endpoints' own series come to."""

    async def metrics(backend: Backend, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text='requests_waiting{engine="0"} 12\nrequests_waiting{engine="1"} 8\n')

    manifest = yaml.safe_load(PASTED)
    assert manifest["spec"]["offloadingConfig"]["metrics"][0]["external"]["metric"]["selector"]["matchLabels"] is None
    async with http_backend("local", metrics) as local, http_backend("remote") as far:
        manifest["spec"]["offloadingConfig"]["remoteBackend"] = remote(far)
        files = {"a.yaml": [manifest, service(), endpoint_slice(local)]}
        async with running(tmp_path, files, {"metricInformer": {"type": "endpoints"}}) as stack:
            await stack.until_programmed()
            async with undisturbed(stack):
                assert (await overflowing(stack))["metrics"][0]["value"] == 20
                assert (await stack.status())["problems"] == []


async def test_kinds_that_are_not_for_us_are_skipped_with_a_note(tmp_path: Path) -> None:
    tool = {"apiVersion": "deployment.beamlit.com/v1alpha1", "kind": "ToolDeployment", "metadata": {"name": "x"}}
    other = {"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "x"}}
    async with one_model(tmp_path, None, tool, other) as (stack, _, _), undisturbed(stack):
        notes = [line for line in map(json.loads, stack.log.splitlines()) if line["message"].startswith("skipped")]
        assert len(notes) == 2
        for note, what in zip(notes, ("ToolDeployment (deployment.beamlit.com/v1alpha1)", "Gadget"), strict=True):
            assert what in note["message"]
            assert "objects.yaml" in json.dumps(note)
        assert (await stack.status())["problems"] == []
