"""The light client: one process, one thread, thousands of connections with a stream each.

It answers a line of JSON on stdin with a line on stdout; `Clients` has a method for each command.
"""

from __future__ import annotations

import json
import resource
import select
import ssl
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.streams import wire
from benchmarks.streams.connection import Connection, LostError
from protos.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse
from xds.snapshot import ROUTE

QUIET_S = 0.1
"""No response has come for so long: whatever was on its way has arrived."""


class Clients:
    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        self._address = "127.0.0.1", port
        self._tls = tls
        self._answers = wire.Answers(ROUTE)
        self._epoll = select.epoll()
        self._open: dict[int, Connection] = {}
        self._lost: list[str] = []
        self._heard = 0
        """Connections that got a response."""
        self._first: list[bytes] = []
        """What the first of them got."""

    def open(self, name: str, count: int, at_once: int, *, known: bool) -> dict[str, Any]:
        """Adds streams, at most `at_once` of them without their first response, until each has got one.

        `known`: they say that they have all that the first stream was sent.
        """
        started, cpu_s = time.monotonic(), time.process_time()
        rest = wire.subscription(ROUTE, self._learnt() if known else {})
        heard, lost, opened = self._heard, len(self._lost), 0
        while (done := self._heard - heard + len(self._lost) - lost) < count:
            while opened < count and opened - done < at_once:
                self._add(wire.introduction(f"{name}-{opened}"), rest)
                opened += 1
            self._turn(None)
        return {"seconds": time.monotonic() - started, "cpu_s": time.process_time() - cpu_s, **self.status()}

    def quiet(self) -> dict[str, Any]:
        """Waits until no response comes any more. (Of thousands of connections some have a ping at any time.)"""
        heard, until_s = self._answers.given, time.monotonic() + QUIET_S
        while (left_s := until_s - time.monotonic()) > 0:
            self._turn(left_s)
            if self._answers.given != heard:
                heard, until_s = self._answers.given, time.monotonic() + QUIET_S
        return self.status()

    def status(self) -> dict[str, Any]:
        return {"open": len(self._open), "lost": len(self._lost), "why": self._lost[:3]}

    def cpu(self) -> dict[str, Any]:
        return {"cpu_s": time.process_time()}

    def follow(self) -> None:
        """Goes on until there is a command to read."""
        commands = select.poll()
        commands.register(sys.stdin, select.POLLIN)
        self._epoll.register(sys.stdin, select.EPOLLIN)
        while not commands.poll(0):
            self._turn(None)
        self._epoll.unregister(sys.stdin)

    def _add(self, *request: bytes) -> None:
        connection = Connection(self._address, self._tls, self._answers)
        connection.ask(*request)
        if not self._open:
            connection.kept = self._first
        self._open[connection.fileno()] = connection
        self._epoll.register(connection, connection.events)

    def _learnt(self) -> dict[str, str]:
        responses = map(DeltaDiscoveryResponse.FromString, self._first)
        return {each.name: each.version for response in responses for each in response.resources}

    def _turn(self, timeout_s: float | None) -> None:
        """Goes on with every connection that can."""
        for fileno, _ in self._epoll.poll(timeout_s):
            connection = self._open.get(fileno)
            if connection is None:
                continue
            heard, events = connection.has_heard, connection.events
            try:
                connection.ready()
            except LostError as error:
                self._lost.append(str(error))
                del self._open[fileno]
                connection.close()
                continue
            self._heard += connection.has_heard - heard
            if connection.events != events:
                self._epoll.modify(fileno, connection.events)


def context(directory: Path) -> ssl.SSLContext:
    """For mutual TLS, with the files that `pki.write` left there."""
    made = ssl.create_default_context(cafile=directory / "ca.pem")
    made.load_cert_chain(directory / "client.pem")
    made.set_alpn_protocols(["h2"])
    return made


def main() -> None:
    port, *directory = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    clients = Clients(int(port), context(Path(directory[0])) if directory else None)
    while True:
        clients.follow()
        line = sys.stdin.readline()
        if not line:
            return
        command = json.loads(line)
        print(json.dumps(getattr(clients, command.pop("do"))(**command)), flush=True)


if __name__ == "__main__":
    main()
