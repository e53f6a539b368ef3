"""Shell: writes the statuses of ModelDeployments: of each the newest, at most once a second, and nothing twice.

Server-side apply makes the status ours as a whole: a field that is no longer in it goes away. What fails is tried again
with pauses; what was put meanwhile takes its place.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from controller.adapters.kubernetes.client import ApiError, Cluster, path_of
from controller.adapters.kubernetes.work_queue import WorkQueue
from controller.api import MODEL_API_VERSION
from controller.events import Kind
from controller.refresh import Pace, next_retry_s

AT_ONCE = 8
"""Writes on their way at the same time: half of what the client lets go, so that others get through."""
EVERY_S = 1.0
"""Between two writes of one status."""
FLUSH_S = 5.0
PACE = Pace(first_retry_s=0.5, longest_retry_s=10.0)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Status:
    uid: str
    fields: Mapping[str, object]


@dataclass(slots=True)
class _Past:
    """What was done for an object. `not_before_s`: when it may be written again, in the loop's time."""

    written: _Status | None = None
    not_before_s: float = 0.0
    failures: int = 0


class StatusWriter:
    """Writes while `run` runs and between `resume` and `pause`. At first it is paused."""

    def __init__(self, cluster: Cluster, *, jitter: Callable[[], float] = random.random) -> None:
        self._cluster = cluster
        self._jitter = jitter
        self._queue: WorkQueue[str] = WorkQueue(self._work, AT_ONCE)
        self._wanted: dict[str, _Status] = {}
        self._past: dict[str, _Past] = {}
        self._on_their_way: set[asyncio.Task[None]] = set()
        self._all_written = asyncio.Event()
        self._paused = True
        self._trouble = ""

    def put(self, key: str, uid: str, status: Mapping[str, object]) -> None:
        """Has this written as the object's status, in place of what was put before. Paused: forgets it.

        `uid`: an object that was made anew has nothing of what was written before. The API server does not look at it:
        only the status of what is written there counts.
        """
        if not self._paused:
            self._wanted[key] = _Status(uid, status)
            self._queue.add(key)

    def forget(self, key: str) -> None:
        """There is no such object any more."""
        self._past.pop(key, None)
        self._drop(key)

    def pause(self) -> None:
        """Writes nothing from now on. What others write meanwhile is not known, so nothing is known afterwards."""
        self._paused = True
        for task in self._on_their_way:
            task.cancel()
        self._queue.clear()
        self._past.clear()
        self._wanted.clear()
        self._all_written.set()

    def resume(self) -> None:
        self._paused = False

    async def run(self) -> None:
        """Until it is cancelled."""
        await self._queue.run()

    async def flush(self) -> None:
        """Writes what is wanted without pauses, for `FLUSH_S` at most, while `run` runs."""
        if not self._wanted:
            return
        self._all_written.clear()
        for key in self._wanted:
            self._past.pop(key, None)
            self._queue.add(key)
        try:
            async with asyncio.timeout(FLUSH_S):
                await self._all_written.wait()
        except TimeoutError:
            log.warning("%d statuses could not be written before the end", len(self._wanted))

    async def _work(self, key: str) -> None:
        """Writes what is wanted of an object, or has it looked at again when it may be written."""
        if (status := self._wanted.get(key)) is None:
            return
        past = self._past.setdefault(key, _Past())
        wait_s = past.not_before_s - asyncio.get_running_loop().time()
        if status == past.written:
            self._drop(key)
        elif wait_s > 0:
            self._queue.add_later(key, wait_s)
        else:
            await self._attempt(key, status, past)

    async def _attempt(self, key: str, status: _Status, past: _Past) -> None:
        task = asyncio.create_task(self._write(key, status, past))
        self._on_their_way.add(task)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            self._on_their_way.discard(task)
        if not task.cancelled():
            task.result()

    async def _write(self, key: str, status: _Status, past: _Past) -> None:
        namespace, _, name = key.partition("/")
        body = {
            "apiVersion": MODEL_API_VERSION,
            "kind": str(Kind.MODEL_DEPLOYMENT),
            "metadata": {"name": name, "namespace": namespace},
            "status": status.fields,
        }
        try:
            await self._cluster.apply(path_of(MODEL_API_VERSION, "modeldeployments", namespace, name, "status"), body)
        except ApiError as error:
            self._failed(key, past, error)
            return
        self._trouble = ""
        past.written, past.failures = status, 0
        past.not_before_s = asyncio.get_running_loop().time() + EVERY_S
        if self._wanted.get(key) == status:
            self._drop(key)

    def _failed(self, key: str, past: _Past, error: ApiError) -> None:
        if error.status == HTTPStatus.NOT_FOUND:
            self.forget(key)
            return
        past.failures += 1
        pause_s = next_retry_s(PACE, past.failures, self._jitter())
        past.not_before_s = asyncio.get_running_loop().time() + pause_s
        self._queue.add_later(key, pause_s)
        if error.status == 0 or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning("statuses cannot be written for now: %s", error)
        elif past.failures == 1:
            log.warning("the status of %s cannot be written: %s", key, error)

    def _drop(self, key: str) -> None:
        self._wanted.pop(key, None)
        if not self._wanted:
            self._all_written.set()
