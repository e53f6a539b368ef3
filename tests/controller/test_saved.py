"""What was saved of a model stands in its status, where others may write too: nothing in it ends the controller, or
says what cannot be.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import events, offload
from controller.events import Applied, Decided, Elected, Event
from controller.kube_status import Times, document
from controller.objects import EndpointSlice, SliceEndpoint, SlicePort
from controller.record import GATEWAYS_MAX, restore, saved_gateways
from controller.reporter import time_text
from controller.status import conditions
from tests.controller.cluster_world import ClusterWorld, leader, served
from tests.controller.manifests import Json
from tests.controller.world import KEY
from xds import ir
from xds.publisher import Publisher
from xds.translate import Gateway

NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([-1, 0, 1, 70_000, 2_000_000, "nan", "inf"]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=5,
)
STATES = st.sampled_from([str(each) for each in offload.State])
DECISIONS = st.fixed_dictionaries({}, optional={each.name: NUMBERS | VALUES for each in fields(offload.Decision)}).map(
    lambda decision: {"state": "Overflowing", **decision}
) | st.fixed_dictionaries({"state": STATES, "share_ppm": NUMBERS, "since_s": NUMBERS})
LOST = st.fixed_dictionaries({}, optional=dict.fromkeys(("identity", "hosts", "port"), VALUES))
SAVED = st.fixed_dictionaries(
    {},
    optional={
        "decision": DECISIONS | VALUES,
        "initial_limit": NUMBERS | VALUES,
        "gateway_port": NUMBERS | VALUES,
        "gateways": NUMBERS | VALUES,
        "remotes": VALUES | st.dictionaries(st.just("default"), VALUES),
        "lost": LOST | VALUES,
        "credentials": VALUES,
    },
)


class Controller:
    """An engine in a cluster, and what gateways would be told."""

    def __init__(self, saved: Json) -> None:
        self.world = ClusterWorld(saved)
        self.publisher = Publisher(Gateway(address="0.0.0.0", port=8080), lambda event: None)

    def give(self, *batch: Event) -> None:
        for effect in self.world.engine.handle_all(batch, self.world.now):
            if isinstance(effect, events.Publish):
                assert not self.publisher.publish(effect.update)

    def status(self) -> Any:
        record, now = self.world.engine.records[KEY], self.world.now
        times = Times(time_text(now), time_text(record.decision.since_s))
        return json.loads(json.dumps(document(record, conditions(record, None, [], now), {}, None, times)))


@given(saved=SAVED, is_told=st.booleans())
def test_whatever_a_status_says_was_decided_ends_no_controller(saved: Json, is_told: bool) -> None:
    controller = Controller({} if is_told else {KEY: saved})
    controller.give(*served("llama"))
    controller.give(*([Decided(KEY, saved)] if is_told else []))
    controller.give(Elected(leads=True))
    status = controller.status()
    assert 0 <= status["percentage"] <= 100
    assert 1 <= status.get("gatewayPort", 1) <= 65_535


@pytest.mark.parametrize(
    "wrong",
    [
        {"share_ppm": -1},
        {"wanted_ppm": ir.PPM + 1},
        {"since_s": 1e18},
        {"streak_from_s": "nan"},
        {"returned_at_s": -1.0},
        {"buffer_growth": 0},
    ],
)
def test_a_decision_that_cannot_be_is_none(wrong: Json) -> None:
    assert restore({"decision": {"state": "Overflowing"}}).decision is not None
    assert restore({"decision": {"state": "Overflowing", **wrong}}, forgotten=()).decision is None


def test_numbers_that_cannot_be_are_none() -> None:
    for number in (-1, 0, True, 2**40, "80", 1.5):
        told = restore({"initial_limit": number, "gateway_port": number})
        assert (told.initial_limit, told.gateway_port) == (None, None)


def test_one_status_cannot_divide_everybodys_limits_by_any_number() -> None:
    assert saved_gateways({"a/a": {"gateways": 3}, "b/b": {"gateways": GATEWAYS_MAX + 1}}) == 3


def test_a_limit_of_more_replicas_than_gateways_can_count_is_no_limit() -> None:
    replicas = tuple(SliceEndpoint((f"10.{n // 65_536}.{n // 256 % 256}.{n % 256}",)) for n in range(5_000))
    slices = EndpointSlice("default/many", "default/llama", "IPv4", (SlicePort(8000),), replicas)
    found = leader()
    found.give(*served("llama", offloadingConfig={"localLimit": {"maxConcurrentRequestsPerReplica": ir.UNLIMITED}}))
    found.give(Applied(slices))
    assert found.routes[KEY].local.limit == ir.UNLIMITED
