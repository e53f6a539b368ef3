"""Waiting for what happens elsewhere, and tasks that run only as long as they are needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any

DEADLINE_S = 60.0


async def until(condition: Callable[[], object]) -> None:
    """Polls; a condition that has to be awaited is."""
    async with asyncio.timeout(DEADLINE_S):
        while not (await held if isawaitable(held := condition()) else held):
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Runs what never ends by itself. Raises what it raised."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
