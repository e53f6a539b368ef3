"""What the controller gets to hear: its own queries, when it asks them."""

from __future__ import annotations

import math
import random

import pytest

from controller.events import Observed
from controller.metrics import Fold, PromQuery, ScrapeQuery, Unknown, Value
from controller.simulate.meter import MEANINGS, Meter, Sampling, Signal
from controller.simulate.plant import Plant
from controller.simulate.workload import LOCAL, REMOTE

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
SAMPLING = Sampling(prometheus_s=4.0, scrape_s=10.0, endpoints_s=1.0)


@pytest.fixture
def plant() -> Plant:
    return Plant(2, 4, 1, LOCAL, REMOTE, random.Random(1).random)


def asked(metric: str, fold: Fold = Fold.AVERAGE) -> ScrapeQuery:
    return ScrapeQuery("default/m", None, metric, fold=fold)


def occupy(plant: Plant, *counts: int) -> None:
    for replica, count in zip(plant.replicas, counts, strict=True):
        for _ in range(count):
            replica.take(0.0, 1000.0)


@pytest.mark.parametrize(
    ("metric", "fold", "value"),
    [
        (RUNNING, Fold.AVERAGE, 3.0),
        (RUNNING, Fold.SUM, 6.0),
        (WAITING, Fold.AVERAGE, 1.5),
        ("vllm:kv_cache_usage_perc", Fold.AVERAGE, 0.75),
        ("vllm:request_success_total", Fold.SUM, 0.0),
        ("seen", Fold.SUM, 9.0),
        ("all", Fold.AVERAGE, 4.5),
    ],
)
def test_endpoints_answer_with_what_is_so_at_the_moment(plant: Plant, metric: str, fold: Fold, value: float) -> None:
    meanings = {**MEANINGS, "seen": Signal.ARRIVED, "all": Signal.IN_PROGRESS}
    meter = Meter(plant, SAMPLING, meanings)
    meter.watch(asked(metric, fold), 0.0)
    occupy(plant, 2, 7)

    assert meter.observe(0.0) == [Observed(asked(metric, fold), Value(value))]


def test_each_query_is_asked_in_its_own_interval(plant: Plant) -> None:
    meter = Meter(plant, SAMPLING, MEANINGS)
    assert meter.wake_at_s == math.inf
    meter.watch(asked(RUNNING), 0.0)
    meter.watch(PromQuery(f"sum({WAITING})"), 0.0)
    times: dict[str, list[float]] = {"direct": [], "prometheus": []}
    while (now_s := meter.wake_at_s) <= 10:
        for observed in meter.observe(now_s):
            times["direct" if isinstance(observed.query, ScrapeQuery) else "prometheus"].append(now_s)

    assert times == {"direct": [float(second) for second in range(11)], "prometheus": [2.0, 6.0, 10.0]}


def test_prometheus_answers_with_what_it_has_scraped(plant: Plant) -> None:
    query = PromQuery(f"sum({WAITING})")
    meter = Meter(plant, SAMPLING, MEANINGS)
    meter.watch(query, 0.0)
    meter.observe(0.0)
    occupy(plant, 9, 9)

    assert meter.observe(2.0) == [Observed(query, Value(0.0))]
    meter.observe(6.0)
    assert meter.observe(10.0) == [Observed(query, Value(10.0))]


def test_an_answer_without_a_number_is_unknown(plant: Plant) -> None:
    query = PromQuery(f"sum({WAITING}) / 0")
    meter = Meter(plant, SAMPLING, MEANINGS)
    meter.watch(query, 0.0)

    assert [type(observed.reading) for observed in meter.observe(2.0)] == [Unknown]


def test_what_is_no_longer_watched_is_no_longer_asked(plant: Plant) -> None:
    meter = Meter(plant, SAMPLING, MEANINGS)
    meter.watch(asked(RUNNING), 0.0)
    meter.watch(asked(RUNNING), 0.0)
    meter.unwatch(asked(RUNNING))

    assert meter.observe(100.0) == []
