"""Pure: what a simulation has shown, as text for a terminal and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from controller.simulate.chart import bars
from controller.simulate.scenario import Scenario
from controller.simulate.score import Score
from controller.simulate.timeline import Timeline
from controller.simulate.workload import Arrival

LABEL_WIDTH = 26
BAR_HEIGHT = 2

Row = tuple[str, Callable[[Score], str]]

_ROWS: Sequence[Row] = (
    ("first byte, median", lambda score: _seconds(score.p50_first_byte_s)),
    ("first byte, p99", lambda score: _seconds(score.p99_first_byte_s)),
    ("went remote, of requests", lambda score: _percent(score.remote_share)),
    ("went remote, of tokens", lambda score: _percent(score.remote_token_share)),
    ("taken by nobody", lambda score: f"{score.failed:,}"),
    ("changes of state an hour", lambda score: f"{score.shifts_per_hour:.1f}"),
    ("changes of share an hour", lambda score: f"{score.moves_per_hour:.1f}"),
)


def load_text(scenario: Scenario, arrivals: Sequence[Arrival]) -> str:
    """What was asked of what."""
    length_s = arrivals[-1].at_s
    work_s = sum(scenario.servers.local.service_s(arrival) for arrival in arrivals)
    slots = scenario.slots * scenario.replicas
    busy = work_s / length_s if length_s else 0.0
    return (
        f"{len(arrivals):,} requests in {length_s:,.0f} s. Local: {scenario.replicas} x {scenario.slots} slots; "
        f"to serve all of them {busy:.1f} have to be busy on average, a load of {busy / slots:.2f}."
    )


def table(scores: Mapping[str, Score], slo_s: float, *, priced: bool) -> str:
    """A column for each score, by its name."""
    within: Row = (f"first byte within {slo_s:g} s", lambda score: _percent(score.slo_attainment))
    cost: Row = ("cost", lambda score: f"{score.cost:,.2f}")
    rows = [within, *_ROWS, *([cost] if priced else [])]
    columns = [[name, *(tell(score) for _, tell in rows)] for name, score in scores.items()]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for index, label in enumerate(["", *(label for label, _ in rows)]):
        cells = (column[index].rjust(width + 2) for column, width in zip(columns, widths, strict=True))
        lines.append(label.ljust(LABEL_WIDTH) + "".join(cells))
    return "\n".join(lines)


def plot(line: Timeline) -> str:
    """Bars over time, one column for each interval."""
    top = max(line.arrivals)
    rows = (
        ("arrivals", line.arrivals, top, f"{top:.1f}/s"),
        ("local", line.local, top, ""),
        ("remote", line.remote, top, ""),
        ("first byte too late", line.late, top, ""),
        ("share decided", line.share, 1.0, "100 %"),
    )
    lines = []
    for label, values, full, scale in rows:
        drawn = bars(values, full, len(values), BAR_HEIGHT)
        lines += [f"{scale.rjust(LABEL_WIDTH - 2)}  {drawn[0]}", f"{label.rjust(LABEL_WIDTH - 2)}  {drawn[1]}"]
    end = f"{line.every_s * len(line.share):,.0f} s"
    return "\n".join([*(each.rstrip() for each in lines), " " * LABEL_WIDTH + "0 s" + end.rjust(len(line.share) - 3)])


def as_json(scores: Mapping[str, Score], slo_s: float) -> dict[str, Any]:
    """Numbers only; `Score` says what they are. JSON has no infinity: a first byte that never came is null."""
    return {"slo_s": slo_s, "scores": {name: _finite(asdict(score)) for name, score in scores.items()}}


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


def _percent(part: float) -> str:
    return f"{100 * part:.2f} %"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s"
