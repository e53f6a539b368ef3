"""Tasks by key."""

from __future__ import annotations

import asyncio

import pytest

from controller.adapters.keyed_tasks import KeyedTasks
from controller.adapters.requesting import in_thread
from tests.support.outside import Heard, running


async def test_tasks_start_before_and_while_they_run() -> None:
    heard, tasks = Heard(), KeyedTasks[str]()

    async def early() -> None:
        heard.append("early")

    async def late() -> None:
        heard.append("late")

    tasks.start("early", early)
    async with running(tasks.run()):
        await heard.until(lambda _: heard == ["early"])
        tasks.start("late", late)
        await heard.until(lambda _: heard == ["early", "late"])


async def test_a_key_has_one_task() -> None:
    heard, tasks = Heard(), KeyedTasks[str]()

    async def named(name: str) -> None:
        try:
            heard.append(name)
            await asyncio.Event().wait()
        finally:
            heard.append(f"end of {name}")

    tasks.start("key", lambda: named("first"))
    async with running(tasks.run()):
        await heard.until(len)
        tasks.start("key", lambda: named("second"))
        await heard.until(lambda _: len(heard) == 3)
        assert set(heard) == {"first", "end of first", "second"}
        tasks.stop("key")
        tasks.stop("key")
        await heard.until(lambda _: "end of second" in heard)


async def test_a_stopped_task_never_starts() -> None:
    heard, tasks = Heard(), KeyedTasks[str]()

    async def work(name: str) -> None:
        heard.append(name)

    tasks.start("stopped", lambda: work("stopped"))
    tasks.stop("stopped")
    tasks.start("other", lambda: work("other"))
    async with running(tasks.run()):
        await heard.until(len)
    assert heard == ["other"]


async def test_a_mistake_in_a_task_ends_them_all_and_is_raised() -> None:
    heard, tasks = Heard(), KeyedTasks[str]()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            heard.append("ended")

    async def fail() -> None:
        raise ZeroDivisionError

    tasks.start("waits", wait)
    tasks.start("fails", fail)
    with pytest.RaisesGroup(ZeroDivisionError):
        await tasks.run()
    assert heard == ["ended"]


async def test_what_a_thread_raises_is_raised_where_it_is_awaited() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 / 0, 30)


async def test_a_thread_that_takes_too_long_is_left_alone() -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()

    with pytest.raises(TimeoutError):
        await in_thread(work, 0.05)
    release.set()
