"""Which gateways there are, and by how many a limit is divided."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.gateways import GRACE_S, Gateways

VERSION = "1.40.0"


def joined(*names: str, restored: int = 0) -> Gateways:
    found = Gateways(restored)
    for name in names:
        found.join(name, VERSION, 0)
    return found


def later(found: Gateways, now: float) -> int:
    found.expire(now)
    return found.count


def test_without_any_gateway_a_limit_is_whole() -> None:
    assert Gateways(0).count == 1


def test_a_gateway_that_lost_its_stream_keeps_its_part_for_a_while() -> None:
    found = joined("a", "b")
    found.leave("b", 10)
    assert found.connected == ["a"]
    assert found.wake_at() == 10 + GRACE_S
    assert later(found, 10 + GRACE_S - 0.001) == 2
    assert later(found, 10 + GRACE_S) == 1
    assert found.wake_at() is None


def test_one_that_is_back_in_time_was_never_away() -> None:
    found = joined("a", "b")
    found.leave("b", 10)
    found.join("b", VERSION, 20)
    assert later(found, 10 + GRACE_S) == 2
    assert found.wake_at() is None


def test_a_tool_takes_no_part_and_is_shown_as_long_as_it_looks_on() -> None:
    found = joined("a")
    found.join("tool", "unknown", 0)
    assert (found.count, found.connected, set(found.streaming)) == (1, ["a", "tool"], {"a"})
    found.leave("tool", 1)
    assert (found.count, found.connected, found.wake_at()) == (1, ["a"], None)


def test_pods_have_their_part_whichever_controller_they_are_connected_to() -> None:
    found = joined("a")
    found.see(["a", "b"], 0)
    assert (found.count, found.connected) == (2, ["a"])
    found.leave("a", 1)
    assert (found.count, found.wake_at()) == (2, None)


def test_a_pod_that_is_gone_keeps_its_part_for_a_while_and_longer_if_it_still_has_a_stream() -> None:
    found = joined("a")
    found.see(["a", "b"], 0)
    found.see([], 10)
    assert later(found, 10 + GRACE_S) == 1, "only a has a stream"
    found.leave("a", 100)
    found.join("c", VERSION, 100)
    assert found.count == 2
    assert later(found, 100 + GRACE_S) == 1


def test_a_pod_that_is_seen_again_was_never_away() -> None:
    found = Gateways(0)
    found.see(["a", "b"], 0)
    found.see(["a"], 10)
    found.see(["a", "b"], 20)
    assert (later(found, 10 + GRACE_S), found.wake_at()) == (2, None)


def test_after_a_restart_as_many_are_counted_as_there_were_until_they_had_the_time_to_come_back() -> None:
    found = Gateways(3)
    assert (found.count, found.wake_at()) == (3, None), "nobody has come yet, so nobody is late"
    found.join("a", VERSION, 100)
    assert found.wake_at() == 100 + GRACE_S
    found.join("b", VERSION, 100 + GRACE_S - 1)
    assert later(found, 100 + GRACE_S - 1) == 3
    assert later(found, 100 + GRACE_S) == 2


def test_more_than_there_were_count_at_once() -> None:
    assert joined("a", "b", "c", restored=2).count == 3


_changes: st.SearchStrategy[Callable[[Gateways, float], None]] = st.one_of(
    st.sampled_from("abc").map(lambda name: lambda found, now: found.join(name, VERSION, now)),
    st.sampled_from("abc").map(lambda name: lambda found, now: found.leave(name, now)),
    st.sets(st.sampled_from("abc")).map(lambda names: lambda found, now: found.see(names, now)),
    st.just(lambda found, now: found.expire(now)),
)


@given(changes=st.lists(st.tuples(st.floats(0, 2 * GRACE_S), _changes)), restored=st.integers(0, 3))
def test_whoever_may_still_carry_requests_is_counted_and_all_else_ends_by_itself(
    changes: list[tuple[float, Callable[[Gateways, float], None]]], restored: int
) -> None:
    found, now = Gateways(restored), 0.0
    for pause_s, change in changes:
        now += pause_s
        change(found, now)
        assert found.count >= max(1, len(found.streaming))
        assert set(found.streaming) <= set(found.names)
    while (at_s := found.wake_at()) is not None:
        now = max(now, at_s)
        found.expire(now)
        assert found.wake_at() != at_s, "it would wake for ever"
    still = set(found.names)
    found.see([], now)
    assert set(found.names) == still, "who is gone for good was forgotten"


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_gateway_that_never_was_can_leave(name: str) -> None:
    found = joined("a")
    found.leave("z", 0)
    found.leave(name, 0)
    assert found.count == 1
