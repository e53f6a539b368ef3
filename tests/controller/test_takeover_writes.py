"""All that taking a Service over and giving it back ever writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from controller.events import Exposure
from controller.objects import MANAGED_BY_LABEL, MANAGER, GatewayPod
from controller.takeover.actions import Request, request_of
from controller.takeover.contest import Contest
from controller.takeover.plan import plan
from tests.controller.takeover_cluster import BROAD, KEY, NARROW, SHADOW, Cluster, Pod

ROUNDS = 20
TAKEN = {"ns/m": Exposure(KEY, 80, 20_000, (GatewayPod("gateway-0", ("10.9.0.1",)),))}
WITHOUT_GATEWAY = {"ns/m": Exposure(KEY, 80, 20_000, ())}


class Writer:
    """Who does what is planned. `requests`: all it has sent."""

    def __init__(self) -> None:
        self.cluster = Cluster(pods={"a": Pod("10.0.0.1", NARROW), "b": Pod("10.0.0.2", NARROW, web=8081)})
        self.cluster.create(KEY, BROAD)
        self.cluster.sync_all()
        self.requests: list[Request] = []
        self._contest = Contest()

    def bring_about(self, wanted: Mapping[str, Exposure]) -> None:
        """Plans and does until nothing is left to do, with an hour between."""
        for _ in range(ROUNDS):
            self.cluster.now += 3_600.0
            step = plan(self.cluster.seen(), wanted, self._contest, self.cluster.now)
            self._contest = step.contest
            for action in step.actions:
                self.requests.append(request_of(action))
                self.cluster.do(action)
            self.cluster.sync_all()
        assert not plan(self.cluster.seen(), wanted, self._contest, self.cluster.now).actions


def a_life() -> list[Request]:
    """Of a Service that is taken over, whose gateway goes, whose user puts the selector back, that is given back."""
    writer = Writer()
    writer.bring_about(TAKEN)
    assert writer.cluster.reached("http") == {"10.9.0.1"}
    writer.bring_about(WITHOUT_GATEWAY)
    writer.cluster.pods["c"] = Pod("10.0.0.3", NARROW)
    writer.bring_about(TAKEN)
    writer.cluster.set_selector(NARROW, "helm")
    writer.bring_about(TAKEN)
    writer.bring_about({})
    assert writer.cluster.reached("http") == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    return writer.requests


def names(value: Any) -> Iterator[str]:
    """Of all fields, however deep."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield name
            yield from names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from names(inner)


def test_defect_11_no_service_gets_an_address_and_no_slice_of_others_another_owner() -> None:
    requests = a_life()

    written = {name for request in requests for name in names(request.body)}
    assert not written & {"externalIPs", "externalName", "loadBalancerIP", "loadBalancerSourceRanges", "type"}

    slices = [request for request in requests if "/endpointslices/" in request.path and request.method != "DELETE"]
    assert slices
    for request in slices:
        assert request.method == "APPLY"
        assert request.path.rpartition("/")[2].startswith("php-spillway-")
        assert request.body["metadata"]["labels"][MANAGED_BY_LABEL] == MANAGER


def test_of_a_users_service_only_the_selector_and_annotations_of_ours_are_changed() -> None:
    requests = [
        request for request in a_life() if request.method != "DELETE" and "/endpointslices/" not in request.path
    ]

    shadow = [request.path for request in requests if request.method == "APPLY"]
    assert {path.rpartition("/")[2] for path in shadow} == {SHADOW.partition("/")[2]}
    edits = [request for request in requests if request.method != "APPLY"]
    assert {(request.method, request.path) for request in edits} == {("PATCH", "/api/v1/namespaces/ns/services/php")}
    changed = {each["path"] for request in edits for each in request.body if each["op"] != "test"}
    annotations = {f"/metadata/annotations/spillway.dev~1{name}" for name in ("selector", "model")}
    assert changed <= {"/spec/selector", "/metadata/annotations", *annotations}
    for request in edits:
        assert request.body[0]["op"] == "test"
