"""At a load that does not change, the share does not either: what flaps helps nobody."""

from __future__ import annotations

from itertools import pairwise

import pytest

from controller.offload import BUFFER_GROWTH_MAX, State
from tests.simulation.checkers import check, shifts
from tests.simulation.plant import Kind, Signal, diurnal, steady
from tests.simulation.world import Behavior, Moment, Scenario, World

pytestmark = pytest.mark.simulation

HOUR_S = 3600
BUFFER_S = 60
CLEAN = Signal()
PROMETHEUS = Signal(every_s=5, window_s=15, lag_s=5, noise=0.05, lost=0.1)
SCRAPED = Signal(every_s=15, window_s=60, lag_s=5, noise=0.02, lost=0.05)
SLOTS = Signal(Kind.RUNNING, target=0.9, noise=0.03)
QUEUE = Signal(Kind.QUEUE, target=2.0)
HALF: Behavior = (("percentage", 50),)
ALL: Behavior = (("percentage", 100),)
PROPORTIONAL: Behavior = (("strategy", "Proportional"),)


def moves(moments: list[Moment]) -> int:
    """How often the share in force changed."""
    return sum(before.share != after.share for before, after in pairwise(moments))


def run(level: float, signal: Signal, behavior: Behavior, length_s: int = HOUR_S, *, seed: int = 0) -> World:
    return check(World(Scenario(steady(level), length_s, signal, behavior=behavior, seed=seed)).run())


@pytest.mark.parametrize("behavior", [HALF, ALL, PROPORTIONAL], ids=["half", "all", "proportional"])
@pytest.mark.parametrize(
    ("level", "signal"),
    [(0.5, SLOTS), (0.8, PROMETHEUS), (0.9, SCRAPED), (1.15, SCRAPED), (1.25, CLEAN), (1.25, SLOTS), (2.0, PROMETHEUS)],
)
def test_at_a_steady_load_the_state_changes_once_at_most(level: float, signal: Signal, behavior: Behavior) -> None:
    world = run(level, signal, behavior)
    full = level > 1

    assert len(shifts(world.timeline)) == (1 if full else 0)
    assert world.timeline[-1].state is (State.OVERFLOWING if full else State.STANDBY)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("behavior", [HALF, PROPORTIONAL], ids=["half", "proportional"])
def test_at_the_very_edge_noise_makes_for_two_shifts_an_hour_at_most(behavior: Behavior, seed: int) -> None:
    """The metric's noise takes it over its target now and then, and one overflow stands for many of those."""
    world = run(1.0, PROMETHEUS, behavior, seed=seed)

    assert len(shifts(world.timeline)[1:]) <= 2


@pytest.mark.parametrize("level", [1.5, 4.0])
def test_proportional_leaves_local_at_its_target(level: float) -> None:
    world = run(level, CLEAN, PROPORTIONAL, 600)
    settled = world.timeline[120:]

    assert moves(settled) == 0
    assert level * (1 - settled[-1].share) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("seed", range(2))
def test_proportional_does_not_swing_after_a_late_and_noisy_metric(seed: int) -> None:
    world = run(2.0, PROMETHEUS, PROPORTIONAL, seed=seed)
    settled = world.timeline[600:]

    assert moves(settled) <= len(settled) / BUFFER_S * 2
    assert all(abs(moment.share - 0.5) <= 0.15 for moment in settled)
    assert max(moment.queue for moment in world.timeline) < 30


@pytest.mark.parametrize("behavior", [HALF, ALL], ids=["half", "all"])
def test_a_queue_that_builds_slower_than_the_buffer_does_not_flap_for_ever(behavior: Behavior) -> None:
    world = run(1.05, Signal(Kind.QUEUE, target=5.0, every_s=5), behavior, 2 * HOUR_S)

    assert len(shifts(world.timeline[-HOUR_S:])) <= 2 * HOUR_S / (BUFFER_GROWTH_MAX * BUFFER_S)


@pytest.mark.parametrize("behavior", [HALF, ALL], ids=["half", "all"])
def test_a_queue_that_hides_the_load_is_tried_ever_more_rarely(behavior: Behavior) -> None:
    """Nobody waits while enough leaves, so a queue's length cannot tell that all of it would be too much."""
    world = run(1.5, QUEUE, behavior, HOUR_S + HOUR_S // 2)
    returns = [t for t in shifts(world.timeline) if world.timeline[t - 1].state is State.STANDBY]
    gaps = [later - earlier for earlier, later in pairwise(returns)]

    assert gaps[0] < gaps[1] < gaps[2]
    assert world.timeline[-1].growth == BUFFER_GROWTH_MAX
    assert min(gaps[4:]) >= BUFFER_GROWTH_MAX * BUFFER_S
    assert max(moment.queue for moment in world.timeline) < 15


def test_a_day_has_one_overflow() -> None:
    day_s = HOUR_S
    scenario = Scenario(diurnal(0.2, 1.8, day_s), 2 * day_s, PROMETHEUS, behavior=PROPORTIONAL)
    world = check(World(scenario).run())
    states = [world.timeline[t - 1].state for t in shifts(world.timeline)]

    assert states == [State.OVERFLOWING, State.STANDBY] * 2
