"""Remotes: what Envoy would refuse is a problem with a remedy, and no secret is in any text."""

from __future__ import annotations

import re
from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import api
from controller.api import Invalid, RemoteBackend
from controller.remote_backend import split_host
from tests.controller.manifests import OAUTH, Json, model_from, model_manifest

REMOTE = "spec.offloadingConfig.remoteBackend"


def problems(remote: Json) -> dict[str, str]:
    """Field below the remote -> reason."""
    result = api.parse(model_manifest(remoteBackend=remote))
    assert isinstance(result, Invalid), result
    return {problem.field.removeprefix(REMOTE).lstrip("."): problem.reason for problem in result.problems}


def remote(**fields: Any) -> RemoteBackend:
    (found,) = model_from(model_manifest(remoteBackend={"host": "a", **fields})).spec.offloading_config.remotes
    return found


# Where


@pytest.mark.parametrize(
    ("host", "scheme", "address", "port"),
    [
        ("a", "http", "a", 80),
        ("a", "https", "a", 443),
        ("a:8080", "https", "a", 8080),
        ("my_model.Example-1.com:1", "http", "my_model.Example-1.com", 1),
        ("10.0.0.1", "http", "10.0.0.1", 80),
        ("10.0.0.1:65535", "http", "10.0.0.1", 65535),
        ("[::1]", "https", "::1", 443),
        ("[2001:db8::1]:8443", "https", "2001:db8::1", 8443),
    ],
)
def test_a_host_is_a_name_or_an_address_with_or_without_a_port(host: str, scheme: str, address: str, port: int) -> None:
    found = remote(host=host, scheme=scheme)
    assert (found.address, found.port) == (address, port)


@pytest.mark.parametrize(
    ("host", "remedy"),
    [
        ("", "must not be empty"),
        ("http://a", "must not hold a scheme; write the name only, and the scheme in the field scheme"),
        ("a/v1", "must not hold a path; write the path in pathPrefix"),
        ("a?x", "must not hold a path"),
        ("a b", "must not hold spaces; write host or host:port"),
        ("a\n", "must not hold spaces"),
        ("me@a", "must not hold a user or password; write them in authConfig"),
        ("a:", "the port after ':' must be a number from 1 to 65535"),
        ("a:0", "the port after ':'"),
        ("a:http", "the port after ':'"),
        ("a:65536", "the port after ':'"),
        ("a:٣", "the port after ':'"),
        ("::1", "an IPv6 address needs brackets; write [address] or [address]:port"),
        ("2001:db8::1:80", "an IPv6 address needs brackets"),
        ("[::1", "an IPv6 address is written [address] or [address]:port"),
        ("[::1]80", "an IPv6 address is written"),
        ("[a]", "the part in brackets must be an IPv6 address"),
        ("[::1]:x", "the port after ':'"),
        ("1.2.3", "this is no IPv4 address"),
        ("256.1.1.1", "this is no IPv4 address"),
        ("-a", "must be a DNS name or an IP address"),
        ("a..b", "must be a DNS name or an IP address"),
        ("a.", "must be a DNS name or an IP address"),
        ("x" * 64, "must be a DNS name or an IP address"),
        ("modèle.example", "write an internationalised name in its xn-- form"),
    ],
)
def test_any_other_host_is_told_what_to_write(host: str, remedy: str) -> None:
    assert remedy in problems({"host": host})["host"]


@given(st.text(alphabet=st.sampled_from("ab.:[]0123@/ -_\n"), max_size=20))
def test_a_host_that_is_accepted_has_only_what_an_address_has(host: str) -> None:
    with suppress(ValueError):
        address, port = split_host(host)
        assert re.fullmatch(r"[\w.:-]+", address, re.ASCII)
        assert port is None or 1 <= port <= 65_535


@pytest.mark.parametrize("prefix", ["", "/", "/v1", "v1/", "/$workspace/$model", "/a-b_c.d~e/%20"])
def test_a_path_prefix_is_a_path(prefix: str) -> None:
    assert remote(pathPrefix=prefix).path_prefix == prefix


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("/$namespace", "knows $workspace and $model only, not $namespace"),
        ("/a b", "must be a URL path"),
        ("/a?b", "must be a URL path"),
        ("/a#b", "must be a URL path"),
        ("/../b", "must be a URL path"),
        ("/a\r\nb", "must be a URL path"),
    ],
)
def test_a_path_prefix_that_is_more_than_a_path_is_refused(prefix: str, words: str) -> None:
    assert words in problems({"host": "a", "pathPrefix": prefix})["pathPrefix"]


# What goes there


@pytest.mark.parametrize(
    ("headers", "field", "words"),
    [
        ({"a b": "c"}, "headersToAdd.a b", "must be a header name"),
        ({"": "c"}, "headersToAdd", "must not be empty"),
        ({":path": "c"}, "headersToAdd.:path", "must be a header name"),
        ({"a": "b\r\nc: d"}, "headersToAdd.a", "must not hold line breaks"),
        ({"a": 1}, "headersToAdd.a", "must be text"),
        ({"A": "1", "a": "2"}, "", "headersToAdd names a header twice"),
        ({"Host": "b"}, "", "headersToAdd must not set host"),
        ({"X-Spillway-Cluster": "b"}, "", "headersToAdd must not set x-spillway-cluster"),
    ],
)
def test_headers_that_would_smuggle_are_refused(headers: Json, field: str, words: str) -> None:
    found = problems({"host": "a", "headersToAdd": headers})
    assert any(at.startswith(field) and words in reason for at, reason in found.items()), found


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"host": None}, "host", "is required"),
        ({"scheme": "ftp"}, "scheme", "must be 'http' or 'https', not 'ftp'"),
        ({"weight": -1}, "weight", "must be at least 0"),
        ({"priority": 1.5}, "priority", "must be a whole number"),
        ({"maxConcurrentRequests": 0}, "maxConcurrentRequests", "must be at least 1"),
        ({"name": "a b"}, "name", "must be at most 63 letters, digits"),
        ({"tls": {"sni": "b"}}, "", "tls needs scheme: https"),
        ({"scheme": "https", "tls": {"caRef": {"name": "b"}}}, "tls.caRef.key", "is required"),
    ],
)
def test_other_fields_of_a_remote_are_checked(fields: Json, field: str, words: str) -> None:
    assert words in problems({"host": "a", **fields})[field]


