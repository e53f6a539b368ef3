"""Load that comes and goes: it overflows each time, in time, and comes back each time."""

from __future__ import annotations

import pytest

from controller.offload import State
from tests.simulation.checkers import check, shifts
from tests.simulation.plant import Kind, Signal, bursts
from tests.simulation.world import Behavior, Scenario, World

pytestmark = pytest.mark.simulation

BURSTS = 3
CALM_S, BURST_S = 400, 120
HALF: Behavior = (("percentage", 50),)
ALL: Behavior = (("percentage", 100),)
PROPORTIONAL: Behavior = (("strategy", "Proportional"),)
SIGNALS = {
    "clean": Signal(),
    "late": Signal(every_s=5, window_s=10, lag_s=5, noise=0.05),
    "slots": Signal(Kind.RUNNING, target=0.9),
    "queue": Signal(Kind.QUEUE, target=2.0),
}


def run(signal: Signal, behavior: Behavior, *, limited: bool = False) -> World:
    load = bursts(low=0.3, high=2.0, on_s=BURST_S, off_s=CALM_S)
    length_s = BURSTS * (CALM_S + BURST_S) + CALM_S
    return check(World(Scenario(load, length_s, signal, limited=limited, behavior=behavior)).run())


@pytest.mark.parametrize("behavior", [HALF, ALL, PROPORTIONAL], ids=["half", "all", "proportional"])
@pytest.mark.parametrize("signal", SIGNALS.values(), ids=SIGNALS)
def test_each_burst_overflows_within_seconds_and_each_calm_ends_it(signal: Signal, behavior: Behavior) -> None:
    world = run(signal, behavior)
    activation_s, told_s = 5, signal.lag_s + signal.window_s + 2 * signal.every_s + 6
    for number in range(BURSTS):
        begins = number * (CALM_S + BURST_S) + CALM_S
        over = [moment for moment in world.timeline if begins <= moment.t < begins + activation_s + told_s]
        assert world.timeline[begins - 1].state is State.STANDBY
        assert world.timeline[begins - 1].share == 0
        assert over[-1].state is State.OVERFLOWING
        assert over[-1].share > 0
    assert world.timeline[-1].state is State.STANDBY


def test_a_burst_of_one_second_is_left_to_the_queue() -> None:
    world = check(World(Scenario(bursts(0.3, 2.0, on_s=1, off_s=30), 600)).run())

    assert shifts(world.timeline) == []
    assert {moment.share for moment in world.timeline} == {0.0}


def test_with_a_limit_each_request_too_many_leaves_at_once_and_nothing_waits() -> None:
    world = run(SIGNALS["slots"], HALF, limited=True)
    first_second = next(moment for moment in world.timeline if moment.load > 1)

    assert first_second.share == 0
    assert first_second.remote == pytest.approx(1.0)
    assert {moment.queue for moment in world.timeline} == {0.0}
    assert sum(moment.refused + moment.failed for moment in world.timeline[10:]) == 0


def test_overflowing_bounds_the_wait_that_bursts_would_cause() -> None:
    without = max(moment.queue for moment in run(SIGNALS["clean"], (("mode", "Off"),)).timeline)
    with_it = max(moment.queue for moment in run(SIGNALS["clean"], HALF).timeline)

    assert without > 100
    assert with_it < 15
