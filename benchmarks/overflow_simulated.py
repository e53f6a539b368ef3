"""The policies that are compared on a load, and what becomes of it under each of them in virtual time.

All but two are ModelDeployments, and the production engine decides: the same manifests are played for real. The oracle
is computed: it knows how long a request would wait, and sends away exactly those whose first byte would come too late.
"beamlit" is an emulation of what the predecessor promised: every 5 s it looks at a value that is scraped every 15 s,
sends half of the requests away once the metric is reached, and takes them back when it has been below its target for a
minute, whatever would come back with them.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import PurePath
from typing import Any

from controller.api import MODEL_API_VERSION
from controller.manifests import Manifest, read
from controller.metrics import Source as MetricSource
from controller.offload import State
from controller.settings import MetricInformer, Settings
from controller.simulate.plant import Plant
from controller.simulate.scenario import Outcome, Servers, scenario_of
from controller.simulate.scenario import simulate as simulate_scenario
from controller.simulate.score import SLO_S, Decided, Price, Prices, Score, Served, score
from controller.simulate.steering import play
from controller.simulate.workload import LOCAL, REMOTE, Arrival
from xds import ir

BEAMLIT, ORACLE = "beamlit", "oracle"
POLICIES = ("none", BEAMLIT, "fixed", "proportional", "spill", "spill + proportional", ORACLE)
SLOTS = (36, 32, 28, 24)
"""Of the conversation trace, loads of 0.84, 0.94, 1.08 and 1.26."""

TARGET = 0.88
"""Of the slots, in requests running: what the metric of a policy is compared with. No more than the slots can run, so
the metric shows an overload of at most 1 / TARGET, and Proportional hurries only beyond its tolerance."""
HEADROOM = 1.1
"""Of the slots: the limit. What waits behind a tenth of the slots is served well within the SLO."""
PERCENTAGE = 50

PRICES = Prices(local=Price(hour=4.0), remote=Price(context_1k=0.000_5, generated_1k=0.001_5))
"""Dollars, to have the order of magnitude: two rented GPUs, and a provider's tokens."""

_SEED = 4


def offloading(
    policy: str, slots: int, *, headroom: float = HEADROOM, percentage: int = PERCENTAGE, target: float = TARGET
) -> dict[str, Any]:
    """`offloadingConfig` of a policy, without the remote. The metric is read every second, as it is at that moment, so
    Proportional may follow each sample and needs to wait only 2 s before it takes a part back.
    """
    running = {"type": "AverageValue", "averageValue": str(round(target * slots))}
    metrics = [{"type": "Pods", "pods": {"metric": {"name": "vllm:num_requests_running"}, "target": running}}]
    spill = {"localLimit": {"maxConcurrentRequestsPerReplica": round(headroom * slots)}}
    follows = {"strategy": "Proportional", "activationSeconds": 0.0, "intervalSeconds": 0.0, "bufferSeconds": 2.0}
    configs: dict[str, dict[str, Any]] = {
        "none": {"behavior": {"mode": "Off"}},
        "fixed": {"metrics": metrics, "behavior": {"percentage": percentage}},
        "proportional": {"metrics": metrics, "behavior": follows},
        "spill": spill,
        "spill + proportional": {**spill, "metrics": metrics, "behavior": follows},
    }
    return configs[policy]


def simulate(policy: str, slots: int, trace: Sequence[Arrival], **how: Any) -> Score:
    """What becomes of the trace. `how`: as `run` takes it."""
    outcome = run(policy, slots, trace, **how)
    return score(outcome.served, outcome.decided, prices=PRICES)


