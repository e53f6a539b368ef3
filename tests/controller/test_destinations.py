"""Which hosts remotes and issuers may be at, however they are spelt."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.destinations import LOCAL_ONLY, Destinations, check_rule
from controller.remote_backend import split_host
from tests.controller.manifests import Json, endpoint_slice, model, secret, service
from tests.controller.world import KEY, World

SAFE = Destinations(deny=LOCAL_ONLY)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "app.localhost",
        "ip6-loopback",
        "metadata.google.internal",
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "169.254.169.254",
        "::1",
        "0:0:0:0:0:0:0:1",
        "::1%1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::FFFF:169.254.169.254",
        "fd00:ec2::254",
    ],
)
def test_loopback_link_local_and_metadata_are_denied_by_default_in_a_cluster(host: str) -> None:
    assert "the settings deny" in SAFE.obstacle(host)


@pytest.mark.parametrize(
    "host",
    [
        "0x7f.1",
        "0X7F.0.0.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "127.1",
        "127.0.1",
        "0177.0.0.1",
        "127.0.0.1..",
        "127.0.0.0x1",
        "example.0x",
        "１２７.0.0.1",  # full-width digits, which IDNA makes plain
        "127。0。0。1",
        "ⓛocalhost",
        "%31%32%37.0.0.1",
        "127.0.0.1\\.example.com",
        "localhost..",
        ".localhost",
        "",
        "[::1]",
        "::1]",
    ],
)
def test_an_address_that_only_some_programs_would_take_for_one_is_refused_whatever_the_rules(host: str) -> None:
    for rules in (Destinations(), SAFE, Destinations(allow=("*",))):
        assert "neither a DNS name nor an IP address" in rules.obstacle(host)


@pytest.mark.parametrize(
    "host",
    [
        "api.example.com",
        "API.example.com.",
        "10.0.0.1",
        "::ffff:10.0.0.1",
        "2001:db8::1",
        "xn--bcher-kva.example",
        "remote",
        "my_service.default.svc",
        "1password.com",
        "0x7f.example.com",
        "127.0.0.1.nip.io",
    ],
)
def test_other_hosts_are_left_alone(host: str) -> None:
    assert SAFE.obstacle(host) == ""


@given(
    st.from_regex(
        r"(0[xX][0-9a-fA-F]{1,8}|0?[0-9]{1,10})(\.(0[xX][0-9a-fA-F]{1,8}|0?[0-9]{1,10})){0,3}\.?", fullmatch=True
    )
)
def test_whatever_the_system_takes_for_an_address_is_judged_as_that_address_or_refused(host: str) -> None:
    try:
        address = ip_address(socket.inet_aton(host.removesuffix(".")))
    except OSError:
        return
    local = any(address in ip_network(rule) for rule in LOCAL_ONLY if "/" in rule and ":" not in rule)
    usual = host.removesuffix(".") == str(address)
    assert bool(SAFE.obstacle(host)) is (local or not usual)


@given(st.text("0123456789abcdefxX.:%[]-_", min_size=1, max_size=20))
def test_what_a_remote_may_be_called_is_a_host_here_too_or_an_odd_address(host: str) -> None:
    try:
        name, _ = split_host(host)
    except ValueError:
        return
    last = name.rpartition(".")[2]
    if Destinations().obstacle(name):
        assert last[0].isdigit()


@pytest.mark.parametrize(
    ("rule", "host", "fits"),
    [
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com.", True),
        ("example.com", "api.example.com", False),
        ("*.example.com", "api.example.com", True),
        ("*.example.com", "eu.api.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
        ("example.*", "example.com", True),
        ("*", "example.com", True),
        ("*", "10.0.0.1", True),
        ("*", "2001:db8::1", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.10", False),
        ("10.0.0.0/8", "10.9.9.9", True),
        ("10.0.0.0/8", "::ffff:10.9.9.9", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", "10.example.com", False),
        ("2001:db8::/32", "2001:db8:1::1", True),
        ("2001:db8::/32", "10.0.0.1", False),
        ("2001:db8::1", "2001:0db8:0::1", True),
        ("::1", "::1%1", True),
        ("0.0.0.0/0", "2001:db8::1", False),
    ],
)
def test_what_a_rule_fits(rule: str, host: str, fits: bool) -> None:
    assert bool(Destinations(deny=(rule,)).obstacle(host)) is fits
    assert bool(Destinations(allow=(rule,)).obstacle(host)) is not fits


def test_with_an_allow_list_all_else_is_denied_and_deny_wins() -> None:
    rules = Destinations(allow=("*.example.com", "10.0.0.0/8"), deny=("bad.example.com", "10.1.0.0/16"))
    assert [host for host in ("a.example.com", "10.0.0.1") if rules.obstacle(host)] == []
    assert (
        rules.obstacle("bad.example.com") == "bad.example.com is a destination that the settings deny (bad.example.com)"
    )
    assert rules.obstacle("10.1.2.3") == "10.1.2.3 is a destination that the settings deny (10.1.0.0/16)"
    assert rules.obstacle("other.org") == "other.org is no destination that the settings allow"


@pytest.mark.parametrize("rule", ["10.0.0.0/33", "10.0.0.1/8", "example.com/24", "", "a b", " "])
def test_a_rule_that_cannot_be_meant_is_an_error(rule: str) -> None:
    with pytest.raises(ValueError, match=r"is no network|must be a DNS name"):
        check_rule(rule)


def test_a_rule_is_read_in_any_case() -> None:
    assert check_rule(" API.Example.com ") == "api.example.com"
    assert check_rule("FE80::/10") == "fe80::/10"


# In the engine


def oauth(token_url: str) -> Json:
    ref = {"name": "remote", "key": "client-secret"}
    return {"type": "oauth", "oauthConfig": {"clientId": "c", "clientSecretRef": ref, "tokenUrl": token_url}}


def world(destinations: Destinations = SAFE, **offloading: Any) -> World:
    things = (service(), endpoint_slice("10.0.0.1"), secret(client_secret="s3cret"), model(**offloading))
    return World(destinations=destinations).give(*things)


@pytest.mark.parametrize("host", ["169.254.169.254:80", "[::ffff:127.0.0.1]:80", "0x7f.1", "LOCALHOST", "[::1]"])
def test_no_gateway_is_told_of_a_denied_remote_and_no_token_is_fetched_for_it(host: str) -> None:
    found = world(remoteBackend={"host": host, "authConfig": oauth("https://issuer.example.com/token")})
    assert found.routes[KEY].remotes == ()
    assert (found.clients, found.secrets) == ({}, {})
    assert found.condition("RemoteReady")[:2] == ("False", "DestinationDenied")
    assert found.condition("ResolvedRefs")[0] == "True"


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://127.1:8080/token",
        "http://2130706433/token",
        "http://0x7f.0.0.1/token",
        "https://LocalHost./token",
        "http://[::ffff:169.254.169.254]/token",
        "http://１２７.0.0.1/token",
        "http://%31%32%37.0.0.1/token",
    ],
)
def test_no_token_is_fetched_from_a_denied_issuer_and_its_remote_is_not_used(url: str) -> None:
    found = world(remoteBackend={"host": "remote.example.com", "authConfig": oauth(url)})
    assert (found.clients, found.routes[KEY].remotes) == ({}, ())
    assert found.condition("RemoteReady")[:2] == ("False", "DestinationDenied")


def test_other_remotes_of_the_model_are_used_all_the_same() -> None:
    two = [{"name": "bad", "host": "localhost"}, {"name": "good", "host": "good.example.com"}]
    found = world(remoteBackends=two, behavior={"percentage": 50}).read(15, times=7)
    assert [remote.authority for remote in found.routes[KEY].remotes] == ["good.example.com"]
    assert found.share() == 500_000
    assert found.condition("RemoteReady")[2].startswith("Not all remotes are ready; bad: localhost is a destination")


def test_the_settings_own_remote_is_not_theirs_to_deny() -> None:
    default = model(remoteBackend={"host": "127.0.0.1:9000"}).spec.offloading_config.remotes[0]
    found = World(destinations=SAFE, default_remote=default)
    found.give(service(), endpoint_slice("10.0.0.1"), model(remoteBackend=None))
    assert [remote.authority for remote in found.routes[KEY].remotes] == ["127.0.0.1:9000"]


def test_outside_a_cluster_a_laptop_is_a_remote() -> None:
    found = world(Destinations(), remoteBackend={"host": "127.0.0.1:9000"})
    assert found.condition("RemoteReady")[0] == "True"
