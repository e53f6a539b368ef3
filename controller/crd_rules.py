"""Pure: what the types of controller/api.py check in code, in the API server's words: CEL rules with messages for
people, and the bounds that keep their cost within its budget.

`kubectl apply` then refuses at once what would else become a condition. A rule that cannot say all that the code checks
lets more pass; none refuses what the code accepts, but for lists and texts of absurd length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from controller import metric_spec, remote_backend
from controller.api import OffloadingConfig, SessionAffinity
from controller.crd_status import ModelStatus
from xds import ir

Extra = Mapping[str, Any]
"""Further keys of a schema."""


_Rule = tuple[str, str]
"""CEL, and what is wrong where it does not hold."""


def _rules(*rules: _Rule) -> Extra:
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}


_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_ADDRESS = r"\[[0-9A-Fa-f:.]+(%[^\]]+)?\]"
_HAS_PORT = r"self.matches(r'^(\[[^\]]*\]|[^:\[]*):[^:]*$')"
_PORT = ":0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_WITH_SCHEME = "self.contains('://')"
_IS_MORE = r"self.matches(r'[/?#@\s]')"  # than host and port, which another rule says
_HOST: Extra = {
    "maxLength": 270,
    **_rules(
        (f"!{_WITH_SCHEME}", "must not hold a scheme; write the name only, and the scheme in the field scheme"),
        ("!self.contains('@')", "must not hold a user or password; write them in authConfig"),
        (f"{_WITH_SCHEME} || !self.matches(r'[/?#]')", "must not hold a path; write the path in pathPrefix"),
        (r"!self.matches(r'\s')", "must not hold spaces; write host or host:port"),
        (
            rf"{_WITH_SCHEME} || !self.matches(r'^[^\[]*:.*:')",
            "an IPv6 address needs brackets; write [address] or [address]:port",
        ),
        (
            rf"self.matches(r'[/?#@\s]|^[^\[]*:.*:') || self.matches(r'^({_ADDRESS}|{_LABEL}(\.{_LABEL})*)(:|$)')",
            "must be a DNS name or an IP address, with or without :port",
        ),
        (
            rf"!self.matches(r'^[0-9.]+(:|$)') || self.matches(r'^({_OCTET}\.){{3}}{_OCTET}(:|$)')",
            "must be a DNS name or an IP address; this is no IPv4 address",
        ),
        (
            f"{_IS_MORE} || !{_HAS_PORT} || self.matches(r':[0-9]{{1,5}}$') && self.matches(r'{_PORT}$')",
            "the port after ':' must be a number from 1 to 65535",
        ),
    ),
}
_PATH_PREFIX: Extra = {
    "maxLength": 1024,
    **_rules(
        (r"self.matches(r'^([^$]|\$(workspace|model)\b)*$')", "knows $workspace and $model only"),
        (
            r"""self.matches(r"^[A-Za-z0-9/$._~!&'()*+,;=:@%-]*$") && !self.matches(r'(^|/)\.\.(/|$)')""",
            "must be a URL path such as /v1 (no spaces, '?', '#' or '..')",
        ),
    ),
}
_BLANK = r"\s\p{Z}\x00-\x1f\x7f\x85"
_URL = rf"^(?i:https?)://([^/?#]*@)?({_ADDRESS}|[^/?#@:\[\]]+)({_PORT}|:)?([/?][^#]*)?#?$"
_TOKEN_URL: Extra = {
    "maxLength": 2048,
    **_rules(
        (
            f"self.matches(r'{_URL}') && !self.matches(r'[{_BLANK}]')",
            "must be an http or https URL such as https://issuer.example.com/oauth/token",
        ),
        (
            r"!self.matches(r'^[^/]*//[^/?#]*@')",
            "must not hold a user or password; write them in clientId and clientSecret",
        ),
    ),
}
_NAME: Extra = {
    "maxLength": 63,
    **_rules(
        (
            "self.matches(r'^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$')",
            "must be at most 63 letters, digits, '.', '_' and '-', with a letter or digit at both ends",
        )
    ),
}
_TOKEN = r"""r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" """.strip()
_HEADER_NAME: Extra = {
    "maxLength": 256,
    **_rules((f"self.matches({_TOKEN})", "must be a header name: letters, digits and '-'")),
}
_CONTROL = r"r'[\x00-\x1f\x7f]'"
_NO_CONTROL = "must not hold line breaks or control characters"
_SET_BY_GATEWAY = sorted(remote_backend.NOT_TO_SET)
_HEADERS: Extra = {
    "maxProperties": 32,
    "additionalProperties": {"type": "string", "maxLength": 8192},
    **_rules(
        (f"self.all(name, name.matches({_TOKEN}))", "names must be header names: letters, digits and '-'"),
        (f"self.all(name, !self[name].matches({_CONTROL}))", f"values {_NO_CONTROL}"),
        (
            f"self.all(name, !name.matches(r'(?i)^({'|'.join(_SET_BY_GATEWAY)}|x-spillway-.*)$'))",
            f"must not set {', '.join(_SET_BY_GATEWAY)} or x-spillway-...; the gateway sets them itself",
        ),
    ),
}
_METRICS_MAX = 8
"""A quantity may be a number, so the API server takes it for a text of any length. More of them it holds too costly."""
_QUANTITY = _rules(
    (
        "type(self) == int ? self > 0 : isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
        "must be a quantity above 0 such as 500m, 2, 0.5 or 1Gi (suffixes: n u m k M G T P E Ki Mi Gi Ti Pi Ei)",
    )
)


