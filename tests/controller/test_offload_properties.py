"""The decision under any policy and any sequence of events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from controller.diagram import MOVES, STAYS
from controller.offload import (
    BUFFER_GROWTH_MAX,
    PPM,
    Decision,
    Mode,
    Observation,
    OnUnavailable,
    Policy,
    Scope,
    State,
    Strategy,
    stale_at_s,
    step,
)
from tests.controller.machine import Machine, through_json

Event = Callable[[Machine], Machine]


def sampled(machine: Machine, gap_s: float, ratio: float) -> Machine:
    machine.now += gap_s
    return machine.sample(ratio)


def edited(machine: Machine, policy: Policy) -> Machine:
    return machine.follow(policy)


percentages = st.integers(0, 100).map(lambda percent: percent * 10_000)
policies = st.builds(
    Policy,
    ceiling_ppm=percentages | st.just(PPM),
    strategy=st.sampled_from(Strategy),
    activation_s=st.sampled_from([0.0, 1.0, 5.0, 20.0]),
    buffer_s=st.sampled_from([0.0, 5.0, 60.0]),
    max_step_ppm=percentages.filter(bool),
    interval_s=st.sampled_from([1.0, 5.0, 15.0]),
    scope=st.sampled_from(Scope),
    stale_s=st.sampled_from([10.0, 60.0]),
    on_unavailable=st.sampled_from(OnUnavailable),
    mode=st.sampled_from(Mode) | st.just(Mode.AUTO),
    watched=st.booleans() | st.just(True),
)
automatic = policies.map(lambda policy: replace(policy, mode=Mode.AUTO, watched=True))
ratios = st.floats(0, 3) | st.sampled_from([0.0, 1.0, 1e6])
samples = st.builds(lambda gap_s, ratio: partial(sampled, gap_s=gap_s, ratio=ratio), st.floats(0.5, 30), ratios)
silences = st.floats(0.5, 100).map(lambda seconds: lambda machine: machine.wait(seconds))
endpoints = st.sampled_from([True, True, False, None]).map(lambda ready: lambda machine: machine.local(ready))
remotes = st.booleans().map(lambda ready: lambda machine: machine.remote(ready=ready))
edits = policies.map(lambda policy: partial(edited, policy=policy))
anything = st.lists(samples | samples | silences | endpoints | remotes | edits, max_size=40)
faults = st.lists(samples | samples | silences | endpoints | remotes, max_size=40)


def run(policy: Policy, story: list[Event]) -> Machine:
    machine = Machine(policy).step()
    for event in story:
        event(machine)
    return machine


@given(policies, anything)
def test_only_the_legal_moves_are_made_each_for_one_of_its_reasons(policy: Policy, story: list[Event]) -> None:
    machine = Machine(policy)
    for event in [Machine.step, *story]:
        before = machine.state
        event(machine)
        if machine.state is before:
            assert machine.reason in STAYS[before]
        else:
            assert machine.reason in MOVES[before, machine.state]


@given(policies, anything)
def test_a_share_is_never_out_of_bounds(policy: Policy, story: list[Event]) -> None:
    machine = Machine(policy)
    for event in [Machine.step, *story]:
        event(machine)
        decision, ceiling_ppm = machine.decision, machine.policy.ceiling_ppm
        assert 0 <= decision.share_ppm <= PPM
        assert decision.share_ppm in (0, decision.wanted_ppm)
        if machine.policy.mode in (Mode.OFF, Mode.DRY_RUN) or not machine.seen.remote_ready:
            assert decision.share_ppm == 0
        if machine.state is State.STANDBY:
            assert decision.wanted_ppm == 0
        if machine.state is not State.FAILOVER:
            assert decision.wanted_ppm <= ceiling_ppm
        assert 1 <= decision.buffer_growth <= BUFFER_GROWTH_MAX


@given(automatic, faults)
def test_failover_means_that_local_is_known_to_be_down(policy: Policy, story: list[Event]) -> None:
    machine = Machine(policy)
    last_known = True
    for event in story:
        event(machine)
        last_known = last_known if machine.seen.local_ready is None else machine.seen.local_ready
        assert (machine.state is State.FAILOVER) is (not last_known)


@given(policies, anything, st.floats(0, 200))
def test_seeing_the_same_again_changes_nothing_at_any_time_before_staleness(
    policy: Policy, story: list[Event], later_s: float
) -> None:
    machine = run(policy, story)
    now = machine.now + later_s
    stale_s = stale_at_s(machine.policy, machine.seen)
    assume((now >= stale_s) == (machine.now >= stale_s))

    assert step(machine.policy, machine.decision, machine.seen, now) == machine.decision


@given(automatic, faults, st.data())
def test_silence_anywhere_changes_nothing(policy: Policy, story: list[Event], data: st.DataObject) -> None:
    plain = run(policy, story)
    machine = Machine(policy).step()
    for event in story:
        for share in data.draw(st.lists(st.floats(0, 0.99), max_size=3).map(sorted)):
            left_s = stale_at_s(policy, machine.seen) - machine.now
            if left_s > 0:
                before = machine.decision
                assert step(policy, before, machine.seen, machine.now + share * left_s) == before
        event(machine)

    assert machine.decision == plain.decision


@given(policies, anything, anything)
def test_a_decision_carried_through_json_goes_on_as_if_nothing_had_happened(
    policy: Policy, story: list[Event], rest: list[Event]
) -> None:
    machine = run(policy, story)
    other = replace(machine, decision=through_json(machine.decision), history=[])
    for event in rest:
        event(machine)
        event(other)

    assert other.decision == machine.decision


@given(automatic, faults)
def test_a_restart_moves_no_traffic(policy: Policy, story: list[Event]) -> None:
    machine = run(policy, story)
    before = machine.decision
    machine.seen = replace(machine.seen, local_ready=None)
    machine.restart()

    assert (machine.state, machine.decision.share_ppm) == (before.state, before.share_ppm)


@given(policies.filter(lambda policy: policy.mode is not Mode.FORCE), st.lists(st.floats(0, 0.999), max_size=40))
def test_without_a_metric_reached_nothing_overflows(policy: Policy, low: list[float]) -> None:
    policy = replace(policy, on_unavailable=OnUnavailable.HOLD)
    machine = Machine(policy).step().restart()
    for ratio in low:
        machine.now += 1
        machine.sample(ratio).remote(ready=True).local(True).wait(0.5)

    assert {decision.wanted_ppm for decision in machine.history} == {0}


@given(automatic, faults)
def test_it_can_always_offload_again(policy: Policy, story: list[Event]) -> None:
    policy = replace(policy, ceiling_ppm=max(policy.ceiling_ppm, 10_000))
    machine = run(policy, story).local(True).remote(ready=True)
    for _ in range(2):
        machine.now += 1
        machine.hear(2, for_s=policy.activation_s + policy.interval_s + 1)
        assert machine.state is State.OVERFLOWING
        assert machine.decision.share_ppm > 0
        machine.now += 1
        machine.hear(0.0, for_s=(2 * BUFFER_GROWTH_MAX + 1) * policy.buffer_s + 10, every_s=5)
        assert (machine.state, machine.decision.share_ppm) == (State.STANDBY, 0)


@settings(max_examples=40)
@given(automatic, faults, st.floats(1.2, 30))
def test_proportional_converges_on_a_plant_that_follows_it(policy: Policy, story: list[Event], load: float) -> None:
    step_ppm = max(policy.max_step_ppm, PPM // 10)
    policy = replace(policy, strategy=Strategy.PROPORTIONAL, ceiling_ppm=PPM, scope=Scope.LOCAL, max_step_ppm=step_ppm)
    machine = run(policy, story).local(True).remote(ready=True)
    step_s = max(policy.interval_s, policy.buffer_s)
    blind_s = 2 * BUFFER_GROWTH_MAX * policy.buffer_s
    for _ in range(round(policy.activation_s + (PPM / step_ppm + 4) * step_s + blind_s)):
        before = machine.decision
        machine.now += 1
        machine.sample(load * (PPM - before.share_ppm) / PPM)
        if before.state is machine.state is State.OVERFLOWING and before.share_ppm < PPM:
            assert abs(machine.decision.share_ppm - before.share_ppm) <= policy.max_step_ppm

    assert machine.state is State.OVERFLOWING
    assert abs(load * (PPM - machine.decision.share_ppm) / PPM - 1) <= 0.12


@given(automatic, st.floats(0, 1e7))
def test_nothing_but_staleness_and_since_looks_at_the_clock(policy: Policy, offset_s: float) -> None:
    machine = Machine(policy).hear(2, for_s=30)
    seen = replace(machine.seen, ratio_at_s=machine.now + 1)
    early = step(policy, machine.decision, seen, machine.now + 1)
    late = step(replace(policy, stale_s=1e9), machine.decision, seen, machine.now + 1 + offset_s)

    assert replace(late, since_s=early.since_s) == early


def test_the_first_decision_of_all_needs_no_history() -> None:
    decision = step(Policy(), Decision(), Observation(None, 5.0, local_ready=None, remote_ready=False), 5.0)

    assert (decision.state, decision.share_ppm, decision.since_s) == (State.STANDBY, 0, 5.0)
