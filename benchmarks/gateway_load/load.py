"""Load on gateways and the model server behind them, in one thread that polls all sockets and never sleeps.

Callers and server share a core and leave the other one to Envoy, and nobody waits to be woken by the scheduler. The
load is *open*: requests are due at times drawn beforehand (Poisson), whether or not earlier ones have been answered,
and the time of a request counts from when it was due. So a gateway that stalls is not spared the requests that come
meanwhile (no coordinated omission). `saturate` is the closed counterpart: as much as the gateway takes.
"""

from __future__ import annotations

import gc
import random
import select
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from benchmarks.gateway_load.wire import BODY, FIRST_BYTE, Caller, Http1, Http2

HTTP1 = "HTTP/1.1"
HTTP2 = "HTTP/2"

IN_FLIGHT = 64
"""Requests in progress at most: the connections of HTTP/1.1, the streams of HTTP/2."""

HTTP2_CONNECTIONS = 4
READ_BYTES = 1 << 17
PATIENCE_S = 10.0
EVENT_GAP_S = 0.002
"""Between the first event of a stream and its end."""

Address = tuple[str, int]


class LoadError(Exception):
    """A connection was closed, or an answer did not come in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says at once, and, if anything, 2 ms later."""

    first: bytes
    last: bytes = b""


def json_answer(size: int) -> Answer:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % size
    return Answer(head + b"x" * size)


def event_stream() -> Answer:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return Answer(head + _chunk(b'data: {"content":"first"}\n\n'), _chunk(b"data: [DONE]\n\n") + _chunk(b""))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(slots=True)
class Run:
    """What a load came to. For each answer: how long after its request was due it was whole (`took_s`) and its body
    began (`first_byte_s`). For each request: how long after it could be sent it was sent (`late_s`, the load
    generator's own share), which is when it was due and one of the connections was free. `lasted_s`: all of it.
    """

    took_s: list[float] = field(default_factory=list)
    first_byte_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    lasted_s: float = 0.0

    @property
    def rate(self) -> float:
        """Requests answered per second."""
        return len(self.took_s) / self.lasted_s


class Load:
    """The server, which answers every request with `answer`, and the sockets of all callers."""

    def __init__(self) -> None:
        self.answer = json_answer(1 << 10)
        self._epoll = select.epoll()
        self._readers: dict[int, tuple[socket.socket, Callable[[], None]]] = {}
        self._later: deque[tuple[float, socket.socket]] = deque()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.add(self._listener, self._accept)

    @property
    def address(self) -> Address:
        host, port = self._listener.getsockname()
        return host, port

    def callers(self, gateway: Address, protocol: str) -> Callers:
        return Callers(self, gateway, protocol)

    def add(self, opened: socket.socket, reader: Callable[[], None]) -> None:
        """`reader` is called whenever there is something to read."""
        opened.setblocking(False)
        self._readers[opened.fileno()] = opened, reader
        self._epoll.register(opened, select.EPOLLIN)

    def step(self) -> None:
        """Everything that can be done now."""
        for number, _ in self._epoll.poll(0):
            self._readers[number][1]()
        while self._later and self._later[0][0] <= perf_counter():
            send(self._later.popleft()[1], self.answer.last)

    def close(self) -> None:
        for opened, _ in self._readers.values():
            opened.close()
        self._epoll.close()

    def _accept(self) -> None:
        opened, _ = self._listener.accept()
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = bytearray()

        def read() -> None:
            data = opened.recv(READ_BYTES)
            if not data:
                del self._readers[opened.fileno()]
                opened.close()
                return
            received.extend(data)
            if received.endswith(BODY):  # as every request does
                received.clear()
                send(opened, self.answer.first)
                if self.answer.last:
                    self._later.append((perf_counter() + EVENT_GAP_S, opened))

        self.add(opened, read)


class Callers:
    """Connections to one gateway, kept from run to run. `protocol`: HTTP/1.1 or HTTP/2."""

    def __init__(self, load: Load, gateway: Address, protocol: str) -> None:
        self._load = load
        self._run = Run()
        self._due: dict[tuple[int, int], float] = {}
        self._free: deque[tuple[socket.socket, Caller]] = deque()
        caller, connections = _PROTOCOLS[protocol]
        for _ in range(connections):
            self._free.append(self._connect(gateway, caller()))
        self._free *= IN_FLIGHT // connections
        self._none_free_until = 0.0

    def pace(self, rate: float, duration_s: float, seed: int) -> Run:
        """Requests at random times, `rate` of them a second on average. Equal seeds give equal times."""
        return self._follow(_arrivals(rate, duration_s, random.Random(seed)), duration_s)

    def saturate(self, duration_s: float) -> Run:
        """As many requests as are answered, with 64 in progress. Its times mean nothing."""
        return self._follow(_always(duration_s), duration_s)

    def _follow(self, offsets: Iterator[float], duration_s: float) -> Run:
        """Sends a request at each of these times, in seconds from now, and waits for all answers."""
        run = self._run = Run()
        with _undisturbed():
            started = now = perf_counter()
            offset = next(offsets, None)
            while offset is not None or self._due:
                while offset is not None and started + offset <= now and self._free:
                    self._ask(started + offset)
                    offset = next(offsets, None)
                self._load.step()
                now = perf_counter()
                if now > started + duration_s + PATIENCE_S:
                    raise LoadError(f"{len(self._due)} requests were not answered in {PATIENCE_S:g} s")
            run.lasted_s = now - started
        return run

    def _connect(self, gateway: Address, caller: Caller) -> tuple[socket.socket, Caller]:
        opened = socket.create_connection(gateway)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.sendall(caller.opening())
        self._load.add(opened, lambda: self._read(opened, caller))
        return opened, caller

    def _ask(self, due: float) -> None:
        opened, caller = self._free.popleft()
        stream, request = caller.ask()
        self._due[opened.fileno(), stream] = due
        send(opened, request)
        self._run.late_s.append(perf_counter() - max(due, self._none_free_until))

    def _read(self, opened: socket.socket, caller: Caller) -> None:
        data = opened.recv(READ_BYTES)
        if not data:
            raise LoadError("the gateway closed a connection")
        now = perf_counter()
        for stream, event in caller.feed(data):
            call = opened.fileno(), stream
            if event is FIRST_BYTE:
                self._run.first_byte_s.append(now - self._due[call])
            else:
                self._run.took_s.append(now - self._due.pop(call))
                if not self._free:
                    self._none_free_until = now
                self._free.append((opened, caller))
        if owed := caller.owed():
            send(opened, owed)


def send(opened: socket.socket, data: bytes) -> None:
    """A socket's buffer holds an answer of 100 KiB, so there is no second try."""
    if opened.send(data) < len(data):
        raise LoadError(f"a socket's buffer is too small for {len(data)} bytes")


def _arrivals(rate: float, duration_s: float, draw: random.Random) -> Iterator[float]:
    """A Poisson process."""
    at = draw.expovariate(rate)
    while at < duration_s:
        yield at
        at += draw.expovariate(rate)


def _always(duration_s: float) -> Iterator[float]:
    end = perf_counter() + duration_s
    while perf_counter() < end:
        yield 0.0


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without pauses for Python's garbage collector."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


_PROTOCOLS: dict[str, tuple[Callable[[], Caller], int]] = {
    HTTP1: (Http1, IN_FLIGHT),
    HTTP2: (Http2, HTTP2_CONNECTIONS),
}
"""Who speaks it, and on how many connections."""
