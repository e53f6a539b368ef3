"""One limit over several gateways: what leaves, and whether there are ever more requests than the limit.

A stretch of the trace of `overflow` is played in its own time, not faster: through one gateway, and through four whose
callers are spread 40, 30, 20 and 10 %, with static parts and with leases, all three side by side on this machine. The
model servers have 28 slots; the models differ in their limit. Requests above the 28 wait in the servers' queue, so a
higher limit keeps more local, until callers wait too long. *Equal SLO* compares, for each way, the lowest remote share
of all limits at which 99.5 % have their first byte within 2 s.

What the model server itself has in progress is sampled every 10 ms and held against the limit. Each gateway has one
worker. One gateway is a bound that cannot be reached: a slot that is free is free for whoever comes next, while a lease
has to guess who that will be, and takes a third of a second to move.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import overflow_simulated as simulated
from benchmarks.figures import Report, Result, at_most
from benchmarks.overflow import load_trace
from benchmarks.workload.play import UNEVEN, Model, Outcome, play
from controller.simulate.score import score
from controller.simulate.workload import Arrival

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Limit leasing: one limit over four gateways"
BUDGET_S = 165

SLOTS = 28
LIMITS = (28, 30, 32, 34, 36)
LENGTH_S = 150.0
SLO = 0.995
WORKERS = 4


@dataclass(frozen=True, slots=True)
class Way:
    """How a limit is shared."""

    name: str
    gateways: int
    leasing: bool = True


WAYS = (Way("one gateway", 1), Way("four, static", 4, leasing=False), Way("four, leased", 4))


async def run(report: Report, *, quick: bool) -> None:
    load = load_trace(os.environ)
    arrivals = load.excerpt(8.0 if quick else LENGTH_S)
    models = [Model(f"limit-{limit}", SLOTS, _offloading(limit)) for limit in (LIMITS[:1] if quick else LIMITS)]
    ways = WAYS[2:] if quick else WAYS
    report.note(
        f"The load: {len(arrivals):,} requests of {load.name}, {load.at(SLOTS):g} of what {SLOTS} slots can carry."
    )
    report.say(f"playing {len(models)} models in {len(ways)} ways")
    outcomes = await asyncio.gather(*(_play(way, models, arrivals) for way in ways))
    best = {}
    for way, outcome in zip(ways, outcomes, strict=True):
        best[way.name] = _report(report, way, outcome, models)
    for way in ways:
        if way.gateways > 1 and "one gateway" in best:
            goals = [at_most(1.2)] if way.leasing else []
            ratio = best[way.name] / best["one gateway"]
            report.figure("remote share, to one gateway's, at equal SLO", "x", ratio, *goals, way=way.name)


def _offloading(limit: int) -> dict[str, Any]:
    return {"localLimit": {"maxConcurrentRequestsPerReplica": limit}}


async def _play(way: Way, models: Sequence[Model], arrivals: Sequence[Arrival]) -> Outcome:
    return await play(models, arrivals, speed=1.0, gateways=UNEVEN[way.gateways], leasing=way.leasing)


def _report(report: Report, way: Way, outcome: Outcome, models: Sequence[Model]) -> float:
    """The figures of one way. Returns its lowest remote share, in percent, of those that keep the SLO."""
    shares = [100.0]
    over: list[int] = []
    for model in models:
        limit = model.offloading["localLimit"]["maxConcurrentRequestsPerReplica"]
        scored = score(outcome.served[model.name], outcome.decided[model.name], prices=simulated.PRICES)
        case = {"way": way.name, "limit": limit}
        report.figure("first byte within 2 s", "%", 100 * scored.slo_attainment, **case)
        report.figure("remote share", "%", 100 * scored.remote_share, **case)
        if scored.slo_attainment >= SLO:
            shares.append(100 * scored.remote_share)
        over += [max(0, count - limit) for count in outcome.in_progress[model.name]]
    above = 100 * sum(map(bool, over)) / len(over)
    report.figure("samples above the limit", "%", above, at_most(1.0), way=way.name)
    report.figure("above the limit, at most", "requests", float(max(over)), at_most(WORKERS), way=way.name)
    report.figure("controller", "cores", outcome.usage.controller, way=way.name)
    report.figure("answers other than 200", "", float(outcome.errors), at_most(0), way=way.name)
    return min(shares)


def plot(result: Result) -> Figure:
    """What leaves, by limit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for way in WAYS:
        found = result.find("remote share", way=way.name)
        axes.plot([each.case["limit"] for each in found], [each.median for each in found], marker="o", label=way.name)
    axes.set_xlabel(f"limit, for {SLOTS} slots")
    axes.set_ylabel("remote share, % of the requests")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure
