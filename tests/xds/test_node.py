"""Who is let in."""

import pytest

from protos.envoy.config.core.v3.base_pb2 import Node
from xds.node import introduce


def envoy(major: int, minor: int, patch: int = 0) -> Node:
    version = {"major_number": major, "minor_number": minor, "patch": patch}
    return Node(id="g", user_agent_name="envoy", user_agent_build_version={"version": version})


@pytest.mark.parametrize(
    ("node", "version"),
    [
        (envoy(1, 40), "1.40.0"),
        (envoy(1, 41, 2), "1.41.2"),
        (envoy(2, 0), "2.0.0"),
        (Node(id="g", user_agent_name="envoy", user_agent_version="1.40.1-dev"), "1.40.1"),
        (Node(id="g", user_agent_name="envoy", user_agent_version="1.40"), "1.40.0"),
        (Node(id="g"), "unknown"),
        (Node(id="g", user_agent_name="envoy", user_agent_version="main"), "unknown"),
        (Node(id="g", user_agent_name="xds-viewer", user_agent_version="0.3"), "unknown"),
    ],
)
def test_what_is_new_enough_or_no_envoy_is_let_in(node: Node, version: str) -> None:
    who = introduce(node)
    assert (who.gateway, who.version, who.objection) == ("g", version, "")


@pytest.mark.parametrize(
    "node", [envoy(1, 39, 9), envoy(1, 4), envoy(0, 99), Node(id="g", user_agent_version="1.36.4")]
)
def test_an_old_envoy_is_turned_away_with_the_version_it_needs(node: Node) -> None:
    objection = introduce(node).objection
    assert objection.startswith("gateway g is Envoy ")
    assert "1.40 or newer is needed" in objection


def test_a_gateway_needs_an_id() -> None:
    assert "node.id is empty" in introduce(Node(cluster="c")).objection
