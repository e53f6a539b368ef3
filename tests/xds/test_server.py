"""The port, over real connections from a gRPC client."""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme

from protos.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from tests.xds.plane import Metrics, Plane, eventually, model, serving
from xds import server as server_module
from xds import session as session_module
from xds import turns
from xds.events import GatewayConnected, GatewayDisconnected, GatewayRefused
from xds.publisher import Publisher
from xds.response import Push
from xds.server import SERVICES, SHORT, ListenError, ServerTls
from xds.session import Session
from xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, SCOPED_ROUTE
from xds.subscription import Ack, Nack
from xds.translate import Gateway

AGGREGATED = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
OPENING_S = 0.2
DELTA, STATE = AGGREGATED + "DeltaAggregatedResources", AGGREGATED + "StreamAggregatedResources"


class Stream:
    """A client's stream, incremental or not by its method."""

    def __init__(self, channel: grpc.aio.Channel, method: str = DELTA, node: str = "g") -> None:
        self.incremental = "/Delta" in method
        self._node: dict[str, Any] | None = {"id": node}
        open_stream: Any = channel.stream_stream  # its stubs want serializers
        self.call = open_stream(method)()

    async def says(self, type_url: str, **fields: Any) -> None:
        message = DeltaDiscoveryRequest if self.incremental else DiscoveryRequest
        request = message(type_url=type_url, node=self._node, **fields)
        self._node = None
        await self.call.write(request.SerializeToString())

    async def hears(self) -> Any:
        async with asyncio.timeout(30):
            raw = await self.call.read()
        assert isinstance(raw, bytes), (await self.call.code(), await self.call.details())
        return (DeltaDiscoveryResponse if self.incremental else DiscoveryResponse).FromString(raw)

    async def acks(self, response: Any) -> None:
        version = {} if self.incremental else {"version_info": response.version_info}
        await self.says(response.type_url, response_nonce=response.nonce, **version)

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """Waits until the server ends the stream, and how."""
        async with asyncio.timeout(30):
            return await self.call.code(), await self.call.details()


@asynccontextmanager
async def connected(plane: Plane, **options: Any) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{plane.port}", **options) as channel:
        yield channel


@pytest.mark.parametrize("method", [DELTA, STATE])
async def test_a_client_is_sent_what_is_published_as_it_changes(method: str) -> None:
    async with serving() as plane, connected(plane) as channel:
        stream = Stream(channel, method)
        await stream.says(CLUSTER)
        response = await stream.hears()
        assert (response.type_url, len(response.resources)) == (CLUSTER, 9)
        await stream.acks(response)
        plane.publish(model("m", 1))
        response = await stream.hears()
        assert len(response.resources) == (1 if stream.incremental else 10)
        await stream.acks(response)
        await eventually(lambda: len(plane.metrics.ack_seconds.observed) == 2)
        assert plane.metrics.pushes.by_label == {"CDS": 2}


@pytest.mark.parametrize(("service", "methods", "only"), [each for each in SERVICES if each[2]])
@pytest.mark.parametrize("variant", ["Delta", "Stream"])
async def test_every_type_has_a_service_of_its_own(service: str, methods: str, only: str, variant: str) -> None:
    async with serving() as plane, connected(plane) as channel:
        stream = Stream(channel, f"/envoy.service.{service}/{variant}{methods}")
        names = {"resource_names_subscribe": ["x"]} if variant == "Delta" else {"resource_names": ["x"]}
        await stream.says("", **names)
        assert (await stream.hears()).type_url == only
        assert [each["type"] for each in plane.server.status()[0]["types"]] == [SHORT[only]]  # type: ignore[attr-defined]

        await stream.says(LISTENER if only != LISTENER else CLUSTER)
        code, words = await stream.end()
        assert (code, "not served on this stream" in words) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_what_cannot_be_decoded_ends_the_stream() -> None:
    async with serving() as plane, connected(plane) as channel:
        stream = Stream(channel)
        await stream.call.write(b"\xff\xff\xff")
        assert await stream.end() == (grpc.StatusCode.INVALID_ARGUMENT, "the request cannot be decoded")


