"""Streams through a real Envoy: server-sent events, WebSocket and gRPC, local and remote."""

import grpc
import grpc.aio
import pytest
import trustme
from yarl import URL

from tests.envoy.conftest import grpc_tls
from tests.envoy.world import World, dead, model, remote, until
from tests.support.backends import (
    ECHO_METHOD,
    REFUSING_METHOD,
    Backend,
    events,
    grpc_backend,
    hold,
    status,
    websocket,
)
from xds import ir

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


async def call(gateway: World, route: ir.Route, method: str, request: bytes) -> bytes:
    """A gRPC call over the front."""
    options = (("grpc.default_authority", route.hosts[0]), ("grpc.enable_http_proxy", 0))
    async with grpc.aio.insecure_channel(f"{gateway.host}:{gateway.port}", options=options) as channel:
        answer: bytes = await channel.unary_unary(method, bytes, bytes)(request, timeout=20)
        return answer


@pytest.mark.parametrize("share_ppm", [0, ir.PPM])
async def test_an_event_arrives_before_the_stream_ends(
    gateway: World, here: Backend, there: Backend, share_ppm: int
) -> None:
    here.behave = there.behave = events
    route = await gateway.serve(model([here], [remote(there)], share_ppm=share_ppm))
    url = URL(f"http://{gateway.host}:{gateway.port}/v1/chat")

    async with gateway.session.post(url, data=b"{}", headers={"host": route.hosts[0]}) as response:
        first = await response.content.readuntil(b"\n\n")
        (here if share_ppm == 0 else there).gate.set()
        rest = await response.content.read()

    assert (first, rest) == (b"data: first\n\n", b"data: [DONE]\n\n")


@pytest.mark.parametrize("case", ["local", "remote", "local is full"])
async def test_a_websocket_echoes(gateway: World, here: Backend, there: Backend, case: str) -> None:
    here.behave = there.behave = websocket
    share_ppm = ir.PPM if case == "remote" else 0
    limit = 0 if case == "local is full" else ir.UNLIMITED
    route = await gateway.serve(model([here], [remote(there)], share_ppm=share_ppm, limit=limit))
    url = URL(f"http://{gateway.host}:{gateway.port}/realtime")

    async with gateway.session.ws_connect(url, headers={"host": route.hosts[0]}) as socket:
        for text in ("one", "two"):
            await socket.send_str(text)
            served_by = "here" if case == "local" else "there"
            assert await socket.receive_str(timeout=20) == f"{served_by}: {text}"


async def test_a_websocket_that_closes_frees_its_slot(gateway: World, here: Backend) -> None:
    here.behave = websocket
    route = await gateway.serve(model([here], limit=1))
    url = URL(f"http://{gateway.host}:{gateway.port}/realtime")
    for _ in range(3):
        async with gateway.session.ws_connect(url, headers={"host": route.hosts[0]}) as socket:
            await socket.send_str("x")
            assert await socket.receive_str(timeout=20) == "here: x"
        await until(lambda: here.in_flight == 0)


async def test_a_grpc_call_is_served_locally(gateway: World) -> None:
    async with grpc_backend("here") as here:
        route = await gateway.serve(model([here], protocol=ir.Protocol.HTTP2))

        assert await call(gateway, route, ECHO_METHOD, b"hello") == b"here: hello"


@pytest.mark.parametrize("case", ["full", "dead"])
async def test_a_grpc_call_goes_to_a_remote_by_alpn_when_local_cannot(
    gateway: World, authority: trustme.CA, ca_pem: str, case: str
) -> None:
    async with grpc_backend("here") as here, grpc_backend("there", grpc_tls(authority, "grpc.test")) as there:
        local = dead(here) if case == "dead" else here
        tls = ir.Tls("grpc.test", "grpc.test", ca_pem)
        route = model(
            [local],
            [remote(there, tls=tls, protocol=ir.Protocol.AUTO)],
            protocol=ir.Protocol.HTTP2,
            limit=0 if case == "full" else 10,
        )
        await gateway.serve(route)

        assert await call(gateway, route, ECHO_METHOD, b"hello") == b"there: hello"
        assert here.hits == 0
        errors = (await gateway.logged(ECHO_METHOD, route.name))["errors"]
        assert ("overflow" if case == "full" else "UF") in errors["local"]


async def test_the_status_of_a_grpc_application_passes_untouched(gateway: World, there: Backend) -> None:
    async with grpc_backend("here") as here:
        route = await gateway.serve(model([here], [remote(there)], protocol=ir.Protocol.HTTP2))

        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(gateway, route, REFUSING_METHOD, b"hello")

        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert (error.value.details(), here.hits, there.hits) == ("not in this state", 1, 0)


async def test_an_unknown_grpc_host_is_unimplemented(gateway: World) -> None:
    route = model([])
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(gateway, route, ECHO_METHOD, b"hello")

    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert route.hosts[0] in str(error.value.details())


async def test_a_stream_that_began_is_never_tried_elsewhere(gateway: World, here: Backend, there: Backend) -> None:
    here.behave = status(200)
    route = await gateway.serve(model([here], [remote(there)]))
    here.behave = hold
    here.gate.set()

    assert (await gateway.ask(route)).status == 200
    assert (here.hits, there.hits) == (1, 0)
