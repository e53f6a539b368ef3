"""Shell: recorded and made-up loads. A shell only for the modules it needs: it reads no clock, and a seed always gives
the same load.

A recorded load is a CSV with the columns TIMESTAMP, ContextTokens and GeneratedTokens, rows in the order of their time:
the form of the Azure LLM inference dataset 2023.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable
from datetime import datetime, timedelta

from controller.simulate.workload import Arrival

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
TOKEN_DIGITS_MAX = 9

_EPOCH = datetime(2000, 1, 1)  # noqa: DTZ001 - a trace's times have no zone: only their differences count
_CONTEXT = (6.85, 0.635)
_GENERATED = (5.225, 0.504)
"""Log-normal tokens: mean and 99th percentile are those of the Azure conversation trace (1,155 and 4,142; 211 and
601)."""


class TraceError(Exception):
    """A trace that cannot be read; the message names the line and the column."""


def read(lines: Iterable[str]) -> list[Arrival]:
    """All requests of a CSV, the first one at 0 s. Raises TraceError."""
    rows = csv.DictReader(lines)
    if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        raise TraceError(f"line 1: the column {missing[0]} is missing; expected {','.join(COLUMNS)}")
    arrivals: list[Arrival] = []
    start: datetime | None = None
    for row in rows:
        at = _time(row["TIMESTAMP"], rows.line_num)
        start = start or at
        at_s = (at - start).total_seconds()
        if arrivals and at_s < arrivals[-1].at_s:
            raise TraceError(f"line {rows.line_num}: TIMESTAMP: {row['TIMESTAMP']} is before the line above")
        context, generated = (_tokens(row[name], name, rows.line_num) for name in COLUMNS[1:])
        arrivals.append(Arrival(at_s, context, generated))
    if not arrivals:
        raise TraceError("the trace holds no request")
    return arrivals


def save(arrivals: Iterable[Arrival]) -> str:
    """The text of a CSV that `read` understands."""
    rows = (
        f"{(_EPOCH + timedelta(seconds=each.at_s)).isoformat(' ', 'microseconds')}0,"
        f"{each.context_tokens},{each.generated_tokens}"
        for each in arrivals
    )
    return "\n".join([",".join(COLUMNS), *rows, ""])


def bursty(
    seed: int, duration_s: float, rate: float, *, ratio: float = 3.0, burst_s: float = 60.0, calm_s: float = 240.0
) -> list[Arrival]:
    """A load of `rate` requests a second on average, in which bursts come and go: `ratio` times the rate of the calm
    between them, `burst_s` and `calm_s` long on average. Calm comes first.
    """
    rng = random.Random(seed)
    calm_rate = rate * (calm_s + burst_s) / (calm_s + ratio * burst_s)
    phases = ((calm_rate, calm_s), (calm_rate * ratio, burst_s))
    arrivals: list[Arrival] = []
    from_s, number = 0.0, 0
    while from_s < duration_s:
        phase_rate, mean_s = phases[number % 2]
        until_s = min(duration_s, from_s + rng.expovariate(1 / mean_s))
        at_s = from_s + rng.expovariate(phase_rate)
        while at_s < until_s:
            arrivals.append(Arrival(at_s, round(rng.lognormvariate(*_CONTEXT)), round(rng.lognormvariate(*_GENERATED))))
            at_s += rng.expovariate(phase_rate)
        from_s, number = until_s, number + 1
    return arrivals


def _time(text: str | None, line: int) -> datetime:
    try:
        # Seven decimals in the original; the seventh is cut off. All times are of one zone, and only differences count.
        return datetime.fromisoformat((text or "")[:26]).replace(tzinfo=None)
    except ValueError:
        raise TraceError(
            f"line {line}: TIMESTAMP: {text!r} is not a time such as 2023-11-16 18:15:46.6805900"
        ) from None


def _tokens(text: str | None, column: str, line: int) -> int:
    if not text or not text.isascii() or not text.isdigit() or len(text) > TOKEN_DIGITS_MAX:
        raise TraceError(f"line {line}: {column}: {text!r} is not a number of tokens")
    return int(text)
