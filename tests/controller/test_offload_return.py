"""The decision, rule by rule: coming back from an overflow, probes, and flapping."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.offload import BUFFER_GROWTH_MAX, PPM, PROBE_PPM, Policy, Reason, Scope, State, Strategy
from tests.controller.machine import Machine

HALF = Policy(ceiling_ppm=PPM // 2)
ALL = Policy()


def overflowing(policy: Policy, ratio: float = 1.5) -> Machine:
    machine = Machine(policy).hear(ratio, for_s=policy.activation_s)
    machine.now += 1
    return machine


def cycle(machine: Machine, quiet_s: float) -> float:
    """Overflow, return, stay calm for `quiet_s`: how long the metric had to be low before the return."""
    machine.hear(1.5, for_s=machine.policy.activation_s)
    machine.now += 1
    began_s = machine.now
    while machine.state is State.OVERFLOWING:
        machine.sample(0.1)
        machine.now += 1
    took_s = machine.now - 1 - began_s
    machine.hear(0.1, for_s=quiet_s)
    machine.now += 1
    return took_s


@pytest.mark.parametrize(
    ("scope", "percentage", "ratio", "returns"),
    [
        (Scope.LOCAL, 50, 0.75, False),  # all of it would be 1.5
        (Scope.LOCAL, 50, 0.5, False),  # all of it would be 1.0
        (Scope.LOCAL, 50, 0.49, True),
        (Scope.LOCAL, 90, 0.2, False),
        (Scope.LOCAL, 90, 0.09, True),
        (Scope.LOCAL, 0, 0.99, True),
        (Scope.TOTAL, 50, 0.99, True),
        (Scope.TOTAL, 50, 1.0, False),
        (Scope.TOTAL, 100, 0.99, True),
    ],
)
def test_it_returns_once_local_could_carry_everything(
    scope: Scope, percentage: int, ratio: float, returns: bool
) -> None:
    machine = overflowing(Policy(ceiling_ppm=percentage * 10_000, scope=scope)).hear(ratio, for_s=60)

    assert (machine.state is State.STANDBY) is returns
    assert machine.reason is (Reason.RETURNED if returns else Reason.THRESHOLD_REACHED)


def test_it_returns_only_after_the_whole_buffer() -> None:
    machine = overflowing(HALF).hear(0.4, for_s=59)
    assert (machine.state, machine.reason, machine.percent) == (State.OVERFLOWING, Reason.BUFFERING, 50)

    machine.now += 1
    assert (machine.sample(0.4).state, machine.percent) == (State.STANDBY, 0)


def test_one_sample_that_local_could_not_carry_starts_the_buffer_anew() -> None:
    machine = overflowing(HALF).hear(0.4, for_s=59)
    machine.now += 1
    assert machine.sample(0.6).reason is Reason.THRESHOLD_REACHED
    machine.now += 1
    assert machine.hear(0.4, for_s=59).state is State.OVERFLOWING


def test_silence_does_not_count_as_time_that_local_could_carry_everything() -> None:
    machine = overflowing(HALF).hear(0.4).wait(59)
    assert machine.state is State.OVERFLOWING

    machine.now += 1
    assert machine.hear(0.4, for_s=59).state is State.OVERFLOWING


def test_burst_calm_burst_offloads_twice() -> None:
    machine = Machine()
    for _ in range(2):
        machine.hear(2, for_s=10)
        machine.now += 1
        machine.hear(0.05, for_s=300)
        machine.now += 1

    assert machine.states == [State.STANDBY, State.OVERFLOWING, State.STANDBY, State.OVERFLOWING, State.STANDBY]


def test_an_edit_of_the_buffer_counts_for_the_overflow_under_way() -> None:
    machine = overflowing(HALF).hear(0.4, for_s=59)
    machine.follow(replace(HALF, buffer_s=300))
    machine.now += 1
    assert machine.sample(0.4).state is State.OVERFLOWING

    machine.follow(replace(HALF, buffer_s=10))
    machine.now += 1
    assert machine.sample(0.4).state is State.STANDBY


def test_without_remote_traffic_the_metric_itself_is_what_local_carries() -> None:
    machine = overflowing(HALF).remote(ready=False).hear(0.9, for_s=60)

    assert machine.reason is Reason.RETURNED


# With everything remote, local gives no signal


def test_a_part_of_everything_comes_back_first_and_is_judged() -> None:
    machine = overflowing(ALL).hear(0.0, for_s=59)
    assert (machine.percent, machine.reason) == (100, Reason.BUFFERING)
    assert machine.decision.message == (
        "Local gets no requests; trying it with a part of them after 60 s below its target."
    )
    machine.now += 1

    assert (machine.sample(0.0).reason, machine.state) == (Reason.PROBING, State.OVERFLOWING)
    assert machine.percent == 100 - PROBE_PPM / 10_000


@pytest.mark.parametrize(
    ("probed_ratio", "percent", "state", "growth"),
    [
        (0.05, 0, State.STANDBY, 1),  # everything would be 0.5: all of it comes back
        (0.2, 90, State.OVERFLOWING, 1),  # everything would be 2, but a tenth is fine: local keeps that
        (1.0, 100, State.OVERFLOWING, 2),  # even a tenth is too much: later
    ],
)
def test_a_probe_ends_by_the_ratio_it_causes(probed_ratio: float, percent: float, state: State, growth: int) -> None:
    machine = overflowing(ALL).hear(0.0, for_s=60)
    machine.now += 1
    machine.hear(probed_ratio, for_s=60)

    assert (machine.percent, machine.state) == (percent, state)
    assert machine.decision.buffer_growth == growth


def test_a_probe_that_fails_is_repeated_ever_later() -> None:
    machine = overflowing(ALL)
    waits: list[float] = []
    for _ in range(6):
        began_s = machine.now
        while machine.reason is not Reason.PROBING:
            machine.sample(0.0)
            machine.now += 1
        waits.append(machine.now - 1 - began_s)
        machine.sample(1.2)
        machine.now += 1

    assert waits == [60, 120, 240, 480, 600, 600]


def test_a_probe_keeps_within_a_percentage_that_was_lowered_meanwhile() -> None:
    machine = overflowing(ALL).hear(0.0, for_s=60)
    assert machine.follow(HALF).percent == 50

    machine.follow(ALL)
    machine.now += 1
    assert machine.hear(0.2, for_s=10).percent == 90


def test_a_percentage_lowered_with_the_sample_that_starts_a_probe_holds() -> None:
    machine = overflowing(ALL).hear(0.0, for_s=59)
    machine.policy = HALF
    machine.now += 1

    assert machine.sample(0.0).percent == 50


def test_a_probe_goes_with_the_strategy_that_it_was_for() -> None:
    machine = overflowing(ALL).hear(0.0, for_s=60)
    machine.follow(replace(ALL, strategy=Strategy.PROPORTIONAL, max_step_ppm=PPM))
    machine.now += 60

    assert machine.sample(0.2).percent == 50


def test_an_outage_ends_a_probe() -> None:
    machine = overflowing(ALL).hear(0.0, for_s=60).local(False)
    machine.now += 1
    machine.sample(2).local(True)

    assert (machine.state, machine.percent) == (State.OVERFLOWING, 100)


def test_proportional_that_sends_everything_waits_the_buffer_and_probes_too() -> None:
    forced = replace(ALL, strategy=Strategy.PROPORTIONAL, max_step_ppm=PPM)
    machine = overflowing(forced)
    machine.decision = replace(machine.decision, wanted_ppm=PPM, share_ppm=PPM)
    machine.hear(0.0, for_s=59)
    assert machine.percent == 100
    machine.now += 1

    assert machine.sample(0.0).percent == 90


def test_a_total_metric_needs_no_probe() -> None:
    machine = overflowing(replace(ALL, scope=Scope.TOTAL)).hear(0.9, for_s=60)

    assert (machine.state, machine.reason) == (State.STANDBY, Reason.RETURNED)
    assert Reason.PROBING not in {decision.reason for decision in machine.history}


# Flapping


def test_a_return_that_did_not_last_doubles_the_buffer_up_to_ten_times() -> None:
    machine = Machine(HALF)

    assert [cycle(machine, quiet_s=3) for _ in range(7)] == [60, 120, 240, 480, 600, 600, 600]
    assert machine.decision.buffer_growth == BUFFER_GROWTH_MAX


def test_a_quiet_time_twice_as_long_as_the_buffer_resets_it() -> None:
    machine = Machine(HALF)
    assert [cycle(machine, quiet_s=3) for _ in range(2)] == [60, 120]
    assert cycle(machine, quiet_s=500) == 240

    assert [cycle(machine, quiet_s=500) for _ in range(2)] == [60, 60]


@pytest.mark.parametrize(("quiet_s", "buffers_s"), [(110, [60, 120, 240]), (130, [60, 60, 60])])
def test_a_burst_after_a_quiet_time_is_no_flapping(quiet_s: float, buffers_s: list[float]) -> None:
    machine = Machine(HALF)

    assert [cycle(machine, quiet_s) for _ in range(3)] == buffers_s


def test_growth_and_return_survive_a_restart() -> None:
    machine = Machine(HALF)
    assert [cycle(machine, quiet_s=3) for _ in range(2)] == [60, 120]
    machine.restart()

    assert [cycle(machine, quiet_s=3) for _ in range(2)] == [240, 480]


def test_a_restart_changes_neither_state_nor_share_nor_reason() -> None:
    overflow = overflowing(HALF)
    probe = overflowing(ALL).hear(0.0, for_s=60)
    for machine in (Machine().hear(0.5), Machine().hear(2), overflow, probe, Machine().local(False)):
        before = machine.decision
        after = machine.restart().decision
        assert after == before
