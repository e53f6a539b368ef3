"""The part of PromQL that simulated servers can answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from controller.simulate.expression import ExpressionError, Scrape, parse

SCRAPES: Sequence[Scrape] = [
    (0.0, {"q": [0, 0], "done_total": [0, 0]}),
    (15.0, {"q": [2, 6], "done_total": [30, 60]}),
    (30.0, {"q": [4, 8], "done_total": [45, 90]}),
]


def evaluate(text: str, at_s: float = 32.0, scrapes: Sequence[Scrape] = SCRAPES) -> list[float]:
    return list(parse(text).evaluate(scrapes, at_s))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("q", [4, 8]),
        ('q{model_name="a}b",pod=~".*"}', [4, 8]),
        ("sum(q)", [12]),
        ("avg(q)", [6]),
        ("max(q) - min(q)", [4]),
        ("q * 2 + 1", [9, 17]),
        ("1 + 2 * q", [9, 17]),
        ("(1 + 2) * 3", [9]),
        ("sum(q + q) / 2", [12]),
        ("100 - q", [96, 92]),
        ("avg_over_time(q[30s])", [3, 7]),
        ('max_over_time(q{a="b"}[1m])', [4, 8]),
        ("min_over_time(q[1m])", [0, 0]),
        ("rate(done_total[1m])", [1.5, 3]),
        ("sum(rate(done_total[1m30s])) * 60", [270]),
        ("increase(done_total[20s])", [15, 30]),
    ],
)
def test_what_it_comes_to(text: str, values: list[float]) -> None:
    assert evaluate(text) == pytest.approx(values)


def test_nothing_scraped_or_nothing_lately_is_no_value() -> None:
    assert evaluate("sum(q)", scrapes=[]) == []
    assert evaluate("q + 1", at_s=400.0) == []
    assert evaluate("rate(done_total[1m])", at_s=400.0) == []


def test_what_has_no_number_is_none() -> None:
    assert math.isnan(evaluate("sum(q) / 0")[0])
    assert math.isnan(evaluate("rate(done_total[10s])")[0])


def test_it_knows_the_metrics_it_needs() -> None:
    assert parse('sum(a:b{c="d"}) + sum(rate(e_total[1m]))').metrics == {"a:b", "e_total"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("histogram_quantile(0.9, q)", "cannot evaluate histogram_quantile()"),
        ("sum by (pod) (q)", "'by (pod) (q)'"),
        ("q > 3", "'> 3'"),
        ("q offset 5m", "'offset 5m'"),
        ("rate(q)", "rate() needs a range such as q[1m]"),
        ("rate(sum(q)[1m])", "rate() needs a range such as sum[1m]"),
        ("rate(3)", "of a metric only, not of '3)'"),
        ("q[1m]", "'[1m]'"),
        ("(q", "a ) is missing before ''"),
        ("q + ", "'nothing'"),
        ("q + sum(q)", "one side of + is aggregated"),
        ("", "'nothing'"),
        ("q $", "'$'"),
    ],
)
def test_what_it_cannot_answer_it_names(text: str, words: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        parse(text)

    assert words in str(raised.value)
