"""Pure: the custom resources as types: ModelDeployment (deployment.beamlit.com) and Policy (authorization.beamlit.com).

Every field that users of Beamlit Controller could write is here under the same name, beside our own; a manifest
without ours behaves as theirs did. `enabled: false` and `percentage: 0` are values, not absences. `parse` never
raises: it answers with a model or with every problem.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from controller.metric_spec import (
    ContainerResourceMetric,
    CrossVersionObjectReference,
    ExternalMetric,
    LabelSelector,
    LabelSelectorRequirement,
    MetricIdentifier,
    MetricSpec,
    MetricTarget,
    ObjectMetric,
    PodsMetric,
    ResourceMetric,
)
from controller.offload import Mode, OnUnavailable, Scope, Strategy
from controller.parsing import (
    ApiModel,
    Bool,
    Int,
    Invalid,
    Parsed,
    Port,
    Problem,
    Seconds,
    SharedModel,
    Text,
    parse_as,
)
from controller.remote_backend import (
    ApiKeyConfig,
    AuthConfig,
    Flavor,
    HeaderName,
    Location,
    OAuthConfig,
    RemoteBackend,
    SecretKeyRef,
    TlsConfig,
)
from xds import ir

MODEL_API_VERSION = "deployment.beamlit.com/v1alpha1"
POLICY_API_VERSION = "authorization.beamlit.com/v1alpha1"

R = TypeVar("R", bound="_Resource")
_OBJECT_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
Percentage = Annotated[Int, Field(ge=0, le=100)]
StatusCode = Annotated[Int, Field(ge=400, le=599)]


def _checked_object_name(value: str) -> str:
    if not _OBJECT_NAME.fullmatch(value):
        raise ValueError("must be lower case letters, digits, '-' and '.', with a letter or digit at both ends")
    return value


ObjectName = Annotated[Text, AfterValidator(_checked_object_name)]


class Metadata(ApiModel):
    unread = frozenset(
        {"deletionGracePeriodSeconds", "finalizers", "generateName", "managedFields"}
        | {"ownerReferences", "resourceVersion", "selfLink"}
    )
    name: ObjectName
    namespace: ObjectName = "default"
    annotations: Mapping[str, str] = Field(default_factory=dict)
    labels: Mapping[str, str] = Field(default_factory=dict)
    generation: Int = 0
    uid: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None

    @property
    def is_leaving(self) -> bool:
        """It is to be deleted, and still there because of its finalizers."""
        return self.deletion_timestamp is not None


class _ObjectReference(ApiModel):
    unread = frozenset({"fieldPath", "resourceVersion", "uid"})
    api_version: Text | None = None
    kind: Text | None = None
    name: Text
    namespace: Text | None = None
    """Absent: the namespace of the object that refers. Others work where the controller's settings allow them."""

    def object_key(self, namespace: str) -> str:
        """'namespace/name' of what is referred to, from an object in `namespace`."""
        return f"{self.namespace or namespace}/{self.name}"


class ModelSourceRef(_ObjectReference):
    """The workload that runs the model."""

    kind: Literal["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"]


class ServiceRef(_ObjectReference):
    """A Service."""

    target_port: Port | None = None
    """The number of one of the Service's own ports, whatever the name says. Absent: its only or first one."""


class PolicyRef(_ObjectReference):
    """A Policy that restricts where requests may go."""

    ref_type: Literal["remotePolicy", "localPolicy"] = "remotePolicy"
    """localPolicy: a Policy of this cluster. remotePolicy: one that only Beamlit knows, which is not applied here."""


class ServerlessConfig(ApiModel):
    """How the remote copy of the model scales."""

    min_num_replicas: Annotated[Int, Field(ge=0)] = 0
    max_num_replicas: Annotated[Int, Field(ge=0)] = 10
    metric: str | None = None
    """What the copy scales on."""
    target: str | None = None
    """The value of metric that the copy scales to."""
    scale_up_minimum: Annotated[Int, Field(ge=2)] | None = None
    """How many replicas the copy has at least, once it has any."""
    scale_down_delay: str | None = None
    stable_window: str | None = None
    last_pod_retention_period: str | None = None


