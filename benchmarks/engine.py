"""What ten thousand models cost while they run: a sample for each of them every five seconds.

The real controller in a process of its own, as in the first benchmark, with a light gateway connected that accepts
what it is sent. Samples are queued as a metric source queues them, in groups of twenty every 10 ms. One model in twenty
has a demand that wanders between 0.4 and 2 times what local can carry, and its metric falls as its share rises, so
shares move as they would; all others are calm. The first two rounds, in which every busy model makes its first moves,
are not counted.

*CPU* is all that the controller's process takes, over the time that passes: engine, translation, xDS, state file, and
the benchmark's own making of samples. *Lag* runs from the moment at which a sample is due until what came of it has
been published, the rest of its group included.

Not in it: fetching the samples. Asking Prometheus for ten thousand queries one by one takes more than all of this.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.figures import Report, at_most
from benchmarks.scale.fleet import Fleet
from benchmarks.scale.gateway import light_gateway
from benchmarks.scale.processes import scratch
from benchmarks.scale.sampling import INTERVAL_S
from benchmarks.streams.process import running

TITLE = "Engine load"
BUDGET_S = 45

MODELS = 10_000
WARM_UP_S = 2 * INTERVAL_S
MEASURED_S = 4 * INTERVAL_S


async def run(report: Report, *, quick: bool) -> None:
    models = 40 if quick else MODELS
    with scratch() as temporary:
        manifests = Path(temporary) / "manifests"
        fleet = Fleet(models)
        fleet.write_json(manifests)
        command = (sys.executable, "-m", "benchmarks.scale.sampling", manifests, Path(temporary) / "state")
        async with running(*command, log=Path(temporary) / "log") as child:
            port = (await child.answer())["xds_port"]
            async with light_gateway(port, fleet.credentials) as gateway:
                await gateway.until_whole(models)
                report.say(f"{models:,} models are served, samples begin")
                await child.ask("play", seconds=0.5 if quick else WARM_UP_S)
                measured = await child.ask("play", seconds=0.5 if quick else MEASURED_S)
    lags_ms, wall_s = measured["lags_ms"], measured["wall_s"]
    report.figure("CPU", "cores", measured["cpu_s"] / wall_s, at_most(0.25), models=models)
    report.figure("CPU a sample", "µs", measured["cpu_s"] / len(lags_ms) * 1e6, models=models)
    report.figure("lag", "ms", lags_ms, models=models)
    report.figure("samples", "a second", len(lags_ms) / wall_s, models=models)
    report.figure("changed routes", "a second", measured["changes"] / wall_s, models=models)
