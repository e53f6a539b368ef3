"""HTTP on the wire, as much of it as a load generator needs: requests made beforehand, answers counted and not kept.

It knows its own requests and its peer, Envoy, and is no client for anything else. Every request is the same: a POST
with a small JSON body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from hpack import Encoder
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

HOST = "m.example.com"
AFFINITY_HEADER = "x-session"
PATH = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[{"role":"user","content":"%s"}]}' % (b"x" * 200)
HEADERS = (
    ("content-type", "application/json"),
    ("content-length", str(len(BODY))),
    ("accept", "*/*"),
    ("user-agent", "benchmark"),
    ("authorization", "Bearer none"),
    (AFFINITY_HEADER, "session-1"),
)

FIRST_BYTE = 1
"""The first byte of an answer's body is here."""
END = 2
"""An answer is whole."""


class WireError(Exception):
    """The gateway said something else than 200 and a body."""


class Caller(Protocol):
    """One connection to a gateway, without its socket."""

    def opening(self) -> bytes:
        """What is sent once, at first."""

    def ask(self) -> tuple[int, bytes]:
        """The next stream, and the bytes of its request."""

    def feed(self, data: bytes) -> Iterator[tuple[int, int]]:
        """What has come by these bytes: streams, with FIRST_BYTE or END."""

    def owed(self) -> bytes:
        """What the protocol wants said after that, if anything."""


class Http1:
    """One request at a time, on stream 0."""

    def __init__(self) -> None:
        head = "".join(f"{name}: {value}\r\n" for name, value in (("host", HOST), *HEADERS))
        self._request = f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + BODY
        self._head = b""
        self._in_body = False
        self._missing: int | None = None
        self._tail = b""

    def opening(self) -> bytes:
        return b""

    def owed(self) -> bytes:
        return b""

    def ask(self) -> tuple[int, bytes]:
        self._head, self._in_body, self._tail = b"", False, b""
        return 0, self._request

    def feed(self, data: bytes) -> Iterator[tuple[int, int]]:
        if not self._in_body:
            head, found, data = (self._head + data).partition(b"\r\n\r\n")
            self._head = head
            if not data:
                self._head += found
                return
            if not head.startswith(b"HTTP/1.1 200"):
                raise WireError((head + found + data)[:1000].decode("latin-1"))
            length = re.search(rb"content-length: (\d+)", head)
            self._missing = int(length[1]) if length else None
            self._in_body = True
            yield 0, FIRST_BYTE
        if self._missing is None:
            self._tail = (self._tail + data)[-7:]
            ended = self._tail == b"\r\n0\r\n\r\n"
        else:
            self._missing -= len(data)
            ended = self._missing == 0
        if ended:
            yield 0, END


_WINDOW = 2**31 - 1
_END_STREAM = _ACK = 0x1
_STATUS_200 = 0x88
"""Entry 8 of HPACK's static table, which Envoy begins the headers of an answer with."""


class Http2:
    """Any number of requests at a time, in clear text with prior knowledge."""

    def __init__(self) -> None:
        fields = [(":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", HOST), *HEADERS]
        encoder = Encoder()
        self._first, self._others = encoder.encode(fields), encoder.encode(fields)
        self._stream = -1
        self._rest = b""
        self._without_body: set[int] = set()
        self._taken = 0
        self._owed = b""

    def opening(self) -> bytes:
        settings = SettingsFrame(settings={SettingsFrame.ENABLE_PUSH: 0, SettingsFrame.INITIAL_WINDOW_SIZE: _WINDOW})
        return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings.serialize() + _more_window(_WINDOW - 65_535)

    def owed(self) -> bytes:
        owed, self._owed = self._owed, b""
        return owed

    def ask(self) -> tuple[int, bytes]:
        self._stream += 2
        self._without_body.add(self._stream)
        block = self._first if self._stream == 1 else self._others
        headers = HeadersFrame(self._stream, block, flags=["END_HEADERS"])
        return self._stream, headers.serialize() + DataFrame(self._stream, BODY, flags=["END_STREAM"]).serialize()

    def feed(self, data: bytes) -> Iterator[tuple[int, int]]:
        data = self._rest + data
        begin = 0
        while (body := begin + 9) <= len(data):
            end = body + int.from_bytes(data[begin : begin + 3], "big")
            if end > len(data):
                break
            kind, flags = data[begin + 3], data[begin + 4]
            stream = int.from_bytes(data[begin + 5 : body], "big")
            if kind == DataFrame.type:
                yield from self._data(stream, end - body, flags)
            else:
                self._other(kind, flags, data[body:end])
            begin = end
        self._rest = data[begin:]

    def _data(self, stream: int, size: int, flags: int) -> Iterator[tuple[int, int]]:
        self._taken += size
        if self._taken > _WINDOW // 4:
            self._owed += _more_window(self._taken)
            self._taken = 0
        if size and stream in self._without_body:
            self._without_body.remove(stream)
            yield stream, FIRST_BYTE
        if flags & _END_STREAM:
            yield stream, END

    def _other(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == HeadersFrame.type and payload[0] != _STATUS_200:
            raise WireError(f"headers that do not begin with status 200: {payload!r}")
        if kind in (RstStreamFrame.type, GoAwayFrame.type):
            raise WireError(f"frame {kind}: {payload!r}")
        if kind == SettingsFrame.type and not flags & _ACK:
            self._owed += SettingsFrame(flags=["ACK"]).serialize()
        elif kind == PingFrame.type and not flags & _ACK:
            self._owed += PingFrame(0, payload, flags=["ACK"]).serialize()


def _more_window(size: int) -> bytes:
    return WindowUpdateFrame(0, size).serialize()
