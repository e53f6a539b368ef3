"""A load, played through the whole product: `spillway run` as users run it, real Envoys, simulated model servers.

Everything happens `speed` times faster: arrivals, servers, and every duration of the models' behaviour. What comes out
is in the load's own time again.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any

from benchmarks.scale.processes import cpu_s
from benchmarks.workload import player, process, server
from controller.api import Behavior
from controller.settings import INTERVAL_MIN_S
from controller.simulate.score import SLO_S, Decided, Served
from controller.simulate.workload import LOCAL, REMOTE, Arrival, Timing
from tests.support import envoy
from tests.support.stack import Stack, eventually, running

SIGNAL_S = 1.0
"""How often the servers are asked for their metrics."""
TAIL_S = 3 * SLO_S
"""What is unanswered so long after the last request counts as never answered. Both in the load's own time."""
LEAD_S = 0.5
IN_FLIGHT = 48
"""Connections to begin with, for each model."""
REMOTE_NAME = "remote"
UNEVEN = {1: (1.0,), 2: (0.7, 0.3), 4: (0.4, 0.3, 0.2, 0.1)}
"""By the number of gateways, the share of the callers that each gets."""

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Model:
    """`offloading`: its offloadingConfig without a remote, in the load's own time. One replica with so many slots."""

    name: str
    slots: int
    offloading: Manifest

    @property
    def key(self) -> str:
        return f"default/{self.name}"


@dataclass(frozen=True, slots=True)
class Usage:
    """Cores that were in use on average while the load was played, and by how much its makers were late, in seconds of
    the run: each request that was sent, each sample of the servers.
    """

    player: float
    servers: float
    controller: float
    envoys: float
    player_late_s: tuple[float, ...]
    servers_late_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """By model: what became of its requests, what was decided, and how many requests its server had, running and
    waiting, every `server.SAMPLE_S` of the run. Statuses other than 200 are counted in `errors`.
    """

    served: Mapping[str, list[Served]]
    decided: Mapping[str, list[Decided]]
    in_progress: Mapping[str, array[int]]
    errors: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs while a load is played. `ports`: of the models' servers, and of the remote."""

    stack: Stack
    gateways: tuple[player.Gateway, ...]
    envoys: tuple[int, ...]
    ports: Mapping[str, int]
    servers: process.Process
    speed: float


Beside = Callable[[Stage], Coroutine[None, None, None]]


async def play(
    models: Sequence[Model],
    arrivals: Sequence[Arrival],
    *,
    speed: float,
    gateways: Sequence[float] = (1.0,),
    leasing: bool = True,
    beside: Beside | None = None,
) -> Outcome:
    """Plays `arrivals`, which begin at 0 s, for each model at once.

    `gateways`: the share of the callers that each of them gets, adding up to 1. One is the Envoy that `spillway run`
    starts; several are started beside it, with one worker each. `leasing` False: each keeps its static part of a limit.
    `beside` runs while the load is played. Metrics cannot be asked more often than every 0.1 s of the run, so `speed`
    is at most 10 where a model has one.
    """
    with tempfile.TemporaryDirectory(prefix="spillway-") as directory:
        async with stage(Path(directory), models, speed, gateways, leasing=leasing) as set_up:
            load = _load(set_up, models, arrivals)
            async with process.running(player.run, load) as callers:
                await callers.receive()
                return await _play(set_up, load, callers, models, beside)


@asynccontextmanager
async def stage(
    directory: Path, models: Sequence[Model], speed: float, gateways: Sequence[float], *, leasing: bool
) -> AsyncIterator[Stage]:
    """Servers, a controller and its gateways, programmed with all models."""
    options = [server.ServerOptions(each.name, each.slots, _faster(LOCAL, speed)) for each in models]
    options.append(server.ServerOptions(REMOTE_NAME, None, _faster(REMOTE, speed)))
    alone = len(gateways) == 1
    flags = ["--access-log", "/dev/null", *([] if alone else ["--no-envoy"])]
    interval_s = max(INTERVAL_MIN_S, SIGNAL_S / speed)
    config = {"metricInformer": {"type": "endpoints", "endpoints": {"intervalSeconds": interval_s}}}
    async with AsyncExitStack() as block:
        servers = await block.enter_async_context(process.running(server.serve, tuple(options)))
        ports: Mapping[str, int] = await servers.receive()
        files = {f"{each.name}.yaml": manifests(each, ports, speed) for each in models}
        stack = await block.enter_async_context(running(directory / "run", files, config, flags))
        started = _own(stack) if alone else await _others(block, stack, len(gateways), leasing=leasing)
        await eventually(lambda: _programmed(stack, len(models), len(gateways)), "all models are programmed")
        entries = tuple(
            player.Gateway("127.0.0.1", port, share) for (port, _), share in zip(started, gateways, strict=True)
        )
        yield Stage(stack, entries, tuple(pid for _, pid in started), ports, servers, speed)


def _own(stack: Stack) -> list[tuple[int, int]]:
    """The port and the process of the Envoy that `spillway run` started."""
    identity = json.loads((stack.directory / "state" / "envoy.json").read_text())
    return [(_port(stack.addresses["listen"]), identity["pid"])]


async def _others(block: AsyncExitStack, stack: Stack, count: int, *, leasing: bool) -> list[tuple[int, int]]:
    """Starts gateways of one worker each; the ports and the processes."""
    started = []
    for name in (f"gateway-{number}" for number in range(count)):
        bootstrap = envoy.bootstrap(_port(stack.addresses["xds"]), name)
        configuration = bootstrap if leasing else _without_leases(bootstrap)
        started.append(await block.enter_async_context(envoy.running(stack.directory / name, configuration)))
    return [((await each.listener("front"))[1], each.process.pid) for each in started]


