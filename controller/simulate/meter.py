"""Pure: what the controller gets to hear of the plant: its own queries, asked as often as it asks them.

Endpoints are asked directly; what goes to Prometheus is answered from its last scrape. Both clocks start with the load,
that of the queries half an interval later: so an answer of Prometheus is as old as it is on average.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from controller.events import Observed
from controller.metrics import PromQuery, Query, Reading, ScrapeQuery, Value, fold, read_prometheus
from controller.simulate.expression import ExpressionError, Scrape, parse
from controller.simulate.plant import Plant, Replica


class Signal(StrEnum):
    """What can be measured at a replica. `utilization`: the part of its slots in use, from 0 to 1. `arrived` and
    `completed` are counters.
    """

    RUNNING = "running"
    WAITING = "waiting"
    IN_PROGRESS = "in-progress"
    UTILIZATION = "utilization"
    ARRIVED = "arrived"
    COMPLETED = "completed"


MEANINGS: Mapping[str, Signal] = {
    "vllm:num_requests_running": Signal.RUNNING,
    "vllm:num_requests_waiting": Signal.WAITING,
    "vllm:kv_cache_usage_perc": Signal.UTILIZATION,
    "vllm:gpu_cache_usage_perc": Signal.UTILIZATION,
    "vllm:request_success_total": Signal.COMPLETED,
    "sglang:num_running_reqs": Signal.RUNNING,
    "sglang:num_queue_reqs": Signal.WAITING,
    "sglang:token_usage": Signal.UTILIZATION,
    "tgi_batch_current_size": Signal.RUNNING,
    "tgi_queue_size": Signal.WAITING,
}
"""What simulated servers make of the metrics of real ones. The use of a cache is taken to follow that of the slots."""

_VALUES: Mapping[Signal, Callable[[Replica], float]] = {
    Signal.RUNNING: lambda replica: replica.running,
    Signal.WAITING: lambda replica: replica.waiting,
    Signal.IN_PROGRESS: lambda replica: replica.in_progress,
    Signal.UTILIZATION: lambda replica: replica.running / replica.slots,
    Signal.ARRIVED: lambda replica: replica.arrived,
    Signal.COMPLETED: lambda replica: replica.completed,
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How often, in seconds: the controller asks Prometheus, Prometheus scrapes the replicas, the controller asks the
    replicas itself.
    """

    prometheus_s: float = 5.0
    scrape_s: float = 15.0
    endpoints_s: float = 1.0


def metrics_in(query: Query) -> frozenset[str]:
    """The metrics that a query needs. Raises ExpressionError if it cannot be simulated."""
    match query:
        case ScrapeQuery(metric=metric):
            return frozenset({metric})
        case PromQuery(promql=promql):
            return parse(promql).metrics
        case _:
            raise ExpressionError("a simulated world has no metrics APIs")


class Meter:
    """Answers the queries that are watched. `meanings` has all metrics that are in them."""

    def __init__(self, plant: Plant, sampling: Sampling, meanings: Mapping[str, Signal]) -> None:
        self._plant = plant
        self._sampling = sampling
        self._meanings = meanings
        self._due: list[tuple[float, int, Query]] = []
        self._order = itertools.count()
        self._answers: dict[Query, Callable[[float], Reading]] = {}
        self._scraped: set[str] = set()
        self._scrapes: list[Scrape] = []
        self._scrape_at_s = math.inf

    def watch(self, query: Query, now_s: float) -> None:
        """From now on. A query that is watched already goes on as it does."""
        if query in self._answers:
            return
        if isinstance(query, ScrapeQuery):
            self._answers[query] = self._asked(query)
            first_s = now_s
        else:
            assert isinstance(query, PromQuery), "metrics_in refuses all others"
            self._answers[query] = self._from_prometheus(query)
            first_s = now_s + self._sampling.prometheus_s / 2
            self._scrape_at_s = min(self._scrape_at_s, now_s)
        heapq.heappush(self._due, (first_s, next(self._order), query))

    def unwatch(self, query: Query) -> None:
        del self._answers[query]
        self._due = sorted(due for due in self._due if due[2] != query)

    @property
    def wake_at_s(self) -> float:
        return min(self._scrape_at_s, self._due[0][0] if self._due else math.inf)

    def observe(self, now_s: float) -> list[Observed]:
        """The answers that are due by now."""
        while self._scrape_at_s <= now_s:
            self._scrapes.append((self._scrape_at_s, {metric: self._values(metric) for metric in self._scraped}))
            self._scrape_at_s += self._sampling.scrape_s
        observed = []
        while self._due and self._due[0][0] <= now_s:
            at_s, order, query = self._due[0]
            observed.append(Observed(query, self._answers[query](now_s)))
            direct = isinstance(query, ScrapeQuery)
            pause_s = self._sampling.endpoints_s if direct else self._sampling.prometheus_s
            heapq.heapreplace(self._due, (at_s + pause_s, order, query))
        return observed

    def _values(self, metric: str) -> Sequence[float]:
        value = _VALUES[self._meanings[metric]]
        return [value(replica) for replica in self._plant.replicas]

    def _asked(self, query: ScrapeQuery) -> Callable[[float], Reading]:
        return lambda _: fold([Value(value) for value in self._values(query.metric)], query.fold)

    def _from_prometheus(self, query: PromQuery) -> Callable[[float], Reading]:
        expression = parse(query.promql)
        self._scraped |= expression.metrics

        def answer(now_s: float) -> Reading:
            series = expression.evaluate(self._scrapes, now_s)
            return read_prometheus([{"value": [now_s, str(value)]} for value in series])

        return answer
