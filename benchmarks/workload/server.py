"""Simulated model servers, many in one process: each has slots, a queue in the order of arrival, and vLLM's metrics.

They compute nothing and take the time that a model would. What is due at a moment counts as done at that moment, even
where the loop came to it a little later, so that small delays do not add up to a slower model.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Protocol

from benchmarks.workload import wire
from controller.simulate.workload import Arrival, Timing

SAMPLE_S = 0.01


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """What is used of an event loop."""

    def time(self) -> float: ...
    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> Timer: ...


class Caller(Protocol):
    """Whoever waits for an answer."""

    def first_byte(self) -> None: ...
    def last_byte(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """`slots`: how many requests are answered at once, None: all. `timing`: in seconds of the run."""

    name: str
    slots: int | None
    timing: Timing


@dataclass(slots=True)
class _Call:
    caller: Caller
    asked: Arrival
    timers: tuple[Timer, ...] = ()


class ModelServer:
    """The slots and the queue of one server."""

    def __init__(self, options: ServerOptions, clock: Clock) -> None:
        self.options = options
        self.running = 0
        self._clock = clock
        self._queue: deque[_Call] = deque()
        self._calls: dict[Caller, _Call] = {}

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def metrics(self) -> str:
        """The page, under the names of vLLM."""
        label = f'{{model_name="{self.options.name}"}}'
        return (
            f"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{label} {self.running}\n"
            f"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{label} {self.waiting}\n"
        )

    def take(self, caller: Caller, context_tokens: int, generated_tokens: int) -> None:
        """A request came: it gets a slot or waits for one."""
        now_s = self._clock.time()
        call = self._calls[caller] = _Call(caller, Arrival(now_s, context_tokens, generated_tokens))
        if self.options.slots is None or self.running < self.options.slots:
            self._begin(call, now_s)
        else:
            self._queue.append(call)

    def drop(self, caller: Caller) -> None:
        """The caller went away; its slot or its place in the queue is free."""
        call = self._calls.pop(caller, None)
        if call is None:
            return
        if not call.timers:
            self._queue.remove(call)
            return
        for timer in call.timers:
            timer.cancel()
        self._free(self._clock.time())

    def _begin(self, call: _Call, at_s: float) -> None:
        self.running += 1
        timing, call_at = self.options.timing, self._clock.call_at
        last_s = at_s + timing.service_s(call.asked)
        call.timers = (
            call_at(at_s + timing.first_byte_s(call.asked), call.caller.first_byte),
            call_at(last_s, self._end, call, last_s),
        )

    def _end(self, call: _Call, at_s: float) -> None:
        del self._calls[call.caller]
        call.caller.last_byte()
        self._free(at_s)

    def _free(self, at_s: float) -> None:
        self.running -= 1
        if self._queue:
            self._begin(self._queue.popleft(), at_s)


class _Connection(asyncio.Protocol):
    """One connection of a gateway's or of a scraper's."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "TCP connections have one"
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        received = wire.read(self._data + data)
        if received is None or not received.complete:
            self._data += data
            return
        self._data = received.rest
        if received.head.startswith(b"POST"):
            self._server.take(self, *wire.tokens(received.body))
        else:
            self._write(wire.page(self._server.metrics))

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.drop(self)

    def first_byte(self) -> None:
        self._write(wire.FIRST_BYTE)

    def last_byte(self) -> None:
        self._write(wire.LAST_BYTE)

    def _write(self, data: bytes) -> None:
        assert self._transport is not None, "nothing is asked before the connection is made"
        self._transport.write(data)


@dataclass(frozen=True, slots=True)
class ServersReport:
    """`in_progress`: by server, the requests it had, running and waiting, every `SAMPLE_S` of the run. `late_s`: how
    long after it was due each sample was taken, which is how late the servers were with anything at that moment.
    """

    in_progress: dict[str, array[int]]
    late_s: array[float]
    cpu_s: float


def serve(pipe: Connection, options: tuple[ServerOptions, ...]) -> None:
    """The process: sends the ports by name, is sent when to begin and end sampling (monotonic s), sends its report."""
    asyncio.run(_serve(pipe, options))


async def _serve(pipe: Connection, options: tuple[ServerOptions, ...]) -> None:
    loop = asyncio.get_running_loop()
    servers = {each.name: ModelServer(each, loop) for each in options}
    listeners = {
        name: await loop.create_server(partial(_Connection, server), "127.0.0.1", 0, backlog=1024)
        for name, server in servers.items()
    }
    pipe.send({name: listener.sockets[0].getsockname()[1] for name, listener in listeners.items()})
    with suppress(EOFError):  # whoever started this has ended
        begin_s, end_s = await asyncio.to_thread(pipe.recv)
        began_cpu_s = time.process_time()
        in_progress, late_s = await _sample(servers, begin_s, end_s)
        pipe.send(ServersReport(in_progress, late_s, time.process_time() - began_cpu_s))
        await asyncio.to_thread(pipe.recv)


async def _sample(
    servers: dict[str, ModelServer], begin_s: float, end_s: float
) -> tuple[dict[str, array[int]], array[float]]:
    loop = asyncio.get_running_loop()
    in_progress, late_s = {name: array("I") for name in servers}, array("d")
    due_s = begin_s
    while due_s < end_s:
        await asyncio.sleep(due_s - loop.time())
        late_s.append(loop.time() - due_s)
        for name, server in servers.items():
            in_progress[name].append(server.running + server.waiting)
        due_s += SAMPLE_S
    return in_progress, late_s
