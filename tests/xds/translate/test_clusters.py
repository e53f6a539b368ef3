"""Names, versions and references of clusters; limits; secrets. What clusters do is tried with a real Envoy."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from google.protobuf.any_pb2 import Any
from hypothesis import given
from hypothesis import strategies as st

from protos.envoy.config.cluster.v3.cluster_pb2 import Cluster
from protos.envoy.service.runtime.v3.rtds_pb2 import Runtime
from tests.xds.translate.cases import INPUTS, resources
from xds import ir
from xds.snapshot import CLUSTER, ENDPOINTS, ROUTE, SCOPED_ROUTE, SECRET, Resource
from xds.translate import (
    BORROWED,
    LENT,
    LIMIT_LAYERS,
    Gateway,
    backend_cluster_name,
    backend_resource,
    gateway_resources,
    limit_layer,
    limits_resource,
    route_resources,
    secret_resource,
)

BACKEND = ir.Backend(
    "models.example.com",
    443,
    tls=ir.Tls("models.example.com", "models.example.com"),
    headers=(("x-a", "b"),),
    credential=ir.Credential("default/llama/remote-0"),
)
ROUTE_WITH_REMOTE = ir.Route(
    "default/llama",
    ("llama", "llama.default"),
    ir.Local((ir.Endpoint("10.0.0.1", 8000),), initial_limit=8, limit=8),
    (ir.Remote(BACKEND, "models.example.com"),),
    (ir.Chain("local", ir.PPM, ("remote-0",)),),
)


def cluster(resource: Resource) -> Cluster:
    message = Cluster()
    assert Any.FromString(resource.body).Unpack(message)
    return message


def limits(resource: Resource) -> dict[str, float]:
    message = Runtime()
    assert Any.FromString(resource.body).Unpack(message)
    return {key: value.number_value for key, value in message.layer.fields.items()}


def test_a_model_is_a_cluster_its_endpoints_a_route_and_a_scope_for_each_host() -> None:
    assert [(made.type_url, made.name) for made in route_resources(ROUTE_WITH_REMOTE, Gateway())] == [
        (CLUSTER, "local/default/llama"),
        (ENDPOINTS, "local/default/llama"),
        (ROUTE, "choose/default/llama"),
        (SCOPED_ROUTE, "llama"),
        (SCOPED_ROUTE, "llama.default"),
    ]


def test_every_reference_of_a_model_is_to_something_that_is_made() -> None:
    made = [
        *gateway_resources(Gateway()),
        *route_resources(ROUTE_WITH_REMOTE, Gateway()),
        backend_resource(BACKEND, Gateway()),
        secret_resource(ir.Secret("default/llama/remote-0", "token")),
    ]

    assert {ref for each in made for ref in each.refs} <= {(each.type_url, each.name) for each in made}
    (route,) = (each for each in made if each.type_url == ROUTE)
    assert (CLUSTER, backend_cluster_name(BACKEND)) in route.refs
    assert backend_resource(BACKEND, Gateway()).refs == ((SECRET, "default/llama/remote-0"),)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"local": replace(ROUTE_WITH_REMOTE.local, endpoints=())}, {ENDPOINTS}),
        ({"local": replace(ROUTE_WITH_REMOTE.local, limit=3)}, set()),
        ({"local": replace(ROUTE_WITH_REMOTE.local, initial_limit=3)}, {CLUSTER}),
        ({"chains": (ir.Chain("remote-0", ir.PPM, ("local",)),)}, {ROUTE}),
        ({"affinity_header": "x-session"}, {ROUTE}),
    ],
    ids=["endpoints", "limit", "initial limit", "share", "affinity"],
)
def test_a_change_changes_nothing_else(change: dict[str, object], changed: set[str]) -> None:
    before = route_resources(ROUTE_WITH_REMOTE, Gateway())
    after = route_resources(replace(ROUTE_WITH_REMOTE, **change), Gateway())  # type: ignore[arg-type]

    assert {new.type_url for old, new in zip(before, after, strict=True) if old.version != new.version} == changed


def test_a_backends_name_is_its_content() -> None:
    others = [
        replace(BACKEND, port=80),
        replace(BACKEND, tls=None),
        replace(BACKEND, tls=ir.Tls("models.example.com", "models.example.com", "PEM")),
        replace(BACKEND, headers=()),
        replace(BACKEND, credential=None),
        replace(BACKEND, limit=7),
        replace(BACKEND, protocol=ir.Protocol.AUTO),
    ]

    assert backend_cluster_name(BACKEND).startswith("remote/models.example.com:443/")
    assert len({backend_cluster_name(each) for each in [BACKEND, *others]}) == len(others) + 1
    assert backend_cluster_name(replace(BACKEND)) == backend_cluster_name(BACKEND)


def test_no_credential_is_in_a_cluster() -> None:
    secret = ir.Secret("default/llama/remote-0", "very-secret")
    made = [backend_resource(BACKEND, Gateway()), *route_resources(ROUTE_WITH_REMOTE, Gateway())]

    assert all(b"very-secret" not in each.body for each in made)
    assert b"very-secret" in secret_resource(secret).body


@pytest.mark.parametrize(
    ("address", "is_static"), [("10.0.0.1", True), ("fd00::1", True), ("models.example.com", False), ("host", False)]
)
def test_an_address_is_used_and_a_name_is_looked_up(address: str, is_static: bool) -> None:
    made = cluster(backend_resource(ir.Backend(address, 80), Gateway()))

    assert made.HasField("cluster_type") is not is_static


def test_statistics_have_no_dots_in_the_names_of_models() -> None:
    plain, dotted = (
        cluster(route_resources(replace(ROUTE_WITH_REMOTE, name=name), Gateway())[0])
        for name in ("a/llama", "a/llama-3.1")
    )

    assert (plain.name, plain.alt_stat_name) == ("local/a/llama", "")
    assert (dotted.name, dotted.alt_stat_name) == ("local/a/llama-3.1", "local/a/llama-3_1")


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 1_000_000)))
def test_a_layer_has_one_key_for_each_limit(wanted: dict[str, int]) -> None:
    made = limits_resource(0, wanted)

    assert made.name == "limits-0"
    assert limits(made) == {
        f"circuit_breakers.local/{name}.default.max_requests": limit for name, limit in wanted.items()
    }
    assert made == limits_resource(0, dict(reversed(wanted.items())))


def test_a_limit_of_none_at_all_lets_none_wait_for_a_connection() -> None:
    assert limits(limits_resource(3, {"default/llama": 0})) == {
        "circuit_breakers.local/default/llama.default.max_requests": 0,
        "circuit_breakers.local/default/llama.default.max_pending_requests": 0,
    }


def test_layers_are_stable_and_shared_out() -> None:
    layers = [limit_layer(f"default/model-{number}") for number in range(1000)]

    assert limit_layer("default/llama") == 2
    assert set(layers) == set(range(LIMIT_LAYERS))
    assert max(map(layers.count, range(LIMIT_LAYERS))) < 2 * len(layers) // LIMIT_LAYERS


def test_the_bootstrap_names_exactly_these_layers() -> None:
    bootstrap = yaml.safe_load((Path(__file__).parents[3] / "envoy/bootstrap.yaml").read_text().replace("${", "{"))
    names = [layer["rtds_layer"]["name"] for layer in bootstrap["layered_runtime"]["layers"]]

    assert names == [*(limits_resource(number, {}).name for number in range(LIMIT_LAYERS)), LENT, BORROWED]


DECODE = """
import json, sys
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
kinds = {"Cluster": Cluster, "RouteConfiguration": RouteConfiguration, "ClusterLoadAssignment": ClusterLoadAssignment}
for line in sys.stdin:
    kind, body = json.loads(line)
    message = kinds[kind].parse(bytes.fromhex(body))
    names = {"Cluster": "name", "RouteConfiguration": "name", "ClusterLoadAssignment": "cluster_name"}
    print(getattr(message, names[kind]))
"""


def test_another_decoder_reads_the_same_names() -> None:
    """In a process of its own: both register Envoy's types."""
    kinds = {CLUSTER: "Cluster", ROUTE: "RouteConfiguration", ENDPOINTS: "ClusterLoadAssignment"}
    made = [each for path in INPUTS for each in resources(path) if each.type_url in kinds]
    lines = [json.dumps([kinds[each.type_url], Any.FromString(each.body).value.hex()]) for each in made]

    decoded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DECODE],
        input="\n".join(lines),
        capture_output=True,
        check=True,
        text=True,
    ).stdout.splitlines()

    assert decoded == [each.name for each in made]
