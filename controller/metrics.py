"""Pure: from a MetricSpec to a query, and from the query's answer to value/target.

What cannot be known is `Unknown`, with a reason, never a guess and never an exception: silence moves no traffic, so a
wrong number is worse than none. The rules are the HorizontalPodAutoscaler's as far as it has one:

- An External metric that is several series is their sum. With an AverageValue target the sum, or the value of an
  Object metric, is divided by the ready replicas.
- Metrics of pods that come from a cluster's APIs are judged where they are put together (`kube_metrics`), since what a
  pod without a sample may use depends on the target.
- A Pods metric from endpoints is the average over those that answered. Those that did not are taken to be like the
  others, so they neither raise nor lower it; a restarting pod must not look like an idle one.
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
from controller.metric_spec import Source
from controller.objects import Workload
from controller.selector import Matcher, api_selector, is_metric_name, matchers_of, promql


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


@dataclass(frozen=True, slots=True)
class ResourceQuery:
    """What pods use of a resource (metrics.k8s.io). `selector`: of the pods, in the API's text form. `container`: the
    one that counts, None: all.
    """

    namespace: str
    selector: str
    resource: str
    container: str | None
    target: MetricTarget


@dataclass(frozen=True, slots=True)
class PodsQuery:
    """A metric that pods have (custom.metrics.k8s.io). Both selectors are in the API's text form, '' for none."""

    namespace: str
    selector: str
    metric: str
    metric_selector: str
    target: MetricTarget


@dataclass(frozen=True, slots=True)
class ObjectQuery:
    """A metric that an object has (custom.metrics.k8s.io). `group`: the object's API group, '' for the core."""

    namespace: str
    group: str
    kind: str
    name: str
    metric: str
    metric_selector: str


@dataclass(frozen=True, slots=True)
class ExternalQuery:
    """A metric that has nothing to do with the cluster's objects (external.metrics.k8s.io), all its series summed."""

    namespace: str
    metric: str
    metric_selector: str


ApiQuery = ResourceQuery | PodsQuery | ObjectQuery | ExternalQuery
"""What a cluster's metrics APIs answer."""

Query = PromQuery | ScrapeQuery | ApiQuery


