"""A real Envoy as our process: started, adopted, restarted, ended. Its control plane is not there in these tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from controller.adapters import envoy_process
from controller.adapters.envoy_process import EnvoyError, EnvoyOptions, EnvoyProcess, render_bootstrap
from tests.support.binaries import envoy_path

pytestmark = pytest.mark.integration

NOWHERE = "127.0.0.1:1"


def options(directory: Path, listen: str = "127.0.0.1:0") -> EnvoyOptions:
    return EnvoyOptions(directory, xds=NOWHERE, admin_host="127.0.0.1", admin_port=0, listen=listen, drain_s=1)


async def answers(process: EnvoyProcess) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.get(f"http://{process.admin}/ready") as response:
            return response.status in (200, 503)
    return False


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.05)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[EnvoyProcess]:
    envoy_path()
    made = EnvoyProcess(options(tmp_path))
    await made.start()
    await eventually(lambda: answers(made))
    yield made
    await made.stop()


async def test_envoy_ends_and_leaves_nothing_behind(tmp_path: Path) -> None:
    envoy_path()
    process = EnvoyProcess(options(tmp_path))
    await process.start()
    await eventually(lambda: answers(process))
    pid = process.pid
    assert pid is not None
    await process.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not (tmp_path / "envoy.json").exists()


async def test_an_envoy_that_is_killed_is_started_again(process: EnvoyProcess) -> None:
    keeper = asyncio.create_task(process.run())
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)

    async def another() -> bool:
        return process.pid != first and await answers(process)

    await eventually(another)
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)


async def test_the_next_controller_adopts_the_envoy_of_one_that_was_killed(
    process: EnvoyProcess, tmp_path: Path
) -> None:
    successor = EnvoyProcess(options(tmp_path))
    assert await successor.adopt()
    assert successor.pid == process.pid
    assert successor.admin == process.admin
    await successor.stop()
    assert not await answers(process)


async def test_an_envoy_on_other_addresses_is_ended_not_adopted(process: EnvoyProcess, tmp_path: Path) -> None:
    first = process.pid
    assert first is not None
    successor = EnvoyProcess(options(tmp_path, listen="127.0.0.2:0"))
    assert not await successor.adopt()

    async def gone() -> bool:
        return not await answers(process)

    await eventually(gone)


async def test_an_envoy_that_cannot_start_says_its_own_words(tmp_path: Path) -> None:
    envoy_path()
    process = EnvoyProcess(
        EnvoyOptions(tmp_path, xds=NOWHERE, admin_host="203.0.113.1", admin_port=1, listen="127.0.0.1:0")
    )
    await process.start()
    with pytest.raises(EnvoyError, match="cannot bind"):
        await process.listener()
    await process.stop()


async def test_a_pid_that_was_reused_by_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "envoy.json").write_text(
        f'{{"pid": {os.getpid()}, "started": "1", "listen": "127.0.0.1:0", "xds": "{NOWHERE}"}}'
    )
    process = EnvoyProcess(options(tmp_path))
    assert not await process.adopt()
    assert process.pid is None


def test_the_bootstrap_names_the_addresses(tmp_path: Path) -> None:
    text = render_bootstrap(options(tmp_path))
    assert "spillway-standalone" in text
    assert "$" not in text.replace("\\$", "").split("stats_config")[0]


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "envoy", None)
    with pytest.raises(EnvoyError, match="its extra 'standalone'"):
        envoy_process.envoy_path()
