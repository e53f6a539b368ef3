"""A model's own port on a real Envoy, as callers of a taken-over Service find it: as if no gateway stood there, but for
what the gateway is for. The port comes, moves, changes hands and goes, and nobody else's callers notice.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest
import pytest_asyncio

from tests.envoy.conftest import ipv6_or_skip
from tests.support.backends import ECHO_METHOD, Backend, echo, events, grpc_backend, hold, reset, websocket
from tests.support.envoy import Envoy, bootstrap, running
from tests.support.ports import free_port
from tests.xds.plane import Plane, eventually, model, serving
from xds import ir
from xds.events import Rejected
from xds.translate import Gateway

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ADDRESS = "127.0.0.71"


@dataclass
class World:
    plane: Plane
    envoy: Envoy
    access_log: Path

    async def serve(self, *routes: ir.Route) -> None:
        self.plane.publish(*routes)
        await self.plane.programmed(*routes)


@asynccontextmanager
async def world(directory: Path, address: str = ADDRESS) -> AsyncIterator[World]:
    settings = Gateway(address, 0, access_log_path=str(directory / "access.log"))
    drain = ("--drain-strategy", "immediate")  # by default Envoy asks callers to leave one by one, in ten minutes
    async with (
        serving(gateway=settings) as plane,
        running(directory, bootstrap(plane.port), *drain, concurrency=2) as envoy,
    ):
        await envoy.live()
        yield World(plane, envoy, directory / "access.log")
        assert plane.saw(Rejected) == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world(tmp_path_factory.mktemp("envoy")) as running_world:
        yield running_world


def own(name: str, backend: Backend, **changes: Any) -> ir.Route:
    """A model that is known by its port alone."""
    return model(name, backend.port, **{"hosts": (), "port": free_port(ADDRESS), **changes})


async def raw(port: int | None, request: str, address: str = ADDRESS) -> tuple[str, dict[str, str], str]:
    """Sends these very bytes on a connection of its own, which the request must ask to close. Status line, headers with
    their names in lower case, and body.
    """
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(request.replace("\n", "\r\n").encode())
        async with asyncio.timeout(20):
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()
    status, *lines = head.split("\r\n")
    return status, {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}, body


async def get(session: aiohttp.ClientSession, port: int | None, path: str = "/", **headers: str) -> tuple[int, str]:
    """The status of a request, and where it was served."""
    async with session.get(f"http://{ADDRESS}:{port}{path}", headers=headers) as answer:
        await answer.read()
        return answer.status, answer.headers.get("x-spillway-destination", "")


# Transparent


@pytest.mark.parametrize(
    "host", ["llama.default.svc:80", "LLAMA", "10.96.0.7", "anything.at.all.", "[::1]:8000", "a_b%c"]
)
async def test_any_host_is_served_and_arrives_as_it_was_sent(gateway: World, here: Backend, host: str) -> None:
    route = own("hosts", here)
    await gateway.serve(route)

    status, _, _ = await raw(route.port, f"GET / HTTP/1.1\nhost: {host}\nconnection: close\n\n")

    assert status.startswith("HTTP/1.1 200")
    assert here.seen[-1].headers["host"] == host


@pytest.mark.parametrize(
    "path", ["/v1//models/meta%2Fllama/../x", "/a%2fb?q=%2F..&r", "/..%2f", "/v1/./x;y=1", "/%7Euser/a%5Cb", "/?"]
)
async def test_a_path_arrives_as_it_was_sent(gateway: World, here: Backend, path: str) -> None:
    route = own("paths", here)
    await gateway.serve(route)

    await raw(route.port, f"GET {path} HTTP/1.1\nhost: x\nconnection: close\n\n")

    assert here.seen[-1].path == path


async def test_a_request_of_http_1_0_needs_no_host(gateway: World, here: Backend) -> None:
    route = own("old", here)
    await gateway.serve(route)

    for request in ("GET / HTTP/1.0\n\n", "GET / HTTP/1.0\nhost: mine\n\n"):
        assert (await raw(route.port, request))[0].startswith("HTTP/1.0 200")

    assert [seen.headers["host"] for seen in here.seen] == ["localhost", "mine"]


async def test_what_an_application_is_told_of_its_caller_is_kept_and_added_to(gateway: World, here: Backend) -> None:
    route = own("told", here)
    await gateway.serve(route)
    told = {
        "x-forwarded-for": "203.0.113.7",
        "x-forwarded-proto": "https",
        "x-request-id": "mine",
        "authorization": "Bearer own",
        "x-spillway-cluster": "forged",
        "x-envoy-max-retries": "0",
    }
    lines = "".join(f"{name}: {value}\n" for name, value in told.items())

    await raw(route.port, f"GET / HTTP/1.1\nhost: x\n{lines}connection: close\n\n")

    seen = here.seen[-1].headers
    assert seen["x-forwarded-for"].startswith("203.0.113.7,")
    assert {name: seen[name] for name in ("x-forwarded-proto", "x-request-id", "authorization")} == {
        "x-forwarded-proto": "https",
        "x-request-id": "mine",
        "authorization": "Bearer own",
    }
    assert not [name for name in seen if name.startswith(("x-spillway-", "x-envoy-"))]


async def test_an_answer_is_the_applications_but_for_who_gave_it(gateway: World, here: Backend) -> None:
    route = own("answers", here)
    await gateway.serve(route)
    request = "GET / HTTP/1.1\nhost: x\nconnection: close\n\n"

    direct, through = await raw(here.port, request, here.host), await raw(route.port, request)

    assert through[0] == direct[0]
    assert through[2] == direct[2]
    added = through[1].items() - direct[1].items() - {("date", through[1]["date"])}
    assert added == {("x-spillway-destination", "local")}
    assert direct[1].keys() <= through[1].keys()


async def test_a_connection_is_kept_for_the_next_request(gateway: World, here: Backend) -> None:
    route = own("kept", here)
    await gateway.serve(route)
    connected: list[object] = []
    trace = aiohttp.TraceConfig()

    async def note(*_: object) -> None:
        connected.append(_)

    trace.on_connection_create_end.append(note)
    async with aiohttp.ClientSession(trace_configs=[trace]) as session:
        for _ in range(5):
            async with session.get(f"http://{ADDRESS}:{route.port}/") as answer:
                await answer.read()
        assert len(connected) == 1


async def test_streams_pass(gateway: World, here: Backend) -> None:
    route = own("streams", here)
    await gateway.serve(route)
    async with aiohttp.ClientSession() as session:
        here.behave = events
        async with session.post(f"http://{ADDRESS}:{route.port}/v1/chat", data=b"{}") as answer:
            assert await answer.content.readuntil(b"\n\n") == b"data: first\n\n"
            here.gate.set()
            assert await answer.content.read() == b"data: [DONE]\n\n"
        here.behave = websocket
        async with session.ws_connect(f"http://{ADDRESS}:{route.port}/realtime") as connection:
            await connection.send_str("hello")
            assert await connection.receive_str(timeout=20) == "here: hello"


async def test_cleartext_http_2_is_understood_without_being_announced(gateway: World) -> None:
    async with grpc_backend("here") as here:
        local = ir.Local((ir.Endpoint("127.0.0.1", here.port),), ir.Protocol.HTTP2)
        route = own("grpc", here, local=local)
        await gateway.serve(route)
        async with grpc.aio.insecure_channel(f"{ADDRESS}:{route.port}", (("grpc.enable_http_proxy", 0),)) as channel:
            answer = await channel.unary_unary(ECHO_METHOD, bytes, bytes)(b"hello", timeout=20)
    assert answer == b"here: hello"


async def test_an_offer_to_change_to_http_2_is_passed_over(gateway: World, here: Backend) -> None:
    """Java's own client makes it with each first request."""
    route = own("upgrade", here)
    await gateway.serve(route)
    offer = "connection: close, upgrade, http2-settings\nupgrade: h2c\nhttp2-settings: AAMAAABk\n"

    status, _, _ = await raw(route.port, f"GET / HTTP/1.1\nhost: x\n{offer}\n")

    assert status.startswith("HTTP/1.1 200")
    assert "upgrade" not in here.seen[-1].headers


