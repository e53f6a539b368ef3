"""The checkers notice what they are there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.simulation.checkers import check, describe, problems, shifts
from tests.simulation.plant import steady
from tests.simulation.world import Fault, Moment, Outage, Scenario, World

pytestmark = pytest.mark.simulation

SILENT = Outage(Fault.METRIC_SILENT, 30, 40)


@pytest.fixture
def world() -> World:
    return check(World(Scenario(steady(1.5), 100, outages=(SILENT,), behavior=(("percentage", 50),), seed=7)).run())


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (lambda moment: replace(moment, remote=moment.remote - 0.5), "is accounted for"),
        (lambda moment: replace(moment, failed=0.5, remote=moment.remote - 0.5), "although one side was able"),
        (lambda moment: replace(moment, misrouted=0.5), "known not to take them"),
        (lambda moment: replace(moment, share=0.4), "when no metric was heard"),
    ],
)
def test_one_wrong_second_is_a_problem(world: World, wrong: Callable[[Moment], Moment], problem: str) -> None:
    world.timeline[50] = wrong(world.timeline[50])

    assert [each for each in problems(world) if problem in each]


def test_a_failure_shows_the_seed_and_each_second_of_change(world: World) -> None:
    world.timeline[50] = replace(world.timeline[50], misrouted=1.0)

    with pytest.raises(pytest.fail.Exception) as failure:
        check(world)
    assert "seed 7" in str(failure.value)
    assert "MetricSilent 30-70" in str(failure.value)
    changes = [line for line in describe(world).splitlines() if "ThresholdReached" in line]
    assert len(shifts(world.timeline)) == 1
    assert changes
