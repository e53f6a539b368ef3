"""Pure: what the demo asks for and what it costs: the phases of its load, and how long a model takes.

Times are seconds. A trace that is played faster has its costs divided by the same number, so that as many requests are
in flight as there were when it was recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from controller.simulate.workload import Arrival


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of `length_s` seconds of the run, in which one request of `one_of` is kept."""

    length_s: float
    one_of: int = 1


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a model takes: the first token comes after `base_s` and the context, every token takes `token_s`."""

    base_s: float
    context_token_s: float
    token_s: float

    def at_speed(self, speed: float) -> Timing:
        """The same model, `speed` times faster."""
        return Timing(self.base_s / speed, self.context_token_s / speed, self.token_s / speed)

    def first_token_s(self, context_tokens: int) -> float:
        return self.base_s + self.context_token_s * context_tokens + self.token_s

    def service_s(self, context_tokens: int, generated_tokens: int) -> float:
        """From getting a slot to the last token; there is always one."""
        return self.first_token_s(context_tokens) + self.token_s * (max(1, generated_tokens) - 1)


def shape(trace: Iterable[Arrival], speed: float, phases: Sequence[Phase]) -> tuple[Arrival, ...]:
    """The trace `speed` times faster, thinned out phase by phase, up to the end of the last phase."""
    shaped: list[Arrival] = []
    remaining = list(phases)
    end_s = remaining[0].length_s if remaining else 0.0
    for number, request in enumerate(trace):
        at_s = request.at_s / speed
        while remaining and at_s >= end_s:
            remaining.pop(0)
            end_s += remaining[0].length_s if remaining else 0.0
        if not remaining:
            break
        if number % remaining[0].one_of == 0:
            shaped.append(Arrival(at_s, request.context_tokens, request.generated_tokens))
    return tuple(shaped)
