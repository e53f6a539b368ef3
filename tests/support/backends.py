"""Servers that stand behind a gateway in tests: what they saw, and how they shall behave.

Each listens on a free port of a loopback address and belongs to one test. `seen` has every request that arrived whole;
`behave` is what it does next, and may be changed at any time.
"""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import grpc
import grpc.aio
from aiohttp import WSMsgType, web
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamEnded

Behaviour = Callable[["Backend", web.BaseRequest], Awaitable[web.StreamResponse]]

PROBE = "/probe"
"""Answered at once and not counted: to see whether a gateway leads here already."""

ECHO_METHOD = "/test.Echo/Unary"
REFUSING_METHOD = "/test.Echo/Refuse"


@dataclass(frozen=True)
class Seen:
    """A request as it arrived. `path` with its query, as sent; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body_bytes: int
    body_sha256: str


@dataclass
class Backend:
    name: str
    behave: Behaviour
    host: str = ""
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    in_flight: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def hits(self) -> int:
        return len(self.seen)


async def echo(backend: Backend, request: web.BaseRequest) -> web.StreamResponse:
    """200, and who answered."""
    return web.json_response({"served_by": backend.name, "path": request.raw_path}, headers={"x-backend": backend.name})


def status(code: int, **headers: str) -> Behaviour:
    """That status, with a body of the application's own."""

    async def behave(backend: Backend, request: web.BaseRequest) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, text=f"{backend.name} says {code}", headers=named)

    return behave


async def hold(backend: Backend, request: web.BaseRequest) -> web.StreamResponse:
    """Answers when the test sets `gate`."""
    await backend.gate.wait()
    return await echo(backend, request)


async def reset(backend: Backend, request: web.BaseRequest) -> web.StreamResponse:
    """Cuts the connection before a byte of an answer."""
    assert request.transport is not None
    request.transport.abort()
    await asyncio.sleep(0)
    return web.Response()


async def events(backend: Backend, request: web.BaseRequest) -> web.StreamResponse:
    """Server-sent events: one at once, the other when the test sets `gate`."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"data: first\n\n")
    await backend.gate.wait()
    await response.write(b"data: [DONE]\n\n")
    return response


async def websocket(backend: Backend, request: web.BaseRequest) -> web.StreamResponse:
    """Says every text back."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(f"{backend.name}: {message.data}")
    return socket


@asynccontextmanager
async def http_backend(
    name: str, behave: Behaviour = echo, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Backend]:
    """An HTTP/1.1 server."""
    backend = Backend(name, behave, host)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.endswith(PROBE):
            return web.Response(status=204)
        backend.in_flight += 1
        try:
            digest = hashlib.sha256()
            size = 0
            if "upgrade" not in request.headers:
                async for chunk in request.content.iter_any():
                    digest.update(chunk)
                    size += len(chunk)
            headers = {key.lower(): value for key, value in request.headers.items()}
            backend.seen.append(Seen(request.method, request.raw_path, headers, size, digest.hexdigest()))
            return await backend.behave(backend, request)
        finally:
            backend.in_flight -= 1

    runner = web.ServerRunner(web.Server(handle, handler_cancellation=True), handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, port, ssl_context=tls)
    await site.start()
    backend.port = runner.addresses[0][1]
    try:
        yield backend
    finally:
        backend.gate.set()
        await runner.cleanup()


class _Http2(asyncio.Protocol):
    """One connection of a server that speaks HTTP/2 only and answers every request once it is whole."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._streams: dict[int, dict[str, str]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connection.initiate_connection()
        self._transport.write(self._connection.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._connection.receive_data(data):
            if isinstance(event, RequestReceived):
                self._streams[event.stream_id] = {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, StreamEnded):
                self._answer(event.stream_id, self._streams.pop(event.stream_id))
        self._transport.write(self._connection.data_to_send())

    def _answer(self, stream: int, headers: dict[str, str]) -> None:
        if headers[":path"].endswith(PROBE):
            self._connection.send_headers(stream, [(":status", "204")], end_stream=True)
            return
        self._backend.seen.append(Seen(headers[":method"], headers[":path"], headers, 0, ""))
        self._connection.send_headers(stream, [(":status", "200")])
        self._connection.send_data(stream, f"{self._backend.name} speaks HTTP/2".encode(), end_stream=True)


@asynccontextmanager
async def http2_backend(name: str, tls: ssl.SSLContext) -> AsyncIterator[Backend]:
    """A server that speaks HTTP/2 only, and says so in ALPN. It does not look at bodies."""
    tls.set_alpn_protocols(["h2"])
    backend = Backend(name, echo, "127.0.0.1")
    server = await asyncio.get_running_loop().create_server(lambda: _Http2(backend), "127.0.0.1", 0, ssl=tls)
    backend.port = server.sockets[0].getsockname()[1]
    async with server:
        yield backend


@asynccontextmanager
async def grpc_backend(name: str, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[Backend]:
    """A gRPC server (so HTTP/2, by ALPN where it has credentials): one method echoes, one refuses with
    FAILED_PRECONDITION.
    """
    backend = Backend(name, echo, "127.0.0.1")
    server = grpc.aio.server()

    def note(method: str, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        headers = {key: str(value) for key, value in context.invocation_metadata() or ()}
        backend.seen.append(Seen("POST", method, headers, len(request), hashlib.sha256(request).hexdigest()))

    async def unary(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        note(ECHO_METHOD, request, context)
        return name.encode() + b": " + request

    async def refuse(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        note(REFUSING_METHOD, request, context)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not in this state")

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    address = "127.0.0.1:0"
    backend.port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield backend
    finally:
        await server.stop(None)
