"""Child processes end with the demo, however it ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from controller.demo.children import ChildError, Children, children_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of ours can be run by children too."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(*pids: int) -> None:
    async with asyncio.timeout(30):
        while any(alive(pid) for pid in pids):
            await asyncio.sleep(0.02)


async def test_no_child_and_no_child_of_a_child_outlives_the_block(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        leaver = await children.start("leaver", "tests.demo.leaver", talks=True)
        assert leaver.stdout is not None
        left_behind = int(await leaver.stdout.readline())
        assert alive(left_behind)

    assert leaver.returncode == -signal.SIGTERM
    assert not alive(left_behind)


async def test_what_was_running_before_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        async with Children(tmp_path):
            assert other.pid in children_of(os.getpid())

        assert other.poll() is None


async def test_a_child_that_ends_stops_the_work_and_its_last_words_are_told(tmp_path: Path) -> None:
    worked: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            worked.append("cancelled")

    async with Children(tmp_path) as children:
        await children.start("talker", "this")
        with pytest.raises(ChildError, match=r"the talker ended with status 0; talker: .*honking great idea"):
            await children.while_alive(work())

    assert worked == ["cancelled"]


async def test_the_work_s_own_result_and_errors_come_through(tmp_path: Path) -> None:
    async def answer() -> int:
        return 42

    async def fail() -> int:
        raise ZeroDivisionError

    async with Children(tmp_path) as children:
        await children.start("leaver", "tests.demo.leaver")
        assert await children.while_alive(answer()) == 42
        with pytest.raises(ZeroDivisionError):
            await children.while_alive(fail())


async def test_settings_and_proxies_of_this_terminal_do_not_reach_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SPILLWAY_X", "BEAMLIT_TOKEN", "http_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "foreign")
    async with Children(tmp_path) as children:
        child = await children.start("leaver", "tests.demo.leaver", talks=True)
        assert child.stdout is not None
        await child.stdout.readline()
        environment = Path(f"/proc/{child.pid}/environ").read_bytes()

    assert b"=foreign" not in environment
    assert b"PYTHONPATH=" in environment


async def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = """
import asyncio, json, os, pathlib, sys
from controller.demo.children import Children
async def main():
    async with Children(pathlib.Path(sys.argv[1])) as children:
        child = await children.start("leaver", "tests.demo.leaver", talks=True)
        print(json.dumps([child.pid, int(await child.stdout.readline())]), flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(tmp_path), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child, left_behind = json.loads(await parent.stdout.readline())
    try:
        parent.kill()
        await parent.wait()
        await gone(child)
    finally:
        os.kill(left_behind, signal.SIGKILL)  # the test's own: a controller ends its Envoy when it gets the signal
