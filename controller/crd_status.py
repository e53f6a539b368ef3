"""Pure: what a ModelDeployment's status holds. Written by controller/status.py, never read as these types: they are the
schema, and its words.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from controller.parsing import ApiModel, Int, Text

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Anything = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]


class StatusCondition(ApiModel):
    """One aspect of how the model is doing."""

    type: Text
    status: Literal["True", "False", "Unknown"]
    observed_generation: Annotated[Int, Field(ge=0)] | None = None
    """The generation of the manifest that this is about."""
    last_transition_time: Time
    """When status last changed."""
    reason: Text
    message: str


class CurrentMetric(ApiModel):
    """A metric as it was last seen."""

    name: str
    type: str
    value: str | None = None
    target: str | None = None
    ratio: float | None = None
    """value / target; from 1 on the target is reached."""
    unknown: str | None = None
    """Why there is no value."""


class ModelStatus(ApiModel):
    """What the controller found and decided."""

    observed_generation: Annotated[Int, Field(ge=0)] | None = None
    """The generation of the manifest that this is about."""
    conditions: tuple[StatusCondition, ...] = ()
    state: str | None = None
    """Standby, Overflowing or Failover."""
    share: str | None = None
    """How much of the requests leaves, for people: 12.5%."""
    percentage: Annotated[float, Field(ge=0, le=100)] | None = None
    """How much of the requests leaves."""
    since: Time | None = None
    """When state last changed."""
    reason: str | None = None
    """Why state is what it is, in one word."""
    message: str | None = None
    """Why state is what it is, in a sentence."""
    metric: str | None = None
    """The metric that counts, and its value."""
    target: str | None = None
    """The target of the metric that counts."""
    remote: str | None = None
    """The host of the first remote."""
    current_metrics: tuple[CurrentMetric, ...] = ()
    ready_replicas: Annotated[Int, Field(ge=0)] | None = None
    """How many replicas of its own the model has ready."""
    gateway_port: Annotated[Int, Field(ge=1, le=65_535)] | None = None
    """The gateway's port for this model. It stays the same."""
    decision: Anything | None = None
    """What the next leader goes on with."""
    offloading_status: bool | None = None
    """Whether requests leave."""
    serving_port: Int | None = None
    """The port of the Service that callers use."""
    metric_port: Int | None = None
    """The port of the Service that serves metrics."""
    workspace: str | None = None
    """What $workspace in a path prefix stands for."""
    created_at_on_beamlit: str | None = None
    updated_at_on_beamlit: str | None = None
