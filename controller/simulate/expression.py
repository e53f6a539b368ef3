"""Pure: the part of PromQL that simulated servers can answer.

Instant selectors (labels are read over: every series is taken to be the model's), `avg_over_time`, `max_over_time`,
`min_over_time`, `rate` and `increase` over a range, `sum`, `avg`, `max` and `min` over all replicas, numbers, + - * /
and parentheses. `rate` does not extrapolate to the ends of its range, as Prometheus does.

An expression becomes a function from what has been scraped to its series: one for each replica, or one when aggregated.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Scrape = tuple[float, Mapping[str, Sequence[float]]]
"""When, and by metric a value for each replica."""
Evaluate = Callable[[Sequence[Scrape], float], Sequence[float]]
"""The series at a moment (seconds), from all scrapes until then, the newest last; none if nothing is known."""

LOOKBACK_S = 300.0
"""A value that is older than this is no value any more, as in Prometheus."""

_TOKEN = re.compile(
    r"""\s*(?: (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.]) | (?P<name>[A-Za-z_:][\w:]*)
    | (?P<labels>\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\}) | \[\s*(?P<range>(?:\d+(?:ms|[smhdw]))+)\s*\]
    | (?P<mark>[-+*/()]))""",
    re.VERBOSE,
)
_DURATION = re.compile(r"(\d+)(ms|[smhdw])")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}

_OVER_REPLICAS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "sum": sum,
    "avg": lambda values: sum(values) / len(values),
    "max": max,
    "min": min,
}
_OVER_TIME: Mapping[str, Callable[[Sequence[float], float], float]] = {
    "avg_over_time": lambda values, _: sum(values) / len(values),
    "max_over_time": lambda values, _: max(values),
    "min_over_time": lambda values, _: min(values),
    "rate": lambda values, length_s: (values[-1] - values[0]) / length_s if length_s else math.nan,
    "increase": lambda values, _: values[-1] - values[0],
}
_ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": lambda a, b: a / b if b else math.nan}


class ExpressionError(Exception):
    """An expression that cannot be answered here; the message says which part."""


@dataclass(frozen=True, slots=True)
class _Operand:
    """`labels`: what its series have in common with others': 'replica', 'none', or 'number' for a plain number."""

    labels: str
    evaluate: Evaluate


@dataclass(frozen=True, slots=True)
class Expression:
    """`metrics`: the names it needs."""

    metrics: frozenset[str]
    evaluate: Evaluate


def parse(text: str) -> Expression:
    """Raises ExpressionError."""
    parser = _Parser(text)
    operand = parser.sum()
    if parser.kind:
        raise ExpressionError(f"the simulation cannot evaluate {parser.rest!r} in {text!r}")
    return Expression(frozenset(parser.metrics), operand.evaluate)


class _Parser:
    """Recursive descent; `kind` and `value` are the token ahead, '' at the end."""

    def __init__(self, text: str) -> None:
        self.metrics: set[str] = set()
        self.kind = self.value = ""
        self._text = text
        self._at = self._next = 0
        self._advance()

    @property
    def rest(self) -> str:
        return self._text[self._at :].strip()

    def sum(self) -> _Operand:
        left = self._product()
        while self.value in ("+", "-"):
            left = _combined(self._taken(), left, self._product())
        return left

    def _product(self) -> _Operand:
        left = self._primary()
        while self.value in ("*", "/"):
            left = _combined(self._taken(), left, self._primary())
        return left

    def _primary(self) -> _Operand:
        match self.kind, self.value:
            case "number", text:
                value = float(text)
                self._advance()
                return _Operand("number", lambda _scrapes, _at_s: (value,))
            case "mark", "(":
                return self._parenthesized()
            case "name", name:
                self._advance()
                return self._named(name)
            case _:
                raise ExpressionError(f"the simulation cannot evaluate {self.rest or 'nothing'!r} in {self._text!r}")

    def _named(self, name: str) -> _Operand:
        if self.value != "(":
            return _Operand("replica", _newest(self._selector(name)))
        if over_replicas := _OVER_REPLICAS.get(name):
            inner = self._parenthesized().evaluate
            return _Operand("none", lambda scrapes, at_s: _if_any(over_replicas, inner(scrapes, at_s)))
        if over_time := _OVER_TIME.get(name):
            self._advance()
            if self.kind != "name":
                raise ExpressionError(f"the simulation evaluates {name}() of a metric only, not of {self.rest!r}")
            metric = self._selector(self._taken())
            if self.kind != "range":
                raise ExpressionError(f"{name}() needs a range such as {metric}[1m]")
            length_s = sum(int(count) * _SECONDS[unit] for count, unit in _DURATION.findall(self._taken()))
            self._close()
            return _Operand("replica", _ranged(metric, length_s, over_time))
        raise ExpressionError(f"the simulation cannot evaluate {name}()")

    def _selector(self, name: str) -> str:
        self.metrics.add(name)
        if self.kind == "labels":
            self._advance()
        return name

    def _parenthesized(self) -> _Operand:
        self._advance()
        inner = self.sum()
        self._close()
        return inner

    def _close(self) -> None:
        if self.value != ")":
            raise ExpressionError(f"a ) is missing before {self.rest!r} in {self._text!r}")
        self._advance()

    def _taken(self) -> str:
        value = self.value
        self._advance()
        return value

    def _advance(self) -> None:
        self._at = self._next
        token = _TOKEN.match(self._text, self._at)
        if token is None:
            if self.rest:
                raise ExpressionError(f"the simulation cannot evaluate {self.rest!r} in {self._text!r}")
            self.kind = self.value = ""
            return
        self.kind, self.value, self._next = token.lastgroup or "", token[token.lastgroup or 0], token.end()


def _combined(sign: str, left: _Operand, right: _Operand) -> _Operand:
    """Number with anything; otherwise series by series, which must have the same labels."""
    if "number" not in (left.labels, right.labels) and left.labels != right.labels:
        raise ExpressionError(f"one side of {sign} is aggregated over the replicas, the other is not")
    arithmetic = _ARITHMETIC[sign]

    def evaluate(scrapes: Sequence[Scrape], at_s: float) -> Sequence[float]:
        a, b = left.evaluate(scrapes, at_s), right.evaluate(scrapes, at_s)
        if left.labels == "number":
            a = tuple(a) * len(b)
        if right.labels == "number":
            b = tuple(b) * len(a)
        return tuple(map(arithmetic, a, b))

    return _Operand(right.labels if left.labels == "number" else left.labels, evaluate)


def _newest(metric: str) -> Evaluate:
    def evaluate(scrapes: Sequence[Scrape], at_s: float) -> Sequence[float]:
        return scrapes[-1][1][metric] if scrapes and scrapes[-1][0] > at_s - LOOKBACK_S else ()

    return evaluate


def _ranged(metric: str, length_s: float, over_time: Callable[[Sequence[float], float], float]) -> Evaluate:
    def evaluate(scrapes: Sequence[Scrape], at_s: float) -> Sequence[float]:
        first = len(scrapes)
        while first and scrapes[first - 1][0] > at_s - length_s:
            first -= 1
        window = scrapes[first:]
        if not window:
            return ()
        covered_s = window[-1][0] - window[0][0]
        return [over_time(values, covered_s) for values in zip(*(page[metric] for _, page in window), strict=True)]

    return evaluate


def _if_any(over_replicas: Callable[[Sequence[float]], float], values: Sequence[float]) -> Sequence[float]:
    return (over_replicas(values),) if values else ()