class Behavior(SharedModel):
    """When traffic leaves and comes back."""  # controller/offload.py has the theory

    percentage: Percentage = 100
    """The share of the requests that leaves while a metric is reached; with strategy Proportional, the most of it."""
    strategy: Strategy = Strategy.FIXED
    """Fixed: percentage leaves. Proportional: as much as brings the metric to its target."""
    activation_seconds: Seconds = 5.0
    """How long a metric must be reached without a break before traffic leaves."""
    buffer_seconds: Seconds = 60.0
    """How long local must have been able to carry everything before all of it comes back."""
    max_step_percentage: Annotated[Int, Field(ge=1, le=100)] = 25
    """The most that strategy Proportional moves at once."""
    interval_seconds: Seconds = 5.0
    """The time from one move of strategy Proportional to the next."""
    metric_scope: Scope = Scope.LOCAL
    """Local: the metrics follow what local serves. Total: they count all requests, those that left included."""
    stale_seconds: Annotated[Seconds, Field(gt=0)] = 60.0
    """A metric without a sample for so long is unavailable."""
    on_metrics_unavailable: OnUnavailable = OnUnavailable.HOLD
    """What happens while no metric is available. Hold: what was. Local, Remote: everything goes there."""
    mode: Mode = Mode.AUTO
    """Off: nothing leaves. Force: percentage leaves, whatever the metrics say. DryRun: as Auto, but nothing moves."""


class LocalLimit(SharedModel):
    """A request that finds all replicas at this limit leaves at once, whatever the metrics say."""

    max_concurrent_requests_per_replica: Annotated[Int, Field(ge=1, le=ir.UNLIMITED)]
    """Over all gateways together; as many as a replica works on at once."""


class SessionAffinity(SharedModel):
    """Requests with the same value of this header go to the same destination."""

    header: HeaderName


class RetrySpec(SharedModel):
    """What happens to a request that a destination could not take."""

    attempts: Annotated[Int, Field(ge=0, le=ir.MAX_REMOTES)] | None = None
    """How many further destinations are tried. Absent: all."""
    status_codes: tuple[StatusCode, ...] = (429,)
    """Answers that mean "not me" and are tried elsewhere, whichever destination they come from."""


class OffloadingConfig(ApiModel):
    """Where requests go when local cannot take them, and when that is."""

    remote_backend: RemoteBackend | None = None
    """The only remote. With neither remoteBackend nor remoteBackends: the settings' default remote."""
    remote_backends: tuple[RemoteBackend, ...] = ()
    """Several remotes, each with a name of its own."""
    metrics: tuple[MetricSpec, ...] = ()
    """What is watched. Any one that reaches its target sends traffic away."""
    behavior: Behavior = Behavior()
    local_limit: LocalLimit | None = None
    session_affinity: SessionAffinity | None = None
    retry: RetrySpec = RetrySpec()

    @property
    def remotes(self) -> tuple[RemoteBackend, ...]:
        """The remotes in slot order; none: the default remote, if the settings have one."""
        return self.remote_backends or ((self.remote_backend,) if self.remote_backend else ())

    @model_validator(mode="after")
    def _remotes_fit_together(self) -> OffloadingConfig:
        if self.remote_backend and self.remote_backends:
            raise ValueError("remoteBackend and remoteBackends are both given; keep one of them")
        if len(self.remote_backends) > ir.MAX_REMOTES:
            raise ValueError(f"remoteBackends has {len(self.remote_backends)} entries; at most {ir.MAX_REMOTES} work")
        names = [remote.name for remote in self.remote_backends]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"remoteBackends needs a different name in each entry; {', '.join(doubled)} is there twice"
            )
        return self


class Takeover(StrEnum):
    """Whether callers of the model's Service are led to the gateway without their doing."""

    AUTO = "Auto"
    MANUAL = "Manual"