def _members(**members: str) -> Iterator[_Rule]:
    """Each member is there exactly where `type` is its own."""
    for type_, member in members.items():
        yield f"has(self.{member}) == (self.type == '{type_}')", f"{member} goes with type {type_}, and only with that"


def _sources() -> Iterator[_Rule]:
    for type_, sources in metric_spec.SOURCES.items():
        if set(sources) != set(metric_spec.Source):
            allowed = ", ".join(f"'{source}'" for source in sources)
            yield (
                f"!has(self.source) || self.type != '{type_}' || self.source in [{allowed}]",
                f"type {type_} has no other source than {' and '.join(sources)}",
            )


def _target_types(types: Iterable[str]) -> Mapping[str, Extra]:
    allowed = ", ".join(f"'{type_}'" for type_ in types)
    return {"": _rules((f"self.target.type in [{allowed}]", f"target.type must be {' or '.join(types)} here"))}


EXTRAS: Mapping[type[BaseModel], Mapping[str, Extra]] = {
    OffloadingConfig: {
        "": _rules(
            (
                "!has(self.remoteBackend) || !has(self.remoteBackends) || size(self.remoteBackends) == 0",
                "remoteBackend and remoteBackends are both given; keep one of them",
            )
        ),
        "remoteBackends": {
            "maxItems": ir.MAX_REMOTES,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
        "metrics": {"maxItems": _METRICS_MAX},
    },
    ModelStatus: {"conditions": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}},
    SessionAffinity: {"header": _HEADER_NAME},
    remote_backend.RemoteBackend: {
        "": _rules(("!has(self.tls) || self.scheme == 'https'", "tls needs scheme: https")),
        "name": _NAME,
        "host": _HOST,
        "pathPrefix": _PATH_PREFIX,
        "headersToAdd": _HEADERS,
    },
    remote_backend.AuthConfig: {"": _rules(*_members(oauth="oauthConfig", apiKey="apiKeyConfig"))},
    remote_backend.OAuthConfig: {
        "": _rules(
            (
                "has(self.clientSecret) != has(self.clientSecretRef)",
                "needs exactly one of clientSecret and clientSecretRef",
            )
        ),
        "tokenUrl": _TOKEN_URL,
    },
    remote_backend.ApiKeyConfig: {
        "header": _HEADER_NAME,
        "prefix": {"maxLength": 256, **_rules((f"!self.matches({_CONTROL})", _NO_CONTROL))},
    },
    metric_spec.MetricSpec: {
        "": _rules(
            *_members(
                Resource="resource",
                ContainerResource="containerResource",
                Pods="pods",
                Object="object",
                External="external",
            ),
            *_sources(),
        )
    },
    metric_spec.MetricTarget: {
        "": _rules(*_members(Utilization="averageUtilization", Value="value", AverageValue="averageValue")),
        "value": _QUANTITY,
        "averageValue": _QUANTITY,
    },
    metric_spec.ResourceMetric: _target_types(metric_spec.ResourceMetric.targets),
    metric_spec.PodsMetric: _target_types(metric_spec.PodsMetric.targets),
    metric_spec.ObjectMetric: _target_types(metric_spec.ObjectMetric.targets),
    metric_spec.ExternalMetric: _target_types(metric_spec.ExternalMetric.targets),
    metric_spec.LabelSelectorRequirement: {
        "": _rules(
            (
                "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
                "operators In and NotIn need values, Exists and DoesNotExist take none",
            )
        )
    },
}
"""By type and field, '' for the type itself."""
