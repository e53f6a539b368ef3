"""Shell: reads a recorded load from a CSV file with the columns TIMESTAMP, ContextTokens and GeneratedTokens.

That is the form of the Azure LLM inference dataset 2023; TRACE.md says what the bundled excerpt is. Rows are in the
order of their time.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import datetime
from importlib import resources

from controller.demo.workload import Request

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class TraceError(Exception):
    """A trace that cannot be read; the message names the line and the column."""


def bundled_trace() -> tuple[Request, ...]:
    """The excerpt that comes with the demo."""
    with resources.files("controller.demo").joinpath("trace.csv").open() as file:
        return read_trace(file)


def read_trace(lines: Iterable[str]) -> tuple[Request, ...]:
    """All requests, the first one at 0 s. Raises TraceError."""
    rows = csv.DictReader(lines)
    if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        raise TraceError(f"line 1: the column {missing[0]} is missing; expected {','.join(COLUMNS)}")
    requests: list[Request] = []
    start: datetime | None = None
    for row in rows:
        at = _time(row["TIMESTAMP"], rows.line_num)
        start = start or at
        at_s = (at - start).total_seconds()
        if requests and at_s < requests[-1].at_s:
            raise TraceError(f"line {rows.line_num}: TIMESTAMP: {row['TIMESTAMP']} is before the line above")
        context, generated = (_tokens(row[name], name, rows.line_num) for name in COLUMNS[1:])
        requests.append(Request(at_s, context, generated))
    if not requests:
        raise TraceError("the trace holds no request")
    return tuple(requests)


def _time(text: str | None, line: int) -> datetime:
    try:
        # Seven decimals in the original; the seventh is cut off. All times are of one zone, and only differences count.
        return datetime.fromisoformat((text or "")[:26]).replace(tzinfo=None)
    except ValueError:
        raise TraceError(
            f"line {line}: TIMESTAMP: {text!r} is not a time such as 2023-11-16 18:15:46.6805900"
        ) from None


def _tokens(text: str | None, column: str, line: int) -> int:
    if not text or not text.isascii() or not text.isdigit():
        raise TraceError(f"line {line}: {column}: {text!r} is not a number of tokens")
    return int(text)
