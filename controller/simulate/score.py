"""Pure: what became of a load, as numbers: who waited too long, how much left, how often, and what it cost.

For real runs as well as for simulated ones. A run that was played faster is scored in the load's own time: multiply its
times by the speed first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from xds import ir

SLO_S = 2.0
"""A user who waits longer for the first byte has waited too long."""


@dataclass(frozen=True, slots=True)
class Served:
    """What became of one request. `destination` is a slot (`local`, `remote-0`, ...), '' if none took it: then
    `first_byte_s` is infinite. `first_byte_s`: seconds from its arrival. `done_s`: when its last byte came.
    """

    at_s: float
    destination: str
    first_byte_s: float
    done_s: float
    context_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision from `at_s` on: state and share as they were in force."""

    at_s: float
    state: str
    share_ppm: int


@dataclass(frozen=True, slots=True)
class Price:
    """What a side costs: an hour of having it, and a thousand tokens read and generated there."""

    hour: float = 0.0
    context_1k: float = 0.0
    generated_1k: float = 0.0


@dataclass(frozen=True, slots=True)
class Prices:
    local: Price = Price()
    remote: Price = Price()


@dataclass(frozen=True, slots=True)
class Score:
    """Shares and the attainment are fractions of 1. A request that nobody took missed the SLO. `cost` is in the unit of
    the prices, for the whole load. `shifts_per_hour`: changes of state; `moves_per_hour`: changes of the share.
    """

    requests: int
    failed: int
    slo_attainment: float
    remote_share: float
    remote_token_share: float
    shifts_per_hour: float
    moves_per_hour: float
    cost: float
    p50_first_byte_s: float
    p99_first_byte_s: float


def score(
    served: Sequence[Served], decided: Sequence[Decided] = (), *, slo_s: float = SLO_S, prices: Prices = Prices()
) -> Score:
    """`served`: at least one request, in any order. `decided`: in the order of time; the first one is no change. The
    load lasts from 0 s to its last arrival.
    """
    hours = max(each.at_s for each in served) / 3600
    remote = [each for each in served if each.destination not in (ir.LOCAL, "")]
    local = [each for each in served if each.destination == ir.LOCAL]
    waits_s = sorted(each.first_byte_s for each in served)
    tokens = [sum(each.context_tokens + each.generated_tokens for each in some) for some in (served, remote)]
    return Score(
        requests=len(served),
        failed=len(served) - len(local) - len(remote),
        slo_attainment=sum(wait_s <= slo_s for wait_s in waits_s) / len(served),
        remote_share=len(remote) / len(served),
        remote_token_share=tokens[1] / tokens[0] if tokens[0] else 0.0,
        shifts_per_hour=_per_hour(sum(a.state != b.state for a, b in pairwise(decided)), hours),
        moves_per_hour=_per_hour(sum(a.share_ppm != b.share_ppm for a, b in pairwise(decided)), hours),
        cost=_cost(local, prices.local, hours) + _cost(remote, prices.remote, hours),
        p50_first_byte_s=_percentile(waits_s, 50),
        p99_first_byte_s=_percentile(waits_s, 99),
    )


def _per_hour(count: int, hours: float) -> float:
    return count / hours if hours else 0.0


def _cost(served: Sequence[Served], price: Price, hours: float) -> float:
    context = sum(each.context_tokens for each in served)
    generated = sum(each.generated_tokens for each in served)
    return price.hour * hours + (price.context_1k * context + price.generated_1k * generated) / 1000


def _percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