class ModelSpec(ApiModel):
    """What the model is, where it runs, and how it overflows."""

    model: Text
    """The model's name on the remotes. One ModelDeployment may have it in an environment."""
    enabled: Bool = True
    """false: nothing leaves, and the Service is as it was before."""
    model_source_ref: ModelSourceRef
    service_ref: ServiceRef | None = None
    """The Service that callers use. Absent: one is made, with the name of the ModelDeployment."""
    metric_service_ref: ServiceRef | None = None
    """The Service whose endpoints serve the metrics. Absent: serviceRef."""
    environment: Text = "production"
    policies: tuple[PolicyRef, ...] = ()
    """Those of one type add up, those of different types restrict each other; no Policy of a type allows all."""
    serverless_config: ServerlessConfig | None = None
    offloading_config: OffloadingConfig = OffloadingConfig()
    takeover: Takeover | None = None
    """Auto: callers of the Service are led to the gateway. Manual: nothing is touched, they use the gateway's address.
    Absent: as the controller's settings say.
    """


class _Resource(ApiModel):
    unread = frozenset({"apiVersion", "kind", "status"})
    api_version_expected: ClassVar[str]
    metadata: Metadata

    @cached_property
    def key(self) -> str:
        """'<namespace>/<name>', one text for all who ask."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


class ModelDeployment(_Resource):
    """A served model and how it overflows."""

    api_version_expected = MODEL_API_VERSION
    spec: ModelSpec

    @property
    def identity(self) -> tuple[str, str]:
        """(environment, model), which one ModelDeployment may have at a time."""
        return self.spec.environment, self.spec.model


class PolicyLocation(ApiModel):
    """A place that is allowed: one location, or a whole country or continent."""

    type: Literal["location", "country", "continent"]
    name: Text


class PolicySpec(ApiModel):
    """What is allowed."""

    display_name: str | None = None
    type: Literal["location", "flavor"]
    """Which of locations and flavors counts."""
    locations: tuple[PolicyLocation, ...] = ()
    flavors: tuple[Flavor, ...] = ()


class Policy(_Resource):
    """Where requests of the models that name it may go. Policies of one type add up, types restrict each other."""

    api_version_expected = POLICY_API_VERSION
    spec: PolicySpec


def parse(obj: Mapping[str, object]) -> Parsed[ModelDeployment] | Invalid:
    """A ModelDeployment from its decoded manifest."""
    return _parse(ModelDeployment, obj)


def parse_policy(obj: Mapping[str, object]) -> Parsed[Policy] | Invalid:
    """A Policy from its decoded manifest."""
    return _parse(Policy, obj)


def _parse(resource: type[R], obj: Mapping[str, object]) -> Parsed[R] | Invalid:
    parsed = parse_as(resource, obj)
    if obj.get("apiVersion") == resource.api_version_expected:
        return parsed
    problem = Problem("apiVersion", f"must be {resource.api_version_expected}")
    return Invalid((problem, *(parsed.problems if isinstance(parsed, Invalid) else ())))


__all__ = [
    "MODEL_API_VERSION",
    "POLICY_API_VERSION",
    "ApiKeyConfig",
    "AuthConfig",
    "Behavior",
    "ContainerResourceMetric",
    "CrossVersionObjectReference",
    "ExternalMetric",
    "Flavor",
    "Invalid",
    "LabelSelector",
    "LabelSelectorRequirement",
    "LocalLimit",
    "Location",
    "Metadata",
    "MetricIdentifier",
    "MetricSpec",
    "MetricTarget",
    "ModelDeployment",
    "ModelSourceRef",
    "ModelSpec",
    "OAuthConfig",
    "ObjectMetric",
    "OffloadingConfig",
    "Parsed",
    "PodsMetric",
    "Policy",
    "PolicyLocation",
    "PolicyRef",
    "PolicySpec",
    "Problem",
    "RemoteBackend",
    "ResourceMetric",
    "RetrySpec",
    "SecretKeyRef",
    "ServerlessConfig",
    "ServiceRef",
    "SessionAffinity",
    "Takeover",
    "TlsConfig",
    "parse",
    "parse_policy",
]
