"""Settings: the predecessor's files and environment as they are, and clear words for what is wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from controller.api import Takeover
from controller.metrics import Source
from controller.settings import Settings, SettingsError, load
from xds import ir

ROOT = Path(__file__).parents[2]
PREDECESSORS_YAML = """
# -- enable-http2
enableHTTP2: false
secureMetrics: false
namespaces: default
defaultRemoteBackend:
  host: "run.beamlit.dev"
  pathPrefix: "/$workspace/$model"
  authConfig:
    type: oauth
    oauthConfig:
      clientId: "REPLACE_ME"
      clientSecret: "REPLACE_ME"
      tokenUrl: "https://api.beamlit.dev/v0/oauth/token"
  scheme: https
"""
PREDECESSORS_JSON = json.dumps(
    {
        "metrics_addr": ":8080",
        "probe_addr": ":8081",
        "enable_leader_election": True,
        "secure_metrics": False,
        "enable_http2": False,
        "metric_informer": {"type": "prometheus", "prometheus": {"address": "my-local-prom:9090"}},
        "proxy_service": {"namespace": "ns", "name": "gateway", "port": 8080, "admin_port": 8081},
        "default_remote_backend": {
            "host": "run.beamlit.dev:8443",
            "scheme": "https",
            "path_prefix": "/x",
            "headers": {"X-Team": "a"},
            "auth_config": {
                "type": "oauth",
                "oauth_config": {"client_id": "me", "client_secret": "s3cret", "token_url": "https://i.example.com/t"},
            },
        },
    }
)


def settings(text: str = "", name: str = "config.yaml", **environ: str) -> Settings:
    return load(name, text, environ).settings


def test_nothing_is_needed() -> None:
    found = load("", "", {})
    assert found.warnings == ()
    assert found.settings.default_remote_backend is None


def test_the_predecessors_yaml_works_without_a_warning() -> None:
    found = load("config.yaml", PREDECESSORS_YAML, {})
    assert found.warnings == ()
    remote = found.settings.default_remote_backend
    assert remote is not None
    assert (remote.host, remote.scheme, remote.path_prefix) == ("run.beamlit.dev", "https", "/$workspace/$model")
    assert found.settings.in_scope("default")
    assert not found.settings.in_scope("other")


def test_the_predecessors_json_works_without_a_warning() -> None:
    found = load("config.json", PREDECESSORS_JSON, {})
    assert found.warnings == ()
    remote = found.settings.default_remote_backend
    assert remote is not None
    assert remote.headers_to_add == {"X-Team": "a"}
    assert found.settings.metric_informer.type is Source.PROMETHEUS
    assert found.settings.metric_informer.prometheus.address == "my-local-prom:9090"


@pytest.mark.parametrize("name", ["config.yaml", "config.yml", "config.json"])
def test_either_spelling_is_read_in_either_file(name: str) -> None:
    for key in ("metricInformer", "metric_informer"):
        assert settings(json.dumps({key: {"type": "endpoints"}}), name).metric_informer.type is Source.ENDPOINTS


def test_each_source_of_metrics_has_its_interval() -> None:
    text = "metricInformer: {kubernetes: {intervalSeconds: 30, timeoutSeconds: 2}, endpoints: {intervalSeconds: 3}}"
    informer = settings(text).metric_informer
    assert (informer.kubernetes.interval_seconds, informer.kubernetes.timeout_seconds) == (30, 2)
    assert (informer.endpoints.interval_seconds, informer.prometheus.interval_seconds) == (3, 5)


def test_unknown_keys_are_named_and_no_error() -> None:
    found = load("config.yaml", "metricInformr: {}\nmetricInformer: {prometheus: {adress: x}}\n", {})
    assert len(found.warnings) == 2
    assert "config.yaml: metricInformr: unknown field, ignored; did you mean metricInformer?" in found.warnings
    assert any("metricInformer.prometheus.adress" in warning for warning in found.warnings)


def test_all_bad_values_are_named_at_once() -> None:
    text = "metricInformer: {type: magic}\ndefaultRemoteBackend: {host: 'http://x'}\n"
    with pytest.raises(SettingsError) as error:
        load("config.yaml", text, {})
    assert "config.yaml: metricInformer.type: must be" in str(error.value)
    assert "config.yaml: defaultRemoteBackend.host: must not hold a scheme" in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config.yaml", "a: [1\n", "no YAML in line 2"),
        ("config.yaml", "a:\n\tb: 1\n", "no YAML in line 2"),
        ("config.yaml", "- a\n", "must be a mapping"),
        ("config.json", "{", "no JSON"),
        ("config", "a: b", "no JSON"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(name: str, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load(name, text, {})


def test_all_namespaces_unless_some_are_named() -> None:
    assert settings().in_scope("any")
    assert settings("namespaces: ''").in_scope("any")
    some = settings("namespaces: 'a, b'")
    assert (some.in_scope("a"), some.in_scope("b"), some.in_scope("c")) == (True, True, False)


def test_the_predecessors_environment_is_read_and_its_token_never_shown() -> None:
    token = base64.b64encode(b"id:s3cret").decode()
    found = settings(BEAMLIT_TOKEN=token, BEAMLIT_BASE_URL="https://api.example.com")
    assert found.beamlit_base_url == "https://api.example.com"
    assert token not in repr(found)


def test_a_long_token_has_line_breaks_as_the_command_base64_makes_them() -> None:
    wrapped = base64.encodebytes(b"id:" + b"s3cret" * 20).decode()
    assert wrapped.count("\n") > 1
    token = settings(BEAMLIT_TOKEN=wrapped).beamlit_token
    assert token is not None
    assert token.get_secret_value() == wrapped.replace("\n", "")


def test_a_token_that_is_no_base64_of_id_and_secret_is_said_without_it() -> None:
    with pytest.raises(SettingsError, match="base64 of id:secret") as error:
        settings(BEAMLIT_TOKEN="n0t-base64")
    assert "n0t-base64" not in str(error.value)


def test_resolvers_are_addresses_with_a_port() -> None:
    found = settings("gateway: {dnsResolvers: ['127.0.0.1:5353', '[::1]:53']}")
    assert found.gateway.resolvers == (ir.Endpoint("127.0.0.1", 5353), ir.Endpoint("::1", 53))
    for wrong in ("dns.example.com:53", "127.0.0.1"):
        with pytest.raises(SettingsError, match=r"gateway\.dnsResolvers\[0\]: must be address:port"):
            settings(f"gateway: {{dnsResolvers: ['{wrong}']}}")


def test_prometheus_logs_in_one_way() -> None:
    for text in ("{username: a}", "{username: a, passwordFile: f, bearerTokenFile: f}"):
        with pytest.raises(SettingsError, match=r"metricInformer\.prometheus: "):
            settings(f"metricInformer: {{prometheus: {text}}}")


def test_no_secret_of_the_default_remote_is_shown() -> None:
    assert "s3cret" not in repr(settings(PREDECESSORS_JSON, "config.json"))


# In a cluster


def refusal(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        settings(text)
    return str(caught.value)


def test_models_refer_to_their_own_namespace_in_a_cluster_and_to_any_outside_one() -> None:
    assert settings("{}").referable(in_cluster=True) == frozenset()
    assert settings("{}").referable(in_cluster=False) is None
    listed = settings("referenceNamespaces: [shared, models]")
    assert listed.referable(in_cluster=True) == listed.referable(in_cluster=False) == frozenset({"shared", "models"})
    assert settings('referenceNamespaces: ["*"]').referable(in_cluster=True) is None


def test_loopback_and_link_local_are_denied_in_a_cluster_unless_it_says_otherwise() -> None:
    assert settings("{}").reachable(in_cluster=True).obstacle("169.254.169.254")
    assert not settings("{}").reachable(in_cluster=False).obstacle("127.0.0.1")
    assert not settings("destinations: {deny: []}").reachable(in_cluster=True).obstacle("127.0.0.1")
    allowed = settings("destinations: {allow: ['*.example.com']}").reachable(in_cluster=True)
    assert not allowed.obstacle("api.example.com")
    assert allowed.obstacle("example.org")


@pytest.mark.parametrize("rule", ["10.0.0.0/33", "''", "a b", "10.1.2.3/8"])
def test_a_rule_that_is_neither_a_name_nor_a_network_is_refused(rule: str) -> None:
    assert refusal(f"destinations: {{deny: [{rule}]}}").startswith("config.yaml: destinations.deny[0]: ")


def test_models_have_ports_of_their_own_on_the_gateway() -> None:
    assert settings("{}").gateway.port_range == range(20_000, 30_000)
    assert settings("gateway: {ports: 1024-1024}").gateway.port_range == range(1_024, 1_025)


@pytest.mark.parametrize("ports", ["20000", "80-90", "30000-20000", "20000-70000", "a-b", ""])
def test_a_range_of_ports_that_is_none_is_refused(ports: str) -> None:
    assert "config.yaml: gateway.ports: " in refusal(f"gateway: {{ports: '{ports}'}}")


@pytest.mark.parametrize(
    ("gateway", "port"),
    [("{ports: 8000-9000}", 8080), ("{ports: 9000-9901}", 9901), ("{ports: 9902-9999}", 9902)],
)
def test_models_never_get_a_port_that_the_gateway_has_already(gateway: str, port: int) -> None:
    assert f"must not hold {port}, the gateway's own" in refusal(f"gateway: {gateway}")


def test_a_lease_lasts_longer_than_it_may_take_to_renew_it() -> None:
    assert settings("{}").leader_election.lease_duration_seconds == 15
    wrong = "leaseDurationSeconds must be above renewDeadlineSeconds"
    assert wrong in refusal("leaderElection: {leaseDurationSeconds: 10, renewDeadlineSeconds: 10}")
    assert wrong in refusal("leaderElection: {retryPeriodSeconds: 11}")


def test_services_are_taken_over_unless_it_says_otherwise() -> None:
    assert settings("{}").takeover is Takeover.AUTO
    assert settings("takeover: Manual").takeover is Takeover.MANUAL
    assert "takeover" in refusal("takeover: Never")


def keys_of(settings: type[BaseModel]) -> Iterator[str]:
    for name, field in settings.model_fields.items():
        yield to_camel(name)
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from keys_of(part)


def test_every_key_is_in_a_readme() -> None:
    """But for those of the environment."""
    text = "".join((ROOT / name).read_text() for name in ("README.md", "helm/README.md"))
    keys = set(keys_of(Settings)) - {"beamlitBaseUrl", "beamlitToken"}
    assert sorted(key for key in keys if key not in text) == []
