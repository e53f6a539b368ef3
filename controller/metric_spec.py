"""Pure: autoscaling/v2 MetricSpec: the form in which HorizontalPodAutoscalers, and we, name a metric and its target.

Stricter than the CRD's schema, as the Kubernetes API server is: exactly the member that a type names, and a positive
target. `source` is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from controller.parsing import ApiModel, Int, SharedModel, Text
from controller.quantity import parse_quantity

TargetType = Literal["Utilization", "Value", "AverageValue"]


class Source(StrEnum):
    """Where a metric comes from: the cluster's metrics APIs, Prometheus, or the endpoints of the model's Service."""

    KUBERNETES = "kubernetes"
    PROMETHEUS = "prometheus"
    ENDPOINTS = "endpoints"


SOURCES = {
    "Resource": (Source.KUBERNETES,),
    "ContainerResource": (Source.KUBERNETES,),
    "Pods": (Source.KUBERNETES, Source.ENDPOINTS),
    "Object": (Source.KUBERNETES,),
    "External": tuple(Source),
}
"""Who can answer a metric, by its type."""


def _positive_quantity(value: object) -> Fraction:
    quantity = parse_quantity(value)
    if quantity <= 0:
        raise ValueError("must be above 0")
    return quantity


Quantity = Annotated[
    Fraction,
    PlainValidator(_positive_quantity),
    PlainSerializer(str),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}),
]


class LabelSelectorRequirement(ApiModel):
    """A condition on a label."""

    key: Text
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _values_fit_operator(self) -> LabelSelectorRequirement:
        if bool(self.values) != (self.operator in ("In", "NotIn")):
            raise ValueError(f"operator {self.operator} {'must not have values' if self.values else 'needs values'}")
        return self


class LabelSelector(ApiModel):
    """Which series of the metric are meant. All conditions must hold."""

    match_labels: Mapping[str, str] = Field(default_factory=dict)
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()


class MetricIdentifier(ApiModel):
    """Which metric is meant."""

    name: Text
    """Its name, or for External metrics from Prometheus any PromQL expression."""
    selector: LabelSelector | None = None


class MetricTarget(SharedModel):
    """What the metric is compared with: exactly the member that type names."""

    type: TargetType
    value: Quantity | None = None
    """Of the metric as a whole, above 0."""
    average_value: Quantity | None = None
    """Of the metric divided by the pods, above 0."""
    average_utilization: Annotated[Int, Field(ge=1)] | None = None
    """Percent of what the pods request."""

    @model_validator(mode="after")
    def _member_fits_type(self) -> MetricTarget:
        members = {
            "value": self.value,
            "averageValue": self.average_value,
            "averageUtilization": self.average_utilization,
        }
        wanted = {"Utilization": "averageUtilization", "Value": "value", "AverageValue": "averageValue"}[self.type]
        if members.pop(wanted) is None:
            raise ValueError(f"type {self.type} needs {wanted}")
        if others := [name for name, value in members.items() if value is not None]:
            raise ValueError(f"type {self.type} takes only {wanted}; remove {' and '.join(others)}")
        return self


class CrossVersionObjectReference(ApiModel):
    """An object of the model's namespace."""

    api_version: Text | None = None
    kind: Text
    name: Text


class _Source(ApiModel):
    """A metric with its target."""

    targets: ClassVar[tuple[TargetType, ...]]
    target: MetricTarget

    @model_validator(mode="before")
    @classmethod
    def _target_stands_beside_metric(cls, data: object) -> object:
        if isinstance(data, Mapping) and isinstance(data.get("metric"), Mapping) and "target" in data["metric"]:
            raise ValueError("target stands inside metric; move target one level up, next to metric")
        return data

    @model_validator(mode="after")
    def _target_is_of_a_fitting_type(self) -> _Source:
        if self.target.type not in self.targets:
            raise ValueError(f"target.type must be {' or '.join(self.targets)} here, not {self.target.type}")
        return self


class ResourceMetric(_Source):
    """What the model's pods use, from metrics.k8s.io."""

    targets = ("Utilization", "AverageValue")
    name: Text
    """cpu or memory."""


class ContainerResourceMetric(ResourceMetric):
    """What one container of the model's pods uses, from metrics.k8s.io."""

    container: Text


class PodsMetric(_Source):
    """A metric that each of the model's pods has, averaged: from custom.metrics.k8s.io, or asked of the pods."""

    targets = ("AverageValue",)
    metric: MetricIdentifier


class ObjectMetric(_Source):
    """A metric of another object, from custom.metrics.k8s.io."""

    targets = ("Value", "AverageValue")
    described_object: CrossVersionObjectReference
    metric: MetricIdentifier


class ExternalMetric(_Source):
    """A metric of no object in the cluster: from external.metrics.k8s.io, Prometheus, or the endpoints of a Service."""

    targets = ("Value", "AverageValue")
    metric: MetricIdentifier


class MetricSpec(ApiModel):
    """A metric: exactly the member that type names is set."""

    type: Literal["Resource", "ContainerResource", "Pods", "Object", "External"]
    source: Source | None = None
    """Where its values come from. Absent: as the settings' metricInformer.type says."""
    resource: ResourceMetric | None = None
    container_resource: ContainerResourceMetric | None = None
    pods: PodsMetric | None = None
    object: ObjectMetric | None = None
    external: ExternalMetric | None = None

    @model_validator(mode="after")
    def _member_fits_type(self) -> MetricSpec:
        members = {
            "Resource": ("resource", self.resource),
            "ContainerResource": ("containerResource", self.container_resource),
            "Pods": ("pods", self.pods),
            "Object": ("object", self.object),
            "External": ("external", self.external),
        }
        wanted, value = members.pop(self.type)
        if value is None:
            raise ValueError(f"type {self.type} needs {wanted}")
        if others := [name for name, member in members.values() if member is not None]:
            raise ValueError(f"type {self.type} takes only {wanted}; remove {' and '.join(others)}")
        if self.source is not None and self.source not in SOURCES[self.type]:
            raise ValueError(f"type {self.type} takes source {' or '.join(SOURCES[self.type])}, not {self.source}")
        return self
