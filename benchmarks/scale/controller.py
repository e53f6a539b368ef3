"""The real controller in a process of its own, driven over its standard input.

It is `controller.main` without what brings events from outside: manifests, engine, publisher, xDS port and state file
are the product's, composed by its own `Standalone`; metric samples come in as lines instead of from Prometheus. Each
line is `{"model": key, "value": number}`. When every gateway has acknowledged what came of it, the controller says at
which times what happened.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from controller.events import Effect, Event, Observed, Publish
from controller.main import RunOptions, Standalone
from controller.metrics import Source, Value
from controller.settings import MetricInformer, Settings
from controller.telemetry import configure_logging
from xds.events import Programmed

NOWHERE = ("127.0.0.1", 0)
_BYTES_ACKED = 120
"""Where `tcpi_bytes_acked` stands in Linux' struct tcp_info."""


@dataclass(frozen=True, slots=True)
class Change:
    """What came of a sample. Times are on the monotonic clock, which all processes of a machine share.

    `entered_s`: the sample was queued for the engine. `published_s`: the engine had decided, and the change was in the
    snapshot. `acknowledged_s`: every gateway had it, and the engine knew. `sent_bytes`: all that left on the xDS
    connections meanwhile, HTTP/2 and gRPC included.
    """

    entered_s: float
    published_s: float
    acknowledged_s: float
    sent_bytes: int


class Driven:
    """The controller as its driver sees it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid
        self.xds_port = int(self._read()["xds_port"])

    def observe(self, model: str, value: float) -> None:
        """Gives it a sample."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"model": model, "value": value}).encode() + b"\n")
        self._process.stdin.flush()

    def change(self) -> Change:
        """Waits until the last sample's change has been acknowledged."""
        return Change(**self._read())  # type: ignore[arg-type]

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the controller ended: {self._log.read_text()[-2000:]}")
        read: dict[str, float] = json.loads(line)
        return read


@contextmanager
def driven(directory: Path, state_directory: Path) -> Iterator[Driven]:
    """Starts it on a directory of manifests; it has read them all, and serves xDS, when the block begins."""
    command = [sys.executable, "-m", "benchmarks.scale.controller", str(directory), str(state_directory)]
    log = directory.parent / "controller.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
    try:
        yield Driven(process, log)
    finally:
        process.kill()
        process.communicate()


def arguments(directory: Path, state_directory: Path) -> tuple[RunOptions, Settings]:
    """What a `Runtime` is made of here. External metrics are of Prometheus, which nobody asks."""
    options = RunOptions(
        directory, state_directory, NOWHERE, NOWHERE, NOWHERE, NOWHERE, start_envoy=False, access_log="/dev/null"
    )
    state_directory.mkdir(parents=True, exist_ok=True)
    return options, Settings(metric_informer=MetricInformer(type=Source.PROMETHEUS))


class Driveable(Standalone):
    """What can be driven by lines of JSON."""

    async def obey(self, line: Any) -> None:
        raise NotImplementedError


class _Changes(Driveable):
    """Tells, one line each, when a model's sample entered, was published, and was acknowledged by every gateway."""

    entered_s = published_s = 0.0
    sent_before = 0
    model = ""
    connections: tuple[socket.socket, ...] = ()

    async def obey(self, line: Any) -> None:
        """Queues a sample, as a metric source does."""
        model: str = line["model"]
        query = self.engine.records[model].gauges[0].query
        assert query is not None
        if not self.connections:
            self.connections = tuple(_connections(int(self.addresses["xds"].rpartition(":")[2])))
        self.sent_before = sum(map(_sent_bytes, self.connections))
        self.model, self.entered_s = model, time.monotonic()
        self.queue.put_nowait(Observed(query, Value(line["value"])))

    def carry_out(self, effects: Sequence[Effect]) -> None:
        super().carry_out(effects)
        if any(isinstance(effect, Publish) for effect in effects):
            self.published_s = time.monotonic()

    def _count(self, event: Event) -> None:
        super()._count(event)
        if isinstance(event, Programmed) and self.model in event.routes:
            acknowledged_s = time.monotonic()
            sent = sum(map(_sent_bytes, self.connections)) - self.sent_before
            self.model = ""
            say(**asdict(Change(self.entered_s, self.published_s, acknowledged_s, sent)))


def _connections(port: int) -> Iterator[socket.socket]:
    """This process' connections from a port."""
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # one that is closed meanwhile, or a socket that only listens
            if stat.S_ISSOCK(entry.stat().st_mode):
                found = socket.socket(fileno=os.dup(int(entry.name)))
                found.getpeername()
                own = found.getsockname()
                if isinstance(own, tuple) and own[1] == port:
                    yield found


def _sent_bytes(connection: socket.socket) -> int:
    """All that has been sent and has arrived, by TCP's own books."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
    sent: int = struct.unpack_from("=Q", info, _BYTES_ACKED)[0]
    return sent


async def attend(runtime: Driveable) -> None:
    """Runs a controller that says its xDS port, and then takes each line of standard input, up to its end."""
    runtime.load()
    port = await runtime.server.start("127.0.0.1:0")
    runtime.addresses["xds"] = f"127.0.0.1:{port}"
    say(xds_port=port)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with asyncio.TaskGroup() as group:
        parts = (runtime.decide(), runtime.server.run(), runtime.state.run())
        tasks = [group.create_task(part) for part in parts]
        async for line in lines:
            await runtime.obey(json.loads(line))
        for task in tasks:
            task.cancel()


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    configure_logging("info", "json")
    asyncio.run(attend(_Changes(*arguments(*map(Path, sys.argv[1:])))))
