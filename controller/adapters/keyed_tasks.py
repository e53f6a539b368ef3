"""Shell: one long-running task per key, started and stopped by key, before or while `run` runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
Work = Callable[[], Coroutine[Any, Any, None]]


class KeyedTasks(Generic[K]):
    """An exception in a task ends them all, and `run` raises it."""

    def __init__(self) -> None:
        self._work: dict[K, Work] = {}
        self._tasks: dict[K, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def start(self, key: K, work: Work) -> None:
        """Starts the task, in place of the one with the same key."""
        self.stop(key)
        self._work[key] = work
        if self._group is not None:
            self._tasks[key] = self._group.create_task(work())

    def stop(self, key: K) -> None:
        """Cancels the task, if there is one."""
        self._work.pop(key, None)
        if task := self._tasks.pop(key, None):
            task.cancel()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._tasks = {key: group.create_task(work()) for key, work in self._work.items()}
            await asyncio.Event().wait()
