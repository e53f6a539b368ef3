"""Faults, alone and together: no side is used that cannot take requests, and what follows is as if nothing had been."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.offload import BUFFER_GROWTH_MAX, Reason, State
from tests.simulation.checkers import GRACE_S, check, describe
from tests.simulation.plant import Kind, Signal, bursts, steady
from tests.simulation.world import TOKEN_S, Behavior, Fault, Outage, Scenario, World

pytestmark = pytest.mark.simulation

BUFFER_S = 20
ACTIVATION_S = 5
HALF: Behavior = (("percentage", 50), ("bufferSeconds", BUFFER_S))
ALL: Behavior = (("percentage", 100), ("bufferSeconds", BUFFER_S))
PROPORTIONAL: Behavior = (("strategy", "Proportional"), ("bufferSeconds", BUFFER_S))
CALM, FULL = 0.6, 1.6
SETTLED_S = 30


def run(level: float, *outages: Outage, length_s: int = 600, behavior: Behavior = HALF) -> World:
    return check(World(Scenario(steady(level), length_s, outages=outages, behavior=behavior)).run())


def expected(level: float) -> State:
    return State.OVERFLOWING if level > 1 else State.STANDBY


@pytest.mark.parametrize("behavior", [HALF, ALL, PROPORTIONAL], ids=["half", "all", "proportional"])
@pytest.mark.parametrize("level", [CALM, FULL])
@pytest.mark.parametrize("fault", Fault)
def test_each_fault_ends_with_itself(fault: Fault, level: float, behavior: Behavior) -> None:
    outage = Outage(fault, 200, 0 if fault is Fault.RESTART else 150)
    world = run(level, outage, behavior=behavior)
    before, settled = world.timeline[outage.at_s - 2], world.timeline[outage.until_s + BUFFER_S + SETTLED_S :]

    assert {moment.state for moment in settled} == {before.state} == {expected(level)}
    if behavior is not ALL:
        assert {moment.share for moment in settled} == {before.share}


def test_an_outage_of_local_sends_everything_away_and_brings_everything_back() -> None:
    world = run(CALM, Outage(Fault.LOCAL_DOWN, 100, 60), behavior=ALL)
    shares = [moment.share for moment in world.timeline]

    assert set(shares[: 100 - GRACE_S]) == {0.0}
    assert set(shares[100 + GRACE_S : 159]) == {1.0}
    assert set(shares[160 + GRACE_S :]) == {0.0}


@pytest.mark.parametrize("also", [(), (Outage(Fault.METRIC_SILENT, 60, 300),)], ids=["heard", "silent"])
def test_while_no_token_is_to_be_had_everything_stays_local_from_its_expiry_on(also: tuple[Outage, ...]) -> None:
    world = run(FULL, Outage(Fault.ISSUER_DOWN, 60, 300), *also, behavior=ALL)
    expired = [moment.t for moment in world.timeline if moment.unfit and moment.t > 60]

    assert expired[0] > TOKEN_S
    assert {moment.share for moment in world.timeline if expired[0] + GRACE_S <= moment.t < 360} == {0.0}
    assert {moment.state for moment in world.timeline[60:360]} == {State.OVERFLOWING}
    assert world.timeline[-1].share > 0


def test_with_both_sides_down_requests_fail_and_then_both_are_used_again() -> None:
    outages = (Outage(Fault.LOCAL_DOWN, 100, 50), Outage(Fault.REMOTE_DOWN, 120, 60))
    world = run(FULL, *outages)
    failing = [moment.t for moment in world.timeline if moment.failed and moment.t > GRACE_S]

    assert set(range(120, 150)) <= set(failing)
    assert max(failing) < 150 + GRACE_S
    assert world.timeline[-1].share == 0.5


@pytest.mark.parametrize("fault", [Fault.METRIC_SILENT, Fault.METRIC_NAN])
@pytest.mark.parametrize(
    ("choice", "shares"),
    [("Hold", {CALM: 0.0, FULL: 0.5}), ("Local", {CALM: 0.0, FULL: 0.0}), ("Remote", {CALM: 0.5, FULL: 0.5})],
)
def test_a_metric_that_stays_silent_does_as_configured(fault: Fault, choice: str, shares: dict[float, float]) -> None:
    for level, share in shares.items():
        outage = Outage(fault, 100, 200)
        world = run(level, outage, behavior=(*HALF, ("onMetricsUnavailable", choice)))
        stale = world.timeline[100 + 60 + GRACE_S : 299]

        assert {moment.reason for moment in stale} == {Reason.METRICS_UNAVAILABLE}
        assert {moment.share for moment in stale} == {share}


@pytest.mark.parametrize("behavior", [HALF, ALL, PROPORTIONAL], ids=["half", "all", "proportional"])
def test_a_restart_moves_no_traffic_whenever_it_comes(behavior: Behavior) -> None:
    """Over every phase of two bursts. Streaks begin anew, so a change may come later, but never because of it."""
    load = bursts(CALM / 2, FULL, on_s=40, off_s=90)
    restarts = tuple(Outage(Fault.RESTART, at_s) for at_s in range(20, 340, 13))
    outages = (*restarts, Outage(Fault.LOCAL_DOWN, 345, 30), Outage(Fault.RESTART, 360))
    world = check(World(Scenario(load, 420, outages=outages, behavior=behavior)).run())
    plain = check(World(Scenario(load, 420, outages=(outages[-2],), behavior=behavior)).run())

    assert {moment.state for moment in world.timeline} == {moment.state for moment in plain.timeline} == set(State)


def test_equal_seeds_make_equal_runs() -> None:
    signal = Signal(Kind.RUNNING, target=0.9, noise=0.1, lost=0.2)
    outages = (Outage(Fault.LOCAL_DOWN, 50, 20), Outage(Fault.RESTART, 60))

    def timeline(seed: int) -> str:
        return describe(World(Scenario(steady(FULL), 200, signal, outages, seed=seed)).run())

    assert timeline(1) == timeline(1)
    assert timeline(1) != timeline(2)


outages = st.builds(
    lambda fault, at_s, for_s: Outage(fault, at_s, 0 if fault is Fault.RESTART else for_s),
    st.sampled_from(Fault),
    st.integers(10, 200),
    st.sampled_from([1, 3, 10, 45, 100]),
)
signals = st.builds(
    Signal,
    kind=st.sampled_from([Kind.UTILISATION, Kind.RUNNING]),
    target=st.just(0.9),
    every_s=st.sampled_from([1, 5]),
    window_s=st.sampled_from([1, 10]),
    lag_s=st.sampled_from([0, 3]),
    noise=st.sampled_from([0.0, 0.03]),
    lost=st.sampled_from([0.0, 0.1]),
)


@settings(max_examples=60)
@given(
    level=st.sampled_from([0.3, CALM, 1.3, FULL, 2.0]),
    signal=signals,
    outages=st.lists(outages, max_size=5).map(tuple),
    limited=st.booleans(),
    behavior=st.sampled_from([HALF, ALL, PROPORTIONAL]),
    seed=st.integers(0, 1000),
)
def test_after_any_faults_it_settles_where_it_would_have_without_them(
    level: float, signal: Signal, outages: tuple[Outage, ...], limited: bool, behavior: Behavior, seed: int
) -> None:
    last_s = max([outage.until_s for outage in outages], default=0)
    settled_s = last_s + ACTIVATION_S + 2 * BUFFER_S + 2 * SETTLED_S
    scenario = Scenario(
        steady(level), settled_s + BUFFER_GROWTH_MAX * BUFFER_S, signal, outages, limited, behavior, seed
    )
    world = check(World(scenario).run())

    if {moment.state for moment in world.timeline[settled_s:]} != {expected(level)}:
        pytest.fail(f"it has not settled by {settled_s}\n{describe(world)}", pytrace=False)
