"""Shell: who goes first in the one event loop, when there are thousands of streams.

**Telling of a change.** Each time that the loop comes round some streams are woken; in between answers are heard, and
one gateway is let in. Many together cost less, since the threads of gRPC then sleep less often. But while gateways
come, it is a few, or those who come would wait for all who are there.

When changes come faster than all can be told, one queue would not do. First come, first served: a stream that is up to
date waits behind all those that are not, so everybody is late. The other way round, some never hear of anything. So
there are two, with equal parts: *current*, who had been told everything when the change came, in the order in which
they connected, and *late*, who were still waiting.

**Large requests.** Each takes milliseconds, and when the controller restarts every gateway sends some. Each time that
the loop comes round, one has its turn. And few gateways at a time come in at all, from where their first request is
read to where it is worked on: hundreds that were read at once stopped the loop for 0.3 s, and filled the memory. One
that is slow to say something, or far away, is not waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Generic, TypeVar

LARGE_BYTES = 16 << 10

MANY, FEW = 200, 5
"""Streams of either queue that are woken each time that the loop comes round."""

COMING_S = 1.0
"""How long after a gateway has come others are expected."""

COME_IN = 8
"""Gateways whose first request is read and worked on."""

COME_IN_S = 0.2
"""After so long, one does not count among them any more."""

Stream = TypeVar("Stream")


class Turns(Generic[Stream]):
    """`wake` is called for each stream in its turn."""

    def __init__(self, wake: Callable[[Stream], None]) -> None:
        self._wake = wake
        self._current: dict[Stream, None] = {}
        self._late: dict[Stream, None] = {}
        self._large = asyncio.Lock()
        self._coming_until_s = 0.0
        self._door = asyncio.Semaphore(COME_IN)

    def wake_all(self, streams: Iterable[Stream]) -> None:
        """There is something new for all of these."""
        if not self._current and not self._late:
            asyncio.get_running_loop().call_soon(self._wake_some)
        self._late |= self._current
        self._current = {stream: None for stream in streams if stream not in self._late}

    def come(self) -> None:
        """A gateway has come, and perhaps with many others."""
        self._coming_until_s = asyncio.get_running_loop().time() + COMING_S

    def forget(self, stream: Stream) -> None:
        """It has ended."""
        self._current.pop(stream, None)
        self._late.pop(stream, None)

    @asynccontextmanager
    async def door(self) -> AsyncIterator[None]:
        """Around what a gateway does to come in."""
        await self._door.acquire()
        inside = True

        def leave() -> None:
            nonlocal inside
            if inside:
                inside = False
                self._door.release()

        alarm = asyncio.get_running_loop().call_later(COME_IN_S, leave)
        try:
            yield
        finally:
            alarm.cancel()
            leave()

    async def wait(self, size: int) -> None:
        """Until a request of so many bytes may be worked on."""
        if size > LARGE_BYTES:
            async with self._large:
                await asyncio.sleep(0)

    def _wake_some(self) -> None:
        loop = asyncio.get_running_loop()
        together = FEW if loop.time() < self._coming_until_s else MANY
        for queue in (self._current, self._late):
            for stream in list(islice(queue, together)):
                del queue[stream]
                self._wake(stream)
        if self._current or self._late:
            loop.call_soon(self._wake_some)
