"""Our side: the product's publisher and xDS server with a number of models, and nothing else of the controller.

It answers a line of JSON on stdin with a line on stdout; `Plane` has a method for each command. Times are taken here:
from before a share is published until the publisher has heard the ACK.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path
from typing import Any

from controller import collector
from controller.telemetry import Telemetry
from xds import ir
from xds.publisher import Publisher
from xds.server import Server, ServerTls
from xds.session import Session
from xds.snapshot import ROUTE, Resource
from xds.subscription import Ack
from xds.translate import Gateway

REMOTE = ir.Remote(ir.Backend("models.example.com", 443, ir.Tls("models.example.com", "models.example.com")), "llama")


def model(number: int, remote_ppm: int = 0) -> ir.Route:
    """With a replica and a remote that gets this share."""
    return ir.Route(
        f"default/model-{number}",
        (f"model-{number}",),
        ir.Local((ir.Endpoint("10.0.0.1", 8000),)),
        (REMOTE,),
        _chains(remote_ppm),
    )


def _chains(remote_ppm: int) -> tuple[ir.Chain, ...]:
    shares = ("local", ir.PPM - remote_ppm, "remote-0"), ("remote-0", remote_ppm, "local")
    return tuple(ir.Chain(first, ppm, (other,)) for first, ppm, other in shares if ppm)


class Listener(Publisher):
    """A publisher that says who has acknowledged what, and when."""

    def __init__(self) -> None:
        super().__init__(Gateway(), lambda event: None)
        self.awaited: dict[int, Change] = {}
        """By the identity of the changed resource."""

    def hear(self, gateway: str, session: Session, report: Any) -> None:
        super().hear(gateway, session, report)
        if self.awaited and isinstance(report, Ack):
            for each in report.resources:
                if change := self.awaited.get(id(each)):
                    change.heard(gateway)


class Change:
    """One share that moved: how long each of those who were to hear of it took, in seconds."""

    def __init__(self, resource: Resource, expected: int, among: str, started_s: float) -> None:
        self.resource = resource
        self.seconds: list[float] = []
        self.done = asyncio.Event()
        self._expected = expected
        self._among = among
        self._started_s = started_s

    def heard(self, gateway: str) -> None:
        if gateway.startswith(self._among):
            self.seconds.append(time.perf_counter() - self._started_s)
            if len(self.seconds) == self._expected:
                self.done.set()


class Plane:
    def __init__(self, models: int) -> None:
        self.publisher = Listener()
        self.server = Server(self.publisher, Telemetry())
        self._models = [model(number) for number in range(models)]
        self._turns = cycle(range(models))
        self._shares = count(1)
        self._churn: asyncio.Task[None] | None = None
        self._changes: list[Change] = []
        self.publisher.publish(ir.Update({each.name: each for each in self._models}))

    async def change(self, acks: int) -> dict[str, Any]:
        """Moves one share, and waits until that many streams have acknowledged it."""
        cpu_s = time.process_time()
        change = self._move(acks, "")
        await change.done.wait()
        del self.publisher.awaited[id(change.resource)]
        return {"seconds": change.seconds[-1], "first_s": change.seconds[0], "cpu_s": time.process_time() - cpu_s}

    async def churn(self, every_s: float, observers: int, among: str) -> dict[str, Any]:
        """From now on moves a share, of one model after the other, at this interval."""

        async def move() -> None:
            while True:
                self._changes.append(self._move(observers, among))
                await asyncio.sleep(every_s)

        self._changes = []
        self._churn = asyncio.create_task(move())
        return {}

    async def rest(self) -> dict[str, Any]:
        """Ends the churn. How long each observer took for each share that moved meanwhile."""
        assert self._churn
        self._churn.cancel()
        async with asyncio.timeout(60):
            for change in self._changes:
                await change.done.wait()
        self.publisher.awaited.clear()
        return {"changes": len(self._changes), "seconds": [each for one in self._changes for each in one.seconds]}

    async def collect(self) -> dict[str, Any]:
        """Nothing: memory is measured as it is. (Go's is measured without its garbage.)"""
        return {}

    async def resources(self) -> dict[str, Any]:
        """All that this serves of the type that clients ask for: name -> google.protobuf.Any, in hexadecimal."""
        return {each.name: each.body.hex() for each in self.publisher.snapshot.logs[ROUTE].resources()}

    def _move(self, expected: int, among: str) -> Change:
        number = next(self._turns)
        moved = replace(self._models[number], chains=_chains(next(self._shares) % 499_999 + 1))
        started_s = time.perf_counter()
        self.publisher.publish(ir.Update({moved.name: moved}))
        entry = self.publisher.snapshot.logs[ROUTE].get(f"choose/{moved.name}")
        assert entry
        change = self.publisher.awaited[id(entry.resource)] = Change(entry.resource, expected, among, started_s)
        return change


def tls(directory: Iterable[str]) -> ServerTls | None:
    """From the files that `pki.write` left there."""
    for each in map(Path, directory):
        return ServerTls(each / "server.pem", each / "server.key", each / "ca.pem")
    return None


async def main() -> None:
    models, *directory = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with collector.at_rest():  # as `spillway run` does
        plane = Plane(int(models))
    print(json.dumps({"port": await plane.server.start("127.0.0.1:0", tls(directory))}), flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        command = json.loads(line)
        print(json.dumps(await getattr(plane, command.pop("do"))(**command)), flush=True)
    await plane.server.stop(grace_s=5)


if __name__ == "__main__":
    asyncio.run(main())
