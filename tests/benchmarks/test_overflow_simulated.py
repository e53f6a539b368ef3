"""The policies that overflow is measured with, in virtual time, and how good they are on a bursty load."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.overflow_simulated import (
    BEAMLIT,
    HEADROOM,
    ORACLE,
    POLICIES,
    BeamlitRule,
    offloading,
    pareto,
    run,
    simulate,
)
from controller.offload import State
from controller.simulate.score import Score
from controller.simulate.trace import bursty
from controller.simulate.workload import LOCAL, Arrival

SLOTS = 16


@pytest.fixture(scope="module")
def load() -> Sequence[Arrival]:
    """A little more than the slots can serve."""
    return bursty(2, 1200, 3.0)


@pytest.fixture(scope="module")
def scores(load: Sequence[Arrival]) -> dict[str, Score]:
    return {policy: simulate(policy, SLOTS, load) for policy in POLICIES}


def test_every_policy_is_better_than_none(scores: dict[str, Score]) -> None:
    assert scores["none"].remote_share == 0
    for policy in POLICIES[1:]:
        assert scores[policy].slo_attainment > scores["none"].slo_attainment + 0.2


def test_nobody_needs_less_of_the_remote_than_the_oracle_for_as_few_late_requests(scores: dict[str, Score]) -> None:
    assert scores[ORACLE].slo_attainment == 1
    for policy, score in scores.items():
        if score.slo_attainment > 0.99:
            assert score.remote_share >= scores[ORACLE].remote_share, policy


def test_a_limit_is_close_to_the_oracle_and_a_followed_metric_comes_next(scores: dict[str, Score]) -> None:
    assert scores["spill"].slo_attainment > 0.99
    assert scores["spill"].remote_share < scores[ORACLE].remote_share + 0.08
    assert scores["spill"].remote_share < scores["proportional"].remote_share < scores["fixed"].remote_share
    assert scores["proportional"].slo_attainment > scores[BEAMLIT].slo_attainment


def test_a_fixed_share_that_is_judged_by_what_would_come_back_shifts_less_than_the_predecessor(
    scores: dict[str, Score],
) -> None:
    assert scores["fixed"].shifts_per_hour < scores[BEAMLIT].shifts_per_hour / 4


def test_the_oracle_sends_away_only_who_would_wait_too_long() -> None:
    some = [Arrival(0.0, 0, 100), Arrival(0.6, 0, 10), Arrival(0.6, 0, 10), Arrival(2.6, 0, 1)]

    served = run(ORACLE, 1, some).served

    assert [each.destination for each in served] == ["local", "local", "remote-0", "local"]
    assert [each.first_byte_s for each in served] == pytest.approx([0.0, 1.9, 0.5, 0.15])
    assert LOCAL.service_s(some[0]) == 2.5


def test_the_predecessor_sends_half_away_until_a_minute_after_its_target_was_reached() -> None:
    rule = BeamlitRule(target=10)

    assert [rule.active(value, at_s) for value, at_s in ((9, 5), (10, 10), (3, 15), (3, 65), (3, 70), (11, 75))] == [
        *(False, True, True, True, False, True)
    ]


def test_the_predecessor_decides_on_what_was_scraped_up_to_a_quarter_of_a_minute_ago() -> None:
    load = [Arrival(0.0, 0, 100_000)] * 20 + [Arrival(100.0, 0, 1)]

    decided = run(BEAMLIT, SLOTS, load).decided

    assert [(each.at_s, each.state, each.share_ppm) for each in decided] == [
        (0.0, State.STANDBY, 0),
        (17.5, State.OVERFLOWING, 500_000),
    ]


def test_a_sweep_has_a_point_for_each_setting(load: Sequence[Arrival]) -> None:
    points = pareto(SLOTS, load[:500], quick=True)

    assert {point.policy for point in points} == set(POLICIES)
    assert len({(point.policy, point.setting) for point in points}) == len(points)


def test_policies_say_what_they_are_made_of() -> None:
    assert offloading("spill", 20) == {"localLimit": {"maxConcurrentRequestsPerReplica": round(20 * HEADROOM)}}
    assert offloading("fixed", 20, percentage=30)["behavior"] == {"percentage": 30}