def run(
    policy: str,
    slots: int,
    trace: Sequence[Arrival],
    *,
    gateways: Sequence[float] = (1.0,),
    leases: bool = True,
    **settings: Any,
) -> Outcome:
    """All that happens. `gateways`: their parts of the arrivals. `leases`: they lend each other what they have of the
    limit. `settings`: of `offloading`.
    """
    draw = random.Random(_SEED).random
    if policy == ORACLE:
        return Outcome(tuple(_oracle(slots, trace)), ())
    if policy == BEAMLIT:
        plant = Plant(1, slots, len(gateways), LOCAL, REMOTE, draw)
        beamlit = Beamlit(plant, round(settings.get("target", TARGET) * slots), settings.get("percentage", PERCENTAGE))
        served = play(trace, plant, beamlit, gateways, draw)
        return Outcome(tuple(served), tuple(beamlit.decided))
    scenario = scenario_of(
        _manifests(offloading(policy, slots, **settings)),
        Settings(metric_informer=MetricInformer(type=MetricSource.ENDPOINTS)),
        Servers(slots=slots, split=tuple(gateways), leases=leases),
    )
    return simulate_scenario(scenario, trace, draw)


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of a policy, and what came of it."""

    policy: str
    setting: str
    score: Score


def pareto(slots: int, trace: Sequence[Arrival], *, quick: bool = False) -> list[Point]:
    """Each policy over its own knob: the percentage, the target, the limit; the oracle as it is."""
    knobs: Mapping[str, tuple[str, Sequence[float]]] = {
        BEAMLIT: ("percentage", (10, 15, 20, 25, 30, 40, 50, 70, 100)),
        "fixed": ("percentage", (10, 15, 20, 25, 30, 40, 50, 70, 100)),
        "proportional": ("target", (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)),
        "spill": ("headroom", (0.8, 0.9, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4)),
        "spill + proportional": ("headroom", (0.9, 1.0, 1.1, 1.2, 1.3)),
    }
    points = []
    for policy, (knob, values) in knobs.items():
        for value in values[:2] if quick else values:
            setting: dict[str, Any] = {knob: value}
            points.append(Point(policy, f"{knob} {value:g}", simulate(policy, slots, trace, **setting)))
    return [*points, *(Point(policy, "", simulate(policy, slots, trace)) for policy in ("none", ORACLE))]


class BeamlitRule:
    """Active from the moment at which a poll finds the target reached, until no poll has for a buffer."""

    POLL_S, SCRAPE_S, BUFFER_S = 5.0, 15.0, 60.0

    def __init__(self, target: int) -> None:
        self._target = target
        self._reached_at_s = -inf

    def active(self, scraped: float, now_s: float) -> bool:
        """Whether a part is sent away from now on, by the value that was scraped last."""
        if scraped >= self._target:
            self._reached_at_s = now_s
        return now_s - self._reached_at_s < self.BUFFER_S


class Beamlit:
    """Polls a scraped value, and sends a fixed part away while the rule says so."""

    def __init__(self, plant: Plant, target: int, percentage: int) -> None:
        self.decided: list[Decided] = []
        self._plant = plant
        self._rule = BeamlitRule(target)
        self._share_ppm = percentage * 10_000
        self._scraped = 0
        self._scrape_at_s, self._poll_at_s = 0.0, BeamlitRule.POLL_S / 2
        self._decide(0.0)

    @property
    def wake_at_s(self) -> float:
        return min(self._scrape_at_s, self._poll_at_s)

    def wake(self, now_s: float) -> None:
        if now_s >= self._scrape_at_s:
            self._scraped = self._plant.replicas[0].running
            self._scrape_at_s += BeamlitRule.SCRAPE_S
        if now_s >= self._poll_at_s:
            self._poll_at_s += BeamlitRule.POLL_S
            self._decide(now_s)

    def _decide(self, now_s: float) -> None:
        active = self._rule.active(self._scraped, now_s)
        state, share_ppm = (State.OVERFLOWING, self._share_ppm) if active else (State.STANDBY, 0)
        if not self.decided or self.decided[-1].state != state:
            self.decided.append(Decided(now_s, state, share_ppm))
            for gateway in self._plant.gateways:
                gateway.route = _route(share_ppm)


def _route(share_ppm: int) -> ir.Route:
    """A part to a remote, and no way on from where a request starts."""
    backend = ir.Backend("remote.example.com", 80)
    weights = ((ir.LOCAL, ir.PPM - share_ppm), (ir.remote_slot(0), share_ppm))
    return ir.Route(
        "default/model",
        ("model",),
        ir.Local((ir.Endpoint("10.0.0.1", 8000),)),
        (ir.Remote(backend, "remote.example.com"),),
        tuple(ir.Chain(slot, weight_ppm) for slot, weight_ppm in weights if weight_ppm),
    )


def _oracle(slots: int, trace: Iterable[Arrival]) -> Iterable[Served]:
    """Remote exactly if the first byte of local would come after the SLO."""
    free_at_s = [0.0] * slots
    for arrival in trace:
        at_s, tokens = arrival.at_s, (arrival.context_tokens, arrival.generated_tokens)
        began_s = max(at_s, free_at_s[0])
        wait_s = began_s - at_s + LOCAL.first_byte_s(arrival)
        if wait_s <= SLO_S:
            done_s = began_s + LOCAL.service_s(arrival)
            heapq.heapreplace(free_at_s, done_s)
            yield Served(at_s, ir.LOCAL, wait_s, done_s, *tokens)
        else:
            yield Served(
                at_s, ir.remote_slot(0), REMOTE.first_byte_s(arrival), at_s + REMOTE.service_s(arrival), *tokens
            )


def _manifests(offloading_config: Mapping[str, Any]) -> tuple[Manifest, ...]:
    spec = {
        "model": "model",
        "modelSourceRef": {"kind": "Deployment", "name": "model"},
        "offloadingConfig": {"remoteBackend": {"host": "remote.example.com"}, **offloading_config},
    }
    thing = {"apiVersion": MODEL_API_VERSION, "kind": "ModelDeployment", "metadata": {"name": "model"}, "spec": spec}
    return read(PurePath("policy.json"), json.dumps(thing)).manifests
