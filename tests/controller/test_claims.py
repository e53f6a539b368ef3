"""Names that only one model may hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.claims import Claims

NAMES = st.frozensets(st.sampled_from("abc"))
STEPS = st.lists(st.tuples(st.sampled_from(["one", "two", "three"]), NAMES), max_size=20)


def test_the_first_to_come_holds_a_name_and_keeps_it() -> None:
    claims: Claims[str] = Claims()
    claims.claim("one", {"a"})
    claims.claim("two", {"a", "b"})
    claims.claim("one", {"a", "c"})
    assert claims.holder("a") == "one"
    assert claims.held("two") == {"b"}


def test_who_waited_longest_is_next_and_is_told() -> None:
    claims: Claims[str] = Claims()
    for owner in ("one", "two", "three"):
        claims.claim(owner, {"a"})
    assert claims.claim("one", ()) == {"two"}
    assert claims.holder("a") == "two"


def test_leaving_the_queue_tells_nobody() -> None:
    claims: Claims[str] = Claims()
    for owner in ("one", "two", "three"):
        claims.claim(owner, {"a"})
    assert claims.claim("two", ()) == set()
    assert claims.claim("one", ()) == {"three"}


@given(STEPS)
def test_every_wanted_name_has_exactly_one_holder_who_wants_it(steps: list[tuple[str, frozenset[str]]]) -> None:
    claims: Claims[str] = Claims()
    wanted: dict[str, frozenset[str]] = {}
    for owner, names in steps:
        before = {name: claims.holder(name) for name in "abc"}
        heirs = claims.claim(owner, names)
        wanted[owner] = names
        for name in "abc":
            holder = claims.holder(name)
            assert (holder is None) == (not any(name in each for each in wanted.values()))
            if holder is not None:
                assert name in wanted[holder]
                assert name in claims.held(holder)
                assert holder in (before[name], owner) or holder in heirs
