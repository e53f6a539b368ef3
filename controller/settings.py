"""Pure: settings, from the config file (YAML or JSON, as the predecessor's was), the environment and flags.

Later ones win: file, environment, flags. A key without a meaning is named in a warning; a bad value is an error that
names the key and the reason, and all of them are given at once. What the predecessor knew and this controller does not
need is accepted in silence.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import PurePath
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, SecretStr, model_validator

from controller.api import Takeover
from controller.destinations import LOCAL_ONLY, Destinations, check_rule
from controller.metrics import Source
from controller.parsing import ApiModel, Invalid, Port, Problem, Text, parse_as
from controller.remote_backend import RemoteBackend, split_host
from xds import ir

INTERVAL_MIN_S = 0.1

Interval = Annotated[float, Field(strict=True, ge=INTERVAL_MIN_S, le=3_600)]


class SettingsError(Exception):
    """Settings that cannot be used; one line for each problem."""


class PrometheusSettings(ApiModel):
    """`address`: 'host:port' or a URL. Files are read anew when they are needed, since they are rotated."""

    address: Text | None = None
    timeout_seconds: Interval = 5.0
    interval_seconds: Interval = 5.0
    bearer_token_file: Text | None = None
    username: Text | None = None
    password_file: Text | None = None
    ca_file: Text | None = None

    @model_validator(mode="after")
    def _one_login(self) -> PrometheusSettings:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and passwordFile go together")
        if self.username is not None and self.bearer_token_file is not None:
            raise ValueError("bearerTokenFile and username are two ways to log in; keep one")
        return self


class MetricsApiSettings(ApiModel):
    """How often the metrics APIs of the cluster are asked."""

    interval_seconds: Interval = 15.0
    timeout_seconds: Interval = 10.0


class EndpointSettings(ApiModel):
    """How often ready endpoints are asked for their own metrics."""

    interval_seconds: Interval = 1.0
    timeout_seconds: Interval = 2.0


class MetricInformer(ApiModel):
    type: Source = Source.KUBERNETES
    kubernetes: MetricsApiSettings = MetricsApiSettings()
    prometheus: PrometheusSettings = PrometheusSettings()
    endpoints: EndpointSettings = EndpointSettings()


def _resolver(value: str) -> str:
    address, port = split_host(value)
    try:
        ip_address(address)
    except ValueError:
        raise ValueError("must be address:port of a DNS server") from None
    if port is None:
        raise ValueError("must be address:port of a DNS server; the port is missing")
    return value


GATEWAY_PORTS = {"its admin interface": 9_901, "statistics and drain": 9_902}
"""Those that envoy/bootstrap.yaml and the chart give to the gateway."""


def _port_range(value: str) -> str:
    first, _, last = value.partition("-")
    if not (first.isdigit() and last.isdigit() and 1_024 <= int(first) <= int(last) <= 65_535):
        raise ValueError("must be two port numbers from 1024 to 65535 such as 20000-29999, the lower first")
    return value


class GatewaySettings(ApiModel):
    """`dns_resolvers`: the DNS servers that remotes are looked up at, 'address:port'; none: the system's. In a cluster,
    `ports` are those that models get, each its own, and at `listen` callers come in who name a model by its Host.
    """

    dns_resolvers: tuple[Annotated[str, AfterValidator(_resolver)], ...] = ()
    ports: Annotated[Text, AfterValidator(_port_range)] = "20000-29999"
    address: Text = "0.0.0.0"
    listen: Port = 8080

    @model_validator(mode="after")
    def _ports_are_apart(self) -> GatewaySettings:
        for name, port in (("listen", self.listen), *GATEWAY_PORTS.items()):
            if port in self.port_range:
                raise ValueError(f"ports ({self.ports}) must not hold {port}, the gateway's own for {name}")
        return self

    @property
    def port_range(self) -> range:
        first, _, last = self.ports.partition("-")
        return range(int(first), int(last) + 1)

    @property
    def resolvers(self) -> tuple[ir.Endpoint, ...]:
        split = (split_host(each) for each in self.dns_resolvers)
        return tuple(ir.Endpoint(address, port or 53) for address, port in split)


class XdsTls(ApiModel):
    """The xDS port's certificate, and the authority that gateways' certificates must come from. Files in PEM."""

    cert_file: Text
    key_file: Text
    client_ca_file: Text


class XdsSettings(ApiModel):
    tls: XdsTls | None = None


class DestinationSettings(ApiModel):
    """Where remotes and token issuers may be: DNS names, names with '*', addresses, networks. `deny` None: loopback and
    link-local in a cluster, nothing outside one.
    """

    allow: tuple[Annotated[str, AfterValidator(check_rule)], ...] = ()
    deny: tuple[Annotated[str, AfterValidator(check_rule)], ...] | None = None


class LeaderElection(ApiModel):
    """As in every Kubernetes controller; the Lease is in the controller's own namespace."""

    name: Text = "spillway"
    lease_duration_seconds: Annotated[int, Field(strict=True, ge=2, le=600)] = 15
    renew_deadline_seconds: Annotated[float, Field(strict=True, ge=1, le=600)] = 10.0
    retry_period_seconds: Annotated[float, Field(strict=True, ge=0.1, le=600)] = 2.0

    @model_validator(mode="after")
    def _deadlines_fit(self) -> LeaderElection:
        if not self.lease_duration_seconds > self.renew_deadline_seconds > self.retry_period_seconds:
            raise ValueError(
                "leaseDurationSeconds must be above renewDeadlineSeconds, and that above retryPeriodSeconds"
            )
        return self


