"""Which credential a remote needs, whose it is, and when it may be used."""

from __future__ import annotations

from typing import Any

import pytest
import trustme

from controller.credentials import EXPIRY_MARGIN_S, Need, Vault, certificate_authority, need_of, secret_keys
from controller.events import DropToken, KeepToken, OAuthClient
from controller.objects import Secret
from tests.controller.manifests import OAUTH, model, secret
from xds import ir

SECRETS = {"default/remote": secret(client_secret="s3cret", key="k")}
API_KEY = {"type": "apiKey", "apiKeyConfig": {"secretRef": {"name": "remote", "key": "key"}}}


def need(auth: dict[str, Any], secrets: dict[str, Secret] | None = None, owner: str = "default/llama/remote") -> Need:
    spec = model(remoteBackend={"host": "r.example.com", "authConfig": auth})
    found = need_of(spec.spec.offloading_config.remotes[0], spec, owner, SECRETS if secrets is None else secrets)
    assert found is not None
    return found


def inline(value: str = "s3cret") -> dict[str, Any]:
    config = {k: v for k, v in OAUTH["oauthConfig"].items() if k != "clientSecretRef"}
    return {"type": "oauth", "oauthConfig": {**config, "clientSecret": value}}


def test_a_remote_without_auth_needs_nothing() -> None:
    spec = model()
    assert need_of(spec.spec.offloading_config.remotes[0], spec, "x", {}) is None


def test_the_client_secret_comes_from_the_secret_or_stands_inline() -> None:
    for auth in (OAUTH, inline()):
        source = need(auth).source
        assert isinstance(source, OAuthClient)
        assert source.client_secret == "s3cret"
        assert source.auth_style == "basic"


def test_the_name_of_a_credential_tells_nothing_of_the_secret() -> None:
    assert need(inline("one")).credential.secret == need(inline("two")).credential.secret
    assert "s3cret" not in repr(need(OAUTH))
    assert "s3cret" not in repr(need(inline()))


def test_inline_secrets_of_two_owners_are_two_credentials() -> None:
    assert need(inline(), owner="a").credential != need(inline(), owner="b").credential


def test_one_referenced_secret_is_one_credential() -> None:
    assert need(OAUTH, owner="a").credential == need(OAUTH, owner="b").credential


def test_scopes_audience_and_style_make_another_credential() -> None:
    names = {need(OAUTH).credential.secret}
    for more in (
        {"scopes": ["a"]},
        {"audience": "x"},
        {"authStyle": "post"},
        {"tokenUrl": "https://other.example.com"},
    ):
        names.add(need({**OAUTH, "oauthConfig": {**OAUTH["oauthConfig"], **more}}).credential.secret)
    assert len(names) == 5


def test_what_is_missing_is_named() -> None:
    assert need(API_KEY, {}).missing == "Secret default/remote does not exist"
    assert need(API_KEY, {"default/remote": secret(other="x")}).missing == "Secret default/remote has no key 'key'"
    binary = Secret("default/remote", {"key": b"\xff\xfe"})
    assert need(API_KEY, {"default/remote": binary}).missing == "Secret default/remote key 'key' is not text"


def test_a_newline_at_the_end_of_a_key_is_no_part_of_it() -> None:
    """`kubectl create secret --from-file` keeps the newline of the file, which no header may hold."""
    source = need(API_KEY, {"default/remote": secret(key="k-1\n")}).source
    assert isinstance(source, ir.Secret)
    assert source.value == "k-1"


@pytest.mark.parametrize("value", ["abc\r\nX-Evil: 1", "a\tb", "", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_said_without_it(value: str) -> None:
    found = need(API_KEY, {"default/remote": Secret("default/remote", {"key": value.encode()})})
    assert found.source is None
    assert found.missing == "Secret default/remote key 'key' is not one line of printable ASCII text"


def authority(pem: str, **ref: str) -> tuple[str | None, str]:
    tls = {"caRef": {"name": "remote", "key": "ca", **ref}}
    (remote,) = model(remoteBackend={"host": "r", "scheme": "https", "tls": tls}).spec.offloading_config.remotes
    (key,) = secret_keys(remote, "default")
    return certificate_authority(remote, "default", {key: Secret(key, {"ca": pem.encode()})})


PEM = trustme.CA().cert_pem.bytes().decode().strip()


@pytest.mark.parametrize("pem", [PEM, f"{PEM}\n{PEM}", f"# Zürich\n{PEM}", PEM.replace("\n", "\r\n")])
def test_one_or_more_certificates_are_an_authority_whatever_stands_between_them(pem: str) -> None:
    assert authority(pem) == (pem, "")
    assert authority(pem, namespace="other") == (pem, "")


@pytest.mark.parametrize(
    "pem", ["", "not a certificate", PEM[:300], f"{PEM}\n{PEM.replace('M', '!')}", PEM.replace("CERTIFICATE", "X")]
)
def test_what_is_no_certificate_or_not_whole_is_no_authority(pem: str) -> None:
    missing = "Secret default/remote key 'ca' holds no PEM certificate that can be read"
    assert authority(pem) == (None, missing)


def test_a_changed_secret_replaces_the_client() -> None:
    vault = Vault({})
    first, _ = vault.use("one", [need(OAUTH)])
    again, _ = vault.use("one", [need(OAUTH)])
    changed, _ = vault.use("one", [need(OAUTH, {"default/remote": secret(client_secret="new")})])
    assert [type(effect) for effect in first] == [KeepToken]
    assert again == []
    assert [type(effect) for effect in changed] == [KeepToken]


def test_a_secret_that_vanishes_leaves_the_credential_in_use() -> None:
    vault = Vault({})
    vault.use("one", [need(OAUTH)])
    effects, secrets = vault.use("one", [need(OAUTH, {})])
    assert (effects, secrets) == ([], {})


def test_the_last_user_takes_the_credential_along() -> None:
    vault = Vault({})
    name = need(OAUTH).credential.secret
    vault.use("one", [need(OAUTH)])
    vault.use("two", [need(OAUTH)])
    assert vault.use("one", ()) == ([], {})
    assert vault.use("two", ()) == ([DropToken(name)], {name: None})
    assert vault.issued(name, "late", 1.0) is None


def test_a_credential_that_a_gateway_held_before_a_restart_is_good_until_it_expires() -> None:
    name = need(OAUTH).credential.secret
    vault = Vault({name: 100.0})
    vault.use("one", [need(OAUTH)])
    assert vault.obstacle(name, now=100.0 - EXPIRY_MARGIN_S - 0.1) == ""
    assert "expired" in vault.obstacle(name, now=100.0 - EXPIRY_MARGIN_S)
