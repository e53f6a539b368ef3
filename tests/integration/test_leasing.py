"""A limit over two real gateways: the busy one borrows what the idle one has, and gives it back, whatever dies."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.integration.objects import Json, endpoint_slice, model, remote, service
from tests.support.backends import Backend, hold, http_backend
from tests.support.envoy import Envoy, bootstrap
from tests.support.envoy import running as gateway
from tests.support.stack import Stack, eventually, running

pytestmark = pytest.mark.integration

TOTAL = 8
KEY = "circuit_breakers.local/default/llama.default.max_requests"


async def limit(envoy: Envoy) -> int:
    """What this gateway keeps to now."""
    entries: dict[str, Json] = json.loads(await envoy.ask("/runtime"))["entries"]
    return int(entries[KEY]["final_value"]) if KEY in entries else TOTAL


async def limits(*envoys: Envoy) -> list[int]:
    return [await limit(each) for each in envoys]


class Callers:
    """Requests that last until the test ends, through one gateway; what does not fit leaves at once."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._held: set[asyncio.Task[None]] = set()

    async def add(self, envoy: Envoy) -> None:
        address, port = await envoy.listener("front")

        async def ask() -> None:
            async with self._session.get(f"http://{address}:{port}/", headers={"host": "llama"}) as answer:
                assert answer.status == 200

        task = asyncio.create_task(ask())
        self._held.add(task)
        await asyncio.wait([task], timeout=0.05)
        self._held = {each for each in self._held if not each.done()}

    async def leave(self) -> None:
        for task in self._held:
            task.cancel()
        await asyncio.gather(*self._held, return_exceptions=True)
        self._held.clear()


@asynccontextmanager
async def two_gateways(directory: Path) -> AsyncIterator[tuple[Stack, Envoy, Envoy, Backend, Callers]]:
    async with http_backend("local", hold) as local, http_backend("remote") as far:
        offloading: Json = {"localLimit": {"maxConcurrentRequestsPerReplica": TOTAL}, "remoteBackend": remote(far)}
        files = {"a.yaml": [service(), endpoint_slice(local), model(**offloading)]}
        async with running(directory, files, arguments=["--no-envoy"]) as stack, aiohttp.ClientSession() as session:
            port = int(stack.addresses["xds"].rpartition(":")[2])
            async with (
                gateway(directory / "busy", bootstrap(port, "busy")) as busy,
                gateway(directory / "idle", bootstrap(port, "idle")) as idle,
            ):
                callers = Callers(session)

                async def divided() -> bool:
                    return await limits(busy, idle) == [TOTAL // 2, TOTAL // 2]

                await eventually(divided, "half of the limit for each")
                try:
                    yield stack, busy, idle, local, callers
                finally:
                    local.gate.set()
                    await callers.leave()


async def test_the_busy_gateway_borrows_and_all_is_given_back_when_the_control_plane_dies(tmp_path: Path) -> None:
    async with two_gateways(tmp_path) as (stack, busy, idle, local, callers):

        async def borrowed() -> bool:
            await callers.add(busy)
            assert local.in_flight <= TOTAL
            return local.in_flight == TOTAL - 1

        await eventually(borrowed, "all slots but one at the busy gateway")
        assert await limits(busy, idle) == [TOTAL - 1, 1]

        await stack.stop(signal.SIGKILL)

        async def ended() -> bool:
            return await limit(busy) == TOTAL // 2

        await eventually(ended, "the end of what was borrowed")
        assert await limit(idle) == 1, "what was lent is taken back later, when the borrower's requests have ended"
        assert local.in_flight == TOTAL - 1, "nothing is cut"

        stack.start()
        await stack.ready()

        async def borrowed_again() -> bool:
            await callers.add(busy)
            assert local.in_flight <= TOTAL
            return await limits(busy, idle) == [TOTAL - 1, 1]

        await eventually(borrowed_again, "the same division after the restart")


async def test_without_load_both_have_their_half_again(tmp_path: Path) -> None:
    async with two_gateways(tmp_path) as (_, busy, idle, local, callers):

        async def borrowed() -> bool:
            await callers.add(busy)
            return await limit(busy) > TOTAL // 2

        await eventually(borrowed, "a borrower")
        await callers.leave()

        async def needed_there() -> bool:
            await callers.add(idle)
            assert local.in_flight <= TOTAL
            return await limit(idle) > TOTAL // 2

        await eventually(needed_there, "the other way round")
