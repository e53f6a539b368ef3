"""A request trace against servers with too few slots: how many callers wait too long, and how much leaves.

**Played**: `spillway run` and Envoy, as users run them, on manifests that differ in their policy only. All policies at
all loads run side by side, a model each with a server group of its own, fed with the same twelve minutes of the trace
(those whose load is nearest to the whole's), six times faster. Servers and callers are simulated: S slots and a queue
in the order of arrival, 0.15 ms a context token until the first byte, 25 ms a generated token; a remote without limits
that answers after 0.5 s + 0.1 ms a context token. Times are the trace's own where nothing else is said. A caller is
served well if its first byte comes within 2 s of the moment at which it should have asked, so what a late player costs
counts too. Load is the mean work over the slots. Each policy is played once; another run differs by a point or so.

**Simulated**: the production engine before the same servers in virtual time, with gateways that do at once what they
are told. It gives the whole trace, the sweeps, and, on the same twelve minutes, what the played run is compared with.

**Policies**: `none` keeps all local. `beamlit` is the predecessor's loop as it was promised: 50 % leave from when a
15 s scrape, polled every 5 s, has reached its target, until a minute after it last had; played, it sets `mode` in the
manifest. `fixed` is our 50 %, with our rule of returning; `proportional` follows a signal of 1 s; `spill` has a limit
of 1.1 requests a slot and no metric. `oracle` is computed: it knows each wait in advance, and sends away exactly who
would wait too long. Cost is that of two rented GPUs and of a provider's tokens, to have the order of magnitude.

What it does not show: callers, servers, gateways and controller share the cores of one machine, and each of their
delays counts six times in the trace's time; how late they were is among the figures. Remotes never fail or slow down.
Leases between gateways keep their own pace: to them the load changes six times faster than in earnest.

The trace: `SPILLWAY_TRACE` names a CSV with the columns TIMESTAMP, ContextTokens and GeneratedTokens, such as the
conversation trace of the Azure LLM inference dataset 2023 (`AzureLLMInferenceTrace_conv.csv` in the repository
Azure/AzurePublicDataset, CC-BY 4.0), which the goals are for. Without it a bursty one is made up, always the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import overflow_simulated as simulated
from benchmarks.figures import Report, at_least, at_most
from benchmarks.overflow_page import plot, tables
from benchmarks.workload import beamlit
from benchmarks.workload.play import UNEVEN, Model, Outcome, play
from controller.simulate import trace
from controller.simulate.score import Score, score
from controller.simulate.workload import LOCAL, REMOTE, Arrival

TITLE = "Overflow quality: a request trace through the whole product, and in simulation"
BUDGET_S = 215

SPEED = 6.0
EXCERPT_S, GATEWAYS_S = 720.0, 120.0
"""How much of the trace is played for the policies, and for the numbers of gateways."""
GOAL_SLOTS = 28
"""A load of 1.08 on the conversation trace."""
PLAYED = tuple(policy for policy in simulated.POLICIES if policy != simulated.ORACLE)
GOALS = {"spill": (99.5, 16.0), "proportional": (98.0, 25.0)}
"""At `GOAL_SLOTS` on the conversation trace: SLO attainment at least, remote share at most, in percent."""
POINTS = 3.0
"""How far a played policy may be from its simulation, in percentage points."""
LATE_MS = 10.0
"""A run whose player or servers were later than this in more than a hundredth of all cases is not valid."""
SYNTHETIC_S, SYNTHETIC_RATE, SYNTHETIC_SEED = 3500.0, 5.53, 1


@dataclass(frozen=True, slots=True)
class Load:
    """A trace, its name, and what to hold it to."""

    name: str
    arrivals: tuple[Arrival, ...]
    has_goals: bool

    @property
    def mean_work(self) -> float:
        """How many slots are busy on average if none waits."""
        return _work_s(self.arrivals) / self.arrivals[-1].at_s

    def at(self, slots: int) -> float:
        return round(self.mean_work / slots, 2)

    def excerpt(self, length_s: float) -> tuple[Arrival, ...]:
        """Of all stretches so long that begin on a whole minute, the one whose load is nearest to the whole's."""
        last_s = max(0.0, self.arrivals[-1].at_s - length_s)
        stretches = [self._stretch(60.0 * minute, length_s) for minute in range(int(last_s // 60) + 1)]
        return min(stretches, key=lambda some: abs(_work_s(some) / length_s - self.mean_work))

    def _stretch(self, from_s: float, length_s: float) -> tuple[Arrival, ...]:
        return tuple(
            replace(each, at_s=each.at_s - from_s) for each in self.arrivals if from_s <= each.at_s < from_s + length_s
        )


async def run(report: Report, *, quick: bool) -> None:
    load = load_trace(os.environ)
    slots = (GOAL_SLOTS,) if quick else simulated.SLOTS
    excerpt = load.excerpt(20.0 if quick else EXCERPT_S)
    loads = [f"{load.at(each):g} ({each} slots)" for each in simulated.SLOTS]
    report.note(
        f"The load: {load.name}; {len(load.arrivals):,} requests in {load.arrivals[-1].at_s:,.0f} s, "
        f"played {len(excerpt):,} of them. Loads: {', '.join(loads)}."
    )
    _simulate(report, load, excerpt, slots, quick=quick)
    await _play(report, load, excerpt, slots)
    _compare(report)
    await _gateways(report, load, load.excerpt(10.0 if quick else GATEWAYS_S), (2,) if quick else tuple(UNEVEN))


def load_trace(environ: Mapping[str, str]) -> Load:
    """The one that SPILLWAY_TRACE names, or a made-up one."""
    if path := environ.get("SPILLWAY_TRACE"):
        with Path(path).open(encoding="utf-8") as lines:
            return Load(Path(path).name, tuple(trace.read(lines)), has_goals=True)
    arrivals = trace.bursty(SYNTHETIC_SEED, SYNTHETIC_S, SYNTHETIC_RATE)
    return Load("a bursty one, made up, for SPILLWAY_TRACE is not set", tuple(arrivals), has_goals=False)


def _work_s(arrivals: Sequence[Arrival]) -> float:
    return sum(map(LOCAL.service_s, arrivals))


# Simulated


def _simulate(report: Report, load: Load, excerpt: Sequence[Arrival], slots: Sequence[int], *, quick: bool) -> None:
    report.say("simulating all policies at all loads, and sweeping their knobs")
    data = report.data
    for name, arrivals in (("whole", load.arrivals), ("simulated", excerpt)):
        data[name] = [
            _row(policy, load, each, simulated.simulate(policy, each, arrivals))
            for policy in simulated.POLICIES
            for each in slots
        ]
    data["sweeps"] = [
        {"setting": point.setting, **_row(point.policy, load, each, point.score)}
        for each in slots
        for point in simulated.pareto(each, excerpt, quick=quick)
    ]
    _judge(report, data["whole"], load, "the whole trace, simulated")


def _row(policy: str, load: Load, slots: int, scored: Score) -> dict[str, Any]:
    return {"policy": policy, "load": load.at(slots), "slots": slots, **asdict(scored)}


def _judge(report: Report, rows: Sequence[Mapping[str, Any]], load: Load, of: str) -> None:
    """Figures for the load that the goals are for."""
    for row in (row for row in rows if row["slots"] == GOAL_SLOTS):
        goals = GOALS.get(row["policy"]) if load.has_goals else None
        case = {"of": of, "policy": row["policy"], "load": row["load"]}
        attained, left = 100 * row["slo_attainment"], 100 * row["remote_share"]
        report.figure("first byte within 2 s", "%", attained, *([at_least(goals[0])] if goals else []), **case)
        report.figure("remote share", "%", left, *([at_most(goals[1])] if goals else []), **case)


# Played


async def _play(report: Report, load: Load, excerpt: Sequence[Arrival], slots: Sequence[int]) -> None:
    models = [_model(policy, each) for policy in PLAYED for each in slots]
    report.say(f"playing {len(excerpt) * len(models):,} requests for {len(models)} models")
    steered = [model for model in models if model.name.startswith(simulated.BEAMLIT)]
    outcome = await play(models, excerpt, speed=SPEED, beside=partial(beamlit.steer, models=steered))
    report.data["played"] = [
        _row(policy, load, each, _score(outcome, _model(policy, each).name)) for policy in PLAYED for each in slots
    ]
    _judge(report, report.data["played"], load, "the excerpt, played")
    hours = excerpt[-1].at_s / 3600
    for row in (row for row in report.data["played"] if row["slots"] == GOAL_SLOTS):
        case = {"of": "the excerpt, played", "policy": row["policy"], "load": row["load"]}
        report.figure("shifts", "an hour", row["shifts_per_hour"], **case)
        report.figure("cost", "$ an hour", row["cost"] / hours, **case)
    report.figure("answers other than 200", "", outcome.errors, at_most(0))
    _account(report, outcome)


def _model(policy: str, slots: int) -> Model:
    offloading = beamlit.offloading() if policy == simulated.BEAMLIT else simulated.offloading(policy, slots)
    return Model(f"{policy.replace(' + ', '-')}-{slots}", slots, offloading)


def _score(outcome: Outcome, model: str) -> Score:
    return score(outcome.served[model], outcome.decided[model], prices=simulated.PRICES)


def _account(report: Report, outcome: Outcome) -> None:
    """What the machine did meanwhile, and how late everything was, in time of the run."""
    usage = outcome.usage
    for who in ("player", "servers", "controller", "envoys"):
        report.figure("in use", "cores", getattr(usage, who), process=who)
    on_the_way_s = [
        (served.first_byte_s - REMOTE.first_byte_s(Arrival(0.0, served.context_tokens, served.generated_tokens)))
        / SPEED
        for each in outcome.served.values()
        for served in each
        if served.destination.startswith("remote")
    ]
    report.figure("late: all the way to the remote and back", "ms", [1000 * each for each in on_the_way_s])
    for who, late_s in (("player", usage.player_late_s), ("servers", usage.servers_late_s)):
        figure = report.figure(f"late: {who}", "ms", [1000 * each for each in late_s], at_most(LATE_MS, "p99"))
        if not all(figure.verdicts):
            report.note(f"The {who} ran late, so this run is not valid: something else was using the machine.")


def _compare(report: Report) -> None:
    """Each played policy and load with the simulation of the same minutes. The predecessor's loop stands by itself: it
    is no engine of ours, and acts so rarely that its phase decides.
    """
    expected = {(row["policy"], row["slots"]): row for row in report.data["simulated"]}
    others = [policy for policy in PLAYED if policy != simulated.BEAMLIT]
    for name, key in (("first byte within 2 s", "slo_attainment"), ("remote share", "remote_share")):
        for label, policies, goals in (
            ("all but beamlit", others, [at_most(POINTS, "maximum")]),
            (simulated.BEAMLIT, [simulated.BEAMLIT], []),
        ):
            apart = [
                100 * abs(row[key] - expected[row["policy"], row["slots"]][key])
                for row in report.data["played"]
                if row["policy"] in policies
            ]
            report.figure(f"{name}: played, apart from simulated", "points", apart, *goals, policy=label)


# Gateways


async def _gateways(report: Report, load: Load, arrivals: Sequence[Arrival], counts: Sequence[int]) -> None:
    """Spilling with an uneven load; the simulation also without leases, and with leases that move as in earnest."""
    report.data["gateways"] = []
    slots = simulated.SLOTS
    for count in counts:
        report.say(f"playing {len(arrivals):,} requests through {count} gateway{'s' if count > 1 else ''}")
        models = [_model("spill", each) for each in slots]
        outcome = await play(models, arrivals, speed=SPEED, gateways=UNEVEN[count])
        ways = {"played": [_score(outcome, model.name) for model in models]}
        for how, leases in (("simulated", True), ("simulated, without leases", False)):
            ways[how] = [
                simulated.simulate("spill", each, arrivals, gateways=UNEVEN[count], leases=leases) for each in slots
            ]
        for how, scores in ways.items():
            rows = [_row("spill", load, each, scored) for each, scored in zip(slots, scores, strict=True)]
            report.data["gateways"] += [{"how": how, "gateways": count, **row} for row in rows]
            row = rows[slots.index(GOAL_SLOTS)]
            case = {"of": how, "policy": "spill", "load": row["load"], "gateways": count}
            report.figure("first byte within 2 s", "%", 100 * row["slo_attainment"], **case)
            report.figure("remote share", "%", 100 * row["remote_share"], **case)


__all__ = ["BUDGET_S", "TITLE", "Load", "load_trace", "plot", "run", "tables"]