def _without_leases(bootstrap: str) -> str:
    """As it was before there were leases: such a gateway keeps its static part."""
    lines = bootstrap.splitlines(keepends=True)
    return "".join(line for line in lines if not line.lstrip().startswith(("- {name: lent,", "- {name: borrowed,")))


def manifests(model: Model, ports: Mapping[str, int], speed: float, **behavior: object) -> tuple[dict[str, Any], ...]:
    """What a user would write for it, `speed` times faster, defaults too. `behavior`: fields to change."""
    config = dict(model.offloading)
    whole = {**Behavior().model_dump(by_alias=True, mode="json"), **config.get("behavior", {}), **behavior}
    config["behavior"] = {name: value / speed if name.endswith("Seconds") else value for name, value in whole.items()}
    config["remoteBackend"] = {"host": f"127.0.0.1:{ports[REMOTE_NAME]}"}
    spec = {
        "model": model.name,
        "modelSourceRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": model.name},
        "serviceRef": {"name": model.name, "targetPort": 80},
        "offloadingConfig": config,
    }
    labels = {"kubernetes.io/service-name": model.name}
    return (
        _object("deployment.beamlit.com/v1alpha1", "ModelDeployment", {"name": model.name}, spec=spec),
        _object("v1", "Service", {"name": model.name}, spec={"ports": [{"port": 80, "targetPort": 8000}]}),
        _object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            {"name": f"{model.name}-1", "labels": labels},
            addressType="IPv4",
            ports=[{"port": ports[model.name]}],
            endpoints=[{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        ),
    )


def _object(version: str, kind: str, metadata: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def _faster(timing: Timing, speed: float) -> Timing:
    return Timing(timing.base_s / speed, timing.context_token_s / speed, timing.generated_token_s / speed)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


async def _programmed(stack: Stack, models: int, gateways: int) -> bool:
    status = await stack.status()
    ready = [
        model
        for model in status["models"]
        if any(each["type"] == "Programmed" and each["status"] == "True" for each in model["conditions"])
    ]
    return len(ready) == models and len({each["gateway"] for each in status["gateways"]}) == gateways


def _load(set_up: Stage, models: Sequence[Model], arrivals: Sequence[Arrival]) -> player.Play:
    """The callers' part. Hosts begin one mean gap between two arrivals apart, divided by their number."""
    faster = tuple(replace(each, at_s=each.at_s / set_up.speed) for each in arrivals)
    step_s = faster[-1].at_s / len(faster) / len(models)
    hosts = tuple(player.Host(each.name, number * step_s) for number, each in enumerate(models))
    return player.Play(set_up.gateways, hosts, faster, TAIL_S / set_up.speed, IN_FLIGHT * len(models))


async def _play(
    set_up: Stage, load: player.Play, callers: process.Process, models: Sequence[Model], beside: Beside | None
) -> Outcome:
    assert set_up.stack.process is not None, "the stack was started"
    pids = [set_up.stack.process.pid, *set_up.envoys]
    began_cpu_s = [cpu_s(pid) for pid in pids]
    begin_s, begin_wall_s = time.monotonic() + LEAD_S, time.time() + LEAD_S
    set_up.servers.send((begin_s, begin_s + load.length_s))
    callers.send(begin_s)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(beside(set_up)) if beside else None
        answered: player.PlayerReport = await callers.receive()
        if task is not None:
            task.cancel()
    used_s = [cpu_s(pid) - before_s for pid, before_s in zip(pids, began_cpu_s, strict=True)]
    report: server.ServersReport = await set_up.servers.receive()
    all_answers = [answer for answers in answered.answers.values() for answer in answers]
    usage = Usage(
        player=answered.cpu_s / load.length_s,
        servers=report.cpu_s / load.length_s,
        controller=used_s[0] / load.length_s,
        envoys=sum(used_s[1:]) / load.length_s,
        player_late_s=tuple(answer.sent_s for answer in all_answers if answer.sent_s < inf),
        servers_late_s=tuple(report.late_s),
    )
    delays_s = {host.name: host.delay_s for host in load.hosts}
    return Outcome(
        served={name: served(load.arrivals, answers, set_up.speed) for name, answers in answered.answers.items()},
        decided={
            each.name: decided(set_up.stack.log, each.key, begin_wall_s + delays_s[each.name], set_up.speed)
            for each in models
        },
        in_progress=report.in_progress,
        errors=sum(answer.status not in (0, 200) for answer in all_answers),
        usage=usage,
    )


def served(arrivals: Sequence[Arrival], answers: Sequence[player.Answer], speed: float) -> list[Served]:
    """Of a run that was `speed` times faster, in the load's own time."""
    return [
        Served(
            at_s=arrival.at_s * speed,
            destination=answer.destination if answer.status == 200 else "",
            first_byte_s=answer.first_byte_s * speed if answer.status == 200 else inf,
            done_s=(arrival.at_s + answer.done_s) * speed,
            context_tokens=arrival.context_tokens,
            generated_tokens=arrival.generated_tokens,
        )
        for arrival, answer in zip(arrivals, answers, strict=True)
    ]


def decided(log: str, key: str, begin_wall_s: float, speed: float) -> list[Decided]:
    """The model's changes of state after the beginning, as the controller logged them; first, the state it began in."""
    found = [Decided(0.0, "Standby", 0)]
    for line in log.splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("model") != key or "state" not in entry:
            continue
        at_s = (datetime.fromisoformat(entry["time"]).timestamp() - begin_wall_s) * speed
        if at_s < 0:
            found = [Decided(0.0, entry["state"], int(entry["share_ppm"]))]
        else:
            found.append(Decided(at_s, entry["state"], int(entry["share_ppm"])))
    return found
