"""Shell: events that come one by one, told together.

What a change costs is mostly what is done once, however many changes there are: waking up, deciding, a response to each
gateway and its answer. Pods come and go in crowds, so after a burst was told, what comes waits until `GAP_S` have
passed. What comes alone is told at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from controller.events import Event

GAP_S = 0.025
"""Kubernetes' own controllers take longer to say that a pod is there."""


class Bursts:
    """In the order in which they came."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._waiting: list[Event] = []
        self._gap: asyncio.TimerHandle | None = None

    def add(self, event: Event) -> None:
        self._waiting.append(event)
        if self._gap is None:
            self.tell()

    def tell(self) -> None:
        """All that waits, now."""
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self._emit(event)
        if self._gap:
            self._gap.cancel()
        self._gap = asyncio.get_running_loop().call_later(GAP_S, self.tell) if waiting else None
