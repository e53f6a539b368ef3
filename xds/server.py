"""Shell: the xDS port. grpc.aio carries raw bytes between gateways and their sessions; all else is `xds.session`.

Each stream has two tasks: its handler reads requests, one writer sends responses. The writer asks the session only when
the last response has left, so a slow stream holds one response and skips what it was too slow for, and no other stream
notices. gRPC's own errors end here: a stream that breaks is a gateway that will be back. Any other error is a mistake
of our own: it ends its stream, and `Server.run` raises it.

The port is plain on loopback and on a unix socket, and nowhere else; with `ServerTls` both sides show certificates.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from protos.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from xds.grpc_events import taken_together
from xds.load_service import EOF, Context, LoadService, on_stream_of
from xds.node import Introduction, introduce
from xds.publisher import Publisher
from xds.session import ProtocolError, Session
from xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, RUNTIME, SCOPED_ROUTE, SECRET
from xds.subscription import Nack, Report, Subscription
from xds.turns import Turns

MAX_STREAMS = 20_000
MAX_REQUEST_BYTES = 16 << 20
"""A gateway that reconnects names all that it has: 1 MB for 10,000 models, and as much again for its node."""

FIRST_REQUEST_S = 30.0
"""How long a new stream may take to say who it is."""

QUEUE_S = 600
"""How long a new stream may wait until it is taken: as long as a storm may last."""

SHORT = {
    CLUSTER: "CDS",
    ENDPOINTS: "EDS",
    LISTENER: "LDS",
    ROUTE: "RDS",
    SCOPED_ROUTE: "SRDS",
    SECRET: "SDS",
    RUNTIME: "RTDS",
}

SERVICES = (
    ("discovery.v3.AggregatedDiscoveryService", "AggregatedResources", None),
    ("cluster.v3.ClusterDiscoveryService", "Clusters", CLUSTER),
    ("endpoint.v3.EndpointDiscoveryService", "Endpoints", ENDPOINTS),
    ("listener.v3.ListenerDiscoveryService", "Listeners", LISTENER),
    ("route.v3.RouteDiscoveryService", "Routes", ROUTE),
    ("route.v3.ScopedRoutesDiscoveryService", "ScopedRoutes", SCOPED_ROUTE),
    ("secret.v3.SecretDiscoveryService", "Secrets", SECRET),
    ("runtime.v3.RuntimeDiscoveryService", "Runtime", RUNTIME),
)
"""Service below envoy.service, what its methods are called after `Stream` and `Delta`, and the one type it carries."""

OPTIONS = (
    ("grpc.so_reuseport", 0),  # a port that is taken shall be an error
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),  # state of the world is one message for each type
    ("grpc.server.max_pending_requests", MAX_STREAMS),  # 1,000 by default: more are reset when all connect at once
    ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_STREAMS),
    ("grpc.server_max_unrequested_time_in_server", QUEUE_S),  # 30 by default: a storm lost one stream in five
    ("grpc.http2.bdp_probe", 0),  # a ping after each answer, to size the window: a third of what a push cost
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),  # gateways ping too; by default that is abuse
    ("grpc.http2.max_ping_strikes", 0),
)

Request = DeltaDiscoveryRequest | DiscoveryRequest


class ListenError(OSError):
    """The address cannot be served; the message says why."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files: our certificate and key, and the authority that gateways' certificates must come from."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path


class Counter(Protocol):
    """As prometheus-client has it."""

    def labels(self, *values: Any) -> Any: ...


class Histogram(Protocol):
    """As prometheus-client has it."""

    def observe(self, amount: float) -> None: ...


class Telemetry(Protocol):
    """Where the server counts: pushes and NACKs by type (CDS, ...), seconds from a push to its answer."""

    @property
    def pushes(self) -> Counter: ...
    @property
    def nacks(self) -> Counter: ...
    @property
    def ack_seconds(self) -> Histogram: ...


