"""What the gateway adds to a request: an Envoy with our full configuration (two stages, filters, retry, affinity,
access log, as the product's own translation makes it) against a bare one (one listener, one route, one cluster), each
with one worker, in front of the same model server.

Callers and server are one thread that polls and never sleeps, on a core of its own. The other core has the Envoys, of
which one is asked at a time. A request is a POST with a small JSON body, and the answer is there at once, so that
nothing is measured but the way. Callers speak HTTP/1.1 or HTTP/2, the server always HTTP/1.1, as model servers do.

*Served at saturation* is with 64 requests in progress all the time. Envoy then works in batches, which saves it most of
its wake-ups: a request that comes alone costs it two to four times as much. So what loads are parts of is another
number, *sustained*: the highest rate of requests that come one by one at random (Poisson) at which the median still
takes less than three times as long as on an idle gateway, found by bisection. At 25, 50 and 75 % of what the *full* one
sustains, bare and full take turns with the same arrivals at the same absolute rate, and the difference of each pair is
judged. The load is open: the time of a request counts from when it was due until its last byte is there, so what waits
for a slow gateway is counted whole. What a part costs is the CPU time a request of an Envoy without it, taken off the
full one's.

Not in it: TLS, several workers, a network, attempts that fail. The load generator's own time for a request (30-40 µs)
is in absolute times and cancels out in differences. With random arrivals a request waits for others in any gateway, the
longer the nearer this is to its limit: at 75 % that is most of what is added, since the same rate is a smaller part of
what the bare one can serve.
"""

from __future__ import annotations

import asyncio
import math
import os
import statistics
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Report, Result, at_most
from benchmarks.gateway_load.gateways import Edit, Gateway, bare, full
from benchmarks.gateway_load.load import (
    HTTP1,
    HTTP2,
    Callers,
    Load,
    Run,
    event_stream,
    json_answer,
)
from benchmarks.gateway_load.parts import WITHOUT
from xds.snapshot import Resource

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Data path: what the gateway adds to a request"
BUDGET_S = 145

ANSWERS = {"1 KiB": 1 << 10, "100 KiB": 100 << 10}
LOADS = (25, 50, 75)
"""Per cent of what the full gateway sustains."""
IDLE_RATE = 300.0
"""Requests a second that leave a gateway idle between them."""
PATIENCE = 3.0
"""How many times as long as on an idle gateway the median request may take at a rate that counts as sustained."""
TRIES = 2
"""Of a rate, in the search: whatever else the machine does can only make it look worse."""
STREAMS_A_SECOND = 400.0
WARM_S = 0.05

WHOLE = "all parts"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many runs of each side take turns, of how many seconds, and how many steps the search takes."""

    pairs: int
    paced_s: float
    saturated_s: float
    halvings: int
    parts: Mapping[str, Edit]
    part_rounds: int
    part_s: float


FULL = Sizes(7, paced_s=0.35, saturated_s=0.25, halvings=6, parts=WITHOUT, part_rounds=16, part_s=0.12)
QUICK = Sizes(1, 0.1, 0.1, halvings=1, parts=dict(list(WITHOUT.items())[:1]), part_rounds=1, part_s=0.1)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the gateways that take turns."""

    gateway: Gateway
    callers: Callers


async def run(report: Report, *, quick: bool) -> None:
    sizes = QUICK if quick else FULL
    report.data["latency"] = []
    late_s: list[float] = []
    with _own_core() as core:
        async with _gateways({"bare": None, "full": _whole}, core) as (load, gateways):
            for protocol in (HTTP1, HTTP2):
                late_s += await _compare(report, sizes, load, _sides(gateways, load, protocol), protocol)
        async with _gateways({WHOLE: _whole, **sizes.parts}, core) as (load, gateways):
            await _parts(report, sizes, load, _sides(gateways, load, HTTP1))
    report.note(
        f"99 % of the requests left the load generator within {statistics.median(late_s) * 1e6:.0f} µs of when they "
        f"were due (median of {len(late_s)} runs; {max(late_s) * 1e6:.0f} µs in the worst)."
    )


