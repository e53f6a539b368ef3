"""Pure: the play of the demo: how much load when, how big local is, and how it overflows.

Bursts ask for about twice what local can carry; calm phases leave it nearly idle for longer than it takes to return, so
that the second burst is a new overflow and not the first one going on. A run is at most two minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from controller.demo.workload import Phase, Timing, shape
from controller.simulate.workload import Arrival

LOCAL = Timing(base_s=0.0, context_token_s=0.000_15, token_s=0.025)
REMOTE = Timing(base_s=0.5, context_token_s=0.000_1, token_s=0.025)
MODEL = "demo-model"
SLOW_S = 2.0
"""A user who waits longer than this for the first token, at the trace's own speed, counts as having waited."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`speed`: how many times faster than recorded. `target`: of vllm:num_requests_running, of `slots`."""

    phases: tuple[Phase, ...]
    buffer_s: int
    overflows: int
    speed: float = 4.0
    slots: int = 16
    target: int = 12
    percentage: int = 80
    activation_s: int = 2
    interval_s: int = 2
    max_step_percentage: int = 30

    @property
    def local(self) -> Timing:
        return LOCAL.at_speed(self.speed)

    @property
    def remote(self) -> Timing:
        return REMOTE.at_speed(self.speed)

    @property
    def slow_s(self) -> float:
        """`SLOW_S` in seconds of the run."""
        return SLOW_S / self.speed

    @property
    def length_s(self) -> float:
        return sum(phase.length_s for phase in self.phases)

    def requests(self, trace: Iterable[Arrival]) -> tuple[Arrival, ...]:
        return shape(trace, self.speed, self.phases)


LONG = Scenario((Phase(6, 10), Phase(15), Phase(25, 10), Phase(15), Phase(9, 10)), buffer_s=7, overflows=2)
SHORT = Scenario((Phase(2, 10), Phase(8), Phase(7, 10)), buffer_s=4, overflows=1)
