"""What a gateway has accepted, and how little it takes to know."""

from tests.xds.talk import World, word
from xds.peer import Peer
from xds.snapshot import CLUSTER, ENDPOINTS, ROUTE, Key
from xds.subscription import Kept

A, B, EDS_A = word(CLUSTER, "a"), word(CLUSTER, "b"), word(ENDPOINTS, "a")


def has(peer: Peer, *keys: Key) -> bool:
    return peer.has(frozenset(keys))


def test_who_connects_has_nothing() -> None:
    peer = Peer()
    assert not has(peer, A.key)
    assert peer.is_bare


def test_what_is_accepted_first_leaves_the_rest_of_its_type_pending() -> None:
    world, peer = World(A, B, EDS_A), Peer()
    assert peer.accept([A], world.snapshot) == [A.key]
    assert has(peer, A.key)
    assert not has(peer, B.key)
    assert not has(peer, A.key, EDS_A.key)
    assert peer.is_bare
    assert peer.accept([EDS_A], world.snapshot) == [EDS_A.key]
    assert not peer.is_bare


def test_what_changed_meanwhile_is_not_what_was_accepted() -> None:
    world, peer = World(A, B), Peer()
    world.has(word(CLUSTER, "a", 2))
    assert peer.accept([A], world.snapshot) == []
    peer.accept([B], world.snapshot)
    assert not has(peer, A.key)


def test_who_comes_back_has_all_but_what_it_names() -> None:
    world, peer = World(A, B), Peer()
    assert peer.keep(Kept(CLUSTER, frozenset({"b", "not there"})), world.snapshot) == {"a"}
    assert has(peer, A.key)
    assert not has(peer, B.key)
    assert peer.keep(Kept(CLUSTER), world.snapshot) == {"b"}, "on another stream of the same gateway"
    assert has(peer, A.key, B.key)


def test_what_is_made_is_expected_and_what_is_gone_is_not() -> None:
    world, peer = World(A, B), Peer()
    peer.keep(Kept(CLUSTER), world.snapshot)
    peer.expect({A.key, B.key}, set())
    assert not has(peer, A.key)
    peer.expect(set(), {A.key})
    assert has(peer, A.key)
    assert not has(peer, B.key)


def test_an_untouched_type_takes_no_list() -> None:
    peer = Peer()
    peer.expect({(ROUTE, str(number)) for number in range(1_000)}, set())
    assert peer._pending == set()
    assert not has(peer, (ROUTE, "1"))
