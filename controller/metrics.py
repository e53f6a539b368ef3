"""Pure: from a MetricSpec to a query, and from the query's answer to value/target.

What cannot be known is `Unknown`, with a reason, never a guess and never an exception: silence moves no traffic, so a
wrong number is worse than none. The rules are the HorizontalPodAutoscaler's as far as it has one:

- An External metric that is several series is their sum. With an AverageValue target the sum is divided by the ready
  replicas.
- A Pods metric is the average over the endpoints that answered. Those that did not are taken to be like the others, so
  they neither raise nor lower it; a restarting pod must not look like an idle one.
- A sum over endpoints is unknown while one of them is, because a part of a sum looks like calm.

Targets are exact (500m is one half) and are rounded once, as the value itself was when it was written down: 0.3 has
reached 300m.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from controller.api import MetricIdentifier, MetricSpec, MetricTarget, ModelDeployment
from controller.selector import Matcher, is_metric_name, matchers_of, promql


class Source(StrEnum):
    """Where External metrics come from: settings' metricInformer.type."""

    KUBERNETES = "kubernetes"
    PROMETHEUS = "prometheus"
    ENDPOINTS = "endpoints"


class Fold(StrEnum):
    """What the values of several endpoints come to."""

    AVERAGE = "average"
    SUM = "sum"


@dataclass(frozen=True, slots=True)
class PromQuery:
    """An instant query. Models with equal queries share the answer."""

    promql: str


@dataclass(frozen=True, slots=True)
class ScrapeQuery:
    """`metric` as the ready endpoints of a Service serve it themselves, all series that match summed on each endpoint.

    `service`: '<namespace>/<name>'. `port`: a port of the Service, None: its only or first one.
    """

    service: str
    port: int | None
    metric: str
    matchers: tuple[Matcher, ...] = ()
    fold: Fold = Fold.AVERAGE


Query = PromQuery | ScrapeQuery


@dataclass(frozen=True, slots=True)
class Value:
    """A finite number."""

    value: float


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why there is no value: a CamelCase reason and a sentence."""

    reason: str
    message: str


Reading = Value | Unknown


def query_for(metric: MetricSpec, model: ModelDeployment, source: Source) -> Query | Unknown:
    """The query that answers this metric of this model. `source` is for External metrics only."""
    if metric.pods is not None:
        return _scrape(metric.pods.metric, model, Fold.AVERAGE)
    if metric.external is None:
        return Unknown(
            "NoSource",
            f"{metric.type} metrics come from a cluster's metrics API, and there is none here; "
            "use a Pods metric, or an External one from Prometheus",
        )
    match source:
        case Source.PROMETHEUS:
            return _prometheus(metric.external.metric)
        case Source.ENDPOINTS:
            return _scrape(metric.external.metric, model, Fold.SUM)
        case Source.KUBERNETES:
            return Unknown(
                "NoSource",
                "External metrics come from a cluster's metrics API, and there is none here; "
                "set metricInformer.type to prometheus or endpoints",
            )


def target_of(metric: MetricSpec) -> MetricTarget:
    named = metric.resource or metric.container_resource or metric.pods or metric.object or metric.external
    assert named is not None, "a MetricSpec always has the member that its type names"
    return named.target


def ratio(metric: MetricSpec, reading: Reading, ready_replicas: int | None) -> Reading:
    """value / target: 1 or more means reached. `ready_replicas`: local ones, None while that is not known."""
    if isinstance(reading, Unknown):
        return reading
    target = target_of(metric)
    wanted = target.value if target.value is not None else target.average_value
    if wanted is None:
        return Unknown(
            "NoSource", "utilization can only be told by a cluster's metrics API; use an AverageValue target"
        )
    if target.value is None and metric.external is not None:
        if not ready_replicas:
            why = "how many replicas are ready is not known" if ready_replicas is None else "no replica is ready"
            return Unknown("NoReadyReplicas", f"an average over replicas is asked for, but {why}")
        wanted *= ready_replicas
    try:
        return number(reading.value / float(wanted))
    except (OverflowError, ZeroDivisionError):
        return Unknown("BadTarget", "the target is too close to 0 or too large to compare with")


def number(value: float) -> Reading:
    """A value if it is a finite number."""
    if math.isfinite(value):
        return Value(value)
    return Unknown("NotANumber", f"the answer is {value}, which is no usable number")


def read_prometheus(result: object) -> Reading:
    """The `result` of Prometheus' answer to an instant query: a scalar, or a vector, whose series are summed."""
    match result:
        case [int() | float(), str() as text]:
            return _number_in(text)
        case []:
            return Unknown("Empty", "the query found no series; look at the metric's name and labels")
        case [{"values": _} | {"histograms": _}, *_]:
            return Unknown(
                "Matrix", "the query gives a range of values; ask for an instant vector, for example with rate()"
            )
        case [{"histogram": _}, *_]:
            return Unknown(
                "Histogram", "the query gives histograms; ask for a number, for example with histogram_quantile()"
            )
        case [*series]:
            return _sum([_series_value(each) for each in series])
        case _:
            return Unknown("BadAnswer", "the answer is not one that Prometheus gives to an instant query")