# What the gateway is for


async def test_overflow_failover_and_shares_work_as_they_do_by_host(
    gateway: World, here: Backend, there: Backend
) -> None:
    remote = ir.Remote(ir.Backend("127.0.0.1", there.port), "there.test", "/serving/a")
    first_local = (ir.Chain("local", ir.PPM, ("remote-0",)),)
    route = own("all", here, remotes=(remote,), chains=first_local)
    await gateway.serve(route)
    async with aiohttp.ClientSession() as session:
        assert await get(session, route.port) == (200, "local")

        here.behave = reset
        assert await get(session, route.port, "/v1/../x") == (200, "remote-0")
        assert (there.seen[-1].path, there.seen[-1].headers["host"]) == ("/serving/a/x", "there.test")

        here.behave = hold
        full = replace(route, local=replace(route.local, limit=1))
        await gateway.serve(full)
        held = asyncio.ensure_future(get(session, route.port))
        await eventually(lambda: here.in_flight == 1)
        assert await get(session, route.port) == (200, "remote-0")
        here.gate.set()
        assert await held == (200, "local")

        await gateway.serve(replace(route, chains=(ir.Chain("remote-0", ir.PPM, ("local",)),)))
        async with asyncio.timeout(20):
            while await get(session, route.port) != (200, "remote-0"):
                await asyncio.sleep(0.01)


