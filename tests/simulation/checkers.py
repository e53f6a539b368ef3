"""What must hold of every run, and a timeline to read when it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest

from tests.simulation.world import Fault, Moment, Scenario, World

GRACE_S = 4
"""From something that happens to the gateway's having been told: what was told, decided, published, acknowledged."""
STALE_S = 60
"""The default of `staleSeconds`."""


def check(world: World) -> World:
    """The rules that hold in every world, whatever happens in it."""
    __tracebackhide__ = True
    for problem in problems(world):
        pytest.fail(f"{problem}\n{describe(world)}", pytrace=False)
    return world


def problems(world: World) -> Iterator[str]:
    yield from _work_unaccounted(world)
    yield from _unhealthy_side_used(world)
    yield from _traffic_moved_by_silence(world)
    yield from _traffic_moved_by_a_restart(world)


def _work_unaccounted(world: World) -> Iterator[str]:
    moments = world.timeline
    ended = sum(m.local + m.remote + m.failed + m.refused + m.dropped for m in moments) + moments[-1].queue
    if abs(ended - world.offered) > 1e-6 * max(1.0, world.offered):
        yield f"{world.offered} was offered, but {ended} is accounted for"


def _unhealthy_side_used(world: World) -> Iterator[str]:
    """From `GRACE_S` after the sides last changed, nothing fails and nothing starts at a side that cannot take it."""
    since, sides = 0, None
    for moment in world.timeline:
        if sides != (sides := (moment.unfit, moment.healthy)):
            since = moment.t
        if moment.t < since + GRACE_S or not moment.healthy:
            continue
        if moment.failed:
            yield f"at {moment.t} requests failed although one side was able to take them"
        if moment.misrouted:
            yield f"at {moment.t} requests started at a side that is known not to take them"


def _traffic_moved_by_silence(world: World) -> Iterator[str]:
    """While nothing is heard and nothing else happens, the share stays, unless what is stale is to be acted on."""
    silences = [o for o in world.scenario.outages if o.fault in (Fault.METRIC_SILENT, Fault.METRIC_NAN)]
    others = [o for o in world.scenario.outages if o not in silences]
    hold = dict(world.scenario.behavior).get("onMetricsUnavailable", "Hold") == "Hold"
    for silence in silences:
        acted_on_s = silence.at_s + STALE_S - world.scenario.signal.every_s
        until_s = silence.until_s if hold else min(silence.until_s, acted_on_s)
        during = [m for m in world.timeline if silence.at_s + GRACE_S <= m.t < until_s]
        if any(other.at_s < silence.until_s and silence.at_s < other.until_s + 200 for other in others):
            continue
        if len({moment.share for moment in during}) > 1:
            yield f"the share moved between {silence.at_s} and {silence.until_s}, when no metric was heard"


def _traffic_moved_by_a_restart(world: World) -> Iterator[str]:
    """What the controller wants is the same before and after, unless it learns at its start of what just happened."""
    edges = {t for o in world.scenario.outages if o.fault is not Fault.RESTART for t in (o.at_s, o.until_s)}
    for t, before, after in world.restarts:
        if before != after and edges.isdisjoint(range(t - GRACE_S, t + 1)):
            yield f"the restart at {t} moved traffic"


def shifts(moments: Sequence[Moment]) -> list[int]:
    """When the state changed."""
    return [after.t for before, after in pairwise(moments) if before.state is not after.state]


def describe(world: World) -> str:
    """The scenario with its seed, and each second in which something changed."""
    lines = [
        _scenario(world.scenario),
        "     t  load  state        reason              share ratio  local remote failed",
    ]
    last: tuple[object, ...] = ()
    for m in world.timeline:
        now = (m.state, m.reason, round(m.share, 1), m.failed > 0)
        if now != last:
            ratio = "   -  " if m.ratio is None else f"{m.ratio:6.2f}"
            numbers = f"{m.share:5.2f} {ratio} {m.local:6.2f} {m.remote:6.2f} {m.failed:6.2f}"
            lines.append(f"{m.t:6} {m.load:5.2f}  {m.state:<12} {m.reason:<19} {numbers}")
        last = now
    return "\n".join(lines[:120])


def _scenario(scenario: Scenario) -> str:
    outages = "; ".join(f"{o.fault} {o.at_s}-{o.until_s}" for o in scenario.outages)
    return f"seed {scenario.seed}, {scenario.signal}, {dict(scenario.behavior)}, faults: {outages or 'none'}"
