"""The player, against servers that do what servers should not do."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from controller.demo.measure import Outcome
from controller.demo.player import Player, Target
from controller.simulate.workload import Arrival

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves a handler for everything and returns 'host:port'."""
    runners = []

    async def served(handler: Handler) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runners.append(web.AppRunner(app, access_log=None, shutdown_timeout=0.1))
        await runners[-1].setup()
        await web.TCPSite(runners[-1], "127.0.0.1", 0).start()
        return f"127.0.0.1:{runners[-1].addresses[0][1]}"

    yield served
    for runner in runners:
        await runner.cleanup()


async def played(address: str, requests: list[Arrival], max_in_flight: int = 100) -> list[Outcome]:
    player = Player(Target(address, "chat.demo", "m"), requests, max_in_flight)
    player.start()
    await player.run()
    assert player.in_flight == 0
    return player.outcomes


async def good(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"x-spillway-destination": "remote-0"})
    await response.prepare(request)
    await response.write(b'data: {"choices": []}\n\n')
    await response.write(b"data: [DO")
    await response.write(b"NE]\n\n")
    return response


async def broken_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'data: {"choices": []}\n\n')
    return response


async def cut(request: web.Request) -> web.StreamResponse:
    response = await broken_off(request)
    assert request.transport is not None
    request.transport.close()
    return response


async def failing(_: web.Request) -> web.StreamResponse:
    return web.Response(status=503, text="no")


async def test_a_request_is_sent_as_a_client_of_the_service_would(serve: Serve) -> None:
    seen: list[tuple[str, str, object]] = []

    async def note(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen.append((request.path, request.headers["Host"], (body["model"], body["max_tokens"], body["stream"])))
        assert len(body["messages"][0]["content"].split()) == 7
        return await good(request)

    [outcome] = await played(await serve(note), [Arrival(0.0, 7, 3)])

    assert seen == [("/v1/chat/completions", "chat.demo", ("m", 3, True))]
    assert (outcome.status, outcome.destination, outcome.error) == (200, "remote-0", "")
    assert outcome.went_remote
    assert outcome.first_byte_s is not None
    assert outcome.sent_s <= outcome.first_byte_s <= outcome.done_s


@pytest.mark.parametrize(
    ("handler", "status", "words"),
    [(failing, 503, "status 503"), (broken_off, 200, "the stream broke off"), (cut, 200, "ClientPayloadError")],
)
async def test_what_went_wrong_is_recorded(serve: Serve, handler: Handler, status: int, words: str) -> None:
    [outcome] = await played(await serve(handler), [Arrival(0.0, 1, 1)])

    assert outcome.status == status
    assert words in outcome.error


async def test_a_refused_connection_is_recorded() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        [outcome] = await played(f"127.0.0.1:{reserved.getsockname()[1]}", [Arrival(0.0, 1, 1)])

    assert (outcome.status, outcome.first_byte_s, outcome.wait_s) == (0, None, None)
    assert "ClientConnectorError" in outcome.error


async def test_requests_are_sent_whatever_became_of_those_before_up_to_a_bound(serve: Serve) -> None:
    release = asyncio.Event()
    arrived = 0

    async def held(request: web.Request) -> web.StreamResponse:
        nonlocal arrived
        arrived += 1
        if arrived == 3:
            release.set()
        await release.wait()
        return await good(request)

    requests = [Arrival(0.0, 1, 1)] * 5
    outcomes = await played(await serve(held), requests, max_in_flight=3)

    assert sorted(outcome.error for outcome in outcomes) == ["", "", "", *["not sent: too many requests in flight"] * 2]


async def test_a_player_that_is_cancelled_ends_its_requests(serve: Serve) -> None:
    started = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    player = Player(Target(await serve(hang), "chat.demo", "m"), [Arrival(0.0, 1, 1)] * 3)
    player.start()
    playing = asyncio.create_task(player.run())
    await started.wait()
    playing.cancel()
    await asyncio.wait([playing])

    assert playing.cancelled()
    assert player.in_flight == 0