async def test_a_client_without_an_id_is_told_to_have_one() -> None:
    async with serving() as plane, connected(plane) as channel:
        stream = Stream(channel, node="")
        await stream.says(CLUSTER)
        code, words = await stream.end()
        assert (code, "node.id is empty" in words) == (grpc.StatusCode.FAILED_PRECONDITION, True)


async def test_an_old_envoy_is_told_why_and_reported_once() -> None:
    async with serving() as plane, connected(plane) as channel:
        words = ""
        for _ in range(2):
            stream = Stream(channel)
            version = {"version": {"major_number": 1, "minor_number": 36, "patch": 4}}
            stream._node = {"id": "old", "user_agent_name": "envoy", "user_agent_build_version": version}
            await stream.says(CLUSTER)
            code, words = await stream.end()
            assert (code, "1.40 or newer is needed" in words) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        assert plane.events == [GatewayRefused("old", "1.36.4", words)]


async def test_a_client_that_says_nothing_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "FIRST_REQUEST_S", 0.05)
    async with serving() as plane, connected(plane) as channel:
        stream = Stream(channel)
        assert (await stream.end())[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert plane.events == []


async def test_a_gateway_is_gone_with_its_last_stream() -> None:
    async with serving() as plane, connected(plane) as channel:
        streams = [Stream(channel) for _ in range(2)]
        for stream in streams:
            await stream.says(CLUSTER)
            await stream.hears()
        assert plane.events == [GatewayConnected("g", "unknown")]
        assert plane.server.streams == 2
        streams[0].call.cancel()
        await eventually(lambda: plane.server.streams == 1)
        await streams[1].call.done_writing()
        assert (await streams[1].end())[0] is grpc.StatusCode.OK
        await eventually(lambda: plane.server.streams == 0)
        assert plane.events[1:] == [GatewayDisconnected("g")]
        assert plane.server.status() == []


async def test_what_falls_due_while_a_response_is_made_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client kept and is gone is removed once the opening of its stream is over, however slow we are then."""
    offer = Session.offer

    def slow_at_last(session: Session, now_s: float) -> list[Push]:
        pushes = offer(session, now_s)
        if 0 < session._opening_until_s - now_s < 0.75 * OPENING_S:
            time.sleep(OPENING_S)
        return pushes

    monkeypatch.setattr(session_module, "OPENING_S", OPENING_S)
    monkeypatch.setattr(Session, "offer", slow_at_last)
    async with serving() as plane, connected(plane) as channel:
        stream = Stream(channel)
        await stream.says(SCOPED_ROUTE, initial_resource_versions={"gone": "1"})
        await asyncio.sleep(OPENING_S / 2)
        await stream.says(ROUTE, resource_names_subscribe=["gone"], initial_resource_versions={"gone": "1"})
        response = await stream.hears()
        assert (response.type_url, [*response.removed_resources]) == (SCOPED_ROUTE, ["gone"])


async def test_status_shows_the_answers_and_the_words_of_a_refusal() -> None:
    async with serving() as plane, connected(plane) as channel:
        stream = Stream(channel)
        await stream.says(CLUSTER)
        await stream.acks(await stream.hears())
        await stream.says(LISTENER)
        response = await stream.hears()
        await stream.says(LISTENER, response_nonce=response.nonce, error_detail={"message": "listener front: no"})
        await stream.says(ENDPOINTS, resource_names_subscribe=["x"])

        def states() -> dict[str, tuple[object, ...]]:
            [gateway] = plane.server.status()
            keys = ("subscribed", "state", "error")
            return {each["type"]: tuple(each[key] for key in keys) for each in gateway["types"]}  # type: ignore[attr-defined]

        await eventually(lambda: states().get("EDS") == (1, "sent", None))
        assert states()["CDS"] == ("all", "ACK", None)
        assert states()["LDS"] == ("all", "sent", "listener front: no"), "the innocent one is sent again"
        assert plane.metrics.nacks.by_label == {"LDS": 1}


async def test_a_stream_that_does_not_read_holds_up_no_other() -> None:
    async with serving() as plane, connected(plane) as other:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with connected(plane, options=options) as channel:
            slow, quick = Stream(channel, node="slow"), Stream(other, node="quick")
            await slow.says(CLUSTER)
            await quick.says(CLUSTER)
            await quick.acks(await quick.hears())
            await eventually(lambda: plane.metrics.pushes.by_label["CDS"] == 2)
            for number in range(20):
                routes = [model(f"m{number}-{each}", 1) for each in range(50)]
                plane.publish(*routes)
                response = await quick.hears()
                assert len(response.resources) == 50
                await quick.acks(response)
            assert plane.metrics.pushes.by_label["CDS"] == 22, "the slow one has its first response in flight"

            await slow.acks(await slow.hears())
            held: set[str] = set()
            while len(held) < 1000:
                response = await slow.hears()
                held |= {each.name for each in response.resources}
                await slow.acks(response)
            assert plane.metrics.pushes.by_label["CDS"] < 30, "all that it missed came together"


async def test_a_stream_that_breaks_in_the_middle_of_a_large_response_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as plane:
        plane.publish(*(model(f"m{number}", 1) for number in range(3_000)))
        async with connected(plane, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            streams = [Stream(channel, method, node=f"g{n}") for n, method in enumerate([DELTA, STATE] * 3)]
            for stream in streams:
                await stream.says(CLUSTER)
            await eventually(lambda: plane.metrics.pushes.by_label["CDS"] == len(streams))
            for stream in streams:
                stream.call.cancel()
        await eventually(lambda: plane.server.streams == 0)
        gc.collect()  # a task that failed unheard says so when it is collected
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


class MistakeError(Exception):
    """One of our own, in the midst of a stream."""


def make_mistakes(plane: Plane, unlucky: str, where: str) -> None:
    """From now on one gateway's streams meet a mistake in a method of their sessions, or in the publisher's `hear`."""
    opens, hears = plane.publisher.open, plane.publisher.hear

    def fail(*_: object) -> None:
        raise MistakeError

    def open_(gateway: str, *args: Any, **options: Any) -> Session:
        session = opens(gateway, *args, **options)
        if gateway == unlucky and where != "hear":
            setattr(session, where, fail)
        return session

    def hear(gateway: str, session: Session, report: Ack | Nack) -> None:
        (fail if gateway == unlucky and where == "hear" else hears)(gateway, session, report)

    vars(plane.publisher).update(open=open_, hear=hear)


@pytest.mark.parametrize("where", ["receive", "offer", "hear"])
async def test_a_mistake_of_our_own_is_raised_and_ends_its_stream_alone(
    caplog: pytest.LogCaptureFixture, where: str
) -> None:
    async with serving() as plane, connected(plane) as channel:
        make_mistakes(plane, "unlucky", where)
        other, stream = Stream(channel, node="other"), Stream(channel, node="unlucky")
        for each in (other, stream):
            await each.says(CLUSTER)
        await other.acks(await other.hears())
        if where == "hear":
            await stream.acks(await stream.hears())
        assert (await stream.end())[0] == grpc.StatusCode.UNKNOWN
        with pytest.raises(MistakeError):
            async with asyncio.timeout(30):
                await plane.server.run()
        assert "on a stream of gateway 'unlucky'" in caplog.text

        await eventually(lambda: [each["gateway"] for each in plane.server.status()] == ["other"])
        plane.publish(model("m", 1))
        assert [each.name for each in (await other.hears()).resources] == ["local/default/m"]


async def test_the_ways_a_stream_ends_are_no_mistakes() -> None:
    async with serving(max_streams=2) as plane, connected(plane) as channel:
        running = asyncio.create_task(plane.server.run())
        left, cancelled = Stream(channel, node="left"), Stream(channel, node="cancelled")
        for stream in (left, cancelled):
            await stream.says(CLUSTER)
            await stream.hears()
        assert (await Stream(channel).end())[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        cancelled.call.cancel()
        await left.call.done_writing()
        await eventually(lambda: plane.server.streams == 0)
        wrong = Stream(channel)
        await wrong.says("type.googleapis.com/nothing.of.ours")
        assert (await wrong.end())[0] == grpc.StatusCode.INVALID_ARGUMENT
        await eventually(lambda: plane.server.streams == 0)
        assert not running.done()
        running.cancel()


async def test_hundreds_connect_at_once_and_follow_a_change() -> None:
    async with serving() as plane, connected(plane) as channel:
        plane.publish(model("m", 1))
        streams = [Stream(channel, node=f"g{number}") for number in range(300)]
        await asyncio.gather(*(stream.says(CLUSTER) for stream in streams))
        for response, stream in zip(await asyncio.gather(*(each.hears() for each in streams)), streams, strict=True):
            await stream.acks(response)
        assert len(plane.server.status()) == 300
        plane.publish(replace(model("m", 1), local=replace(model("m").local, initial_limit=7)))
        responses = await asyncio.gather(*(each.hears() for each in streams))
        assert {each.resources[0].name for each in responses} == {"local/default/m"}
        assert len({each.nonce for each in responses}) == 1, "made once for all"


async def test_large_requests_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LARGE_BYTES", 50)
    async with serving() as plane, connected(plane) as channel:
        plane.publish(model("m", 1))
        streams = [Stream(channel, node=f"g{number}") for number in range(20)]
        known = {"local/default/m": "another", "gone": "1"}
        await asyncio.gather(*(each.says(CLUSTER, initial_resource_versions=known) for each in streams))
        for stream in streams:
            response = await stream.hears()
            assert len(response.resources) == 10
            await stream.acks(response)
            assert list((await stream.hears()).removed_resources) == ["gone"]


@pytest.mark.parametrize("method", [DELTA, STATE])
async def test_what_a_gateway_says_is_kept_no_longer_than_it_takes_to_hear_it(method: str) -> None:
    async with serving() as plane, connected(plane) as channel:
        stream = Stream(channel, method)
        large = "x" * 2_000_000
        tracemalloc.start()
        stream._node = {"id": "g", "cluster": large}
        await stream.says(CLUSTER)
        response = await stream.hears()
        stream._node = {"id": "g", "cluster": large}
        await stream.acks(response)
        await eventually(lambda: len(plane.metrics.ack_seconds.observed) == 1)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < len(large)


async def test_streams_beyond_the_limit_are_refused() -> None:
    async with serving(max_streams=1) as plane, connected(plane) as channel:
        one = Stream(channel)
        await one.says(CLUSTER)
        await one.hears()
        assert await Stream(channel).end() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "all 1 streams are taken")
        await one.says(LISTENER)


async def test_a_request_that_is_too_large_ends_only_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "OPTIONS", (("grpc.max_receive_message_length", 1_000),))
    async with serving() as plane, connected(plane) as channel:
        stream = Stream(channel)
        await stream.says(ENDPOINTS, resource_names_subscribe=["x" * 2_000])
        assert (await stream.end())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        other = Stream(channel)
        await other.says(CLUSTER)
        assert len((await other.hears()).resources) == 9


# Addresses


async def test_a_unix_socket_is_served(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'xds.sock'}"
    async with serving(address) as plane, grpc.aio.insecure_channel(address) as channel:
        assert plane.port == 0
        stream = Stream(channel)
        await stream.says(CLUSTER)
        assert len((await stream.hears()).resources) == 9


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.test:0", ":0"])
async def test_without_tls_only_this_machine_is_served(address: str) -> None:
    with pytest.raises(ListenError, match="without TLS, only loopback and unix sockets"):
        async with serving(address):
            pass


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with serving() as plane:
        with pytest.raises(ListenError, match="in use"):
            async with serving(f"127.0.0.1:{plane.port}"):
                pass


async def test_an_address_is_free_again_after_the_server_stopped() -> None:
    async with serving() as plane:
        port = plane.port
    async with serving(f"127.0.0.1:{port}") as plane:
        assert plane.port == port


# TLS


def pem(directory: Path, name: str, *blobs: trustme.Blob) -> Path:
    path = directory / name
    path.write_bytes(b"".join(blob.bytes() for blob in blobs))
    return path


@pytest.fixture(name="authority", scope="module")
def _authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(name="tls")
def _tls(tmp_path: Path, authority: trustme.CA) -> ServerTls:
    own = authority.issue_cert("xds.test")
    return ServerTls(
        cert_file=pem(tmp_path, "tls.crt", *own.cert_chain_pems),
        key_file=pem(tmp_path, "tls.key", own.private_key_pem),
        client_ca_file=pem(tmp_path, "ca.crt", authority.cert_pem),
    )


def credentials(authority: trustme.CA, client: trustme.LeafCert | None) -> grpc.ChannelCredentials:
    root = authority.cert_pem.bytes()
    if client is None:
        return grpc.ssl_channel_credentials(root)
    chain = b"".join(blob.bytes() for blob in client.cert_chain_pems)
    return grpc.ssl_channel_credentials(root, client.private_key_pem.bytes(), chain)


@asynccontextmanager
async def over_tls(port: int, own: grpc.ChannelCredentials) -> AsyncIterator[Stream]:
    options = [("grpc.ssl_target_name_override", "xds.test")]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", own, options=options) as channel:
        yield Stream(channel)


async def test_with_tls_a_client_shows_a_certificate_of_our_authority(authority: trustme.CA, tls: ServerTls) -> None:
    async with serving(tls=tls) as plane:
        own = credentials(authority, authority.issue_cert("gateway.test"))
        async with over_tls(plane.port, own) as stream:
            await stream.says(CLUSTER)
            assert len((await stream.hears()).resources) == 9


@pytest.mark.parametrize("client", [None, trustme.CA().issue_cert("gateway.test")], ids=["none", "another's"])
async def test_with_tls_a_client_without_one_is_refused(
    authority: trustme.CA, tls: ServerTls, client: trustme.LeafCert | None
) -> None:
    async with serving(tls=tls) as plane, over_tls(plane.port, credentials(authority, client)) as stream:
        assert (await stream.end())[0] is grpc.StatusCode.UNAVAILABLE
        assert plane.events == []


async def test_with_tls_any_address_may_be_served(tls: ServerTls) -> None:
    server = grpc.aio.server()
    assert server_module._bind(server, "127.0.0.1:0", tls) > 0
    assert not server_module._is_private("0.0.0.0:18000")
    await server.stop(None)


async def test_a_certificate_that_cannot_be_read_is_named(tls: ServerTls, tmp_path: Path) -> None:
    missing = replace(tls, key_file=tmp_path / "nowhere.key")
    with pytest.raises(OSError, match=r"nowhere\.key"):
        async with serving(tls=missing):
            pass


async def test_a_certificate_that_is_none_is_an_error(tls: ServerTls) -> None:
    tls.cert_file.write_text("not a certificate")
    with pytest.raises(OSError, match="certificate"):
        async with serving(tls=tls):
            pass


async def test_stopping_a_server_that_never_started_is_nothing() -> None:
    server = server_module.Server(Publisher(Gateway(), lambda event: None), Metrics())
    await server.stop()
    assert server.status() == []