def fold(readings: Sequence[Reading], how: Fold) -> Reading:
    """What the endpoints' own readings come to."""
    values = [reading.value for reading in readings if isinstance(reading, Value)]
    unknown = [reading for reading in readings if isinstance(reading, Unknown)]
    if not readings:
        return Unknown("NoEndpoints", "there is no ready endpoint to ask")
    if unknown and (not values or how is Fold.SUM):
        first = unknown[0]
        return Unknown(first.reason, f"{len(unknown)} of {len(readings)} endpoints have no value: {first.message}")
    total = sum(values)
    return number(total if how is Fold.SUM else total / len(values))


def _prometheus(metric: MetricIdentifier) -> Query | Unknown:
    matchers = matchers_of(metric.selector)
    if is_metric_name(metric.name):
        return PromQuery(promql(metric.name, matchers))
    if matchers:
        return Unknown(
            "SelectorOnExpression",
            "metric.name is a PromQL expression, so selector must go; put its labels in the expression",
        )
    return PromQuery(metric.name.strip())


def _scrape(metric: MetricIdentifier, model: ModelDeployment, how: Fold) -> Query | Unknown:
    ref = model.spec.metric_service_ref or model.spec.service_ref
    if ref is None:
        return Unknown(
            "NoService", "the model has neither metricServiceRef nor serviceRef, so there is no endpoint to ask"
        )
    if not is_metric_name(metric.name):
        return Unknown(
            "NotAMetricName", "endpoints can be asked for a metric by its name only, not for a PromQL expression"
        )
    service = ref.object_key(model.metadata.namespace)
    return ScrapeQuery(service, ref.target_port, metric.name, matchers_of(metric.selector), how)


def _series_value(series: object) -> Reading:
    match series:
        case {"value": [_, str() as text]}:
            return _number_in(text)
        case _:
            return Unknown("BadAnswer", "the answer holds a series without a value")


def _sum(readings: Sequence[Reading]) -> Reading:
    unknown = next((reading for reading in readings if isinstance(reading, Unknown)), None)
    return unknown or number(sum(reading.value for reading in readings if isinstance(reading, Value)))


def _number_in(text: str) -> Reading:
    try:
        return number(float(text))
    except ValueError:
        return Unknown("NotANumber", "the query gives text; ask for a number")


__all__ = [
    "Fold",
    "Matcher",
    "PromQuery",
    "Query",
    "Reading",
    "ScrapeQuery",
    "Source",
    "Unknown",
    "Value",
    "fold",
    "number",
    "query_for",
    "ratio",
    "read_prometheus",
    "target_of",
]
