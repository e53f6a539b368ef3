"""Leases on a stream of their gateway: sent whole when new, renewed by name, acknowledged by serial, never before the
limits that all gateways have.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from protos.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from protos.envoy.service.discovery.v3.discovery_pb2 import Resource as WireResource
from protos.envoy.service.runtime.v3.rtds_pb2 import Runtime
from tests.xds.talk import World, word
from xds import ir
from xds.leases import OVERDUE_S, Granted
from xds.session_delta import DeltaSession
from xds.snapshot import RUNTIME
from xds.subscription import LeaseAck, Nack, Report

NAMES = ("limits-0", "lent", "borrowed")


@dataclass
class Gateway:
    """A delta client that asks for all its runtime layers. `sent`: the newest lease response."""

    granted: Granted = field(default_factory=Granted)
    now_s: float = 100.0
    sent: DeltaDiscoveryResponse = field(default_factory=DeltaDiscoveryResponse)

    def __post_init__(self) -> None:
        self.world = World(word(RUNTIME, "limits-0"))
        self.session = DeltaSession(self.world.snapshot, self.world.encoder, granted=self.granted)

    def says(self, **fields: object) -> list[Report]:
        request = DeltaDiscoveryRequest(type_url=RUNTIME, **fields)  # type: ignore[arg-type]
        self.session.receive(request, self.now_s)
        return self.session.reports()

    def opens(self, **known: str) -> None:
        self.says(resource_names_subscribe=NAMES, initial_resource_versions=known)
        for response in self.hears():
            self.says(response_nonce=response.nonce)

    def hears(self) -> list[DeltaDiscoveryResponse]:
        heard = [DeltaDiscoveryResponse.FromString(push.data) for push in self.session.offer(self.now_s)]
        self.sent = next((each for each in heard if each.nonce.startswith("lease")), DeltaDiscoveryResponse())
        return heard

    def is_told(self) -> dict[str, WireResource]:
        self.hears()
        return {each.name: each for each in self.sent.resources}

    def is_leased(self, serial: int, lent: int | None = None, borrowed: int | None = None) -> None:
        given = [{} if limit is None else {"default/m": limit} for limit in (lent, borrowed)]
        self.granted.grant(ir.Lease("g", serial, *given))

    def acks(self, **more: object) -> list[Report]:
        return self.says(response_nonce=self.sent.nonce, **more)


def limits(wire: WireResource) -> dict[str, float]:
    runtime = Runtime()
    assert wire.resource.Unpack(runtime)
    return {key: value.number_value for key, value in runtime.layer.fields.items()}


@pytest.fixture
def gateway() -> Gateway:
    made = Gateway()
    made.opens()
    return made


def test_nothing_is_said_of_leases_before_there_is_one(gateway: Gateway) -> None:
    assert gateway.is_told() == {}


def test_who_comes_back_keeps_its_leases_until_there_are_new_ones() -> None:
    gateway = Gateway()
    gateway.says(resource_names_subscribe=NAMES, initial_resource_versions={"lent": "1", "borrowed": "2"})
    heard = gateway.hears()
    assert [each.name for response in heard for each in response.resources] == ["limits-0"]
    assert [name for response in heard for name in response.removed_resources] == []


def test_a_lease_is_two_layers_that_end_by_themselves(gateway: Gateway) -> None:
    gateway.is_leased(1, lent=0, borrowed=7)
    told = gateway.is_told()
    assert limits(told["lent"]) == {
        "circuit_breakers.local/default/m.default.max_requests": 0,
        "circuit_breakers.local/default/m.default.max_pending_requests": 0,
    }
    assert limits(told["borrowed"]) == {"circuit_breakers.local/default/m.default.max_requests": 7}
    assert [told[name].ttl.seconds for name in ("lent", "borrowed")] == [ir.LENT_TTL_S, ir.BORROWED_TTL_S]
    assert gateway.acks() == [LeaseAck(1)]


def test_an_empty_layer_need_not_end(gateway: Gateway) -> None:
    gateway.is_leased(1)
    assert [each.HasField("ttl") for each in gateway.is_told().values()] == [False, False]


def test_the_same_lease_again_is_its_names_alone(gateway: Gateway) -> None:
    gateway.is_leased(1, borrowed=7)
    versions = {name: each.version for name, each in gateway.is_told().items()}
    gateway.acks()
    gateway.now_s += 1
    gateway.is_leased(2, borrowed=7)
    told = gateway.is_told()
    assert {name: each.version for name, each in told.items()} == versions
    assert not any(each.HasField("resource") for each in told.values())
    assert told["borrowed"].ttl.seconds == ir.BORROWED_TTL_S
    assert len(gateway.sent.SerializeToString()) < 200
    assert gateway.acks() == [LeaseAck(2)]


def test_what_may_have_ended_meanwhile_is_sent_whole(gateway: Gateway) -> None:
    gateway.is_leased(1, lent=3, borrowed=7)
    gateway.hears()
    gateway.acks()
    gateway.now_s += ir.BORROWED_TTL_S
    gateway.is_leased(2, lent=3, borrowed=7)
    told = gateway.is_told()
    assert told["borrowed"].HasField("resource")
    assert not told["lent"].HasField("resource")


def test_one_lease_is_under_way_at_a_time_and_the_newest_follows(gateway: Gateway) -> None:
    gateway.is_leased(1, lent=3)
    gateway.hears()
    gateway.is_leased(2, lent=2)
    gateway.is_leased(3, lent=1)
    first = gateway.sent
    assert gateway.is_told() == {}
    gateway.sent = first
    assert gateway.acks() == [LeaseAck(1)]
    assert limits(gateway.is_told()["lent"])["circuit_breakers.local/default/m.default.max_requests"] == 1
    assert gateway.acks() == [LeaseAck(3)]


def test_an_answer_that_does_not_come_holds_up_leases_only_so_long(gateway: Gateway) -> None:
    gateway.is_leased(1, lent=3)
    gateway.hears()
    late = gateway.sent.nonce
    gateway.is_leased(2, lent=2)
    gateway.now_s += OVERDUE_S
    assert gateway.is_told()
    assert gateway.says(response_nonce=late) == []
    assert gateway.acks() == [LeaseAck(2)]


def test_a_lease_waits_until_the_limits_from_before_it_are_acknowledged(gateway: Gateway) -> None:
    gateway.world.has(word(RUNTIME, "limits-0", 2))
    (limits_push,) = gateway.hears()
    gateway.is_leased(1, lent=3)
    assert gateway.is_told() == {}
    gateway.says(response_nonce=limits_push.nonce)
    assert gateway.is_told()


def test_a_refused_lease_is_reported_and_not_taken_for_accepted(gateway: Gateway) -> None:
    gateway.is_leased(1, lent=3)
    gateway.hears()
    assert gateway.acks(error_detail={"message": "no"}) == [Nack(RUNTIME, (), "no", divisible=False)]


def test_who_asks_again_is_sent_all_of_it_again(gateway: Gateway) -> None:
    gateway.is_leased(1, lent=3)
    gateway.hears()
    gateway.acks()
    gateway.says(resource_names_unsubscribe=["lent", "borrowed"])
    gateway.is_leased(2, lent=2)
    assert gateway.is_told() == {}
    gateway.says(resource_names_subscribe=["lent"])
    assert list(gateway.is_told()) == ["lent"]
