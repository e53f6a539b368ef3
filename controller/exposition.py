"""Pure: reads chosen metrics out of a page in Prometheus' text format.

An inference server's page has thousands of lines and we want one or two metrics of it, so one compiled expression finds
just their lines and the rest is never taken apart. Only a wanted line can be malformed; then its metric is unknown, and
no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from controller.metrics import Reading, ScrapeQuery, Unknown, number
from controller.selector import quoted

_STRING = r'"(?:[^"\\]|\\.)*+"'
_REST = re.compile(rf'\s*(?:\{{(?P<labels>(?:[^"}}]|{_STRING})*+)\}})?\s*(?P<value>\S+)(?:\s.*)?')
_LABEL = re.compile(rf"\s*(?P<name>{_STRING}|[^\W\d]\w*)\s*=\s*(?P<value>{_STRING})\s*(?:,|$)")
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class _Sample:
    labels: Mapping[str, str]
    value: float


class Page:
    """The samples of `metrics` on one page, taken apart once for all queries."""

    def __init__(self, text: str, metrics: Iterable[str]) -> None:
        self._samples: dict[str, list[_Sample]] = {}
        self._malformed: dict[str, int] = {}
        for line in _lines_of(frozenset(metrics)).finditer(text):
            if name := line["bare"]:
                sample = _sample(line["rest"])
            else:
                name = _unquoted(line["quoted"])
                sample = _sample("{" + line["rest"])
            if sample:
                self._samples.setdefault(name, []).append(sample)
            elif name not in self._malformed:
                self._malformed[name] = text.count("\n", 0, line.start()) + 1

    def read(self, query: ScrapeQuery) -> Reading:
        """The sum of the series that match, usually one."""
        if line := self._malformed.get(query.metric):
            return Unknown("Malformed", f"line {line} of the metrics page does not follow Prometheus' text format")
        samples = self._samples.get(query.metric, ())
        values = [s.value for s in samples if all(matcher.matches(s.labels) for matcher in query.matchers)]
        if not values:
            with_labels = " with the labels asked for" if samples else ""
            return Unknown("Empty", f"the metrics page does not have {query.metric}{with_labels}")
        return number(sum(values))


@lru_cache(maxsize=256)
def _lines_of(metrics: frozenset[str]) -> re.Pattern[str]:
    """Finds the sample lines of these metrics: `name{...} 1`, `name 1`, or with any name `{"name",...} 1`."""
    bare = "|".join(re.escape(name) for name in sorted(metrics))
    in_braces = "|".join(re.escape(quoted(name)) for name in sorted(metrics))
    return re.compile(
        rf"^[ \t]*(?:(?P<bare>{bare})(?![\w:.])|\{{[ \t]*(?P<quoted>{in_braces})[ \t]*,?)(?P<rest>.*)", re.MULTILINE
    )


def _sample(rest: str) -> _Sample | None:
    """What follows a metric's name, None if it is malformed. A timestamp or an exemplar is not looked at."""
    match = _REST.fullmatch(rest)
    if match is None:
        return None
    labels = _labels(match["labels"] or "")
    value = _number(match["value"])
    return None if labels is None or value is None else _Sample(labels, value)


def _labels(text: str) -> dict[str, str] | None:
    text = text.strip()
    labels: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None:
            return None
        name = match["name"]
        labels[_unquoted(name) if name.startswith('"') else name] = _unquoted(match["value"])
        at = match.end()
    return labels


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _unquoted(string: str) -> str:
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], string[1:-1])