async def test_a_model_that_nothing_can_serve_says_so(gateway: World, here: Backend) -> None:
    route = own("nothing", here, chains=())
    await gateway.serve(route)

    status, _, body = await raw(route.port, "GET / HTTP/1.1\nhost: x\nconnection: close\n\n")

    assert status.startswith("HTTP/1.1 503")
    assert json.loads(body)["error"]["code"] == "no_destination"


async def test_the_log_names_the_model_and_the_host_that_was_asked_for(gateway: World, here: Backend) -> None:
    route = own("logged", here)
    await gateway.serve(route)

    await raw(route.port, "GET /own/logged?key=secret HTTP/1.1\nhost: Any.Host:81\nconnection: close\n\n")

    def entries() -> list[dict[str, Any]]:
        lines = gateway.access_log.read_text().splitlines() if gateway.access_log.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["path"] == "/own/logged"]

    await eventually(lambda: bool(entries()))
    assert (entries()[0]["model"], entries()[0]["host"]) == (route.name, "Any.Host:81")


# Coming, moving, going


async def test_a_model_has_its_port_and_its_host_side_by_side(gateway: World, here: Backend) -> None:
    by_host = own("both", here, hosts=("both",), port=None)
    await gateway.serve(by_host)
    await gateway.serve(replace(by_host, port=free_port(ADDRESS)))
    route = replace(by_host, port=free_port(ADDRESS))
    await gateway.serve(route)
    _, front = await gateway.envoy.listener("front")
    async with aiohttp.ClientSession() as session:
        assert await get(session, route.port) == (200, "local")
        assert await get(session, front, host="both") == (200, "local")


