"""One connection of a light client, without blocking: connects, asks once, and acknowledges whatever comes."""

from __future__ import annotations

import select
import socket
import ssl
from collections import deque

from benchmarks.streams import wire

CHUNK = 1 << 18


class LostError(Exception):
    """The server ended the stream, or the connection broke."""


class Connection:
    """Driven by epoll: `ready` is to be called when `events` occur on `fileno`."""

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext | None, answers: wire.Answers) -> None:
        self.has_heard = False
        self.kept: list[bytes] | None = None
        """Responses, if anybody wants to keep them."""
        self._answers = answers
        self._unsent = bytearray()
        self._requests: deque[memoryview] = deque()
        self._received = bytearray()
        self._response = bytearray()
        self._connection_credit = self._stream_credit = self._window = wire.DEFAULT_WINDOW
        self._connected = False
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect_ex(address)
        if tls:
            self._socket = tls.wrap_socket(self._socket, server_hostname="xds.test", do_handshake_on_connect=False)
        self._wants_write = True
        self._unsent += wire.opening("xds.test", "https" if tls else "http")

    def ask(self, *parts: bytes) -> None:
        """Sends a request; its parts may be shared by many connections."""
        size = sum(map(len, parts))
        self._requests.extend(memoryview(part) for part in (b"\0" + size.to_bytes(4, "big"), *parts))

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def events(self) -> int:
        return select.EPOLLIN | (select.EPOLLOUT if self._wants_write else 0)

    def close(self) -> None:
        self._socket.close()

    def ready(self) -> None:
        """Goes on as far as it can without waiting. Raises LostError."""
        try:
            if not self._connected and not self._connect():
                return
            self._wants_write = False
            self._read()
            self._write()
        except OSError as error:
            raise LostError(str(error)) from error

    def _connect(self) -> bool:
        if error := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise LostError(f"connect: {error}")
        if isinstance(self._socket, ssl.SSLSocket):
            try:
                self._socket.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wants:
                self._wants_write = isinstance(wants, ssl.SSLWantWriteError)
                return False
        self._connected = True
        return True

    # Reading

    def _read(self) -> None:
        secured = isinstance(self._socket, ssl.SSLSocket)
        while True:
            try:
                data = self._socket.recv(CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            if not data:
                raise LostError("closed")
            self._received += data
            self._take_frames()
            if not secured and len(data) < CHUNK:
                return

    def _take_frames(self) -> None:
        received, at = self._received, 0
        while len(received) - at >= wire.FRAME_HEADER:
            end = at + wire.FRAME_HEADER + int.from_bytes(received[at : at + 3], "big")
            if end > len(received):
                break
            payload = received[at + wire.FRAME_HEADER : end]
            stream = int.from_bytes(received[at + 5 : at + 9], "big")
            self._take(received[at + 3], received[at + 4], stream, payload)
            at = end
        del received[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytearray) -> None:
        if kind == wire.DATA:
            self._response += payload
            self._take_responses()
        elif kind == wire.WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream:
                self._stream_credit += more
            else:
                self._connection_credit += more
        elif kind == wire.SETTINGS and not flags & wire.ACK:
            for at in range(0, len(payload), 6):
                if int.from_bytes(payload[at : at + 2], "big") == wire.INITIAL_WINDOW_SIZE:
                    window = int.from_bytes(payload[at + 2 : at + 6], "big")
                    self._stream_credit += window - self._window
                    self._window = window
            self._unsent += wire.frame(wire.SETTINGS, wire.ACK, 0)
        elif kind == wire.PING and not flags & wire.ACK:
            self._unsent += wire.frame(wire.PING, wire.ACK, 0, bytes(payload))
        ended = kind in (wire.DATA, wire.HEADERS) and flags & wire.END_STREAM
        if ended or kind in (wire.RST_STREAM, wire.GOAWAY):
            raise LostError(f"ended by frame {kind}")

    def _take_responses(self) -> None:
        while len(self._response) >= 5:
            end = 5 + int.from_bytes(self._response[1:5], "big")
            if end > len(self._response):
                return
            response = bytes(self._response[5:end])
            del self._response[:end]
            self.has_heard = True
            if self.kept is not None:
                self.kept.append(response)
            answer = self._answers.to(response)
            self._connection_credit -= len(answer) - wire.FRAME_HEADER
            self._stream_credit -= len(answer) - wire.FRAME_HEADER
            self._unsent += answer

    # Writing

    def _write(self) -> None:
        while True:
            self._frame_requests()
            if not self._unsent:
                return
            try:
                sent = self._socket.send(self._unsent)
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wants_write = True
                return
            del self._unsent[:sent]

    def _frame_requests(self) -> None:
        """Turns what is to be asked into frames, as far as the server's windows allow."""
        while self._requests and len(self._unsent) < CHUNK:
            size = min(len(self._requests[0]), wire.MAX_FRAME, self._connection_credit, self._stream_credit)
            if size <= 0:
                return
            part = self._requests[0]
            self._unsent += wire.frame(wire.DATA, 0, wire.STREAM, bytes(part[:size]))
            self._connection_credit -= size
            self._stream_credit -= size
            if size == len(part):
                self._requests.popleft()
            else:
                self._requests[0] = part[size:]
