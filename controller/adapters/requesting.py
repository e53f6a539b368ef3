"""Shell: requests, which blocks, made fit for an event loop and for servers that misbehave.

requests' own timeout is for one read, so a server that drips keeps a thread for ever, and nothing bounds a body. Here
an exchange has a size and an end. Its words of failure never hold a URL or a header, where a secret may stand.
"""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TypeVar

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

T = TypeVar("T")

_CHUNK_BYTES = 65_536


async def in_thread(work: Callable[[], T], timeout_s: float) -> T:
    """Runs `work` in a daemon thread of its own. Raises TimeoutError after `timeout_s`; the thread is then left alone.

    An executor's threads are waited for when the process ends, which a silent server would hold up.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="spillway-request", daemon=True).start()
    async with asyncio.timeout(timeout_s):
        return await asyncio.wrap_future(future)


def _nowhere_is_forbidden(address: str) -> str:
    return ""


class BoundedAdapter(HTTPAdapter):
    """Reads answers of at most `max_bytes`, and not beyond `timeout_s` after the request. Does not retry.

    `obstacle` says why nothing may be sent to an IP address, '' if it may: it is asked about the one that a connection
    has come to, so a name cannot lead elsewhere between two look-ups.
    """

    def __init__(
        self, max_bytes: int, timeout_s: float, obstacle: Callable[[str], str] = _nowhere_is_forbidden
    ) -> None:
        super().__init__()
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self.poolmanager.pool_classes_by_scheme = _pools(obstacle)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        deadline_s = time.monotonic() + self._timeout_s
        try:
            response = super().send(request, True, self._timeout_s, verify, cert, proxies)
            with response.raw:
                response.raw = io.BytesIO(self._read(response.raw, deadline_s))
        except urllib3.exceptions.TimeoutError as error:
            raise requests.ReadTimeout(error) from error
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error) from error
        return response

    def _read(self, raw: urllib3.HTTPResponse, deadline_s: float) -> bytes:
        body = bytearray()
        while chunk := raw.read1(_CHUNK_BYTES, decode_content=True):
            body += chunk
            if len(body) > self._max_bytes:
                raise urllib3.exceptions.HTTPError(f"the answer has more than {self._max_bytes} bytes")
            if time.monotonic() > deadline_s:
                raise urllib3.exceptions.TimeoutError
        return bytes(body)


def _pools(obstacle: Callable[[str], str]) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools, whose connections are closed before anything is sent where nothing may be."""

    def checked(connection: HTTPConnection, reached: socket.socket) -> socket.socket:
        if words := obstacle(reached.getpeername()[0]):
            reached.close()
            raise urllib3.exceptions.NewConnectionError(connection, words)
        return reached

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return checked(self, super()._new_conn())

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return checked(self, super()._new_conn())

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def words_of(error: OSError) -> str:
    """Why an exchange failed, from the innermost cause. Most of requests' exceptions are OSErrors."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    cause: BaseException = error
    while (inner := _inner(cause)) is not None:
        cause = inner
    match cause:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {cause.verify_message}"
        case OSError(strerror=str() as words):
            return words
        case requests.RequestException():
            return type(cause).__name__
        case urllib3.exceptions.HTTPError() | OSError():
            return str(cause)
        case _:
            return type(cause).__name__


def _inner(error: BaseException) -> BaseException | None:
    reason = getattr(error, "reason", None)
    inner = [reason, error.__cause__, *error.args]
    return next((each for each in inner if isinstance(each, BaseException) and each is not error), None)
