"""Conversations in the state-of-the-world variant of the protocol. Responses read as the contents they list."""

import pytest

from tests.xds.talk import StateClient, World, word
from xds.session import DRAIN_S, HOLD_S, ProtocolError
from xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, SCOPED_ROUTE, SECRET, TYPES

A, B = word(CLUSTER, "a", "a1"), word(CLUSTER, "b", "b1")


def test_a_response_of_clusters_is_all_clusters() -> None:
    world = World(A)
    client = StateClient(world)
    client.says(CLUSTER)
    assert client.hears() == {"CDS": ["a1"]}
    client.acks(CLUSTER)
    assert client.accepted() == ["a"]
    assert client.hears() == {}
    world.has(B)
    assert client.hears() == {"CDS": ["a1", "b1"]}


@pytest.mark.parametrize("type_url", [CLUSTER, LISTENER, SCOPED_ROUTE])
def test_a_client_that_asks_for_all_of_nothing_is_told_so(type_url: str) -> None:
    client = StateClient(World())
    client.says(type_url)
    assert list(client.settles()[0].values()) == [[]]


def test_named_clusters_are_all_of_these() -> None:
    world = World(A, B, word(CLUSTER, "c", "c1"))
    client = StateClient(world)
    client.says(CLUSTER, "a", "b")
    assert client.settles() == [{"CDS": ["a1", "b1"]}]
    world.has(word(CLUSTER, "b", "b2"), word(CLUSTER, "c", "c2"))
    assert client.settles() == [{"CDS": ["a1", "b2"]}]


def test_a_response_of_endpoints_is_what_changed() -> None:
    world = World(word(ENDPOINTS, "x", "x1"), word(ENDPOINTS, "y", "y1"))
    client = StateClient(world)
    client.says(ENDPOINTS, "x", "y")
    assert client.settles() == [{"EDS": ["x1", "y1"]}]
    world.has(word(ENDPOINTS, "y", "y2"), word(ENDPOINTS, "z", "z1"))
    assert client.settles() == [{"EDS": ["y2"]}]


def test_names_come_and_go_with_answers() -> None:
    world = World(word(ENDPOINTS, "x", "x1"), word(ENDPOINTS, "y", "y1"))
    client = StateClient(world)
    client.says(ENDPOINTS, "x")
    client.hears()
    client.acks(ENDPOINTS, "x", "y")
    assert client.hears() == {"EDS": ["y1"]}
    client.acks(ENDPOINTS, "y")
    world.has(word(ENDPOINTS, "x", "x2"))
    assert client.hears() == {}
    client.says(ENDPOINTS, "y", "x")
    assert client.hears() == {"EDS": ["x2"]}


def test_a_name_that_does_not_exist_is_answered_by_a_response_without_it() -> None:
    world = World()
    client = StateClient(world)
    client.says(ENDPOINTS, "x")
    assert client.settles() == [{"EDS": []}]
    world.has(word(ENDPOINTS, "x", "x1"))
    assert client.settles() == [{"EDS": ["x1"]}]


def test_a_stale_answer_means_nothing() -> None:
    world = World(A, B)
    client = StateClient(world)
    client.says(CLUSTER)
    client.hears()
    stale = client.nonces[CLUSTER]
    client.acks(CLUSTER)
    world.has(word(CLUSTER, "a", "a2"))
    client.hears()
    client.session.reports()
    client.acks(CLUSTER, "b", nonce=stale)
    assert client.accepted() == []
    assert client.session.subscriptions[CLUSTER].wildcard


def test_what_is_refused_is_reported_and_not_sent_again() -> None:
    world = World(A, B)
    client = StateClient(world)
    client.says(CLUSTER)
    client.settles()
    world.has(word(CLUSTER, "b", "b2"))
    client.hears()
    client.nacks(CLUSTER, "bad b")
    [nack] = client.rejections()
    assert [each.name for each in nack.resources] == ["b"], "a was in the response, but is nothing new"
    assert (nack.message, nack.divisible) == ("bad b", False)
    assert client.hears() == {}


def test_a_version_is_a_hash_of_what_is_there() -> None:
    world, replica = World(A, B), World(B)
    replica.has(A)
    versions = set()
    for each in (world, replica):
        client = StateClient(each)
        client.says(CLUSTER)
        client.hears()
        versions.add(client.heard_versions[CLUSTER])
    assert len(versions) == 1


