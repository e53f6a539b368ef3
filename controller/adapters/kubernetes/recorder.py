"""Shell: what is announced of models, as Kubernetes Events, which `kubectl describe` shows beneath them.

Events are for people, so nothing waits for them: they are written one after the other, what fails a few times is given
up, and while more come than can be written the oldest are dropped.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from controller.adapters.host import steady_clock
from controller.adapters.kubernetes.client import ApiError, Cluster, micro_time, path_of
from controller.api import MODEL_API_VERSION
from controller.correlation import Correlator, Happening
from controller.events import Announce, Kind
from controller.objects import MANAGER
from controller.refresh import Pace, next_retry_s

WAITING = 1_000
"""Events that wait for an API server that is slow or away."""
ATTEMPTS = 5
PACE = Pace(first_retry_s=1.0, longest_retry_s=15.0)

log = logging.getLogger(__name__)

_MESSAGE_BYTES = 1_000  # the API refuses more than 1,024
_NAME_MAX = 253


class Recorder:
    """Writes Events while `run` runs. `clock`: seconds since the epoch."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        clock: Callable[[], float] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._cluster = cluster
        self._clock = clock or steady_clock()
        self._jitter = jitter
        self._correlator = Correlator()
        self._waiting: deque[Happening] = deque(maxlen=WAITING)
        self._some = asyncio.Event()
        self._trouble = ""

    def record(self, uid: str, what: Announce) -> None:
        """Has it written as an Event of the ModelDeployment that has this uid."""
        if happening := self._correlator.take(uid, what, self._clock()):
            self._waiting.append(happening)
            self._some.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                await self._write(self._waiting.popleft())

    async def _write(self, happening: Happening) -> None:
        for failures in range(1, ATTEMPTS + 1):
            try:
                await self._attempt(happening)
            except ApiError as error:
                self._complain(error)
                if error.is_refusal:
                    return  # it will be refused again
                await asyncio.sleep(next_retry_s(PACE, failures, self._jitter()))
            else:
                self._trouble = ""
                return

    async def _attempt(self, happening: Happening) -> None:
        event = event_of(happening)
        path = path_of("v1", "events", event["metadata"]["namespace"])
        if happening.count > 1:
            news = {name: event[name] for name in ("count", "lastTimestamp")}
            try:
                await self._cluster.merge_patch(f"{path}/{event['metadata']['name']}", news)
            except ApiError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
            else:
                return
        try:
            await self._cluster.create(path, event)
        except ApiError as error:
            if error.reason != "AlreadyExists":  # of an attempt whose answer was lost
                raise

    def _complain(self, error: ApiError) -> None:
        """Once for each trouble."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.warning("an Event could not be written: %s", error)


def event_of(happening: Happening) -> dict[str, Any]:
    """The core/v1 Event. Its name is the same each time it is counted up."""
    what = happening.what
    namespace, _, name = what.model.partition("/")
    content = f"{happening.uid} {what.reason} {what.message} {happening.first_s}"
    digest = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    return {
        "metadata": {"name": f"{name[: _NAME_MAX - len(digest) - 1]}.{digest}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": MODEL_API_VERSION,
            "kind": str(Kind.MODEL_DEPLOYMENT),
            "namespace": namespace,
            "name": name,
            "uid": happening.uid,
        },
        "type": "Warning" if what.warning else "Normal",
        "reason": what.reason,
        "message": what.message.encode()[:_MESSAGE_BYTES].decode(errors="ignore"),
        "count": happening.count,
        "firstTimestamp": micro_time(happening.first_s),
        "lastTimestamp": micro_time(happening.last_s),
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
    }
