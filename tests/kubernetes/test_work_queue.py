"""Keys and who works on them."""

from __future__ import annotations

import asyncio

import pytest

from controller.adapters.kubernetes.work_queue import WorkQueue
from tests.kubernetes.tasks import running, until


class Work:
    """What was begun, in order, and how many at once; each waits for `go`."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.at_once: list[set[str]] = []
        self.go = asyncio.Event()
        self._busy: set[str] = set()

    async def __call__(self, key: str) -> None:
        assert key not in self._busy
        self._busy.add(key)
        self.begun.append(key)
        self.at_once.append(set(self._busy))
        await self.go.wait()
        self._busy.discard(key)


async def test_a_key_that_is_added_twice_is_worked_on_once() -> None:
    work = Work()
    work.go.set()
    queue = WorkQueue(work, 1)
    for key in ("a", "b", "a"):
        queue.add(key)
    async with running(queue.run()):
        await until(lambda: len(work.begun) == 2)
        queue.add("c")
        await until(lambda: "c" in work.begun)
    assert work.begun == ["a", "b", "c"]


async def test_a_key_that_changes_while_it_is_worked_on_is_worked_on_again_afterwards() -> None:
    work = Work()
    queue = WorkQueue(work, 2)
    queue.add("a")
    async with running(queue.run()):
        await until(lambda: work.begun == ["a"])
        queue.add("a")
        queue.add("a")
        queue.add("b")
        await until(lambda: work.begun == ["a", "b"])
        work.go.set()
        await until(lambda: work.begun == ["a", "b", "a"])
    assert work.at_once[1] == {"a", "b"}


async def test_no_more_is_begun_than_there_are_workers() -> None:
    work = Work()
    queue = WorkQueue(work, 2)
    for key in "abcde":
        queue.add(key)
    async with running(queue.run()):
        await until(lambda: len(work.begun) == 2)
        work.go.set()
        await until(lambda: len(work.begun) == 5)
    assert max(map(len, work.at_once)) == 2


async def test_later_is_replaced_by_later_and_by_now() -> None:
    work = Work()
    work.go.set()
    queue = WorkQueue(work, 1)
    async with running(queue.run()):
        queue.add_later("a", 3_600)
        queue.add_later("a", 0)
        await until(lambda: work.begun == ["a"])
        queue.add_later("a", 3_600)
        queue.add("a")
        await until(lambda: work.begun == ["a", "a"])
        queue.add_later("b", 0)
        queue.clear()
        queue.add_later("c", 0)
        await until(lambda: "c" in work.begun)
    assert "b" not in work.begun


async def test_a_failure_ends_it() -> None:
    async def fail(key: str) -> None:
        raise ZeroDivisionError(key)

    queue = WorkQueue(fail, 1)
    queue.add("a")
    with pytest.raises(ExceptionGroup):
        await queue.run()