def test_who_comes_back_with_the_state_as_it_is_is_sent_nothing() -> None:
    world = World(A, B)
    client = StateClient(world)
    client.says(CLUSTER, version=world.snapshot.logs[CLUSTER].version)
    assert client.hears() == {}
    assert client.accepted() == ["a", "b"]
    world.has(word(CLUSTER, "a", "a2"))
    assert client.hears() == {"CDS": ["a2", "b1"]}


def test_who_comes_back_with_another_state_is_sent_all() -> None:
    client = StateClient(World(A, B))
    client.says(CLUSTER, version="0")
    assert client.hears() == {"CDS": ["a1", "b1"]}


def test_who_comes_back_for_names_is_sent_them() -> None:
    world = World(word(ENDPOINTS, "x", "x1"))
    client = StateClient(world)
    client.says(ENDPOINTS, "x", version=world.snapshot.logs[ENDPOINTS].version)
    assert client.hears() == {"EDS": ["x1"]}


def test_secrets_are_never_sent_for_a_star() -> None:
    client = StateClient(World(word(SECRET, "token", "t1")))
    client.says(SECRET, "*")
    assert "t1" not in str(client.settles())
    client.says(SECRET, "token")
    assert client.settles() == [{"SDS": ["t1"]}]


def test_a_type_that_nobody_serves_ends_the_stream() -> None:
    with pytest.raises(ProtocolError):
        StateClient(World()).says("type.googleapis.com/x.Y")


def serving_a_route() -> tuple[World, StateClient]:
    world = World(A, word(ROUTE, "r", "r1", A.key))
    client = StateClient(world)
    client.says(CLUSTER)
    client.says(ROUTE, "r")
    client.settles()
    return world, client


def test_a_cluster_is_listed_until_the_route_that_used_it_has_let_go() -> None:
    world, client = serving_a_route()
    world.has(B, word(ROUTE, "r", "r2", B.key), gone=[A.key])
    assert client.settles() == [{"CDS": ["a1", "b1"]}, {"RDS": ["r2"]}, {"CDS": ["b1"]}]


def test_a_cluster_is_listed_until_the_listener_that_used_it_has_drained() -> None:
    world, client = serving_a_route()
    world.has(word(LISTENER, "k", "k1"), word(LISTENER, "l", "l1", (ROUTE, "r")))
    client.says(LISTENER)
    client.settles()
    world.has(gone=[A.key, (ROUTE, "r"), (LISTENER, "l")])
    assert client.settles() == [{"LDS": ["k1"]}]
    world.has(B)
    assert client.settles() == [{"CDS": ["a1", "b1"]}]
    client.waits(DRAIN_S)
    assert client.settles() == [{"CDS": ["b1"]}]


def test_a_state_that_lists_what_is_gone_is_not_taken_for_the_state_as_it_is() -> None:
    world, client = serving_a_route()
    world.has(B, word(ROUTE, "r", "r2", B.key), gone=[A.key])
    client.hears()
    assert client.heard_versions[CLUSTER] != world.snapshot.logs[CLUSTER].version


def test_a_listener_waits_for_its_cluster_and_other_listeners_with_it() -> None:
    world = World(word(LISTENER, "k", "k1"))
    client = StateClient(world)
    client.says(CLUSTER)
    client.says(LISTENER)
    client.settles()
    world.has(A, word(LISTENER, "l", "l1", A.key))
    assert client.hears() == {"CDS": ["a1"]}
    world.has(word(LISTENER, "k", "k2"))
    assert client.hears() == {}
    client.acks(CLUSTER)
    assert client.settles() == [{"LDS": ["k2", "l1"]}]


def test_a_changed_weight_goes_at_once() -> None:
    world, client = serving_a_route()
    world.has(word(ROUTE, "r", "r2", A.key))
    assert client.hears() == {"RDS": ["r2"]}


def test_a_client_that_does_not_answer_holds_back_what_follows_for_so_long_only() -> None:
    world, client = serving_a_route()
    world.has(B, word(ROUTE, "r", "r2", B.key))
    assert client.hears() == {"CDS": ["a1", "b1"]}
    client.waits(HOLD_S)
    assert client.hears() == {"RDS": ["r2"]}


def test_streams_in_the_same_place_share_their_responses() -> None:
    world = World(A, B)
    clients = [StateClient(world), StateClient(world)]
    pushes = []
    for client in clients:
        client.says(CLUSTER)
        pushes += client.session.offer(client.now_s)
    assert pushes[0] is pushes[1]


@pytest.mark.parametrize("type_url", TYPES)
def test_every_type_can_be_named(type_url: str) -> None:
    client = StateClient(World(word(type_url, "x", "x1")))
    client.says(type_url, "x")
    assert list(client.hears().values()) == [["x1"]]