# How to log in


def oauth(**fields: Any) -> Json:
    config = deepcopy(OAUTH)
    config["oauthConfig"] |= fields
    return {"host": "a", "authConfig": config}


def test_an_oauth_client_is_read_with_its_options() -> None:
    auth = remote(**oauth(scopes=["a", "b"], audience="x", authStyle="post")).auth_config
    assert auth is not None
    assert auth.oauth_config is not None
    assert (auth.oauth_config.scopes, auth.oauth_config.audience, auth.oauth_config.auth_style) == (
        ("a", "b"),
        "x",
        "post",
    )


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"clientId": None}, "clientId", "is required"),
        ({"tokenUrl": "issuer.example.com"}, "tokenUrl", "must be an http or https URL"),
        ({"tokenUrl": "ftp://issuer.example.com"}, "tokenUrl", "must be an http or https URL"),
        ({"tokenUrl": "https://"}, "tokenUrl", "must be an http or https URL"),
        ({"tokenUrl": "https://a:b/"}, "tokenUrl", "must be an http or https URL"),
        ({"tokenUrl": "https://[x/"}, "tokenUrl", "must be an http or https URL"),
        ({"tokenUrl": "https://me:pw@a/"}, "tokenUrl", "must not hold a user or password"),
        ({"clientSecret": "s"}, "", "exactly one of clientSecret and clientSecretRef"),
        ({"clientSecretRef": None}, "", "exactly one of clientSecret and clientSecretRef"),
        ({"clientSecretRef": None, "clientSecret": ""}, "clientSecret", "must not be empty"),
        ({"clientSecretRef": None, "clientSecret": 5}, "clientSecret", "must be text"),
        ({"authStyle": "form"}, "authStyle", "must be 'basic' or 'post'"),
        ({"scopes": "a b"}, "scopes", "must be a list, not text"),
    ],
)
def test_a_bad_oauth_client_is_named(fields: Json, field: str, words: str) -> None:
    assert words in problems(oauth(**fields))[f"authConfig.oauthConfig.{field}".rstrip(".")]


def test_an_api_key_is_a_bearer_token_unless_told_otherwise() -> None:
    ref = {"name": "s", "key": "k"}
    auth = remote(authConfig={"type": "apiKey", "apiKeyConfig": {"secretRef": ref}}).auth_config
    assert auth is not None
    assert auth.api_key_config is not None
    assert (auth.api_key_config.header, auth.api_key_config.prefix) == ("authorization", "Bearer ")
    own = {"secretRef": ref, "header": "X-Api-Key", "prefix": ""}
    auth = remote(authConfig={"type": "apiKey", "apiKeyConfig": own}).auth_config
    assert auth is not None
    assert auth.api_key_config is not None
    assert (auth.api_key_config.header, auth.api_key_config.prefix) == ("X-Api-Key", "")


@pytest.mark.parametrize(
    ("auth", "words"),
    [
        ({}, "type oauth needs oauthConfig"),
        ({"type": "apiKey"}, "type apiKey needs apiKeyConfig"),
        (
            {"apiKeyConfig": {"secretRef": {"name": "s", "key": "k"}}},
            "type oauth needs oauthConfig and takes no apiKeyConfig",
        ),
    ],
)
def test_the_login_must_be_of_the_type_that_is_named(auth: Json, words: str) -> None:
    assert words in problems({"host": "a", "authConfig": auth})["authConfig"]


# Secrets


def with_secret(**changes: Any) -> Json:
    """A remote with a secret in each place that may hold one, and other fields in its OAuth client."""
    oauth = {"clientId": "me", "clientSecret": "hunter2", "tokenUrl": "https://issuer.example.com/token", **changes}
    return {"host": "a", "headersToAdd": {"X-Api-Key": "hunter2"}, "authConfig": {"oauthConfig": oauth}}


def test_secrets_appear_in_no_text_of_a_model() -> None:
    model = model_from(model_manifest(remoteBackend=with_secret()))
    assert "hunter2" not in f"{model!r} {model}"


@pytest.mark.parametrize(
    "remote",
    [
        with_secret(clientSecretRef={"name": "a", "key": "b"}),
        with_secret(tokenUrl="https://me:hunter2@issuer.example.com/"),
        with_secret(tokenUrl="hunter2"),
        with_secret(clientId=1, authStyle="form"),
        {"host": "https://me:hunter2@a"},
        {"host": "hunter2 "},
        {"host": "a", "headersToAdd": {"X": "hunter2\n"}},
        {"host": "a", "headersToAdd": {"X": ["hunter2"]}},
        {"host": "a", "pathPrefix": "/?key=hunter2"},
    ],
)
def test_secrets_appear_in_no_problem(remote: Json) -> None:
    result = api.parse(model_manifest(remoteBackend=remote))
    assert isinstance(result, Invalid)
    assert "hunter2" not in repr(result)
