"""One changed share to thousands of gateways: how long until all have acknowledged it, and what a stream costs.

Three processes. The product's publisher and xDS server hold a number of models, without the rest of the controller. A
light client, one thread with an HTTP/2 of its own that decodes next to nothing, has a connection with one delta stream
for each gateway, subscribed to all RouteConfigurations; they are what a changed share changes. The time is the
server's: from before the share is published until it has heard the last ACK. CPU times are those of the processes,
divided by the streams. Memory is the growth of the server's resident memory from no stream to all of them, each with
everything acknowledged. Streams come from loopback, and the client takes a part of the two cores, so a real network
adds its delay, and takes this load away.

The storms run while shares move at a fixed rate, and a few streams that were there before observe them: from before the
share is published to the ACK. In the first, gateways that know nothing all connect at once. In the second, all say that
they have every resource already (`initial_resource_versions`), as when a controller was restarted.

Where Go is installed, the same client connects to a minimal server on go-control-plane (`LinearCache`), which serves
the same resources, and the ratios are those of medians of this run. That server counts an ACK when it arrives, before
it has worked on it.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.figures import Goal, Report, Result, at_most
from benchmarks.streams import pki
from benchmarks.streams.process import Child, module, running

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Fan-out: one changed share to thousands of gateways"
BUDGET_S = 155

GO_SOURCE = Path(__file__).parent / "go_control_plane"
GO_SERVER = Path(__file__).parents[1] / ".cache" / "go-control-plane"

AT_ONCE = 100
"""Streams that are on their way in at a time, when they do not storm."""

OBSERVERS = 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """`fans`: models, streams, rounds, whether over TLS. `storms`: kind, models, streams, whether they know everything,
    seconds between changes. `rivals`: models, streams, rounds, goal of the ratio.
    """

    fans: tuple[tuple[int, int, int, bool], ...]
    storms: tuple[tuple[str, int, int, bool, float], ...]
    rivals: tuple[tuple[int, int, int, float], ...]


FULL = Sizes(
    fans=(
        (10, 100, 25, False),
        (10, 1_000, 25, False),
        (1_000, 1_000, 15, False),
        (10_000, 1_000, 15, False),
        (10, 5_000, 9, False),
        (10, 1_000, 15, True),
        (10, 5_000, 9, True),
    ),
    storms=(("connect", 10, 5_000, False, 0.5), ("reconnect", 10_000, 1_000, True, 0.2)),
    rivals=((10, 1_000, 15, 2.0), (1_000, 1_000, 7, 1 / 3), (10_000, 1_000, 3, 1 / 30)),
)
QUICK = Sizes(
    fans=((10, 20, 2, False), (10, 20, 2, True)),
    storms=(("connect", 10, 50, False, 0.05), ("reconnect", 50, 20, True, 0.05)),
    rivals=((10, 20, 2, 2.0),),
)
GOALS = {100: (), 1_000: (at_most(70),), 5_000: (at_most(450),)}


async def run(report: Report, *, quick: bool) -> None:
    sizes = QUICK if quick else FULL
    ours: dict[tuple[int, int], float] = {}
    with TemporaryDirectory() as directory:
        pki.write(Path(directory))
        for models, streams, rounds, tls in sizes.fans:
            case = {"resources": models, "streams": streams, "transport": "TLS" if tls else "plain"}
            async with ours_and_client(models, directory if tls else None) as (server, client):
                fan = await fan_out(server, client, streams, rounds)
            median = _report(report, fan, case, GOALS.get(streams, ()), at_most(60))
            if not tls:
                ours[models, streams] = median
    for storm in sizes.storms:
        await _storm(report, *storm)
    if not shutil.which("go"):
        report.note("Go is not installed here, so there is no comparison with go-control-plane.")
        return
    await build_rival()
    for models, streams, rounds, goal in sizes.rivals:
        case = {"resources": models, "streams": streams, "transport": "plain"}
        async with rival_and_client(models) as (server, client):
            fan = await fan_out(server, client, streams, rounds)
        median = _report(report, fan, case | {"server": "go-control-plane"})
        if (models, streams) in ours:
            report.figure("ours / go-control-plane", "", ours[models, streams] / median, at_most(goal), **case)


# One changed share


@dataclass(frozen=True, slots=True)
class Fan:
    """Milliseconds for each round; CPU of server and client in microseconds a stream; server's KiB a stream."""

    ms: list[float]
    server_us: list[float]
    client_us: list[float]
    kib: float


