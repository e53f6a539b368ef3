"""A remote that fails is given no share, and gets it back when it works again. With a real Envoy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.objects import PODS_METRIC, Json, Queue, endpoint_slice, model, remote, service
from tests.support.backends import Backend, echo, hold, http_backend, status
from tests.support.stack import Reply, Stack, eventually, running

pytestmark = pytest.mark.integration


def manifests(local: Backend, far: Backend, **more: object) -> dict[str, list[Json]]:
    offloading: Json = {"remoteBackend": remote(far), "metrics": [PODS_METRIC], **more}
    return {"a.yaml": [service(), endpoint_slice(local), model(**offloading)]}


async def ask(stack: Stack, times: int = 1) -> list[Reply]:
    return [await stack.ask("llama", method="POST", data=b"{}") for _ in range(times)]


async def asked_until(stack: Stack, share_ppm: int) -> Json:
    """Callers ask all the time, until the share is in force; the status then."""
    found: Json = {}

    async def there() -> bool:
        nonlocal found
        await ask(stack)
        found = await stack.model()
        return bool(found["share_ppm"] == share_ppm and found["conditions"][2]["status"] == "True")

    await eventually(there, f"share {share_ppm}")
    return found


async def all_from(stack: Stack, destination: str) -> None:
    """Waits until thirty requests in a row were served there."""

    async def served() -> bool:
        return {(reply.status, reply.destination) for reply in await ask(stack, 30)} == {(200, destination)}

    await eventually(served, f"all from {destination}")


async def test_a_remote_that_answers_503_loses_its_share_and_gets_it_back_when_it_recovers(tmp_path: Path) -> None:
    queue = Queue(20)
    async with (
        http_backend("local", queue.behaviour()) as local,
        http_backend("remote") as far,
        running(tmp_path, manifests(local, far), module="tests.support.impatient") as stack,
    ):
        await asked_until(stack, 500_000)

        far.behave = status(503)
        found = await asked_until(stack, 0)
        await all_from(stack, "local")
        assert (found["state"], found["remotes"][0]["ready"]) == ("Overflowing", False)
        assert "No remote can take requests, so they stay local." in found["message"]
        said = "requests to it failed; it is tried again after 3 s"
        assert said in found["remotes"][0]["reason"]
        assert [said in each["message"] for each in found["conditions"] if each["type"] == "RemoteReady"] == [True]
        assert "RemoteUnhealthy" in stack.log

        far.behave = echo
        await asked_until(stack, 500_000)
        hits = far.hits
        assert {reply.status for reply in await ask(stack, 30)} == {200}
        assert far.hits > hits


async def test_an_unhealthy_remote_is_a_full_locals_last_resort_and_one_success_brings_its_share_back(
    tmp_path: Path,
) -> None:
    queue = Queue(20)
    async with http_backend("local", queue.behaviour()) as local, http_backend("remote", status(503)) as far:
        files = manifests(local, far, localLimit={"maxConcurrentRequestsPerReplica": 2})
        async with running(tmp_path, files) as stack:
            await stack.until(lambda m: m["share_ppm"] == 500_000)
            await asked_until(stack, 0)
            await all_from(stack, "local")

            far.behave, local.behave = echo, queue.behaviour(hold)
            before = local.hits
            held = [asyncio.create_task(stack.ask("llama")) for _ in range(2)]

            async def full() -> bool:
                return local.hits == before + 2

            await eventually(full, "local is full")
            (reply,) = await ask(stack)
            assert (reply.status, reply.destination) == (200, "remote-0")
            await stack.until(lambda m: m["share_ppm"] == 500_000)
            local.gate.set()
            assert {(await each).destination for each in held} == {"local"}


async def test_with_local_down_an_unhealthy_remote_is_still_asked(tmp_path: Path) -> None:
    queue = Queue(20)
    async with http_backend("local", queue.behaviour()) as local, http_backend("remote", status(503)) as far:
        files = manifests(local, far, retry={"attempts": 0})
        async with running(tmp_path, files) as stack:
            await stack.until(lambda m: m["share_ppm"] == 500_000)
            await asked_until(stack, 0)
            stack.write("a.yaml", *[each for each in files["a.yaml"] if each["kind"] != "EndpointSlice"])
            stack.write("b.yaml", endpoint_slice(local, ready=False))
            await stack.until(lambda m: m["state"] == "Failover" and m["share_ppm"] == 1_000_000)
            far.behave = echo
            await all_from(stack, "remote-0")
