"""The demo's manifests are what the controller reads without a complaint."""

import pytest
import yaml

from controller.api import parse
from controller.demo.manifests import World, config, manifests, remote_path_prefix
from controller.demo.scenario import LONG, SHORT, Scenario
from controller.parsing import Parsed
from controller.settings import load
from xds import ir

WORLD = World(local_port=1, remote_port=2, dns="127.0.0.1:3", token_url="http://127.0.0.1:4/oauth/token", ca_pem="PEM")


@pytest.mark.parametrize("scenario", [LONG, SHORT], ids=["long", "short"])
def test_the_model_is_valid_without_a_warning(scenario: Scenario) -> None:
    [model] = [m for m in manifests(WORLD, scenario, "secret") if m["kind"] == "ModelDeployment"]

    parsed = parse(model)

    assert isinstance(parsed, Parsed)
    assert parsed.warnings == ()
    assert parsed.model.key == "demo/chat"


def test_the_settings_are_valid_without_a_warning() -> None:
    loaded = load("config.yaml", yaml.safe_dump(config(WORLD)), {})

    assert loaded.warnings == ()
    assert loaded.settings.gateway.resolvers == (ir.Endpoint("127.0.0.1", 3),)


def test_the_client_secret_stands_in_a_secret_and_nowhere_else() -> None:
    holders = [m["kind"] for m in manifests(WORLD, LONG, "hush-hush") if "hush-hush" in repr(m)]

    assert holders == ["Secret"]
    assert "hush-hush" not in repr(config(WORLD))


def test_the_remote_serves_where_requests_are_sent() -> None:
    assert remote_path_prefix() == "/tenants/demo/models/demo-model"
