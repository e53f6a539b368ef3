"""Asks for a model again and again over one connection, with nothing between the questions, and sees who answers."""

from __future__ import annotations

import socket
import time

DEADLINE_S = 60.0


class Prober:
    """One keep-alive HTTP/1.1 connection to a gateway. It blocks: nothing may add to what it measures."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def ask(self, host: str) -> tuple[int, str]:
        """One request for a model, by its Host: the status, and the destination that served ('' if none did)."""
        self.send(host)
        return self.receive()

    def send(self, host: str) -> None:
        """The first half of `ask`."""
        self._socket.sendall(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    def receive(self) -> tuple[int, str]:
        """The second half of `ask`."""
        answer = b""
        while b"\r\n\r\n" not in answer:
            received = self._socket.recv(65_536)
            if not received:
                raise ConnectionError("the gateway closed the connection")
            answer += received
        head, _, body = answer.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:])
        missing = int(headers["content-length"]) - len(body)
        while missing:
            missing -= len(self._socket.recv(missing))
        return int(head.split(b" ", 2)[1]), headers.get("x-spillway-destination", "")

    def until(self, host: str, destination: str) -> float:
        """Asks until this destination answers. Returns when the answer was here, on the monotonic clock."""
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            answered = self.ask(host)
            now_s = time.monotonic()
            if answered == (200, destination):
                return now_s
            if now_s > deadline_s:
                raise TimeoutError(f"{host} is still answered by {answered}, not by {destination}")
