"""The simulated model servers, asked as clients of the OpenAI API and of vLLM's metrics ask."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from controller.demo.models import ModelOptions, ModelServer
from controller.demo.workload import Timing

FAST = Timing(base_s=0.0, context_token_s=0.0, token_s=0.001)
SLOW = Timing(base_s=0.0, context_token_s=0.0, token_s=0.05)

Start = Callable[[ModelOptions], Awaitable[str]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a model server and returns its base URL."""
    servers = []

    async def started(options: ModelOptions) -> str:
        servers.append(ModelServer(options))
        return f"http://127.0.0.1:{await servers[-1].start()}"

    yield started
    for server in servers:
        await server.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def options(**changes: Any) -> ModelOptions:
    return ModelOptions(**{"name": "m", "slots": 2, "timing": FAST, **changes})


def chat(prompt: str = "one two three", tokens: int = 5, **rest: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, **rest}


async def metrics(client: aiohttp.ClientSession, url: str) -> dict[str, float]:
    async with client.get(f"{url}/metrics") as response:
        families = text_string_to_metric_families(await response.text())
        return {s.name: s.value for f in families for s in f.samples if s.labels.get("model_name") == "m"}


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await reached():
            await asyncio.sleep(0.01)


async def test_a_completion_has_the_tokens_asked_for(start: Start, client: aiohttp.ClientSession) -> None:
    url = await start(options())

    async with client.post(f"{url}/v1/chat/completions", json=chat()) as response:
        body = await response.json()

    assert response.status == 200
    assert body["object"] == "chat.completion"
    assert len(body["choices"][0]["message"]["content"].split()) == 5
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


async def test_a_stream_brings_every_token_the_usage_and_an_end(start: Start, client: aiohttp.ClientSession) -> None:
    url = await start(options())
    asked = chat(tokens=250, stream=True, stream_options={"include_usage": True})

    async with client.post(f"{url}/v1/chat/completions", json=asked) as response:
        events = [line[6:] for line in (await response.text()).splitlines() if line.startswith("data: ")]

    assert response.content_type == "text/event-stream"
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert chunks.pop()["usage"]["completion_tokens"] == 250
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len("".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks).split()) == 250
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"][0]["finish_reason"]] == [
        "length"
    ]
    assert 2 <= len(chunks) <= 20, "tokens travel together, and not all at once"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "not JSON"),
        (b"[]", 400, "JSON object"),
        (b'{"model": "other", "messages": [{"role": "user", "content": "x"}]}', 404, "'other' does not exist"),
        (b'{"model": "m"}', 400, "messages"),
        (b'{"model": "m", "messages": [{"role": "user"}]}', 400, "content"),
        (b'{"model": "m", "messages": [{"content": "x"}], "max_tokens": -1}', 400, "max_tokens"),
        (b'{"model": "m", "messages": [{"content": "x"}], "max_tokens": "9"}', 400, "max_tokens"),
    ],
)
async def test_a_bad_request_is_refused_in_openai_s_form(
    start: Start, client: aiohttp.ClientSession, body: bytes, status: int, words: str
) -> None:
    url = await start(options())

    async with client.post(f"{url}/v1/chat/completions", data=body) as response:
        assert response.status == status
        assert words in (await response.json())["error"]["message"]


async def test_the_models_are_listed_and_health_is_told(start: Start, client: aiohttp.ClientSession) -> None:
    url = await start(options())

    async with client.get(f"{url}/v1/models") as listed, client.get(f"{url}/health") as health:
        assert [model["id"] for model in (await listed.json())["data"]] == ["m"]
        assert health.status == 200


async def test_metrics_have_vllm_s_names_and_count_what_happened(start: Start, client: aiohttp.ClientSession) -> None:
    url = await start(options())
    async with client.post(f"{url}/v1/chat/completions", json=chat()) as response:
        await response.read()

    seen = await metrics(client, url)

    assert seen["vllm:prompt_tokens_total"] == 3
    assert seen["vllm:generation_tokens_total"] == 5
    assert seen["vllm:request_success_total"] == 1
    assert seen["vllm:time_to_first_token_seconds_count"] == 1
    assert seen["vllm:num_requests_running"] == seen["vllm:num_requests_waiting"] == 0
    assert seen["vllm:kv_cache_usage_perc"] == seen["vllm:gpu_cache_usage_perc"] == 0


async def test_what_does_not_fit_waits_in_the_order_of_arrival(start: Start, client: aiohttp.ClientSession) -> None:
    url = await start(options(slots=1, timing=SLOW))
    ended: list[int] = []

    async def ask(number: int) -> None:
        async with client.post(f"{url}/v1/chat/completions", json=chat(tokens=1)) as response:
            await response.read()
        ended.append(number)

    async def waiting(count: int) -> bool:
        seen = await metrics(client, url)
        return seen["vllm:num_requests_running"] == 1 and seen["vllm:num_requests_waiting"] == count

    holder = client.post(f"{url}/v1/chat/completions", json=chat(tokens=10_000, stream=True))
    async with asyncio.TaskGroup() as group, holder:
        for number in range(3):
            group.create_task(ask(number))
            await until(partial(waiting, number + 1))

    assert ended == [0, 1, 2]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_gives_its_slot_back(
    start: Start, client: aiohttp.ClientSession, stream: bool
) -> None:
    url = await start(options(slots=1, timing=SLOW))
    asking = asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=chat(tokens=10_000, stream=stream)))

    async def running(count: int) -> bool:
        return (await metrics(client, url))["vllm:num_requests_running"] == count

    await until(lambda: running(1))
    if asking.done():
        (await asking).close()
    else:
        asking.cancel()
        await asyncio.wait([asking])
        if not asking.cancelled():
            asking.result().close()
    await until(lambda: running(0))

    async with client.post(f"{url}/v1/chat/completions", json=chat(tokens=1)) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer good"}, 200),
        ({"Authorization": "bearer good"}, 200),
        ({"Authorization": "Bearer bad"}, 401),
        ({"Authorization": "Basic good"}, 401),
        ({"Authorization": "good"}, 401),
        ({}, 401),
    ],
)
async def test_a_remote_serves_only_who_has_a_valid_token(
    start: Start, client: aiohttp.ClientSession, headers: dict[str, str], status: int
) -> None:
    url = await start(options(prefix="/tenants/a", authorize=lambda token: token == "good"))

    async with client.post(f"{url}/tenants/a/v1/chat/completions", json=chat(), headers=headers) as response:
        assert response.status == status
    async with client.post(f"{url}/v1/chat/completions", json=chat(), headers=headers) as response:
        assert response.status == (404 if status == 200 else 401), "only below its prefix"
    assert "vllm:num_requests_running" in await metrics(client, url)
