"""Pure: what happened when: a run in equal intervals, for plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.simulate.score import Decided, Served
from xds import ir


@dataclass(frozen=True, slots=True)
class Timeline:
    """For each interval of `every_s` seconds: requests a second by where they were served, arrivals of which the first
    byte came too late, also a second, and the share that was decided, from 0 to 1, on average.
    """

    every_s: float
    local: list[float]
    remote: list[float]
    late: list[float]
    share: list[float]

    @property
    def arrivals(self) -> list[float]:
        return [local + remote for local, remote in zip(self.local, self.remote, strict=True)]


def timeline(served: Sequence[Served], decided: Sequence[Decided], slo_s: float, intervals: int) -> Timeline:
    """The load in so many intervals, from 0 s to its last arrival. Requests that nobody took are late and nowhere."""
    every_s = max(each.at_s for each in served) / intervals or 1.0
    local, remote, late = ([0.0] * intervals for _ in range(3))
    for each in served:
        index = min(intervals - 1, int(each.at_s / every_s))
        if each.destination:
            (local if each.destination == ir.LOCAL else remote)[index] += 1 / every_s
        if each.first_byte_s > slo_s:
            late[index] += 1 / every_s
    return Timeline(every_s, local, remote, late, _shares(decided, every_s, intervals))


def _shares(decided: Sequence[Decided], every_s: float, intervals: int) -> list[float]:
    """How much of each interval each share was in force."""
    shares = [0.0] * intervals
    ends_s = [*(each.at_s for each in decided[1:]), every_s * intervals]
    for each, end_s in zip(decided, ends_s, strict=False):
        for index in range(int(each.at_s / every_s), intervals):
            from_s, until_s = max(each.at_s, index * every_s), min(end_s, (index + 1) * every_s)
            if until_s <= from_s:
                break
            shares[index] += each.share_ppm / ir.PPM * (until_s - from_s) / every_s
    return shares