async def _compare(report: Report, sizes: Sizes, load: Load, sides: Mapping[str, Side], protocol: str) -> list[float]:
    """All figures of one protocol. Returns how late the requests of each paced run were sent (p99), in seconds."""
    late_s: list[float] = []
    for answer, size in ANSWERS.items():
        load.answer = json_answer(size)
        served = await _saturation(report, sizes, sides, protocol=protocol, answer=answer)
        rate = _sustained(sides["full"].callers, served, sizes)
        report.figure("sustained with random arrivals, full", "requests/s", [rate], protocol=protocol, answer=answer)
        for percentage in LOADS:
            runs = await _paces(sizes, sides, rate * percentage / 100)
            took = {name: [each.took_s for each in of_side] for name, of_side in runs.items()}
            _added(report, "added to a request", took, protocol=protocol, answer=answer, load=f"{percentage} %")
            late_s += [_quantile(each.late_s, 0.99) for of_side in runs.values() for each in of_side]
    load.answer = event_stream()
    runs = await _paces(sizes, sides, STREAMS_A_SECOND)
    first = {name: [each.first_byte_s for each in of_side] for name, of_side in runs.items()}
    streams = f"{STREAMS_A_SECOND:.0f}/s"
    _added(report, "added to the first event", first, protocol=protocol, answer="SSE", load=streams)
    return late_s


async def _saturation(report: Report, sizes: Sizes, sides: Mapping[str, Side], **case: str) -> float:
    """Requests per second that the full gateway serves at saturation."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    cpu_us: dict[str, list[float]] = {name: [] for name in sides}
    async for name, side in _turns(sizes.pairs, sides):
        rate, cpu = _saturate(side, sizes.saturated_s)
        rates[name].append(rate)
        cpu_us[name].append(cpu)
    for name in sides:
        report.figure(f"served at saturation, {name}", "requests/s", rates[name], **case)
        report.figure(f"Envoy's CPU for a request, {name}", "µs", cpu_us[name], **case)
    return statistics.median(rates["full"])


def _sustained(callers: Callers, served: float, sizes: Sizes) -> float:
    """The highest rate at which requests do not pile up, between 0 and what is served at saturation."""

    def median_s(rate: float) -> float:
        return min(statistics.median(callers.pace(rate, sizes.paced_s / 2, seed).took_s) for seed in range(TRIES))

    limit_s = median_s(IDLE_RATE) * PATIENCE
    low, high = 0.0, served
    for _ in range(sizes.halvings):
        rate = (low + high) / 2
        low, high = (rate, high) if median_s(rate) < limit_s else (low, rate)
    return max(low, IDLE_RATE)


async def _parts(report: Report, sizes: Sizes, load: Load, sides: Mapping[str, Side]) -> None:
    """What each part costs: with all of them (the side called WHOLE) less without it, round by round."""
    load.answer = json_answer(ANSWERS["1 KiB"])
    cpu_us: dict[str, list[float]] = {name: [] for name in sides}
    async for name, side in _turns(sizes.part_rounds, sides):
        cpu_us[name].append(_saturate(side, sizes.part_s)[1])
    whole = cpu_us.pop(WHOLE)
    for name, without in cpu_us.items():
        cost = [a - b for a, b in zip(whole, without, strict=True)]
        report.figure(f"CPU of: {name}", "µs", cost, protocol=HTTP1, answer="1 KiB")


def _saturate(side: Side, duration_s: float) -> tuple[float, float]:
    """Requests per second, and microseconds of Envoy's CPU for each."""
    side.callers.saturate(WARM_S)
    before_s = side.gateway.cpu_s
    run = side.callers.saturate(duration_s)
    return run.rate, (side.gateway.cpu_s - before_s) / len(run.took_s) * 1e6


