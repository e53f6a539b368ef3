"""Shell: one run of the demo: a simulated world in one process, the controller with its Envoy in another, and a trace.

The controller is started as a user starts it, with `spillway run` on a directory of manifests, and the demo looks only
at what everybody can see: answers, /status, the access log. Whatever happens, all processes are ended and the directory
is removed.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import yaml

from controller.demo import manifests
from controller.demo.baseline import first_token_waits_s
from controller.demo.children import ChildError, Children
from controller.demo.frame import frame_of, tells_apart
from controller.demo.measure import STANDBY, Moment, Outcome, Summary, departure_of, moment_of, summarize
from controller.demo.player import Player, Target
from controller.demo.scenario import MODEL, Scenario
from controller.demo.trace import bundled_trace
from controller.demo.view import LiveView, PlainView, addresses_text

START_S = 45.0
RETURN_S = 25.0
POLL_S = 0.25
CONTROLLER, WORLD = "controller", "simulated world"
FREE = "127.0.0.1:0"
ACCESS_LOG = "access.log"

View = LiveView | PlainView


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What a run left behind. `without_s`: for each request in the order of arrival, the wait with local alone."""

    outcomes: Sequence[Outcome]
    moments: Sequence[Moment]
    without_s: Sequence[float]
    summary: Summary


async def run(scenario: Scenario, view: View) -> Recording:
    """Plays the scenario. Raises DemoError or ChildError."""
    requests = scenario.requests(bundled_trace())
    without_s = first_token_waits_s(requests, scenario.slots, scenario.local)
    with tempfile.TemporaryDirectory(prefix="spillway-demo-") as name:
        directory = Path(name)
        async with Children(directory) as children:
            view.say(
                "Starting a model with a few slots, a remote behind TLS, an OAuth2 issuer, DNS, Spillway and Envoy"
            )
            addresses = await _start(children, directory, scenario)
            player = Player(Target(addresses["listen"], manifests.HOST, MODEL), requests)
            moments = await children.while_alive(_watched(player, addresses, view))
        departures = [why for line in _access_log(directory) if (why := departure_of(line))]
    summary = summarize(player.outcomes, moments, departures, without_s, scenario.slow_s, scenario.overflows)
    return Recording(player.outcomes, moments, without_s, summary)


async def _watched(player: Player, addresses: Mapping[str, str], view: View) -> list[Moment]:
    """Plays the trace, and returns what the controller said meanwhile, until the model is back in Standby."""
    moments: list[Moment] = []
    give_up_s = math.inf
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        status = Status(session, addresses["admin"])
        await _ready(status)
        view.say(addresses_text(addresses, manifests.HOST, MODEL))
        player.start()
        async with asyncio.TaskGroup() as group:
            playing = group.create_task(player.run())
            with view:
                while not (playing.done() and moments and moments[-1].state == STANDBY):
                    if moment := await status.moment(player.now_s):
                        if tells_apart(moments[-1] if moments else None, moment):
                            view.event(moment)
                        moments.append(moment)
                    view.show(frame_of(player.outcomes, moments, player.in_flight, player.now_s))
                    give_up_s = min(give_up_s, player.now_s + RETURN_S) if playing.done() else give_up_s
                    if player.now_s >= give_up_s:
                        break
                    await asyncio.sleep(POLL_S)
    return moments


class Status:
    """The controller's /status."""

    def __init__(self, session: aiohttp.ClientSession, admin: str) -> None:
        self._session = session
        self._url = f"http://{admin}/status"

    async def moment(self, at_s: float) -> Moment | None:
        """What it says now; None if it does not answer, which is only a gap: whether it lives is watched elsewhere."""
        try:
            async with self._session.get(self._url) as response:
                return moment_of(await response.json(), at_s)
        except (aiohttp.ClientError, TimeoutError):
            return None


async def _ready(status: Status) -> None:
    """Waits until the metric is known and the remote can be used: its name found, its token delivered."""
    latest: Moment | None = None
    try:
        async with asyncio.timeout(START_S):
            while latest is None or latest.obstacle or latest.value is None:
                await asyncio.sleep(POLL_S)
                latest = await status.moment(0.0)
    except TimeoutError:
        value, obstacle = (latest.value, latest.obstacle) if latest else (None, "the controller does not answer")
        metric = "not known" if value is None else "known"
        raise DemoError(
            f"not ready after {START_S:g} s; the metric is {metric}; the remote: {obstacle or 'ready'}"
        ) from None


async def _start(children: Children, directory: Path, scenario: Scenario) -> dict[str, str]:
    """The world, and then the controller on manifests that lead to it. Returns the controller's addresses."""
    try:
        async with asyncio.timeout(START_S):
            client_secret = secrets.token_urlsafe(24)
            world = await _start_world(children, scenario, client_secret)
            _write(directory, world, scenario, client_secret)
            return await _start_controller(children, directory)
    except TimeoutError:
        raise DemoError(f"not started after {START_S:g} s; {children.last_words()}") from None


async def _start_world(children: Children, scenario: Scenario, client_secret: str) -> manifests.World:
    process = await children.start(WORLD, "controller.demo.world", talks=True)
    settings = {
        "slots": scenario.slots,
        "local": asdict(scenario.local),
        "remote": asdict(scenario.remote),
        "client_secret": client_secret,
    }
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a child that talks has pipes")
    process.stdin.write(json.dumps(settings).encode() + b"\n")
    line = await process.stdout.readline()
    if not line:
        raise ChildError(f"the {WORLD} did not start; {children.last_words(WORLD)}")
    return manifests.World(**json.loads(line))


def _write(directory: Path, world: manifests.World, scenario: Scenario, client_secret: str) -> None:
    """The files that `spillway run` is given."""
    folder = directory / "manifests"
    folder.mkdir()
    documents = manifests.manifests(world, scenario, client_secret)
    (folder / "demo.yaml").write_text(yaml.safe_dump_all(documents, sort_keys=False))
    (directory / "config.yaml").write_text(yaml.safe_dump(manifests.config(world)))


async def _start_controller(children: Children, directory: Path) -> dict[str, str]:
    """`spillway run` with free ports. Returns its addresses by name, once traffic is served."""
    ready = directory / "ready.json"
    flags = {
        "config": directory / "config.yaml",
        "state-dir": directory / "state",
        "access-log": directory / ACCESS_LOG,
        "ready-file": ready,
        "drain-seconds": 1,
        "log-format": "text",
        **dict.fromkeys(("listen", "xds", "admin", "envoy-admin"), FREE),
    }
    arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    await children.start(CONTROLLER, "controller", ["run", str(directory / "manifests"), *arguments])
    await children.while_alive(_exists(ready))
    addresses: dict[str, str] = json.loads(ready.read_text())
    return addresses


async def _exists(path: Path) -> None:
    while not path.exists():  # noqa: ASYNC110, ASYNC240 - a file has no event
        await asyncio.sleep(POLL_S)


def _access_log(directory: Path) -> list[str]:
    """Read when Envoy has ended: it writes in batches."""
    path = directory / ACCESS_LOG
    return path.read_text().splitlines() if path.exists() else []
