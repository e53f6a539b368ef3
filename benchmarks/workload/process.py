"""Processes of a benchmark's own that are talked to over a pipe."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any

STOP_S = 5.0


class Process:
    """A child at work. What it sends is what `target` says it sends."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def send(self, message: object) -> None:
        self._pipe.send(message)

    async def receive(self) -> Any:
        """What it sends next. Raises EOFError if it ended instead; its own words are on standard error."""
        return await asyncio.to_thread(self._pipe.recv)


@asynccontextmanager
async def running(target: Callable[..., None], *arguments: object) -> AsyncIterator[Process]:
    """Runs `target(pipe, *arguments)` in a new process, which sees EOFError on its pipe when the block ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_undisturbed, args=(target, theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Process(ours)
    finally:
        ours.close()
        await asyncio.to_thread(process.join, STOP_S)
        if process.is_alive():
            process.kill()


def _undisturbed(target: Callable[..., None], *arguments: object) -> None:
    """Without the collector of cycles, which stopped a process for 0.1 s; a run is too short to need it."""
    gc.disable()
    target(*arguments)
