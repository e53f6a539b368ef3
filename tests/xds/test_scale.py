"""Work is in proportion to what changed, shown by counting what is touched; no clock is asked."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.xds.plane import model
from tests.xds.talk import DeltaClient, StateClient, World, word
from xds import ir, snapshot
from xds.publisher import Publisher
from xds.response import Encoder, Push
from xds.snapshot import CLUSTER, ROUTE, Entry, Resource
from xds.translate import Gateway

RESOURCES = 10_000
STREAMS = 1_000


class Visits:
    """Counts the log entries that anybody looks at by walking."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = snapshot._newer

        def counting(entries: object, position: int) -> Iterator[Entry]:
            for entry in original(entries, position):  # type: ignore[arg-type]
                self.count += 1
                yield entry

        monkeypatch.setattr(snapshot, "_newer", counting)


@pytest.fixture(name="visits")
def _visits(monkeypatch: pytest.MonkeyPatch) -> Visits:
    return Visits(monkeypatch)


@pytest.fixture(name="joins")
def _joins(monkeypatch: pytest.MonkeyPatch) -> list[Push]:
    """Every response that is really put together."""
    made: list[Push] = []
    keep = Encoder._keep

    def counting(encoder: Encoder, identity: tuple[object, ...], push: Push) -> Push:
        made.append(push)
        return keep(encoder, identity, push)

    monkeypatch.setattr(Encoder, "_keep", counting)
    return made


def test_one_change_among_many_is_looked_for_once_for_all_streams(visits: Visits, joins: list[Push]) -> None:
    world = World(*(word(CLUSTER, f"c{number}") for number in range(RESOURCES)))
    clients = [DeltaClient(world) for _ in range(STREAMS)]
    for client in clients:
        client.says(CLUSTER)
        client.session.subscriptions[CLUSTER].makes.position = world.snapshot.sequence
        client.hears()
        client.acks(CLUSTER)
    visits.count = 0
    joins.clear()

    world.has(word(CLUSTER, "c77", 2))
    for client in clients:
        assert client.hears() == {"CDS": ["c77=2"]}
    for client in clients:
        client.acks(CLUSTER)
        assert client.session.is_settled, "nothing is looked for after an answer that leaves nothing to say"
        assert client.hears() == {}

    assert visits.count == len(joins) == 1


def test_a_stream_that_asks_for_names_looks_at_what_changed_and_not_at_its_names(visits: Visits) -> None:
    world = World(*(word(ROUTE, f"r{number}") for number in range(RESOURCES)))
    client = DeltaClient(world)
    client.says(ROUTE, *(f"r{number}" for number in range(0, RESOURCES, 2)))
    client.settles()
    visits.count = 0
    world.has(word(ROUTE, "r1", 2), word(ROUTE, "r2", 2), word(ROUTE, "r3", 2))
    assert client.settles() == [{"RDS": ["r2=2"]}]
    assert visits.count == 6, "once for what all could be sent, and once for what this stream asks for"


def test_what_is_gone_by_now_is_not_in_the_step_that_others_took() -> None:
    world = World(word(CLUSTER, "a"), word(CLUSTER, "b"))
    early, late = DeltaClient(world), DeltaClient(world)
    for client in (early, late):
        client.says(CLUSTER)
        client.settles()
    world.has(word(CLUSTER, "a", 2), word(CLUSTER, "b", 2))
    assert early.hears() == {"CDS": ["a=2", "b=2"]}
    world.has(gone=[(CLUSTER, "b")])
    assert late.settles() == [{"CDS": ["a=2"]}, {"CDS": ["-b"]}]


def test_a_stream_keeps_no_versions_and_no_names_of_its_own() -> None:
    world = World(*(word(ROUTE, f"r{number}") for number in range(100)))
    client = DeltaClient(world)
    client.says(ROUTE, *(f"r{number}" for number in range(100)), known={f"r{number}": "0" for number in range(100)})
    client.settles()
    subscription = client.session.subscriptions[ROUTE]
    own = {id(each.name) for each in world.snapshot.logs[ROUTE].resources()}
    assert {id(name) for name in subscription.names} == own
    assert (subscription.owed, subscription.withdrawn) == ({}, {})


def test_a_thousand_streams_that_start_share_the_pieces_they_are_sent(joins: list[Push]) -> None:
    world = World(*(word(CLUSTER, f"c{number}") for number in range(RESOURCES)))
    for make in (DeltaClient, StateClient):
        joins.clear()
        pushes = []
        for _ in range(20):
            client = make(world)
            client.says(CLUSTER)
            pushes += client.session.offer(client.now_s)
        assert len({id(push.data) for push in pushes}) == len(joins) == 1


def test_a_changed_share_touches_one_route_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Publisher(Gateway(), lambda event: None)
    routes = {f"default/m{number}": model(f"m{number}", 1) for number in range(500)}
    publisher.publish(ir.Update(routes))
    made: list[str] = []
    make = snapshot.resource

    def counting(type_url: str, name: str, *rest: Any) -> Resource:
        made.append(name)
        return make(type_url, name, *rest)

    monkeypatch.setattr("xds.translate.resource", counting)
    sequence = publisher.snapshot.sequence
    changed = model("m7", 1, chains=(), hosts=("m7",))
    publisher.publish(ir.Update({changed.name: changed, "default/m8": routes["default/m8"]}))

    assert made == ["choose/default/m7"]
    fresh = [each.resource.name for log in publisher.snapshot.logs.values() for each in log.changed_since(sequence)]
    assert fresh == ["choose/default/m7"]