async def test_connections_of_others_live_through_all_of_it(gateway: World, here: Backend) -> None:
    other, first, second = own("other", here), own("first", here), own("second", here)
    await gateway.serve(other)
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector) as session:
        here.behave = events
        stream = await session.get(f"http://{ADDRESS}:{other.port}/")
        assert await stream.content.readuntil(b"\n\n") == b"data: first\n\n"

        await gateway.serve(first, second)
        await gateway.serve(replace(first, port=second.port), replace(second, port=first.port))
        await gateway.serve(replace(first, port=free_port(ADDRESS)))
        gateway.plane.remove(first, second)
        await gone(gateway, first.port, second.port)

        here.gate.set()
        assert await stream.content.read() == b"data: [DONE]\n\n"
        here.behave = echo
        assert await get(session, other.port) == (200, "local")


async def gone(gateway: World, *ports: int | None) -> None:
    """Waits until the gateway listens on none of these."""
    names = {f"port-{port}" for port in ports}
    async with asyncio.timeout(20):
        while {name.partition("::")[0] for name in (await gateway.envoy.ask("/listeners")).split()} & names:
            await asyncio.sleep(0.01)


async def test_ports_change_hands_at_once(gateway: World, here: Backend, there: Backend) -> None:
    one, two = own("one", here), own("two", there)
    await gateway.serve(one, two)
    swapped = replace(one, port=two.port), replace(two, port=one.port)
    await gateway.serve(*swapped)

    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        while True:  # a worker has it a turn of its loop after the main thread
            here.seen.clear()
            there.seen.clear()
            assert (await get(session, one.port))[0] == 200
            assert (await get(session, two.port))[0] == 200
            if [seen.headers["host"] for seen in there.seen] == [f"{ADDRESS}:{one.port}"]:
                break
    assert [seen.headers["host"] for seen in here.seen] == [f"{ADDRESS}:{two.port}"]


async def test_callers_that_are_there_are_served_until_they_leave_a_removed_port(gateway: World, here: Backend) -> None:
    route = own("leaving", here)
    await gateway.serve(route)
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector) as kept, aiohttp.ClientSession() as streaming:
        assert await get(kept, route.port) == (200, "local")
        here.behave = events
        stream = await streaming.get(f"http://{ADDRESS}:{route.port}/")
        await stream.content.readuntil(b"\n\n")
        here.behave = echo

        gateway.plane.remove(route)
        await gone(gateway, route.port)

        with pytest.raises(ConnectionRefusedError):
            await raw(route.port, "GET / HTTP/1.1\nhost: x\nconnection: close\n\n")
        async with kept.get(f"http://{ADDRESS}:{route.port}/") as answer:
            assert (answer.status, answer.headers["connection"]) == (200, "close")
        here.gate.set()
        assert await stream.content.read() == b"data: [DONE]\n\n"


async def test_a_port_that_somebody_has_refuses_one_model_and_tells_why(here: Backend, tmp_path: Path) -> None:
    settings = Gateway(ADDRESS, 0, access_log_path=str(tmp_path / "access.log"))
    async with serving(gateway=settings) as plane, running(tmp_path, bootstrap(plane.port)) as envoy:
        await envoy.live()
        good, bad = own("good", here), own("bad", here)
        with socket.create_server((ADDRESS, bad.port or 0)):
            plane.publish(good, bad)
            rejected = await plane.rejected()
            assert rejected.routes == {bad.name}
            assert f"port-{bad.port}" in rejected.message
            assert "Address already in use" in rejected.message
            await plane.programmed(good)
        async with aiohttp.ClientSession() as session:
            assert await get(session, good.port) == (200, "local")


async def test_one_address_takes_ipv4_and_ipv6(here: Backend, tmp_path: Path) -> None:
    """In a network namespace that has both, as a pod of a dual-stack cluster."""
    ipv6_or_skip()
    async with world(tmp_path, "::") as gateway:
        route = own("dual", here, port=free_port("::"))
        await gateway.serve(route)
        for address in ("127.0.0.1", "::1"):
            status, _, _ = await raw(route.port, "GET / HTTP/1.1\nhost: x\nconnection: close\n\n", address)
            assert status.startswith("HTTP/1.1 200")
        assert "::ffff" not in here.seen[0].headers["x-forwarded-for"]
