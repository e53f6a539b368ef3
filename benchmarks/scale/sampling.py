"""The real controller in a process of its own, with a sample for every model every five seconds.

    python -m benchmarks.scale.sampling MANIFESTS STATE

says its xDS port in a line of JSON. For each line that it is sent, `{"do": "play", "seconds": number}`, it plays
samples for so long, and says what it measured (`Measured`).
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.scale.controller import Driveable, arguments, attend, say
from controller.events import Effect, Event, Observed, Publish
from controller.main import RunOptions
from controller.metrics import Value
from controller.offload import PPM
from controller.settings import Settings
from controller.telemetry import configure_logging

INTERVAL_S = 5.0
GROUP_S = 0.01
"""Samples come in groups, this far apart: all of a group are due at once."""
TARGET = 4.0
CALM = 0.5
"""Demand on most models: the metric over its target, if all requests stay local."""
BUSY_EVERY = 20
"""One model in so many has a demand that wanders, from one sample to the next ..."""
STEP = 0.1
"""... by up to this much, either way ..."""
LEAST, MOST = 0.4, 2.0
"""... and between these."""


@dataclass(slots=True)
class Measured:
    """`lags_ms`: of each sample, from when it was due until all that came of it was carried out. `changes`: routes that
    were published.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    changes: int = 0
    lags_ms: list[float] = field(default_factory=list)


class Sampled(Driveable):
    """A controller that gives itself samples, and keeps what became of them."""

    def __init__(self, options: RunOptions, settings: Settings) -> None:
        super().__init__(options, settings)
        self.measured = Measured()
        self._demands: dict[str, float] = {}
        self._due_s: deque[float] = deque()
        self._taken_s: list[float] = []

    async def obey(self, line: Any) -> None:
        say(**asdict(await self.play(line["seconds"])))

    async def play(self, duration_s: float) -> Measured:
        """Samples for every model in turn, evenly over each interval."""
        keys = list(self.engine.records)
        self._demands = self._demands or {key: random.uniform(LEAST, MOST) for key in keys[::BUSY_EVERY]}
        self.measured = measured = Measured()
        began_s, began_cpu_s, given = time.monotonic(), time.process_time(), 0
        for group in range(1, int(duration_s / GROUP_S) + 1):
            due_s = began_s + group * GROUP_S
            await asyncio.sleep(due_s - time.monotonic())
            until = int(len(keys) * group * GROUP_S / INTERVAL_S)
            for number in range(given, until):
                self._sample(keys[number % len(keys)], due_s)
            given = until
        await asyncio.sleep(GROUP_S)
        measured.wall_s, measured.cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
        return measured

    def _sample(self, key: str, due_s: float) -> None:
        """Queues what a metric of the model's own replicas says: of its demand, the part that stays local."""
        record = self.engine.records[key]
        query = record.gauges[0].query
        assert query is not None
        demand = CALM
        if key in self._demands:
            wandered = self._demands[key] + random.uniform(-STEP, STEP)
            demand = self._demands[key] = min(MOST, max(LEAST, wandered))
        stays = 1 - record.decision.share_ppm / PPM
        self._due_s.append(due_s)
        self.queue.put_nowait(Observed(query, Value(TARGET * demand * stays)))

    def _count(self, event: Event) -> None:
        super()._count(event)
        if isinstance(event, Observed):
            self._taken_s.append(self._due_s.popleft())

    def carry_out(self, effects: Sequence[Effect]) -> None:
        super().carry_out(effects)
        now_s = time.monotonic()
        self.measured.lags_ms += [(now_s - due_s) * 1000 for due_s in self._taken_s]
        self._taken_s.clear()
        self.measured.changes += sum(len(each.update.routes) for each in effects if isinstance(each, Publish))


if __name__ == "__main__":
    configure_logging("info", "json")
    asyncio.run(attend(Sampled(*arguments(*map(Path, sys.argv[1:])))))
