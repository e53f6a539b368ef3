"""The decision, rule by rule: leaving, failing over, silence, modes. Coming back has a file of its own."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from controller.offload import (
    PPM,
    Decision,
    Mode,
    Observation,
    OnUnavailable,
    Policy,
    Reason,
    Scope,
    State,
    Strategy,
    stale_at_s,
)
from tests.controller.machine import START_S, Machine

HALF = Policy(ceiling_ppm=PPM // 2)
PROPORTIONAL = Policy(strategy=Strategy.PROPORTIONAL)


def overflowing(policy: Policy = HALF, ratio: float = 1.5) -> Machine:
    machine = Machine(policy).hear(ratio, for_s=policy.activation_s)
    assert machine.state is State.OVERFLOWING
    return machine


# Leaving


@pytest.mark.parametrize(
    ("ratio", "activation_s", "reached_for_s", "state", "reason"),
    [
        (0.999, 5, 60, State.STANDBY, Reason.BELOW_TARGET),
        (1.0, 5, 0, State.STANDBY, Reason.ACTIVATING),
        (1.0, 5, 4, State.STANDBY, Reason.ACTIVATING),
        (1.0, 5, 5, State.OVERFLOWING, Reason.THRESHOLD_REACHED),
        (9.0, 5, 4, State.STANDBY, Reason.ACTIVATING),
        (1.0, 0, 0, State.OVERFLOWING, Reason.THRESHOLD_REACHED),
    ],
)
def test_a_metric_reached_for_the_activation_time_overflows(
    ratio: float, activation_s: float, reached_for_s: float, state: State, reason: Reason
) -> None:
    machine = Machine(Policy(activation_s=activation_s)).hear(ratio, for_s=reached_for_s)

    assert (machine.state, machine.reason) == (state, reason)
    assert machine.percent == (100 if state is State.OVERFLOWING else 0)


def test_one_sample_below_the_target_starts_the_activation_anew() -> None:
    machine = Machine().hear(2, for_s=4)
    machine.now += 1
    machine.hear(0.9)
    machine.now += 1
    machine.hear(2, for_s=4)

    assert (machine.state, machine.reason) == (State.STANDBY, Reason.ACTIVATING)


def test_one_old_sample_is_not_a_streak_however_long_nothing_else_comes() -> None:
    assert Machine().hear(2).wait(30).state is State.STANDBY


def test_two_samples_far_apart_are_a_streak_since_the_first_stood_in_between() -> None:
    assert Machine().hear(2, for_s=30, every_s=30).state is State.OVERFLOWING


def test_two_samples_with_a_silence_as_long_as_staleness_between_them_are_no_streak() -> None:
    machine = Machine(Policy(stale_s=30)).hear(2)
    machine.now += 30
    assert machine.sample(2).reason is Reason.ACTIVATING
    assert machine.history[-1].streak_from_s == machine.now


@pytest.mark.parametrize("percentage", [0, 1, 50, 100])
def test_fixed_sends_the_percentage(percentage: int) -> None:
    assert overflowing(Policy(ceiling_ppm=percentage * 10_000)).percent == percentage


def test_percentage_0_offloads_nothing() -> None:
    machine = overflowing(Policy(ceiling_ppm=0), ratio=5)

    assert machine.hear(5, for_s=120).percent == 0
    assert machine.decision.restraint == ""


def test_nothing_leaves_before_a_metric_was_reached() -> None:
    machine = Machine().step().hear(0.99, for_s=300).local(None).local(True).remote(ready=False).remote(ready=True)
    machine.restart().hear(0.5, for_s=100)

    assert {decision.share_ppm for decision in machine.history} == {0}
    assert machine.states == [State.STANDBY]


def test_an_edit_of_the_percentage_counts_at_once() -> None:
    machine = overflowing()

    assert machine.follow(Policy(ceiling_ppm=200_000)).percent == 20
    assert machine.follow(Policy(ceiling_ppm=800_000)).percent == 80


# Proportional


@pytest.mark.parametrize(
    ("ratio", "percent"),
    [(1.0, 0), (1.05, 4.8), (1.25, 20), (1.5, 25), (10, 25)],
)
def test_proportional_starts_with_what_the_metric_asks_for_but_no_more_than_a_step(
    ratio: float, percent: float
) -> None:
    assert overflowing(PROPORTIONAL, ratio).percent == percent


def linear(machine: Machine, load: float, for_s: int) -> Machine:
    """A metric that follows local traffic, without noise or delay."""
    for _ in range(for_s):
        machine.now += 1
        machine.sample(load * (1 - machine.decision.share_ppm / PPM))
    return machine


@pytest.mark.parametrize(
    ("load", "percent"), [(1.25, 20), (1.5, 33.3), (2, 50), (3, 66.7), (10, 90), (30, 96.7), (1000, 99.9)]
)
def test_proportional_settles_at_the_smallest_share_that_meets_the_target(load: float, percent: float) -> None:
    machine = linear(Machine(PROPORTIONAL), load, for_s=60)
    settled = machine.percent
    linear(machine, load, for_s=60)

    assert machine.percent == settled
    assert load * (1 - settled / 100) == pytest.approx(1, abs=0.1)
    assert settled <= percent + 0.1


def test_proportional_keeps_a_pause_and_a_bound_between_steps() -> None:
    policy = replace(PROPORTIONAL, interval_s=7, max_step_ppm=100_000)
    machine = linear(Machine(policy), 2, for_s=60)
    shares = [decision.share_ppm for decision in machine.history]
    changes = [second for second in range(1, len(shares)) if shares[second] != shares[second - 1]]

    assert all(abs(shares[second] - shares[second - 1]) <= 100_000 for second in changes)
    assert all(later - earlier >= 7 for earlier, later in pairwise(changes))
    assert machine.percent >= 40


def test_proportional_takes_back_only_from_a_share_that_has_stood_for_the_buffer() -> None:
    machine = linear(Machine(PROPORTIONAL), 3, for_s=60)
    stands_s = machine.now - (machine.decision.stepped_at_s or 0.0)
    before = machine.percent
    machine.now += 1
    machine.hear(0.7, for_s=58 - stands_s)
    assert machine.percent == before

    machine.now += 1
    assert machine.sample(0.7).percent < before
    after = machine.percent
    machine.now += 1
    assert machine.hear(0.7, for_s=58).percent == after
    machine.now += 1
    assert machine.hear(1.5).percent > after


@pytest.mark.parametrize("late_s", [1, 10, 30, 50])
def test_proportional_does_not_swing_after_a_metric_that_is_late(late_s: int) -> None:
    machine = Machine(PROPORTIONAL).hear(2, for_s=late_s)
    for _ in range(600):
        machine.now += 1
        machine.sample(2 * (1 - machine.history[-late_s].share_ppm / PPM))
    settled = [decision.share_ppm for decision in machine.history[-200:]]

    assert len(set(settled)) == 1
    assert settled[0] == pytest.approx(PPM // 2, abs=50_000)


@pytest.mark.parametrize("ratio", [0.91, 1.0])
def test_proportional_ignores_what_is_within_its_tolerance_below_the_target(ratio: float) -> None:
    machine = linear(Machine(PROPORTIONAL), 2, for_s=60)
    before = machine.percent
    machine.now += 1

    assert machine.hear(ratio, for_s=600).percent == before


def test_proportional_rises_once_a_buffer_while_the_metric_is_within_its_tolerance_above_the_target() -> None:
    machine = linear(Machine(PROPORTIONAL), 2, for_s=60)
    before = machine.percent
    machine.now += 1
    machine.hear(1.05, for_s=600)
    moves = [b.share_ppm for a, b in pairwise(machine.history) if a.share_ppm != b.share_ppm][-10:]

    assert machine.percent > before + 10
    assert moves == sorted(moves)
    assert len({decision.share_ppm for decision in machine.history[-601:]}) <= 600 / PROPORTIONAL.buffer_s + 2


def test_proportional_ends_a_queue_behind_a_metric_that_saturates_close_to_its_target() -> None:
    """24 slots, a target of 22 of them, and a load of 1.25: the metric never shows more than 1.09."""
    machine = Machine(PROPORTIONAL)
    queue_s = 0.0
    for _ in range(3600):
        machine.now += 1
        load = 1.25 * (1 - machine.decision.share_ppm / PPM)
        queue_s = max(0.0, queue_s + load - 1)
        machine.sample(24 / 22 * (1 if queue_s else load))

    assert queue_s == 0


def test_proportional_stays_within_the_percentage() -> None:
    policy = replace(PROPORTIONAL, ceiling_ppm=300_000)
    assert linear(Machine(policy), 5, for_s=120).percent == 30


def test_proportional_judges_a_total_metric_by_what_local_gets_of_it() -> None:
    machine = Machine(replace(PROPORTIONAL, scope=Scope.TOTAL)).hear(2, for_s=120)

    assert machine.percent == 50


def test_proportional_in_a_dry_run_settles_where_it_would_in_earnest() -> None:
    machine = Machine(replace(PROPORTIONAL, mode=Mode.DRY_RUN)).hear(2, for_s=120)

    assert machine.percent == 0
    assert machine.decision.wanted_ppm == PPM // 2
    assert machine.decision.restraint == "DryRun: 50 % of the requests would leave."


# Failover


@pytest.mark.parametrize("percentage", [0, 30, 100])
def test_everything_goes_remote_at_once_when_no_local_endpoint_is_ready(percentage: int) -> None:
    machine = Machine(Policy(ceiling_ppm=percentage * 10_000)).hear(0.1).local(False)

    assert (machine.state, machine.percent) == (State.FAILOVER, 100)
    assert machine.decision.sentence == "No local endpoint is ready."


def test_endpoints_that_are_not_known_are_not_gone() -> None:
    assert Machine().hear(0.1).local(None).state is State.STANDBY
    assert overflowing().local(None).state is State.OVERFLOWING
    assert Machine().local(False).local(None).state is State.FAILOVER


def test_after_one_outage_with_percentage_100_everything_comes_back_by_itself() -> None:
    machine = Machine().hear(0.5, for_s=10).local(False).wait(30).local(True)

    assert (machine.state, machine.reason, machine.percent) == (State.STANDBY, Reason.ENDPOINT_READY, 0)
    machine.now += 1
    assert machine.hear(0.5, for_s=60).reason is Reason.ENDPOINT_READY


def test_a_metric_that_is_reached_when_local_returns_overflows_at_once() -> None:
    machine = Machine(HALF).hear(1.5).local(False).wait(5).local(True)

    assert (machine.state, machine.reason, machine.percent) == (State.OVERFLOWING, Reason.THRESHOLD_REACHED, 50)


def test_a_stale_metric_says_nothing_when_local_returns() -> None:
    machine = Machine(HALF).hear(1.5).local(False).wait(100).local(True)

    assert (machine.state, machine.reason) == (State.STANDBY, Reason.METRICS_UNAVAILABLE)


def test_without_a_metric_there_is_failover_and_return_and_nothing_else() -> None:
    machine = Machine(Policy(watched=False)).step()
    assert (machine.state, machine.reason) == (State.STANDBY, Reason.NO_METRICS)

    assert machine.wait(1_000).local(False).state is State.FAILOVER
    machine.wait(1_000).local(True)
    assert (machine.state, machine.reason, machine.percent) == (State.STANDBY, Reason.ENDPOINT_READY, 0)


def test_a_restart_during_an_outage_waits_for_the_endpoints_to_be_known() -> None:
    for mode in (Mode.AUTO, Mode.FORCE):
        machine = Machine(replace(HALF, mode=mode)).local(False)
        machine.seen = replace(machine.seen, local_ready=None)
        assert (machine.restart().state, machine.percent) == (State.FAILOVER, 100)


# Remotes


def test_a_remote_that_cannot_take_requests_gets_none_and_the_decision_says_so() -> None:
    machine = overflowing().remote(ready=False)

    assert (machine.state, machine.percent) == (State.OVERFLOWING, 0)
    assert machine.decision.sentence.endswith("No remote can take requests, so they stay local.")
    assert machine.remote(ready=True).percent == 50
    assert machine.decision.restraint == ""


def test_an_overflow_that_cannot_leave_still_ends_by_the_metric() -> None:
    machine = overflowing().remote(ready=False)
    machine.now += 1

    assert machine.hear(0.9, for_s=60).reason is Reason.RETURNED


def test_with_both_sides_down_nothing_is_said_to_stay_local() -> None:
    machine = Machine().remote(ready=False).local(False)

    assert (machine.state, machine.percent) == (State.FAILOVER, 0)
    assert machine.decision.sentence == "No local endpoint is ready. No remote can take requests either, so they fail."


# Silence


@pytest.mark.parametrize(
    ("choice", "from_standby", "from_overflow"),
    [
        (OnUnavailable.HOLD, (State.STANDBY, 0), (State.OVERFLOWING, 50)),
        (OnUnavailable.LOCAL, (State.STANDBY, 0), (State.STANDBY, 0)),
        (OnUnavailable.REMOTE, (State.OVERFLOWING, 50), (State.OVERFLOWING, 50)),
    ],
)
def test_a_metric_silent_for_the_stale_time_does_as_configured(
    choice: OnUnavailable, from_standby: tuple[State, float], from_overflow: tuple[State, float]
) -> None:
    policy = replace(HALF, on_unavailable=choice)
    for machine, expected in ((Machine(policy).hear(0.5), from_standby), (overflowing(policy), from_overflow)):
        before = machine.state, machine.percent
        assert (machine.wait(59.9).state, machine.percent) == before
        machine.wait(0.1)
        assert (machine.state, machine.percent) == expected
        assert machine.reason is Reason.METRICS_UNAVAILABLE


def test_a_metric_never_heard_is_waited_for_and_then_called_unavailable() -> None:
    machine = Machine().step()
    assert machine.reason is Reason.STARTING

    machine.wait(60)
    assert (machine.state, machine.reason) == (State.STANDBY, Reason.METRICS_UNAVAILABLE)


def test_the_moment_of_staleness_is_the_only_one_at_which_time_matters() -> None:
    machine = overflowing()

    assert stale_at_s(HALF, machine.seen) == machine.now + 60
    before = machine.decision
    assert machine.wait(59).decision == before


def test_a_metric_heard_again_after_a_silence_is_judged_from_its_first_sample() -> None:
    machine = Machine().hear(2, for_s=3).wait(60)
    assert machine.hear(2, for_s=4).state is State.STANDBY
    machine.now += 1
    assert machine.hear(2).state is State.OVERFLOWING


def test_a_longer_stale_time_takes_back_that_the_metric_is_unavailable() -> None:
    machine = overflowing().wait(60)
    assert machine.reason is Reason.METRICS_UNAVAILABLE

    assert machine.follow(replace(HALF, stale_s=600)).reason is Reason.THRESHOLD_REACHED


# Modes


def test_off_sends_nothing_whatever_happens() -> None:
    machine = Machine(Policy(mode=Mode.OFF)).hear(9, for_s=60).local(False).wait(100)

    assert (machine.state, machine.reason, machine.percent) == (State.STANDBY, Reason.MODE_OFF, 0)


def test_force_sends_the_percentage_always_and_fails_over() -> None:
    machine = Machine(replace(HALF, mode=Mode.FORCE)).step()
    assert (machine.state, machine.reason, machine.percent) == (State.OVERFLOWING, Reason.FORCED, 50)
    assert machine.hear(0.1, for_s=300).wait(100).percent == 50
    assert (machine.local(False).state, machine.percent) == (State.FAILOVER, 100)
    assert (machine.local(True).reason, machine.percent) == (Reason.FORCED, 50)


def test_a_dry_run_decides_and_moves_nothing() -> None:
    machine = overflowing(replace(HALF, mode=Mode.DRY_RUN))
    assert (machine.percent, machine.decision.restraint) == (0, "DryRun: 50 % of the requests would leave.")
    assert machine.follow(HALF).percent == 50
    machine.follow(replace(HALF, mode=Mode.DRY_RUN)).local(False)
    assert (machine.state, machine.percent) == (State.FAILOVER, 0)


def test_an_overflow_that_was_forced_goes_on_until_its_metric_allows_the_return() -> None:
    machine = Machine(replace(HALF, mode=Mode.FORCE)).hear(0.2, for_s=100).follow(HALF)
    assert (machine.state, machine.reason, machine.percent) == (State.OVERFLOWING, Reason.BUFFERING, 50)
    assert machine.hear(0.2, for_s=60).reason is Reason.RETURNED


@pytest.mark.parametrize("before", [Policy(mode=Mode.OFF), Policy(mode=Mode.FORCE), Policy(watched=False)])
def test_a_reason_goes_with_the_policy_that_gave_it(before: Policy) -> None:
    machine = Machine(before).step().follow(Policy())

    assert machine.reason is Reason.STARTING
    assert machine.decision.message == "Waiting for the first sample of the metric."


def test_switching_off_and_on_judges_the_metric_anew() -> None:
    machine = overflowing().follow(Policy(mode=Mode.OFF)).follow(HALF)

    assert (machine.state, machine.reason) == (State.STANDBY, Reason.ACTIVATING)


# What is told


def test_since_is_when_the_state_last_changed() -> None:
    machine = overflowing()
    since_s = machine.decision.since_s
    assert since_s == machine.now

    assert machine.hear(2, for_s=30).decision.since_s == since_s
    assert machine.local(False).decision.since_s == machine.now


def test_a_first_decision_says_that_nothing_is_known() -> None:
    assert Decision().sentence == "Nothing is known about this model yet."
    assert Observation(None, START_S, local_ready=None, remote_ready=False).ratio is None
