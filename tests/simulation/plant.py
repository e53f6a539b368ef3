"""What is controlled: a load, local replicas with a capacity and a queue, and a metric that tells of them.

Amounts are in units of what local can serve in a second. Local serves up to 1 a second and queues the rest.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

Load = Callable[[float], float]
"""What is offered each second, by the seconds since the start."""


def steady(level: float) -> Load:
    return lambda _: level


def bursts(low: float, high: float, on_s: float, off_s: float) -> Load:
    """Calm first."""
    return lambda t: low if t % (on_s + off_s) < off_s else high


def diurnal(low: float, high: float, period_s: float) -> Load:
    """From the low point up and down again."""
    return lambda t: low + (high - low) * (1 - math.cos(2 * math.pi * t / period_s)) / 2


class Kind(StrEnum):
    """What the metric counts: arrivals over capacity; busy slots, at most its capacity; seconds of waiting work."""

    UTILISATION = "Utilisation"
    RUNNING = "Running"
    QUEUE = "Queue"


@dataclass(frozen=True, slots=True)
class Signal:
    """How the metric tells of local. `target`: what ratio 1 is. `lost`: the probability that a sample does not come."""

    kind: Kind = Kind.UTILISATION
    target: float = 1.0
    every_s: int = 1
    window_s: int = 1
    lag_s: int = 0
    noise: float = 0.0
    lost: float = 0.0


@dataclass(slots=True)
class Local:
    """The model's own replicas. `limited`: what exceeds the capacity is turned away instead of queued."""

    limited: bool = False
    up: bool = True
    queue: float = 0.0
    arrived: float = 0.0
    served: float = 0.0

    def room(self) -> float:
        """What may still arrive in this second."""
        return (1.0 - self.arrived if self.limited else math.inf) if self.up else 0.0

    def work(self) -> float:
        """Ends a second. Returns what was dropped: an outage takes the queue with it."""
        if not self.up:
            dropped, self.queue, self.served = self.queue, 0.0, 0.0
            return dropped
        self.queue += self.arrived
        self.served = min(self.queue, 1.0)
        self.queue -= self.served
        return 0.0


class Meter:
    """Samples local through a Signal."""

    def __init__(self, signal: Signal, rng: random.Random) -> None:
        self.signal = signal
        self._rng = rng
        self._values: deque[float] = deque(maxlen=signal.window_s + signal.lag_s)

    def record(self, local: Local) -> None:
        value = {Kind.UTILISATION: local.arrived, Kind.RUNNING: local.served, Kind.QUEUE: local.queue}[self.signal.kind]
        self._values.append(value / self.signal.target)

    def sample(self) -> float | None:
        """The ratio now, None if the sample is lost or nothing was recorded that long ago."""
        window = list(self._values)[: self.signal.window_s]
        if not window or self._rng.random() < self.signal.lost:
            return None
        return max(0.0, sum(window) / len(window) * (1 + self._rng.gauss(0, self.signal.noise)))