@dataclass(frozen=True, slots=True)
class Value:
    """A finite number. `ratio`: value / target, once it has been judged."""

    value: float
    ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why there is no value: a CamelCase reason and a sentence."""

    reason: str
    message: str


Reading = Value | Unknown


def query_for(
    metric: MetricSpec, model: ModelDeployment, source: Source, workload: Workload | str | None = None
) -> Query | Unknown:
    """The query that answers this metric of this model.

    `source`: of metrics that do not name theirs. `workload`: what runs the model, or why that is not known; None: there
    is no cluster. Without one, a Pods metric that does not name its source comes from endpoints.
    """
    source = metric.source or source
    if metric.external is not None and source is Source.PROMETHEUS:
        return _prometheus(metric.external.metric)
    if metric.external is not None and source is Source.ENDPOINTS:
        return _scrape(metric.external.metric, model, workload, Fold.SUM)
    if metric.pods is not None:
        has_api = workload is not None or metric.source is not None
        if source is not Source.KUBERNETES or not has_api:
            return _scrape(metric.pods.metric, model, workload, Fold.AVERAGE)
    if workload is None:
        remedy = (
            "use source prometheus or endpoints (metricInformer.type, or the metric's own)"
            if metric.external
            else "use a Pods metric from endpoints, or an External one from Prometheus"
        )
        return Unknown(
            "NoSource", f"{metric.type} metrics come from a cluster's metrics API, and there is none here; {remedy}"
        )
    try:
        return _from_cluster(metric, model.metadata.namespace, workload)
    except ValueError as error:
        return Unknown("BadName", str(error))


def target_of(metric: MetricSpec) -> MetricTarget:
    named = metric.resource or metric.container_resource or metric.pods or metric.object or metric.external
    assert named is not None, "a MetricSpec always has the member that its type names"
    return named.target


def judged(metric: MetricSpec, reading: Reading, ready_replicas: int | None) -> Reading:
    """The value as it is compared with the target, and their ratio: 1 or more means reached. `ready_replicas`: local
    ones, None while that is not known.
    """
    if isinstance(reading, Unknown) or reading.ratio is not None:
        return reading
    target = target_of(metric)
    wanted = target.value if target.value is not None else target.average_value
    if wanted is None:
        return Unknown(
            "NoSource", "utilization can only be told by a cluster's metrics API; use an AverageValue target"
        )
    replicas = 1
    if target.value is None and (metric.external or metric.object):
        if not ready_replicas:
            why = "how many replicas are ready is not known" if ready_replicas is None else "no replica is ready"
            return Unknown("NoReadyReplicas", f"an average over replicas is asked for, but {why}")
        replicas = ready_replicas
    try:
        ratio = number(reading.value / float(wanted * replicas))
    except (OverflowError, ZeroDivisionError):
        return Unknown("BadTarget", "the target is too close to 0 or too large to compare with")
    return ratio if isinstance(ratio, Unknown) else Value(reading.value / replicas, ratio.value)


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


def _from_cluster(metric: MetricSpec, namespace: str, workload: Workload | str) -> ApiQuery | Unknown:
    """Raises ValueError for names that would mean something else in a path or in a selector."""
    if metric.external is not None:
        return ExternalQuery(namespace, *_identified(metric.external.metric))
    if metric.object is not None:
        described = metric.object.described_object
        group, has_group, _ = (described.api_version or "").rpartition("/")
        return ObjectQuery(
            namespace,
            _segment(group) if has_group else "",
            described.kind,
            _segment(described.name),
            *_identified(metric.object.metric),
        )
    if isinstance(workload, str):
        return Unknown("NoWorkload", workload)
    if not workload.selector:
        return Unknown("NoSelector", f"{workload.kind} {workload.key} has no selector, so its pods are not known")
    namespace = workload.key.partition("/")[0]
    if metric.pods is not None:
        return PodsQuery(namespace, workload.selector, *_identified(metric.pods.metric), metric.pods.target)
    container = metric.container_resource.container if metric.container_resource else None
    named = metric.resource or metric.container_resource
    assert named is not None, "a MetricSpec always has the member that its type names"
    return ResourceQuery(namespace, workload.selector, named.name, container, named.target)


def _identified(metric: MetricIdentifier) -> tuple[str, str]:
    """Its name and its selector, as the API takes them."""
    return _segment(metric.name), api_selector(metric.selector)


def _segment(name: str) -> str:
    """A name that is one part of a path and stays one, as Kubernetes asks of all names."""
    if name in (".", "..") or "/" in name or "%" in name:
        raise ValueError(f"{name!r} cannot be part of a path, so the cluster's metrics APIs have no such thing")
    return name


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


def _scrape(
    metric: MetricIdentifier, model: ModelDeployment, workload: Workload | str | None, how: Fold
) -> Query | Unknown:
    ref = model.spec.metric_service_ref or model.spec.service_ref
    if ref is None and workload is None:
        return Unknown(
            "NoService", "the model has neither metricServiceRef nor serviceRef, so there is no endpoint to ask"
        )
    if not is_metric_name(metric.name):
        return Unknown(
            "NotAMetricName", "endpoints can be asked for a metric by its name only, not for a PromQL expression"
        )
    # In a cluster, a Service of its name is made for a model that names none.
    service, port = (ref.object_key(model.metadata.namespace), ref.target_port) if ref else (model.key, None)
    return ScrapeQuery(service, port, metric.name, matchers_of(metric.selector), how)


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
    "ApiQuery",
    "ExternalQuery",
    "Fold",
    "Matcher",
    "ObjectQuery",
    "PodsQuery",
    "PromQuery",
    "Query",
    "Reading",
    "ResourceQuery",
    "ScrapeQuery",
    "Source",
    "Unknown",
    "Value",
    "fold",
    "judged",
    "number",
    "query_for",
    "read_prometheus",
    "target_of",
]
