"""From nothing to everything served, and what that takes in memory.

*Served* with a light gateway: `spillway run --no-envoy` is started on a directory of manifests, and a delta client of a
few lines connects as soon as it listens, subscribes to all that an Envoy would, and accepts it. The clock runs from the
start of the process (the interpreter, imports) until the client has accepted the last model. The same models come as
YAML (a file each, with ModelDeployment, Service and EndpointSlice, as people keep them) and as JSON (Lists, as
`kubectl get -o json` or an API server gives them). Memory is the resident set of the controller with that client
connected.

With Envoy, `spillway run` starts its own, on the JSON. The last model of the last piece of what Envoy is sent is asked
for until its local replica answers with 200; then each model is asked for, over 32 connections, one request on each at
a time. *All models answer* from the moment when the last model did, if then none of them fails, else from when the last
one that did answers. To ask for each of them once takes seconds of CPU, nearly all of it Envoy's, since each opens its
first connection; that is given by itself. Envoy's clock runs from its start, when the controller has read everything
already; the other one from the start of the controller.

Envoy's memory is taken when the last model answers, which is what the configuration takes, and when all have been
asked: then it holds an idle connection to each model too (17 KiB of its heap), for the 4 s after which it closes them.
Its metrics page is taken after that.

Not in it: metric sources and issuers, which have their own pace, and a Kubernetes API. Files are in the page cache.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Goal, Report, Result, at_most
from benchmarks.scale.backends import backends
from benchmarks.scale.fleet import Fleet
from benchmarks.scale.gateway import light_gateway
from benchmarks.scale.prober import Prober
from benchmarks.scale.processes import memory_mib, scratch
from tests.support.stack import Stack

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Cold start and memory"
BUDGET_S = 80

SIZES = (1_000, 5_000, 10_000)
POLL_S = 0.005
TOGETHER = 32

START_GOALS = {10_000: at_most(5)}
MEMORY_GOALS = {5_000: at_most(250)}
ENVOY_GOALS = {"answer": at_most(6), "memory": at_most(600), "page": at_most(5)}
"""At 10,000 models."""


async def run(report: Report, *, quick: bool) -> None:
    sizes = (3, 10) if quick else SIZES
    for size in sizes:
        await _light(report, Fleet(size), "YAML")
    await _light(report, Fleet(sizes[-1]), "JSON")
    for size in sizes:
        await _with_envoy(report, size)


async def _light(report: Report, fleet: Fleet, form: str) -> None:
    """Time to served, and memory of the controller, with a client that is no Envoy."""
    report.say(f"{fleet.size:,} models as {form}, a light gateway")
    with scratch() as temporary:
        stack = Stack(Path(temporary), ["--no-envoy", "--log-level", "warning"])
        (fleet.write_yaml if form == "YAML" else fleet.write_json)(stack.manifests)
        async with _started(stack) as began_s:
            listening_s = time.monotonic()
            port = int(stack.addresses["xds"].rpartition(":")[2])
            async with light_gateway(port, fleet.credentials) as gateway:
                await gateway.until_whole(fleet.size)
                served_s = time.monotonic()
                assert stack.process is not None
                resident_mib = memory_mib(stack.process.pid)
                peak_mib = memory_mib(stack.process.pid, "VmHWM")
    case = {"models": fleet.size, "from": form}
    report.figure("start to listening", "s", listening_s - began_s, **case)
    report.figure("start to everything served", "s", served_s - began_s, *_goals(START_GOALS, fleet), **case)
    report.figure("controller memory", "MiB", resident_mib, *_goals(MEMORY_GOALS, fleet), **case)
    report.figure("controller memory, peak", "MiB", peak_mib, **case)


async def _with_envoy(report: Report, size: int) -> None:
    """The whole, until every model answers, and what Envoy takes."""
    report.say(f"{size:,} models and an Envoy")
    with scratch() as temporary:
        directory = Path(temporary)
        async with backends(directory / "backends") as (local, remote):
            stack = Stack(directory, ["--log-level", "warning"])
            fleet = Fleet(size, local, remote)
            fleet.write_json(stack.manifests)
            async with _started(stack) as began_s:
                host, port = stack.addresses["listen"].split(":")
                record = directory / "state" / "envoy.json"  # written when Envoy has just been started
                envoy_began_s = time.monotonic() - (time.time() - record.stat().st_mtime)
                pid = json.loads(record.read_text())["pid"]
                await asyncio.to_thread(_sweep, host, int(port), fleet.hosts[-1:])
                last_s, memory = time.monotonic(), memory_mib(pid)
                late_s = await asyncio.to_thread(_sweep, host, int(port), fleet.hosts)
                asked_s, memory_asked = time.monotonic(), memory_mib(pid)
                page = await asyncio.to_thread(_metrics_page, stack.addresses["envoy_admin"])
    largest = size == SIZES[-1]
    goals = {name: [goal] if largest else [] for name, goal in ENVOY_GOALS.items()}
    answer_s = max(last_s, late_s)
    report.figure("controller's start to all models answer", "s", answer_s - began_s, models=size)
    report.figure("Envoy's start to all models answer", "s", answer_s - envoy_began_s, *goals["answer"], models=size)
    report.figure("asking each model once", "s", asked_s - last_s, models=size)
    report.figure("Envoy memory", "MiB", memory, *goals["memory"], models=size)
    report.figure("Envoy memory, all models asked", "MiB", memory_asked, models=size)
    report.figure("Envoy's metrics page", "MB", len(page) / 1e6, *goals["page"], models=size)


@asynccontextmanager
async def _started(stack: Stack) -> AsyncIterator[float]:
    """Starts `spillway run` and waits until it says where it listens. Gives when it was started."""
    began_s = time.monotonic()
    stack.start()
    assert stack.process is not None
    try:
        ready = stack.directory / "ready.json"
        while not ready.exists():
            if stack.process.poll() is not None:
                raise RuntimeError(f"spillway ended with {stack.process.returncode}: {stack.log[-2000:]}")
            await asyncio.sleep(POLL_S)
        stack.addresses = json.loads(ready.read_text())
        yield began_s
    finally:
        if stack.process.poll() is None:
            await stack.stop()


def _sweep(address: str, port: int, hosts: list[str]) -> float:
    """Asks for every model until its own replica has answered. Returns when the last one did that had failed before, 0
    if none had.
    """
    waiting = deque(hosts)
    failed: set[str] = set()
    late_s = 0.0
    with ExitStack() as stack:
        probers = [stack.enter_context(closing(_connected(address, port))) for _ in range(min(TOGETHER, len(hosts)))]
        while waiting:
            asked = [(prober, waiting.popleft()) for prober in probers[: len(waiting)]]
            for prober, host in asked:
                prober.send(host)
            for prober, host in asked:
                if prober.receive() != (200, "local"):
                    failed.add(host)
                    waiting.append(host)
                elif host in failed:
                    late_s = time.monotonic()
            if failed.issuperset(host for _, host in asked):
                time.sleep(POLL_S)
    return late_s


def _connected(address: str, port: int) -> Prober:
    """Envoy names its listeners a moment before it accepts connections."""
    while True:
        try:
            return Prober(address, port)
        except ConnectionRefusedError:
            time.sleep(POLL_S)


def _metrics_page(admin: str) -> bytes:
    with urllib.request.urlopen(f"http://{admin}/stats/prometheus", timeout=60) as answer:
        page: bytes = answer.read()
        return page


def _goals(goals: dict[int, Goal], fleet: Fleet) -> list[Goal]:
    return [goals[fleet.size]] if fleet.size in goals else []


def plot(result: Result) -> Figure:
    """Memory by number of models."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2))
    axes = figure.subplots()
    for name in ("controller memory", "Envoy memory"):
        found = [each for each in result.find(name) if each.case.get("from", "YAML") == "YAML"]
        axes.plot([int(each.case["models"]) for each in found], [each.median for each in found], "o-", label=name)
    axes.set(xlabel="models", ylabel="MiB", xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False)
    return figure
