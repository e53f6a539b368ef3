"""Who leads: tables, and contenders whose requests take as long as they like."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controller.election import NOBODY, Candidate, Lease, Terms

TERMS = Terms(duration_s=15, deadline_s=10.0, retry_s=2.0)
OTHERS = Lease("b", 15, 3, "then", "lately")


def test_a_lease_that_is_not_there_is_made() -> None:
    assert Candidate("a", TERMS).claim(None, 100.0, "now") == Lease("a", 15, 0, "now", "now")


def test_a_lease_of_somebody_else_is_left_alone_until_it_has_not_changed_for_its_duration() -> None:
    candidate = Candidate("a", TERMS)

    assert candidate.claim(OTHERS, 100.0, "now") is None
    assert candidate.claim(OTHERS, 114.9, "now") is None
    assert candidate.claim(OTHERS, 115.0, "now") == Lease("a", 15, 4, "now", "now")


def test_a_renewal_seen_begins_the_wait_anew() -> None:
    candidate = Candidate("a", TERMS)
    candidate.claim(OTHERS, 100.0, "now")

    renewed = replace(OTHERS, renewed="later")

    assert candidate.claim(renewed, 114.0, "now") is None
    assert candidate.claim(renewed, 128.9, "now") is None
    assert candidate.claim(renewed, 129.0, "now") is not None


def test_time_in_which_nobody_could_look_does_not_count() -> None:
    candidate = Candidate("a", TERMS)
    candidate.claim(OTHERS, 100.0, "now")
    candidate.claim(OTHERS, 110.0, "now")
    for now_s in (112.0, 122.0, 300.0):
        candidate.missed(now_s)

    assert candidate.claim(OTHERS, 301.0, "now") is None
    assert candidate.claim(OTHERS, 304.9, "now") is None
    assert candidate.claim(OTHERS, 305.0, "now") is not None


def test_what_is_given_back_is_taken_at_once() -> None:
    assert Candidate("a", TERMS).claim(replace(OTHERS, holder=NOBODY), 100.0, "now") == Lease("a", 15, 4, "now", "now")


def test_the_holder_renews_and_keeps_what_says_since_when() -> None:
    candidate = Candidate("a", TERMS)
    first = candidate.claim(None, 100.0, "first")
    assert first is not None
    candidate.wrote(first, 100.0)

    assert candidate.claim(first, 102.0, "second") == replace(first, renewed="second")


def test_who_starts_again_under_its_name_goes_on() -> None:
    assert Candidate("b", TERMS).claim(OTHERS, 100.0, "now") == replace(OTHERS, renewed="now")


def test_the_holder_leads_until_the_deadline_after_it_began_to_renew() -> None:
    candidate = Candidate("a", TERMS)
    claim = candidate.claim(None, 100.0, "now")
    assert claim is not None
    assert not candidate.leads(100.0)
    candidate.wrote(claim, 100.0)

    assert candidate.leads(109.9)
    assert not candidate.leads(110.0)


def test_who_sees_another_holder_leads_no_longer() -> None:
    candidate = Candidate("a", TERMS)
    claim = candidate.claim(None, 100.0, "now")
    assert claim is not None
    candidate.wrote(claim, 100.0)

    assert candidate.claim(OTHERS, 101.0, "now") is None
    assert not candidate.leads(101.0)


def test_a_deleted_lease_has_to_run_out() -> None:
    candidate = Candidate("a", TERMS)
    candidate.claim(OTHERS, 100.0, "now")

    assert candidate.claim(None, 101.0, "now") is None
    assert candidate.claim(None, 115.0, "now") == Lease("a", 15, 4, "now", "now")


def test_only_the_holder_gives_back() -> None:
    candidate = Candidate("a", TERMS)
    assert candidate.release("now") is None
    candidate.claim(OTHERS, 100.0, "now")
    assert candidate.release("now") is None
    claim = candidate.claim(None, 200.0, "then")
    assert claim is not None
    candidate.wrote(claim, 200.0)

    assert candidate.release("now") == Lease(NOBODY, 1, 4, "then", "now")
    assert not candidate.leads(200.0)


@pytest.mark.parametrize("terms", [(15, 15.0, 2.0), (15, 2.0, 2.0), (5, 10.0, 2.0)])
def test_terms_that_let_two_lead_are_refused(terms: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="must hold"):
        Terms(*terms)


NAMES = ("a", "b")
SKEW_S = {"a": 0.0, "b": 5_000.0}
names = st.sampled_from(NAMES)


class Contest(RuleBasedStateMachine):
    """Two contenders with clocks that disagree, and a server that takes writes late and loses answers.

    A write is begun, applied and answered in steps of their own. One that its writer gave up may still be applied.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_000.0
        self.version = 0
        self.lease: Lease | None = None
        self.candidates = {name: Candidate(name, TERMS) for name in NAMES}
        self.given_up: list[tuple[Lease, int]] = []
        self.begun: dict[str, tuple[Lease, int, float]] = {}
        self.applied: dict[str, tuple[Lease, float]] = {}

    def put(self, lease: Lease, version: int) -> bool:
        if version != self.version:
            return False
        self.version += 1
        self.lease = lease
        return True

    def give_up(self, name: str) -> None:
        self.applied.pop(name, None)
        if name in self.begun:
            self.given_up.append(self.begun.pop(name)[:2])

    def clock(self, name: str) -> float:
        return self.now_s + SKEW_S[name]

    @rule(seconds=st.sampled_from((2.0, 5.0, 9.0, 15.0)))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(name=names)
    def begins(self, name: str) -> None:
        """Reads, and begins to write what it claims."""
        now_s = self.clock(name)
        claim = self.candidates[name].claim(self.lease, now_s, str(now_s))
        self.give_up(name)
        if claim is not None:
            self.begun[name] = (claim, self.version, now_s)

    @rule(name=names)
    def is_applied(self, name: str) -> None:
        if name in self.begun:
            claim, version, begun_s = self.begun.pop(name)
            if self.put(claim, version):
                self.applied[name] = (claim, begun_s)

    @rule(name=names)
    def cannot_look(self, name: str) -> None:
        self.candidates[name].missed(self.clock(name))

    @rule(name=names)
    def is_quick(self, name: str) -> None:
        self.begins(name)
        self.is_applied(name)
        self.is_answered(name)

    @rule()
    def is_applied_though_given_up(self) -> None:
        if self.given_up:
            self.put(*self.given_up.pop())

    @rule(name=names)
    def is_answered(self, name: str) -> None:
        if name in self.applied:
            self.candidates[name].wrote(*self.applied.pop(name))

    @rule(name=names)
    def crashes(self, name: str) -> None:
        """And starts again under its name."""
        self.give_up(name)
        self.candidates[name] = Candidate(name, TERMS)

    @rule(name=names)
    def stops(self, name: str) -> None:
        released = self.candidates[name].release("now")
        if released is not None and self.lease is not None and self.lease.holder == name:
            self.put(released, self.version)

    @invariant()
    def at_most_one_leads(self) -> None:
        leaders = [name for name in NAMES if self.candidates[name].leads(self.clock(name))]
        assert len(leaders) <= 1, leaders


Contest.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
TestContest = Contest.TestCase
