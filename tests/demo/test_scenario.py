"""The scenarios show what they are there to show, whatever the luck: in virtual time, with the real decision."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from controller import offload
from controller.api import parse
from controller.demo.manifests import World, manifests
from controller.demo.measure import Departure
from controller.demo.scenario import LONG, SHORT, Scenario
from controller.demo.trace import bundled_trace
from controller.parsing import Parsed
from controller.routing import policy_of

STEP_S = 0.02
SAMPLE_S = 1.0
EPOCH_S = 1_000.0
BOTH = pytest.mark.parametrize("scenario", [LONG, SHORT], ids=["long", "short"])


@BOTH
def test_the_bundled_trace_is_long_enough_for_every_scenario(scenario: Scenario) -> None:
    assert bundled_trace()[-1].at_s / scenario.speed >= scenario.length_s


@BOTH
def test_bursts_are_more_than_local_carries_and_calm_phases_far_less(scenario: Scenario) -> None:
    requests = scenario.requests(bundled_trace())
    began_s = 0.0
    for phase in scenario.phases:
        inside = [r for r in requests if began_s <= r.at_s < began_s + phase.length_s]
        work_s = sum(scenario.local.service_s(r.context_tokens, r.generated_tokens) for r in inside)
        in_flight = work_s / phase.length_s
        assert in_flight > 1.3 * scenario.slots if phase.one_of == 1 else in_flight < 0.7 * scenario.target
        began_s += phase.length_s


def test_a_calm_between_bursts_is_longer_than_returning_takes_twice() -> None:
    calm = LONG.phases[2]

    assert calm.length_s > 2 * LONG.buffer_s + LONG.activation_s + 3


def policy(scenario: Scenario) -> offload.Policy:
    world = World(1, 2, "127.0.0.1:3", "http://127.0.0.1:4/oauth/token", "PEM")
    parsed = parse(next(m for m in manifests(world, scenario, "secret") if m["kind"] == "ModelDeployment"))
    assert isinstance(parsed, Parsed)
    return policy_of(parsed.model)


def played(scenario: Scenario, seed: int) -> tuple[list[offload.Decision], Counter[Departure], float]:
    """The decisions, why requests left, and the end. Luck is which request leaves, and when samples are taken."""
    luck = random.Random(seed)
    requests = list(scenario.requests(bundled_trace()))
    decisions = [offload.Decision()]
    departures: Counter[Departure] = Counter()
    ends_s: list[float] = []
    now_s, sample_s = 0.0, luck.random()
    while requests or ends_s or decisions[-1].state is not offload.State.STANDBY:
        ends_s = [end_s for end_s in ends_s if end_s > now_s]
        while requests and requests[0].at_s <= now_s:
            request = requests.pop(0)
            if luck.random() * offload.PPM < decisions[-1].share_ppm:
                departures[Departure.OFFLOAD] += 1
            elif len(ends_s) >= scenario.slots:
                departures[Departure.SPILL] += 1
            else:
                ends_s.append(now_s + scenario.local.service_s(request.context_tokens, request.generated_tokens))
        if now_s >= sample_s:
            seen = offload.Observation(
                len(ends_s) / scenario.target, EPOCH_S + now_s, local_ready=True, remote_ready=True
            )
            decisions.append(offload.step(policy(scenario), decisions[-1], seen, EPOCH_S + now_s))
            sample_s += SAMPLE_S
        now_s += STEP_S
        assert now_s < 120
    return decisions, departures, now_s


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(5))
@BOTH
def test_a_scenario_overflows_as_often_as_planned_and_returns_in_time(scenario: Scenario, seed: int) -> None:
    decisions, departures, end_s = played(scenario, seed)

    states = [decision.state for decision in decisions]
    assert states.count(offload.State.FAILOVER) == 0
    assert sum(before != after for before, after in pairwise(states)) == 2 * scenario.overflows
    assert max(decision.buffer_growth for decision in decisions) == 1, "the second burst must not look like flapping"
    assert departures[Departure.OFFLOAD] > 20
    assert departures[Departure.SPILL] > 20
    assert end_s < scenario.length_s + 15
