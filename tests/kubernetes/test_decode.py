"""Objects as the API server writes them, and with what it may leave out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from controller.adapters.kubernetes import decode
from controller.adapters.kubernetes.reflector import UnusableError
from controller.events import Kind
from controller.objects import EndpointSlice, GatewayPod, SliceEndpoint, SlicePort, Workload
from controller.parsing import Problem
from tests.kubernetes.fake_api import TOO_DEEP


def body(obj: dict[str, Any], **metadata: Any) -> bytes:
    return json.dumps({"metadata": {"name": "php", "namespace": "shop", "uid": "u", **metadata}, **obj}).encode()


LABELS = {"kubernetes.io/service-name": "php", "endpointslice.kubernetes.io/managed-by": "someone"}


def test_an_endpoint_slice_with_all_that_is_read() -> None:
    endpoint = {
        "addresses": ["10.0.0.1"],
        "conditions": {"ready": False, "serving": True, "terminating": True},
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": "php-1"},
        "nodeName": "node-1",
        "zone": "a",
        "hints": {"forZones": [{"name": "a"}]},
    }
    port = {"name": "web", "port": 8080, "protocol": "TCP", "appProtocol": "grpc"}
    obj = {"addressType": "IPv4", "endpoints": [endpoint], "ports": [port]}

    assert decode.endpoint_slice(body(obj, labels=LABELS, name="php-x")) == EndpointSlice(
        "shop/php-x",
        "shop/php",
        "IPv4",
        (SlicePort(8080, "web", "grpc"),),
        (
            SliceEndpoint(
                ("10.0.0.1",), ready=False, serving=True, terminating=True, pod="php-1", node="node-1", zone="a"
            ),
        ),
        "someone",
    )


@pytest.mark.parametrize(
    ("conditions", "ready", "serving"),
    [
        ({}, True, True),
        ({"ready": None}, True, True),
        ({"ready": False}, False, False),
        ({"ready": True, "serving": False}, True, False),
    ],
)
def test_what_a_condition_leaves_out_means_what_kubernetes_says(
    conditions: dict[str, Any], ready: bool, serving: bool
) -> None:
    endpoint = {"addresses": ["10.0.0.1"], "conditions": conditions}
    decoded = decode.endpoint_slice(body({"addressType": "IPv4", "endpoints": [endpoint]}, labels=LABELS))

    assert decoded.endpoints == (SliceEndpoint(("10.0.0.1",), ready=ready, serving=serving),)


def test_a_slice_tells_when_it_was_written_last() -> None:
    obj = {"addressType": "IPv4", "endpoints": [], "ports": []}
    made = {"labels": LABELS, "creationTimestamp": "1970-01-01T01:00:00Z"}
    writes = [{"manager": "a", "time": "1970-01-01T03:00:00Z"}, {"manager": "b", "time": "1970-01-01T02:00:00Z"}, {}]
    assert decode.endpoint_slice(body(obj, labels=LABELS)).written_s == 0
    assert decode.endpoint_slice(body(obj, **made)).written_s == 3_600
    assert decode.endpoint_slice(body(obj, **made, managedFields=writes)).written_s == 10_800


def test_a_slice_tells_its_version() -> None:
    obj = {"addressType": "IPv4", "endpoints": [], "ports": []}
    assert decode.endpoint_slice(body(obj, labels=LABELS, resourceVersion="77")).version == "77"


def test_an_object_that_is_too_deep_is_unusable() -> None:
    with pytest.raises(UnusableError, match="recursion"):
        decode.plain(TOO_DEEP.encode())
    assert decode.plain(b'{"spec": {}}') == {"spec": {}}


@pytest.mark.parametrize("absent", [{}, {"endpoints": None, "ports": None}, {"endpoints": [], "ports": []}])
def test_an_empty_slice_is_a_slice(absent: dict[str, Any]) -> None:
    decoded = decode.endpoint_slice(body({"addressType": "IPv6", **absent}, labels=LABELS))

    assert (decoded.endpoints, decoded.ports) == ((), ())


def test_a_target_that_is_no_pod_has_no_pods_name_and_a_port_without_number_is_none() -> None:
    endpoint = {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Node", "name": "n"}}
    obj = {"addressType": "IPv4", "endpoints": [endpoint], "ports": [{"name": "any"}, {"port": 80}]}
    decoded = decode.endpoint_slice(body(obj, labels=LABELS))

    assert decoded.endpoints[0].pod == ""
    assert decoded.ports == (SlicePort(80),)


def test_texts_that_repeat_are_kept_once() -> None:
    def one(number: int) -> EndpointSlice:
        endpoint = {"addresses": [f"10.0.0.{number}"], "nodeName": "node-1", "zone": "a"}
        obj = {"addressType": "IPv4", "endpoints": [endpoint], "ports": [{"name": "web", "port": 80}]}
        return decode.endpoint_slice(body(obj, labels=LABELS, name=f"php-{number}"))

    first, second = one(1), one(2)

    assert first.service_key is second.service_key
    assert first.endpoints[0].node is second.endpoints[0].node
    assert first.endpoints[0].zone is second.endpoints[0].zone
    assert first.ports[0].name is second.ports[0].name
    assert first.managed_by is second.managed_by


def workload(kind: Kind, spec: dict[str, Any], status: dict[str, Any] | None = None) -> Workload:
    pod = {
        "containers": [
            {"name": "model", "ports": [{"name": "web", "containerPort": 8000}, {"containerPort": 9000}]},
            {"name": "sidecar"},
        ]
    }
    defaults = {"selector": {"matchLabels": {"app": "php"}}, "template": {"spec": pod}}
    return decode.workload(kind)(body({"spec": {**defaults, **spec}, **({} if status is None else {"status": status})}))


@pytest.mark.parametrize("kind", [Kind.DEPLOYMENT, Kind.STATEFUL_SET, Kind.REPLICA_SET])
def test_a_workload_that_counts_replicas(kind: Kind) -> None:
    assert workload(kind, {"replicas": 3}, {"replicas": 3, "readyReplicas": 2}) == Workload(
        str(kind), "shop/php", "app=php", desired=3, ready=2, ports=(("web", 8000), ("", 9000))
    )
    assert (workload(kind, {"replicas": 0}).desired, workload(kind, {}).desired) == (0, 1)
    assert workload(kind, {}, {}).ready == 0


def test_a_daemon_set_wants_what_is_scheduled() -> None:
    decoded = workload(Kind.DAEMON_SET, {}, {"desiredNumberScheduled": 4, "numberReady": 3})

    assert (decoded.desired, decoded.ready) == (4, 3)


def test_a_selector_is_text_as_the_api_takes_it() -> None:
    expressions = [{"key": "tier", "operator": "In", "values": ["b", "a"]}, {"key": "old", "operator": "DoesNotExist"}]
    decoded = workload(Kind.DEPLOYMENT, {"selector": {"matchLabels": {"app": "php"}, "matchExpressions": expressions}})

    assert decoded.selector == "!old,app=php,tier in (a,b)"


def test_a_selector_that_is_not_understood_is_said() -> None:
    with pytest.raises(UnusableError, match=r"^spec\.selector: is no label selector"):
        workload(Kind.DEPLOYMENT, {"selector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}})


def gateways(*endpoints: tuple[str, str, str, bool]) -> tuple[GatewayPod, ...]:
    slices = [
        EndpointSlice("s/x", "s/gateway", family, (), (SliceEndpoint((address,), ready=ready, pod=pod),))
        for family, pod, address, ready in endpoints
    ]
    return decode.gateway_pods(slices)


def test_gateway_pods_have_an_address_of_each_family_and_are_sorted() -> None:
    assert gateways(
        ("IPv6", "b", "fd00::2", True), ("IPv4", "b", "10.0.0.2", True), ("IPv4", "a", "10.0.0.1", True)
    ) == (GatewayPod("a", ("10.0.0.1",)), GatewayPod("b", ("10.0.0.2", "fd00::2")))


def test_a_gateway_that_is_unready_anywhere_is_unready() -> None:
    assert gateways(("IPv4", "a", "10.0.0.1", True), ("IPv6", "a", "fd00::1", False))[0].ready is False


def test_what_is_no_pod_is_no_gateway() -> None:
    assert gateways(("IPv4", "", "10.0.0.1", True)) == ()


def test_a_name_is_no_address_of_a_gateway() -> None:
    assert gateways(("FQDN", "a", "gateway.example.com", True), ("IPv4", "b", "10.0.0.2", True)) == (
        GatewayPod("b", ("10.0.0.2",)),
    )


def test_other_kinds_are_read_as_from_files() -> None:
    policy = {"apiVersion": "authorization.beamlit.com/v1alpha1", "spec": {"type": "location"}}

    assert decode.secret(body({"data": {"token": "c2VjcmV0"}})).data == {"token": b"secret"}
    assert decode.policy(body(policy)).spec.type == "location"


@pytest.mark.parametrize(
    ("decoder", "given", "problem"),
    [
        (decode.endpoint_slice, b"{", Problem("", "input data was truncated")),
        (decode.endpoint_slice, b"[]", Problem("", "expected `object`, got `array`")),
        (decode.endpoint_slice, body({}), Problem("", "object missing required field `addressType`")),
        (
            decode.endpoint_slice,
            body({"addressType": "IPv4", "endpoints": [{"addresses": "x"}]}),
            Problem("endpoints[0].addresses", "expected `array`, got `str`"),
        ),
        (
            decode.endpoint_slice,
            body({"addressType": "IPv4"}),
            Problem("metadata.labels[kubernetes.io/service-name]", "is required: it names the Service"),
        ),
        (decode.workload(Kind.DEPLOYMENT), body({}), Problem("", "object missing required field `spec`")),
        (decode.secret, b"7", Problem("", "expected `object`, got `int`")),
        (
            decode.secret,
            body({"data": {"token": "not base64"}}),
            Problem("data.token", "must be base64; plain text goes into stringData"),
        ),
    ],
)
def test_what_cannot_be_used_is_said_by_field(
    decoder: Callable[[bytes], object], given: bytes, problem: Problem
) -> None:
    with pytest.raises(UnusableError) as caught:
        decoder(given)

    assert caught.value.problems == (problem,)