async def _paces(sizes: Sizes, sides: Mapping[str, Side], rate: float) -> dict[str, list[Run]]:
    """For each side its runs; the i-th ones of all have the same arrivals."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    async for name, side in _turns(sizes.pairs, sides):
        side.callers.pace(rate, WARM_S, seed=0)
        runs[name].append(side.callers.pace(rate, sizes.paced_s, seed=len(runs[name]) + 1))
    return runs


def _added(report: Report, name: str, seconds: Mapping[str, list[list[float]]], **case: str) -> None:
    """The differences of the pairs, and what they are differences of for the plot."""
    for quantile, goal_ms in ((0.5, 0.15), (0.99, 0.5)):
        statistic = f"p{quantile * 100:.0f}"
        ms = {side: [_quantile(each, quantile) * 1e3 for each in of_side] for side, of_side in seconds.items()}
        added = [of_full - of_bare for of_bare, of_full in zip(ms["bare"], ms["full"], strict=True)]
        report.figure(f"{name}, {statistic}", "ms", added, at_most(goal_ms), **case)
        report.data["latency"].append(
            {**case, "statistic": statistic} | {side: statistics.median(of_side) for side, of_side in ms.items()}
        )


def _quantile(values: Sequence[float], quantile: float) -> float:
    return sorted(values)[math.ceil(quantile * len(values)) - 1]


async def _turns(rounds: int, sides: Mapping[str, Side]) -> AsyncIterator[tuple[str, Side]]:
    """Each side once in every round, and every second round backwards."""
    for round_ in range(rounds):
        for name in sorted(sides, key=list(sides).index, reverse=round_ % 2 == 1):
            yield name, sides[name]
            await asyncio.sleep(0)  # what else this process does, as their control plane


def _sides(gateways: Mapping[str, Gateway], load: Load, protocol: str) -> dict[str, Side]:
    return {name: Side(each, load.callers(each.address, protocol)) for name, each in gateways.items()}


def _whole(resources: Sequence[Resource]) -> Sequence[Resource]:
    return resources


@asynccontextmanager
async def _gateways(
    edits: Mapping[str, Edit | None], core: int | None
) -> AsyncIterator[tuple[Load, dict[str, Gateway]]]:
    """All at once, with one server behind them, on this core if any. No edit: the bare one."""
    async with AsyncExitStack() as stack:
        load = stack.enter_context(closing(Load()))
        gateways: dict[str, Gateway] = {}
        for name, edit in edits.items():
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            starting = full(directory, load.address, edit) if edit else bare(directory, load.address)
            gateways[name] = await stack.enter_async_context(starting)
            if core is not None:
                gateways[name].pin(core)
        yield load, gateways


@contextmanager
def _own_core() -> Iterator[int | None]:
    """Keeps this thread on the first core it may use; the last one is for the others, if it is another."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        yield None
        return
    os.sched_setaffinity(0, cores[:1])
    try:
        yield cores[-1]
    finally:
        os.sched_setaffinity(0, cores)


def plot(result: Result) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    points = [point for point in result.data["latency"] if point["answer"] in ANSWERS]
    cases = list(dict.fromkeys((point["protocol"], point["answer"]) for point in points))
    panels = figure.subplots(1, len(cases), sharey=True)
    for panel, (protocol, answer) in zip(panels, cases, strict=True):
        for side, colour in (("bare", "tab:gray"), ("full", "tab:blue")):
            for statistic, style in (("p50", "-"), ("p99", "--")):
                of_line = [
                    point
                    for point in points
                    if (point["protocol"], point["answer"], point["statistic"]) == (protocol, answer, statistic)
                ]
                loads, values = [point["load"] for point in of_line], [point[side] for point in of_line]
                panel.plot(loads, values, style, color=colour, marker="o", label=f"{side}, {statistic}")
        panel.set(title=f"{protocol}, {answer}", xlabel="of what the full gateway sustains", yscale="log")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("ms from due to answered")
    panels[0].legend(fontsize="small")
    return figure