async def fan_out(server: Child, client: Child, streams: int, rounds: int) -> Fan:
    """Connects that many streams, and moves a share again and again."""
    await server.ask("collect")
    empty = server.rss()
    await client.ask("open", name="gateway", count=streams, at_once=AT_ONCE, known=False)
    await client.ask("quiet")
    await server.ask("collect")
    kib = (server.rss() - empty) / 1024 / streams
    fan = Fan([], [], [], kib)
    for _ in range(rounds):
        before = await client.ask("cpu")
        change = await server.ask("change", acks=streams)
        status = await client.ask("quiet")
        after = await client.ask("cpu")
        assert status["open"] == streams, status
        fan.ms.append(1e3 * change["seconds"])
        fan.server_us.append(1e6 * change["cpu_s"] / streams)
        fan.client_us.append(1e6 * (after["cpu_s"] - before["cpu_s"]) / streams)
    return fan


def _report(report: Report, fan: Fan, case: dict[str, str | int], goals: tuple[Goal, ...] = (), *kib: Goal) -> float:
    median = report.figure("change to last ACK", "ms", fan.ms, *goals, **case).median
    report.figure("server CPU a stream", "µs", fan.server_us, **case)
    report.figure("client CPU a stream", "µs", fan.client_us, **case)
    report.figure("server memory a stream", "KiB", fan.kib, *kib, **case)
    return median


# Storms


async def _storm(report: Report, kind: str, models: int, streams: int, known: bool, every_s: float) -> None:
    case = {"resources": models, "streams": streams, "transport": "plain", "storm": kind}
    async with ours_and_client(models) as (server, client), running(*client.command) as observer:
        await observer.ask("open", name="observer", count=OBSERVERS, at_once=AT_ONCE, known=False)
        await client.ask("open", name="first", count=1, at_once=1, known=False)
        await observer.ask("quiet")
        await client.ask("quiet")
        await server.ask("churn", every_s=every_s, observers=OBSERVERS, among="observer")
        storm = await client.ask("open", name="gateway", count=streams, at_once=streams, known=known)
        heard = await server.ask("rest")
        there = await observer.ask("quiet")
    report.figure("storm, until all are served", "s", storm["seconds"], **case)
    if storm["lost"]:
        report.note(f"In the {kind} storm, streams were lost: {', '.join(storm['why'])}.")
    report.figure("streams lost", "", storm["lost"] + OBSERVERS - there["open"], at_most(0), **case)
    late = [1e3 * each for each in heard["seconds"]]
    report.figure("change to ACK of an observer", "ms", late, at_most(100, "p99"), **case)


# Processes


@asynccontextmanager
async def ours_and_client(models: int, pki: str | None = None) -> AsyncIterator[tuple[Child, Child]]:
    tls = [pki] if pki else []
    async with running(*module("server", str(models), *tls)) as server:
        port = (await server.answer())["port"]
        async with running(*module("client", str(port), *tls)) as client:
            yield server, client


@asynccontextmanager
async def rival_and_client(models: int) -> AsyncIterator[tuple[Child, Child]]:
    async with running(*module("server", str(models))) as server:
        await server.answer()
        resources = await server.ask("resources")
    async with running(GO_SERVER) as rival:
        port = (await rival.answer())["port"]
        await rival.ask("load", resources=resources)
        async with running(*module("client", str(port))) as client:
            yield rival, client


async def build_rival() -> None:
    """Raises AssertionError if it cannot be built; Go's own words stand on stderr."""
    GO_SERVER.parent.mkdir(exist_ok=True)
    build = await asyncio.create_subprocess_exec("go", "build", "-buildvcs=false", "-o", GO_SERVER, ".", cwd=GO_SOURCE)
    assert await build.wait() == 0, "the go-control-plane server could not be built"


def plot(result: Result) -> Figure | None:
    """Time against the number of resources, ours and theirs."""
    from matplotlib.figure import Figure

    figures = result.find("change to last ACK", streams=1_000, transport="plain")
    if not figures:
        return None
    figure = Figure(figsize=(6, 3))
    axes = figure.subplots()
    for label, server in (("Spillway", None), ("go-control-plane, LinearCache", "go-control-plane")):
        points = sorted((each.case["resources"], each.median) for each in figures if each.case.get("server") == server)
        axes.plot([x for x, _ in points], [y for _, y in points], "o-", label=label)
    axes.set(xscale="log", yscale="log", xlabel="resources", ylabel="ms to the last of 1,000 ACKs")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure
