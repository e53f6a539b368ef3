"""Callers, all in one process: each request is sent at its own time, whatever became of the others (an open loop).

The same load is played for every host, each one a little later than the one before, so that they do not ask in step.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from multiprocessing.connection import Connection
from typing import NamedTuple

from benchmarks.workload import wire
from controller.simulate.workload import Arrival

OPEN_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Gateway:
    """A front listener, and the share of all requests that callers bring to it."""

    address: str
    port: int
    share: float


@dataclass(frozen=True, slots=True)
class Host:
    """Who is asked. Its load begins `delay_s` after the play's begin."""

    name: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class Play:
    """Times are seconds of the run. What is unanswered `tail_s` after the last request stays so.

    `connections`: how many are open before the first request, over all gateways.
    """

    gateways: tuple[Gateway, ...]
    hosts: tuple[Host, ...]
    arrivals: tuple[Arrival, ...]
    tail_s: float
    connections: int
    seed: int = 0

    @property
    def length_s(self) -> float:
        """From the first request to giving up."""
        return self.arrivals[-1].at_s + max(host.delay_s for host in self.hosts) + self.tail_s


class Answer(NamedTuple):
    """What a caller saw. Times are seconds since the request was due, infinite where that never came; `status` 0: no
    answer.
    """

    sent_s: float
    first_byte_s: float
    done_s: float
    status: int
    destination: str


@dataclass(frozen=True, slots=True)
class PlayerReport:
    """`answers`: by host, in the order of the arrivals."""

    answers: dict[str, list[Answer]]
    cpu_s: float


class _Call:
    """A request and what has come of it."""

    __slots__ = ("arrival", "destination", "done_s", "due_s", "first_byte_s", "host", "sent_s", "status")

    def __init__(self, host: str, arrival: Arrival, due_s: float) -> None:
        self.host = host
        self.arrival = arrival
        self.due_s = due_s
        self.sent_s = self.first_byte_s = self.done_s = inf
        self.status = 0
        self.destination = ""

    @property
    def answer(self) -> Answer:
        due_s = self.due_s
        return Answer(
            self.sent_s - due_s, self.first_byte_s - due_s, self.done_s - due_s, self.status, self.destination
        )


class _Connection(asyncio.Protocol):
    """One connection to a gateway: one request at a time, then back among `idle`."""

    def __init__(self, idle: list[_Connection]) -> None:
        self._idle = idle
        self._call: _Call | None = None
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def send(self, call: _Call) -> None:
        assert self._transport is not None, "only what is connected is idle"
        self._call = call
        arrival = call.arrival
        self._transport.write(wire.request(call.host, arrival.context_tokens, arrival.generated_tokens))
        call.sent_s = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "TCP connections have one"
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now_s = time.monotonic()
        call = self._call
        received = wire.read(self._data + data)
        if call is None or received is None:
            self._data += data
            return
        if not call.status:
            call.first_byte_s = now_s
            call.status, call.destination = wire.answer_head(received.head)
        if received.complete:
            call.done_s = now_s
            self._call, self._data = None, b""
            self._idle.append(self)
        else:
            self._data += data

    def connection_lost(self, exc: Exception | None) -> None:
        with suppress(ValueError):
            self._idle.remove(self)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Player:
    def __init__(self, play: Play) -> None:
        self._play = play
        self._rng = random.Random(play.seed)
        self._shares = [gateway.share for gateway in play.gateways]
        self._idle: list[list[_Connection]] = [[] for _ in play.gateways]
        self._opened: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self.calls: dict[str, list[_Call]] = {host.name: [] for host in play.hosts}

    async def connect(self) -> None:
        """Opens connections to each gateway by its share."""
        for number, gateway in enumerate(self._play.gateways):
            missing = max(1, round(self._play.connections * gateway.share))
            while missing > 0:
                some = (self._open(number) for _ in range(min(missing, OPEN_AT_ONCE)))
                self._idle[number] += await asyncio.gather(*some)
                missing -= OPEN_AT_ONCE

    async def run(self, begin_s: float) -> None:
        """Plays from `begin_s` (monotonic) on; returns when the play is over."""
        schedule = self._schedule(begin_s)
        loop = asyncio.get_running_loop()

        def send_due(call: _Call | None) -> None:
            while call is not None and call.due_s <= time.monotonic():
                self._send(call)
                call = next(schedule, None)
            if call is not None:
                loop.call_at(call.due_s, send_due, call)

        send_due(next(schedule, None))
        await asyncio.sleep(begin_s + self._play.length_s - time.monotonic())

    def close(self) -> None:
        for task in self._opening:
            task.cancel()
        for connection in self._opened:
            connection.close()

    def _schedule(self, begin_s: float) -> Iterator[_Call]:
        """All requests in the order in which they are due."""

        def of(host: Host) -> Iterator[_Call]:
            start_s = begin_s + host.delay_s
            return (_Call(host.name, arrival, start_s + arrival.at_s) for arrival in self._play.arrivals)

        return heapq.merge(*(of(host) for host in self._play.hosts), key=lambda call: call.due_s)

    def _send(self, call: _Call) -> None:
        self.calls[call.host].append(call)
        number = self._rng.choices(range(len(self._shares)), self._shares)[0] if len(self._shares) > 1 else 0
        if self._idle[number]:
            self._idle[number].pop().send(call)
            return
        task = asyncio.get_running_loop().create_task(self._send_on_a_new_one(number, call))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _send_on_a_new_one(self, number: int, call: _Call) -> None:
        with suppress(OSError):  # then the request has no answer
            (await self._open(number)).send(call)

    async def _open(self, number: int) -> _Connection:
        gateway = self._play.gateways[number]
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self._idle[number]), gateway.address, gateway.port
        )
        self._opened.append(connection)
        return connection


def run(pipe: Connection, play: Play) -> None:
    """The process: sends None when it is connected, is sent when to begin (monotonic s), sends its report."""
    asyncio.run(_run(pipe, play))


async def _run(pipe: Connection, play: Play) -> None:
    player = _Player(play)
    await player.connect()
    pipe.send(None)
    with suppress(EOFError):  # whoever started this has ended
        begin_s = await asyncio.to_thread(pipe.recv)
        began_cpu_s = time.process_time()
        await player.run(begin_s)
        used_s = time.process_time() - began_cpu_s
        player.close()
        pipe.send(PlayerReport(_answers(player.calls), used_s))


def _answers(calls: dict[str, list[_Call]]) -> dict[str, list[Answer]]:
    return {host: [call.answer for call in made] for host, made in calls.items()}
