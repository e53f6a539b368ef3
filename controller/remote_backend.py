"""Pure: a remote as the user describes it: where it is, how to log in there, and how much it takes.

Everything that Envoy would refuse, or that would let one value smuggle in another (a header in a header, a user in a
host), is a problem here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from controller.parsing import ApiModel, Int, SharedModel, Text
from xds import ir

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VARIABLE = re.compile(r"\$(\w*)")
_PREFIX = re.compile(r"[A-Za-z0-9/$._~!&'()*+,;=:@%-]*")
NOT_TO_SET = frozenset({"host", "connection", "content-length", "transfer-encoding", "upgrade"})
"""Headers of a request that are the gateway's own."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


def _checked_token(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError("must be a header name: letters, digits and '-'")
    return value


def _checked_value(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("must not hold line breaks or control characters")
    return value


def _checked_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("must be at most 63 letters, digits, '.', '_' and '-', with a letter or digit at both ends")
    return value


HeaderName = Annotated[Text, AfterValidator(_checked_token)]
HeaderValue = Annotated[str, AfterValidator(_checked_value)]


@lru_cache(maxsize=4096)
def split_host(host: str) -> tuple[str, int | None]:
    """'host', 'host:port', '[v6]' or '[v6]:port' -> address (v6 without brackets), and port if there is one.

    Raises ValueError that says what to write instead.
    """
    for wrong, remedy in (
        ("://", "must not hold a scheme; write the name only, and the scheme in the field scheme"),
        ("@", "must not hold a user or password; write them in authConfig"),
        (r"[/?#]", "must not hold a path; write the path in pathPrefix"),
        (r"\s", "must not hold spaces; write host or host:port"),
        (r"^[^\[]*:.*:", "an IPv6 address needs brackets; write [address] or [address]:port"),
    ):
        if re.search(wrong, host):
            raise ValueError(remedy)
    address, colon, port = host.partition(":")
    if host.startswith("["):
        address, bracket, port = host[1:].partition("]")
        colon, port = port[:1], port[1:]
        if not bracket or colon not in ("", ":"):
            raise ValueError("an IPv6 address is written [address] or [address]:port")
        _check_ipv6(address)
    else:
        _check_name(address)
    if colon and not (re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= 65_535):
        raise ValueError("the port after ':' must be a number from 1 to 65535")
    return address, int(port) if colon else None


def _check_ipv6(address: str) -> None:
    try:
        IPv6Address(address)
    except AddressValueError:
        raise ValueError("the part in brackets must be an IPv6 address") from None


def _check_name(name: str) -> None:
    if re.fullmatch(r"[0-9.]+", name):
        try:
            IPv4Address(name)
        except AddressValueError:
            raise ValueError("must be a DNS name or an IP address; this is no IPv4 address") from None
    elif not name.isascii():
        raise ValueError("must be ASCII; write an internationalised name in its xn-- form")
    elif len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError("must be a DNS name or an IP address, with or without :port")


def _checked_host(value: str) -> str:
    split_host(value)
    return value


def _checked_prefix(value: str) -> str:
    for variable in _VARIABLE.findall(value):
        if variable not in ("workspace", "model"):
            raise ValueError(f"knows $workspace and $model only, not ${variable}")
    if not _PREFIX.fullmatch(value) or ".." in value.split("/"):
        raise ValueError("must be a URL path such as /v1 (no spaces, '?', '#' or '..')")
    return value


def issuer_host(remote: RemoteBackend) -> str:
    """Where its tokens come from, a DNS name or an IP address without brackets; '' if it needs none."""
    oauth = remote.auth_config.oauth_config if remote.auth_config else None
    return (urlsplit(oauth.token_url).hostname or "") if oauth else ""


def _checked_url(value: str) -> str:
    message = "must be an http or https URL such as https://issuer.example.com/oauth/token"
    if re.search(r"[\s\x00-\x1f\x7f]", value):
        raise ValueError(message)
    try:
        url = urlsplit(value)
        _, port = url.hostname, url.port
    except ValueError:
        raise ValueError(message) from None
    if url.scheme not in ("http", "https") or not url.hostname or port == 0 or url.fragment:
        raise ValueError(message)
    if url.username is not None or url.password is not None:
        raise ValueError("must not hold a user or password; write them in clientId and clientSecret")
    return value


class SecretKeyRef(ApiModel):
    """A key of a Secret."""

    name: Text
    key: Text
    namespace: Text | None = None
    """Absent: the namespace of the object that refers. Others work where the controller's settings allow them."""

    def object_key(self, namespace: str) -> str:
        """'namespace/name' of what is referred to, from an object in `namespace`."""
        return f"{self.namespace or namespace}/{self.name}"


class OAuthConfig(ApiModel):
    """OAuth2 client credentials; the secret stands here or in a Secret."""

    client_id: Text
    client_secret: Annotated[SecretStr, Field(min_length=1)] | None = None
    """The secret in clear, for all who may read this object. clientSecretRef is safer."""
    client_secret_ref: SecretKeyRef | None = None
    token_url: Annotated[Text, AfterValidator(_checked_url)]
    """Where tokens are issued, an http or https URL."""
    scopes: tuple[Text, ...] = ()
    audience: Text | None = None
    """For issuers that want to be told which API a token is for."""
    auth_style: Literal["basic", "post"] = "basic"
    """Where the client shows its secret to the issuer: in the Authorization header or in the form."""

    @model_validator(mode="after")
    def _one_secret(self) -> OAuthConfig:
        if (self.client_secret is None) == (self.client_secret_ref is None):
            raise ValueError("needs exactly one of clientSecret and clientSecretRef")
        return self


class ApiKeyConfig(ApiModel):
    """A fixed key from a Secret."""

    secret_ref: SecretKeyRef
    header: HeaderName = "authorization"
    """The header that carries the key."""
    prefix: HeaderValue = "Bearer "
    """What stands before the key in the header."""


class AuthConfig(ApiModel):
    """How to log in: with exactly the member that type names."""

    type: Literal["oauth", "apiKey"] = "oauth"
    oauth_config: OAuthConfig | None = None
    api_key_config: ApiKeyConfig | None = None

    @model_validator(mode="after")
    def _member_fits_type(self) -> AuthConfig:
        wanted, other = ("oauthConfig", "apiKeyConfig") if self.type == "oauth" else ("apiKeyConfig", "oauthConfig")
        given = {"oauthConfig": self.oauth_config is not None, "apiKeyConfig": self.api_key_config is not None}
        if not given[wanted] or given[other]:
            raise ValueError(f"type {self.type} needs {wanted}" + (f" and takes no {other}" if given[other] else ""))
        return self


class TlsConfig(ApiModel):
    """Whom to trust, for scheme https."""

    ca_ref: SecretKeyRef | None = None
    """The authority's certificates, PEM. Absent: those of the system."""
    sni: Text | None = None
    """The name that the certificate must have. Absent: the host."""


class Location(SharedModel):
    """Where a remote is, in the names that Policies use. A part that is absent is matched by no Policy."""

    name: Text | None = None
    country: Text | None = None
    continent: Text | None = None


class Flavor(SharedModel):
    """A kind of hardware."""

    type: Literal["cpu", "gpu"]
    name: Text


class RemoteBackend(SharedModel):
    """A remote: where it is, how to log in there, and how much it takes."""

    name: Annotated[Text, AfterValidator(_checked_name)] = "remote"
    """Names the remote in the status; unique among the remotes of a model."""
    host: Annotated[Text, AfterValidator(_checked_host)]
    """A DNS name or IP address, with or without port: host, host:port or [IPv6]:port."""
    scheme: Literal["http", "https"] = "http"
    path_prefix: Annotated[str, AfterValidator(_checked_prefix)] = ""
    """Put before the path of each request. May hold $workspace and $model."""
    headers_to_add: Mapping[HeaderName, HeaderValue] = Field(default_factory=dict, repr=False)  # may hold keys
    """Headers that each request to the remote carries."""
    auth_config: AuthConfig | None = None
    tls: TlsConfig | None = None
    weight: Annotated[Int, Field(ge=0, le=1_000_000)] = 1
    """This remote's part of what leaves, among remotes of equal priority."""
    priority: Annotated[Int, Field(ge=0, le=1_000)] = 0
    """Remotes of the lowest number come first; others are used while none of those is ready."""
    max_concurrent_requests: Annotated[Int, Field(ge=1, le=ir.UNLIMITED)] | None = None
    """The most that each gateway has under way to the remote. Absent: no limit."""
    location: Location | None = None
    """Absent: not known, so Policies of type location do not restrict this remote."""
    flavors: tuple[Flavor, ...] = ()
    """The hardware that requests may run on there. None given: Policies of type flavor do not restrict this remote."""

    @property
    def address(self) -> str:
        """The DNS name or IP address, without brackets."""
        return split_host(self.host)[0]

    @property
    def port(self) -> int:
        """The given port, else the scheme's."""
        return split_host(self.host)[1] or _DEFAULT_PORTS[self.scheme]

    @model_validator(mode="after")
    def _fits_together(self) -> RemoteBackend:
        if self.tls is not None and self.scheme != "https":
            raise ValueError("tls needs scheme: https")
        lower = [name.lower() for name in self.headers_to_add]
        if len(set(lower)) < len(lower):
            raise ValueError("headersToAdd names a header twice; upper and lower case are the same")
        for name in lower:
            if name in NOT_TO_SET or name.startswith("x-spillway-"):
                raise ValueError(f"headersToAdd must not set {name}; the gateway sets it itself")
        return self