@dataclass(eq=False)
class _Stream:
    who: Introduction
    session: Session
    has_news: bool = False
    sleeper: asyncio.Future[None] | None = None
    writer: asyncio.Task[None] | None = None
    alarm: asyncio.TimerHandle | None = None
    ended: bool = False

    async def sleep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until there is news. As asyncio.Event, for one who waits, and with less to look at for each of thousands."""
        if not self.has_news:
            self.sleeper = loop.create_future()
            await self.sleeper
        self.has_news = False

    def notify(self) -> None:
        self.has_news = True
        if self.sleeper and not self.sleeper.done():
            self.sleeper.set_result(None)

    def set_alarm(self, loop: asyncio.AbstractEventLoop, offered_at_s: float) -> None:
        """Wakes the stream when its session may have more by itself than at `offered_at_s`, or before: an alarm is not
        worth being put off. It may be due already.
        """
        at_s = self.session.wake_at(offered_at_s)
        if at_s is not None and (self.alarm is None or self.alarm.when() > at_s):
            self.silence()
            self.alarm = loop.call_at(at_s, self.ring)

    def ring(self) -> None:
        self.alarm = None
        self.notify()

    def end(self) -> None:
        self.ended = True
        self.silence()
        self.notify()

    def silence(self) -> None:
        if self.alarm:
            self.alarm.cancel()
            self.alarm = None


class Server:
    """The xDS port of one publisher."""

    def __init__(self, publisher: Publisher, telemetry: Telemetry, max_streams: int = MAX_STREAMS) -> None:
        self.streams = 0
        """Open ones, the refused for as long as it takes to tell them."""
        self._publisher = publisher
        self._telemetry = telemetry
        self._pushes = {type_url: telemetry.pushes.labels(short) for type_url, short in SHORT.items()}
        self._max_streams = max_streams
        self._open: dict[_Stream, None] = {}
        """In the order they came: who serves already hears first of what changed."""
        self._turns = Turns[_Stream](_Stream.notify)
        self._server: grpc.aio.Server | None = None
        self._mistakes: asyncio.Queue[Exception] = asyncio.Queue()

    async def start(self, address: str, tls: ServerTls | None = None) -> int:
        """Serves on 'host:port' (port 0: a free one) or 'unix:path'. Returns the port, 0 for a unix socket.

        Raises ListenError.
        """
        with taken_together(asyncio.get_running_loop()):
            server = grpc.aio.server(options=OPTIONS)
        reports = LoadService(self._publisher, self._max_streams, self._watch)
        server.add_generic_rpc_handlers((*self._services(), reports.handler()))
        port = _bind(server, address, tls)
        await server.start()
        self._server = server
        self._publisher.on_change = lambda: self._turns.wake_all(self._open)
        return 0 if address.startswith("unix:") else port

    async def run(self) -> None:
        """Waits for a mistake of our own in any stream, and raises it: a stream that is silently dead helps nobody."""
        raise await self._mistakes.get()

    async def stop(self, grace_s: float = 0.0) -> None:
        """Ends all streams; gateways keep what they have."""
        if self._server:
            await self._server.stop(grace_s)
            self._server = None

    def status(self) -> list[dict[str, object]]:
        """Each connected gateway and its types, as JSON values."""
        gateways: dict[str, dict[str, Any]] = {}
        for stream in sorted(self._open, key=lambda each: each.who.gateway):
            who = stream.who
            entry = gateways.setdefault(who.gateway, {"gateway": who.gateway, "version": who.version, "types": []})
            entry["types"] += [_type_status(each) for each in stream.session.subscriptions.values()]
        return list(gateways.values())

    # Streams

    def _services(self) -> Iterator[grpc.GenericRpcHandler[bytes, bytes]]:
        for service, methods, only in SERVICES:
            yield grpc.method_handlers_generic_handler(
                f"envoy.service.{service}",
                {
                    f"{prefix}{methods}": grpc.stream_stream_rpc_method_handler(
                        partial(self._serve, incremental=prefix == "Delta", only=only)
                    )
                    for prefix in ("Delta", "Stream")
                },
            )

    async def _serve(self, _: AsyncIterator[bytes], context: Context, *, incremental: bool, only: str | None) -> None:
        self.streams += 1
        try:
            with self._watch():
                await self._admit(context, incremental=incremental, only=only)
        finally:
            self.streams -= 1

    @contextmanager
    def _watch(self) -> Iterator[None]:
        """Around a stream: keeps what is a mistake, and none of the ways a stream ends, for `run`."""
        try:
            yield
        except (grpc.aio.BaseError, grpc.aio.AbortError):
            raise
        except Exception as mistake:
            self._mistakes.put_nowait(mistake)
            raise

    async def _admit(self, context: Context, *, incremental: bool, only: str | None) -> None:
        decode = (DeltaDiscoveryRequest if incremental else DiscoveryRequest).FromString
        try:
            if self.streams > self._max_streams:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"all {self._max_streams} streams are taken")
            async with self._turns.door():
                async with asyncio.timeout(FIRST_REQUEST_S):
                    raw = await context.read()
                if raw is EOF:
                    return
                await self._turns.wait(len(raw))
                request = decode(raw)
            who = introduce(request.node)
            if who.objection:
                self._publisher.turn_away(who.gateway, who.version, who.objection)
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, who.objection)
            session = self._publisher.open(who.gateway, who.version, incremental=incremental, only=only)
            with on_stream_of(who.gateway):
                async with self._opened(_Stream(who, session)) as stream:
                    self._receive(stream, request, asyncio.get_running_loop().time())
                    del raw, request  # they are large, and the stream is long
                    await self._follow(stream, decode, context)
        except ProtocolError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request cannot be decoded")
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no request in {FIRST_REQUEST_S:g} s")

    @asynccontextmanager
    async def _opened(self, stream: _Stream) -> AsyncIterator[_Stream]:
        self._open[stream] = None
        self._turns.come()
        try:
            yield stream
        finally:
            stream.end()
            del self._open[stream]
            self._turns.forget(stream)
            self._publisher.close(stream.who.gateway, stream.session)
            if stream.writer:
                await asyncio.wait([stream.writer])  # gRPC takes no status while a response is still leaving
                if not stream.writer.cancelled() and (mistake := stream.writer.exception()):
                    raise mistake

    async def _follow(self, stream: _Stream, decode: Callable[[bytes], Request], context: Context) -> None:
        loop = asyncio.get_running_loop()
        stream.writer = writer = loop.create_task(self._write(stream, context, loop))
        if reader := asyncio.current_task():
            writer.add_done_callback(lambda _: stream.ended or reader.cancel())
        try:
            while (raw := await context.read()) is not EOF:
                await self._turns.wait(len(raw))
                self._receive(stream, decode(raw), loop.time())
                del raw
        except asyncio.CancelledError:
            writer.cancel()  # the stream is no more, or the writer has ended it
            raise

    def _receive(self, stream: _Stream, request: Request, now_s: float) -> None:
        waited_s = stream.session.receive(request, now_s)
        if waited_s is not None:
            self._telemetry.ack_seconds.observe(waited_s)
        for report in stream.session.reports():
            self._hear(stream, report)
        if not stream.session.is_settled:
            stream.notify()

    def _hear(self, stream: _Stream, report: Report) -> None:
        if isinstance(report, Nack):
            self._telemetry.nacks.labels(SHORT[report.type_url]).inc()
        self._publisher.hear(stream.who.gateway, stream.session, report)

    async def _write(self, stream: _Stream, context: Context, loop: asyncio.AbstractEventLoop) -> None:
        """Sends what the session offers, one response at a time, until the stream ends."""
        while not stream.ended:
            now_s = loop.time()
            pushes = stream.session.offer(now_s)
            while pushes and not stream.ended:
                push = pushes.pop(0)
                self._pushes[push.type_url].inc()
                try:
                    await context.write(push.data)
                except grpc.aio.BaseError:
                    return  # the stream broke; its handler hears of it too
                del push  # it may be large, and this waits long
            stream.set_alarm(loop, now_s)
            await stream.sleep(loop)


def _bind(server: grpc.aio.Server, address: str, tls: ServerTls | None) -> int:
    if tls is None and not _is_private(address):
        raise ListenError("without TLS, only loopback and unix sockets are served: xDS carries credentials")
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(tls))
    except RuntimeError as error:
        raise ListenError("the address is in use, or not one of this machine") from error


def _is_private(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Raises OSError for a file that cannot be read, ListenError for one that holds something else."""
    files = (tls.key_file, tls.cert_file, tls.client_ca_file)
    key, certificate, authority = (Path(file).read_bytes() for file in files)
    try:  # gRPC would refuse them too, but not say why
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.cert_file, tls.key_file)
        context.load_verify_locations(tls.client_ca_file)
    except ssl.SSLError as error:
        raise ListenError(f"no usable certificate and key in {', '.join(map(str, files))}: {error}") from error
    return grpc.ssl_server_credentials([(key, certificate)], root_certificates=authority, require_client_auth=True)


def _type_status(subscription: Subscription) -> dict[str, object]:
    if subscription.flight:
        state = "sent"
    elif not subscription.answered:
        state = "idle"
    else:
        state = "ACK" if subscription.error is None else "NACK"
    return {
        "type": SHORT[subscription.type_url],
        "subscribed": "all" if subscription.wildcard else len(subscription.names),
        "state": state,
        "version": subscription.makes.complete,
        "error": subscription.error,
        "ack_seconds": subscription.ack_s,
    }
