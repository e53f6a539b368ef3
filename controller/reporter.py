"""Shell: keeps each ModelDeployment's status true, without writing more than there is to say.

Statuses are made for models that were touched, a few times a second at most. One in which nothing is new but the values
of metrics or the number of replicas waits its turn: those change with every sample and pod, and nobody waits. That
gateways have not answered yet is so for some milliseconds after each change of endpoints, and is told only of those
that take longer.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from controller.adapters.kubernetes.source import Seen
from controller.engine import Engine
from controller.events import Kind, Refused
from controller.kube_status import (
    RESTLESS_FIELDS,
    Json,
    Times,
    are_only_unanswered,
    document,
    refused_document,
)
from controller.record import Record
from controller.status import Condition, conditions, refused_conditions

EVERY_S = 0.25
RESTLESS_EVERY_S = 15.0
RESTLESS_AT_ONCE = 5
"""20 a second, however many models there are: each costs the API server as much as one that matters."""

ANSWER_S = 5.0
"""How long gateways may take to answer, or to come back, before a status says that they have not."""


class Writer(Protocol):
    def put(self, key: str, uid: str, status: Mapping[str, object]) -> None: ...
    def forget(self, key: str) -> None: ...


class Reporter:
    """`models`: those that exist, by key. `workspace`: what $workspace stands for, None: a model's namespace. At first
    it is paused.
    """

    def __init__(
        self,
        engine: Engine,
        models: Mapping[str, Seen],
        writer: Writer,
        workspace: str | None,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._models = models
        self._writer = writer
        self._workspace = workspace
        self._clock = clock
        self._paused = True
        self._marked: set[str] = set()
        self._written: dict[str, tuple[str, Json, float]] = {}
        """Per key the uid, the last status, and when it was handed on."""
        self._due_s: dict[str, float] = {}
        """Whose turn comes when: those in which something restless is new."""
        self._unanswered_s: dict[str, float] = {}
        """Since when gateways have not answered, where nobody has been told so."""

    def mark(self, keys: Iterable[str]) -> None:
        """Something about these models may have changed."""
        self._marked.update(keys)

    def repair(self, key: str) -> None:
        """Somebody else has written this model's status."""
        self._forget(key)
        self._marked.add(key)

    def resume(self) -> None:
        """Reports from now on; what others wrote meanwhile is not known."""
        self._paused = False
        self._written.clear()
        self._due_s.clear()
        self._unanswered_s.clear()
        self._marked.update(self._models)

    def pause(self) -> None:
        """Reports nothing from now on."""
        self._paused = True

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            self.report()

    def report(self) -> None:
        """Hands on what is new."""
        if self._paused:
            return
        now = self._clock()
        marked, self._marked = self._marked, set()
        overdue = {key for key, since_s in self._unanswered_s.items() if now >= since_s + ANSWER_S}
        for key in marked | overdue:
            self._report(key, now)
        due = ((at_s, key) for key, at_s in self._due_s.items() if at_s <= now)
        for _, key in heapq.nsmallest(RESTLESS_AT_ONCE, due):
            self._report(key, now, is_due=True)

    def _report(self, key: str, now: float, *, is_due: bool = False) -> None:
        seen = self._models.get(key)
        if seen is None:
            self._forget(key)
            return
        uid, last, at_s = self._written.get(key, (seen.uid, dict(seen.status), 0.0))
        before = last if uid == seen.uid else {}
        status = self._status(key, before, now)
        if status is not None and status != before and not is_due and _at_rest(status) == _at_rest(before):
            self._due_s.setdefault(key, at_s + RESTLESS_EVERY_S)
            return
        self._due_s.pop(key, None)
        if status is not None and status != before:
            self._written[key] = seen.uid, status, now
            self._writer.put(key, seen.uid, status)

    def _forget(self, key: str) -> None:
        self._written.pop(key, None)
        self._due_s.pop(key, None)
        self._unanswered_s.pop(key, None)
        self._writer.forget(key)

    def _status(self, key: str, before: Json, now: float) -> Json | None:
        """None while nothing is known of the model."""
        engine = self._engine
        refused = engine.refused.get((Kind.MODEL_DEPLOYMENT, key))
        if record := engine.records.get(key):
            found = self._conditions(record, refused, before, now)
            times = Times(time_text(now), time_text(record.decision.since_s))
            return document(record, found, before, self._workspace, times)
        return refused_document(refused_conditions(refused), before, time_text(now)) if refused else None

    def _conditions(self, record: Record, refused: Refused | None, before: Json, now: float) -> list[Condition]:
        gateways = self._engine.gateways.connected
        found = conditions(record, refused, gateways, now)
        since_s = self._unanswered_s.pop(record.key, now)
        if are_only_unanswered(found, before):
            self._unanswered_s[record.key] = since_s
            if now < since_s + ANSWER_S:
                return conditions(record, refused, gateways, now, patient=True)
        return found


def time_text(at_s: float) -> str:
    """Kubernetes' form of a time, which has no fractions."""
    return datetime.fromtimestamp(int(at_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _at_rest(status: Json) -> Json:
    return {name: value for name, value in status.items() if name not in RESTLESS_FIELDS}
