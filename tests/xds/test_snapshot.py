"""The store: what it keeps, what it refuses, and that it is asked for no more than what changed."""

import pytest
from google.protobuf.any_pb2 import Any
from hypothesis import given
from hypothesis import strategies as st

from protos.envoy.config.core.v3.base_pb2 import Metadata
from protos.envoy.service.discovery.v3 import discovery_pb2 as discovery
from tests.xds.talk import word
from xds.response import Encoder
from xds.snapshot import (
    CLUSTER,
    ENDPOINTS,
    ROUTE,
    SECRET,
    DanglingReferenceError,
    Log,
    Snapshot,
    resource,
)

A, B = word(CLUSTER, "a"), word(CLUSTER, "b")


def names(log: Log, position: int) -> list[str]:
    return [each.resource.name for each in log.changed_since(position)]


# Resources


def test_equal_messages_have_equal_versions_however_their_maps_were_filled() -> None:
    one, two = Metadata(), Metadata()
    for key in ("x", "y", "z"):
        one.filter_metadata[key].fields["k"].bool_value = True
    for key in ("z", "y", "x"):
        two.filter_metadata[key].fields["k"].bool_value = True
    assert resource(CLUSTER, "c", one) == resource(CLUSTER, "c", two)


def test_a_version_says_nothing_of_the_name_and_all_of_the_content() -> None:
    assert word(CLUSTER, "a", 1).version == word(CLUSTER, "b", 1).version != word(CLUSTER, "a", 2).version


def test_no_repr_shows_a_body() -> None:
    secret = word(SECRET, "token", "t0ps3cret")
    assert "t0ps3cret" not in repr(secret)


@given(st.lists(st.tuples(st.text(max_size=300), st.text(max_size=300)), max_size=5), st.lists(st.text(), max_size=3))
def test_joined_bytes_are_the_message_that_protobuf_would_have_written(
    contents: list[tuple[str, str]], removed: list[str]
) -> None:
    resources = [word(CLUSTER, name, content) for name, content in contents]
    push = Encoder().delta(CLUSTER, resources, removed)
    assert discovery.DeltaDiscoveryResponse.FromString(push.data) == discovery.DeltaDiscoveryResponse(
        type_url=CLUSTER,
        nonce=push.nonce,
        removed_resources=removed,
        resources=[{"name": each.name, "version": each.version, "resource": _any(each.body)} for each in resources],
    )
    push = Encoder().state(CLUSTER, resources, "v")
    assert discovery.DiscoveryResponse.FromString(push.data) == discovery.DiscoveryResponse(
        type_url=CLUSTER, nonce=push.nonce, version_info="v", resources=[_any(each.body) for each in resources]
    )


def _any(body: bytes) -> Any:
    return Any.FromString(body)


def test_a_response_is_made_once_while_somebody_waits_for_its_answer() -> None:
    encoder = Encoder()
    one, two = encoder.delta(CLUSTER, [A, B], []), encoder.delta(CLUSTER, [A, B], [])
    other = encoder.delta(CLUSTER, [A], [])
    assert one is two
    assert one.nonce != other.nonce
    nonce = one.nonce
    del one, two
    assert encoder.delta(CLUSTER, [A, B], []).nonce != nonce, "nobody held it, so it is another"


# Changes


def test_a_change_is_one_sequence_number_and_none_if_nothing_differs() -> None:
    snapshot = Snapshot()
    assert snapshot.apply([A, B]) == {A.key, B.key}
    assert snapshot.sequence == 1
    assert snapshot.apply([A, word(CLUSTER, "b")], [(CLUSTER, "x")]) == frozenset()
    assert snapshot.sequence == 1
    assert snapshot.apply([word(CLUSTER, "a", 2)], [B.key]) == {A.key, B.key}
    assert snapshot.sequence == 2


def test_a_name_that_is_put_and_dropped_at_once_is_put() -> None:
    snapshot = Snapshot()
    snapshot.apply([A], [A.key])
    assert snapshot.get(A.key) == A


@pytest.mark.parametrize("type_url", [CLUSTER, ENDPOINTS])
def test_a_reference_to_nothing_is_refused_and_nothing_changes(type_url: str) -> None:
    snapshot = Snapshot()
    with pytest.raises(DanglingReferenceError, match="not there: x"):
        snapshot.apply([A, word(ROUTE, "r", 1, (type_url, "x"))])
    assert (snapshot.sequence, snapshot.get(A.key)) == (0, None)


def test_what_is_referred_to_cannot_go_alone() -> None:
    snapshot = Snapshot()
    route = word(ROUTE, "r", 1, A.key)
    snapshot.apply([A, route])
    with pytest.raises(DanglingReferenceError):
        snapshot.apply([], [A.key])
    snapshot.apply([B, word(ROUTE, "r", 2, B.key)], [A.key])
    snapshot.apply([], [B.key, route.key])
    assert snapshot.sequence == 3


def test_a_secret_may_come_later_and_go_before() -> None:
    snapshot = Snapshot()
    secret = word(SECRET, "token")
    assert not snapshot.is_referred_to(secret.key)
    snapshot.apply([word(CLUSTER, "c", 1, secret.key)])
    assert snapshot.is_referred_to(secret.key)
    snapshot.apply([secret])
    snapshot.apply([], [secret.key])
    assert snapshot.is_referred_to(secret.key)


def test_what_is_missing_can_be_asked_before() -> None:
    snapshot = Snapshot()
    route = word(ROUTE, "r", 1, A.key, B.key, (SECRET, "s"))
    assert snapshot.missing([route]) == (A.key, B.key)
    snapshot.apply([A])
    assert snapshot.missing([route, B]) == ()


# The log


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=40), st.integers(0, 40))
def test_the_log_tells_what_changed_and_what_went_since_any_position(
    history: list[tuple[str, bool]], position: int
) -> None:
    snapshot = Snapshot()
    last: dict[str, tuple[int, bool]] = {}
    for content, (name, there) in enumerate(history):
        changed = snapshot.apply([word(CLUSTER, name, content)] if there else [], [(CLUSTER, name)])
        if changed:
            last[name] = (snapshot.sequence, there)
    log = snapshot.logs[CLUSTER]
    newest_first = sorted(last, key=lambda name: -last[name][0])
    since = [name for name in newest_first if last[name][0] > position]
    assert names(log, position) == [name for name in since if last[name][1]]
    gone = [each.resource.name for each in log.removed_since(position)]
    assert gone == [name for name in since if not last[name][1]]
    assert len(log) == sum(there for _, there in last.values())


@given(st.permutations([word(CLUSTER, name) for name in "abcde"]))
def test_the_version_of_a_type_depends_on_what_is_there_and_not_on_how_it_came(order: list[object]) -> None:
    snapshot = Snapshot()
    for each in order:
        snapshot.apply([each])  # type: ignore[list-item]
    snapshot.apply([word(CLUSTER, "a", 2)], [(CLUSTER, "e")])
    other = Snapshot()
    other.apply([word(CLUSTER, "a", 2), *(word(CLUSTER, name) for name in "bcd")])
    assert snapshot.logs[CLUSTER].version == other.logs[CLUSTER].version
    other.apply([A])
    assert snapshot.logs[CLUSTER].version != other.logs[CLUSTER].version


def test_tombstones_are_kept_until_they_are_passed() -> None:
    snapshot = Snapshot()
    snapshot.apply([A, B])
    snapshot.apply([], [A.key])
    snapshot.apply([], [B.key])
    snapshot.forget(2)
    assert [each.resource.name for each in snapshot.logs[CLUSTER].removed_since(0)] == ["b"]
    assert snapshot.tombstones == 1
