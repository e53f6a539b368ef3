"""How long after a metric sample the requests follow it, with 10, 1,000 and 10,000 models.

The whole product is in the loop: a sample enters the queue of the real controller (a process of its own, with engine,
publisher, xDS port and state file), the engine decides, the changed RouteConfiguration goes over gRPC to a real Envoy,
and a prober that asks for the model without a pause over one connection sees another destination answer. The clock
begins when the sample is queued and ends when the first answer of the new destination has been read, so up to one whole
request (0.2 ms) of it is the prober's. Each sample moves a share from 0 to 100 % or back, so one answer is proof.
Changes are apart by a random pause and go round twenty models.

CPU is taken in a second pass without the prober, less what both processes take when nothing happens. Bytes are those of
the xDS connection as TCP counts them, HTTP/2 and gRPC included.

Not in it: how old a sample is when it comes (the scrape and query intervals, which are seconds and dwarf all of this).
Prober, Envoy and controller share the cores that there are.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Report, Result, at_most
from benchmarks.scale.backends import backends
from benchmarks.scale.controller import Change, Driven, driven
from benchmarks.scale.fleet import Fleet
from benchmarks.scale.prober import Prober
from benchmarks.scale.processes import cpu_s, scratch
from tests.support.envoy import bootstrap, running

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Share change to first request"
BUDGET_S = 70

SIZES = (10, 1_000, 10_000)
CHANGES = 200
MODELS_ASKED = 20
"""The first cycle over them is not counted: it makes clusters and connections."""
PAUSE_S = (0.005, 0.03)
IDLE_S = 2.0
BEHAVIOR = "{percentage: 100, activationSeconds: 0, bufferSeconds: 0, metricScope: Total}"
"""Any sample at or above the target sends everything away, any below brings everything back."""
ABOVE, BELOW = 8.0, 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """One sample for a model, and the destination it leads to."""

    model: str
    host: str
    value: float
    destination: str


async def run(report: Report, *, quick: bool) -> None:
    sizes = (1, 3) if quick else SIZES
    medians = [await _measure(report, size, 6 if quick else CHANGES) for size in sizes]
    report.figure("first request, largest : smallest", "x", medians[-1] / medians[0], models=sizes[-1])


async def _measure(report: Report, size: int, changes: int) -> float:
    """All figures of one size. Returns the median time to the first request, in ms."""
    report.say(f"a controller with {size:,} models, and an Envoy, are being started")
    with scratch() as temporary:
        directory = Path(temporary)
        async with backends(directory / "backends") as (local, remote):
            fleet = Fleet(size, local, remote, BEHAVIOR)
            fleet.write_json(directory / "manifests")
            with driven(directory / "manifests", directory / "state") as controller:
                async with running(directory / "envoy", bootstrap(controller.xds_port)) as envoy:
                    await envoy.live()
                    cycle = _cycle(fleet)
                    steps = cycle * (changes // len(cycle))
                    with closing(Prober(*await envoy.listener("front"))) as prober:
                        for host in fleet.hosts:
                            prober.until(host, "local")
                        for step in cycle:
                            _follow(controller, prober, step)
                        times = [_follow(controller, prober, step) for step in steps]
                    costs = _costs(controller, envoy.process.pid, steps)
    return _report(report, size, times, costs)


def _cycle(fleet: Fleet) -> list[Step]:
    """Some of the models, spread over all, are sent away one after the other, and then brought back."""
    hosts = dict(zip(fleet.keys, fleet.hosts, strict=True))
    asked = fleet.keys[:: max(1, fleet.size // MODELS_ASKED)]
    away = [Step(model, hosts[model], ABOVE, "remote-0") for model in asked]
    return [*away, *(Step(model, hosts[model], BELOW, "local") for model in asked)]


def _follow(controller: Driven, prober: Prober, step: Step) -> tuple[Change, float]:
    """One change: what the controller says of it, and when its first answer was here."""
    time.sleep(random.uniform(*PAUSE_S))
    controller.observe(step.model, step.value)
    answered_s = prober.until(step.host, step.destination)
    return controller.change(), answered_s


def _costs(controller: Driven, envoy_pid: int, steps: Sequence[Step]) -> dict[str, float]:
    """CPU of one change in ms, by process, with nobody asking."""
    pids = {"controller": controller.pid, "Envoy": envoy_pid}

    def change_all() -> None:
        for step in steps:
            time.sleep(random.uniform(*PAUSE_S))
            controller.observe(step.model, step.value)
            controller.change()

    busy, busy_s = _used(pids, change_all)
    idle, idle_s = _used(pids, lambda: time.sleep(IDLE_S))
    return {name: (busy[name] - idle[name] * busy_s / idle_s) * 1000 / len(steps) for name in pids}


def _used(pids: Mapping[str, int], work: Callable[[], None]) -> tuple[dict[str, float], float]:
    """CPU seconds that each process used during some work, and how long that took."""
    before, began_s = {name: cpu_s(pid) for name, pid in pids.items()}, time.monotonic()
    work()
    return {name: cpu_s(pid) - before[name] for name, pid in pids.items()}, time.monotonic() - began_s


def _report(report: Report, size: int, times: Sequence[tuple[Change, float]], costs: Mapping[str, float]) -> float:
    first_ms = [(answered_s - change.entered_s) * 1000 for change, answered_s in times]
    made = report.figure("sample to first request", "ms", first_ms, at_most(3), at_most(10, "p99"), models=size)
    report.figure("sample to ACK", "ms", [(c.acknowledged_s - c.entered_s) * 1000 for c, _ in times], models=size)
    report.figure("decided and published", "ms", [(c.published_s - c.entered_s) * 1000 for c, _ in times], models=size)
    report.figure("sent on the wire", "bytes", [float(c.sent_bytes) for c, _ in times], models=size)
    for name, cost_ms in costs.items():
        report.figure(f"CPU of {name} a change", "ms", cost_ms, models=size)
    report.data[str(size)] = [round(each, 3) for each in first_ms]
    return made.median


def plot(result: Result) -> Figure:
    """How many of the changes had reached a request after so many milliseconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2))
    axes = figure.subplots()
    for size, taken_ms in result.data.items():
        reached = [(index + 1) / len(taken_ms) * 100 for index in range(len(taken_ms))]
        axes.step(sorted(taken_ms), reached, label=f"{int(size):,} models")
    axes.axvline(3, color="grey", linestyle=":", linewidth=1)
    axes.axvline(10, color="grey", linestyle=":", linewidth=1)
    axes.set(xscale="log", xlabel="ms from sample to first request", ylabel="% of changes", ylim=(0, 101))
    axes.set_xticks([2, 3, 5, 10], ["2", "3", "5", "10"])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return figure