class ProxyService(ApiModel):
    """The gateway's Service in the cluster; its endpoints are the gateway's pods."""

    unread = frozenset({"adminPort", "admin_port"})
    namespace: Text | None = None
    name: Text | None = None
    port: int | None = None


_LATER = frozenset(
    {"deployment", "enableHTTP2", "enable_http2", "enableLeaderElection", "enable_leader_election"}
    | {"secureMetrics", "secure_metrics"}
)
"""What only a cluster needs, or only the predecessor did."""


DEFAULT_NAMESPACE = "default"


class Settings(ApiModel):
    """Everything that can be configured. Absent keys have the predecessor's defaults.

    `namespaces`: a comma list, '' for all; None where it is not given, which is all as well outside a cluster.
    `workspace`: what $workspace in a path prefix stands for; None: the model's namespace. `takeover`: of the Services
    of models that do not say. `reference_namespaces`: those that models of others may refer to, '*' for all; None: none
    in a cluster, all outside one.
    """

    unread = _LATER
    metrics_addr: Text | None = None
    probe_addr: Text | None = None
    namespaces: str | None = None
    metric_informer: MetricInformer = MetricInformer()
    proxy_service: ProxyService = ProxyService()
    default_remote_backend: RemoteBackend | None = None
    workspace: Text | None = None
    takeover: Takeover = Takeover.AUTO
    reference_namespaces: tuple[Text, ...] | None = None
    destinations: DestinationSettings = DestinationSettings()
    leader_election: LeaderElection = LeaderElection()
    gateway: GatewaySettings = GatewaySettings()
    xds: XdsSettings = XdsSettings()
    beamlit_base_url: Text = "https://api.beamlit.com/v0"
    beamlit_token: SecretStr | None = None

    def referable(self, *, in_cluster: bool) -> frozenset[str] | None:
        """The namespaces that models of others may refer to, None for all."""
        listed = self.reference_namespaces
        if listed is None:
            return frozenset() if in_cluster else None
        return None if "*" in listed else frozenset(listed)

    def reachable(self, *, in_cluster: bool) -> Destinations:
        """Where remotes and token issuers may be."""
        deny = self.destinations.deny
        if deny is None:
            deny = LOCAL_ONLY if in_cluster else ()
        return Destinations(self.destinations.allow, deny)

    def in_scope(self, namespace: str) -> bool:
        """Whether models of this namespace are served."""
        wanted = _names(self.namespaces or "")
        return not wanted or namespace in wanted

    def served(self) -> tuple[str, ...]:
        """The namespaces whose models are served in a cluster; none: all."""
        return _names(DEFAULT_NAMESPACE if self.namespaces is None else self.namespaces)


def _names(text: str) -> tuple[str, ...]:
    return tuple(sorted({each.strip() for each in text.split(",")} - {""}))


@dataclass(frozen=True, slots=True)
class Loaded:
    """`warnings`: sentences for people, about keys without a meaning."""

    settings: Settings
    warnings: tuple[str, ...] = ()


def load(name: str, text: str, environ: Mapping[str, str], flags: Mapping[str, object] | None = None) -> Loaded:
    """Settings from a file's `text` ('' for none), whose `name` says what it is. Raises SettingsError."""
    raw = _decoded(name, text) if text.strip() else {}
    given = {**raw, **_from_environment(environ), **(flags or {})}
    parsed = parse_as(Settings, _with_our_names(given), by_name=True)
    if isinstance(parsed, Invalid):
        raise SettingsError("\n".join(_lines(name, parsed.problems)))
    return Loaded(parsed.model, tuple(_lines(name, parsed.warnings)))


def _decoded(name: str, text: str) -> Mapping[str, object]:
    is_yaml = PurePath(name).suffix in (".yaml", ".yml")
    try:
        raw = yaml.load(text, Loader=yaml.CSafeLoader) if is_yaml else json.loads(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{name}: this is no YAML{where}: {error.problem}") from None
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise SettingsError(f"{name}: this is no {'YAML' if is_yaml else 'JSON'}: {error}") from None
    if not isinstance(raw, dict):
        raise SettingsError(f"{name}: must be a mapping of names to values")
    return raw


def _with_our_names(raw: Mapping[str, object]) -> dict[str, object]:
    """The predecessor called the headers of its default remote `headers`; in a manifest they are headersToAdd."""
    renamed: dict[str, Any] = dict(raw)
    for key in ("defaultRemoteBackend", "default_remote_backend"):
        remote = renamed.get(key)
        if isinstance(remote, dict) and "headers" in remote:
            renamed[key] = {"headersToAdd" if name == "headers" else name: value for name, value in remote.items()}
    return renamed


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    """BEAMLIT_TOKEN is base64 of 'id:secret', with line breaks if the command base64 made it."""
    found: dict[str, object] = {}
    if url := environ.get("BEAMLIT_BASE_URL"):
        found["beamlitBaseUrl"] = url
    if token := "".join(environ.get("BEAMLIT_TOKEN", "").split()):
        try:
            decoded = base64.b64decode(token, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            decoded = ""
        if ":" not in decoded:
            raise SettingsError("BEAMLIT_TOKEN: must be base64 of id:secret")
        found["beamlitToken"] = token
    return found


def _lines(name: str, problems: tuple[Problem, ...]) -> list[str]:
    return [f"{name}: {problem}" if name else str(problem) for problem in problems]
