"""What a remote gets and what it never gets, in a real Envoy: TLS, credentials, headers, limits, connections."""

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from tests.envoy.conftest import ipv6_or_skip, server_tls
from tests.envoy.world import World, dead, eventually, model, remote, until, world
from tests.support.backends import Backend, hold, http2_backend, http_backend, status
from xds import ir
from xds.snapshot import SECRET

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

NAME = "models.test"
CLIENT_CREDENTIALS = {
    "authorization": "Bearer client",
    "proxy-authorization": "Basic client",
    "cookie": "session=client",
    "x-api-key": "client",
    "api-key": "client",
    "x-harmless": "kept",
}


def pinned(ca_pem: str, name: str = NAME) -> ir.Tls:
    return ir.Tls(sni=name, san=name, ca_pem=ca_pem)


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    return server_tls(authority, NAME)


async def test_a_remote_behind_tls_gets_its_host_prefix_headers_and_token(
    gateway: World, tls: ssl.SSLContext, ca_pem: str
) -> None:
    async with http_backend("remote", tls=tls) as there:
        target = remote(
            there,
            prefix="/ws/a",
            tls=pinned(ca_pem),
            protocol=ir.Protocol.AUTO,
            headers=(("x-workspace", "100% a"),),
            credential=ir.Credential("token-1"),
        )
        route = await gateway.serve(model([], [target], share_ppm=ir.PPM), [ir.Secret("token-1", "T1")])

        answer = await gateway.ask(route, "POST", "/v1/chat?stream=1", data=b"{}")

    assert (answer.status, answer.destination) == (200, "remote-0")
    (seen,) = there.seen
    assert seen.path == "/ws/a/v1/chat?stream=1"
    assert seen.headers["host"] == "remote.test"
    assert seen.headers["authorization"] == "Bearer T1"
    assert seen.headers["x-workspace"] == "100% a"
    assert not [name for name in seen.headers if name.startswith(("x-spillway", "x-envoy"))]


async def test_defect_8_the_clients_credentials_stay_away_from_a_remote_that_has_its_own(
    gateway: World, here: Backend, there: Backend
) -> None:
    credential = ir.Credential("token-2", header="x-token", value_prefix="")
    route = model([here], [remote(there, credential=credential)], share_ppm=500_000)
    await gateway.serve(route, [ir.Secret("token-2", "T2")])

    await gateway.ask_many(route, 40, headers=CLIENT_CREDENTIALS | {"x-token": "client"})

    assert here.hits
    assert there.hits
    assert all("client" not in str(seen.headers) for seen in there.seen)
    assert {(seen.headers["x-token"], seen.headers["x-harmless"]) for seen in there.seen} == {("T2", "kept")}
    assert all(CLIENT_CREDENTIALS.items() <= seen.headers.items() for seen in here.seen)


async def test_a_remote_that_is_keyed_by_a_plain_header_counts_as_having_its_own(
    gateway: World, there: Backend
) -> None:
    route = await gateway.serve(model([], [remote(there, headers=(("x-api-key", "own"),))], share_ppm=ir.PPM))

    await gateway.ask(route, headers=CLIENT_CREDENTIALS)

    assert "client" not in str(there.seen[0].headers)
    assert there.seen[0].headers["x-api-key"] == "own"


async def test_a_remote_without_a_credential_gets_what_the_caller_sent(gateway: World, there: Backend) -> None:
    route = await gateway.serve(model([], [remote(there)], share_ppm=ir.PPM))

    await gateway.ask(route, headers=CLIENT_CREDENTIALS)

    assert CLIENT_CREDENTIALS.items() <= there.seen[0].headers.items()


@pytest.mark.parametrize("share_ppm", [0, ir.PPM])
async def test_an_attempt_leaves_no_trace_on_the_next(
    gateway: World, here: Backend, there: Backend, share_ppm: int
) -> None:
    name = f"token-3-{share_ppm}"
    target = remote(there, prefix="/ws", headers=(("x-workspace", "a"),), credential=ir.Credential(name))
    route = model([here], [target], share_ppm=share_ppm)
    await gateway.serve(route, [ir.Secret(name, "T3")])
    first, second = (here, there) if share_ppm == 0 else (there, here)
    first.behave = status(429)

    answer = await gateway.ask(route, "POST", "/v1/chat?q=1", data=b"x", headers={"authorization": "Bearer client"})

    assert (answer.status, first.hits, second.hits) == (200, 1, 1)
    assert (here.seen[0].path, there.seen[0].path) == ("/v1/chat?q=1", "/ws/v1/chat?q=1")
    assert here.seen[0].headers["authorization"] == "Bearer client"
    assert there.seen[0].headers["authorization"] == "Bearer T3"
    assert "x-workspace" not in here.seen[0].headers
    assert not [name for name in here.seen[0].headers if name.startswith("x-spillway")]
    assert here.seen[0].headers["host"] == route.hosts[0]


async def test_without_its_secret_a_remote_is_not_asked_and_the_request_goes_on(
    gateway: World, here: Backend, there: Backend
) -> None:
    target = remote(there, credential=ir.Credential("never-delivered"))
    route = await gateway.serve(model([here], [target], share_ppm=ir.PPM))

    answer = await gateway.ask(route, "POST", data=b"x", headers={"authorization": "Bearer client"})

    assert (answer.status, answer.destination, there.hits) == (200, "local", 0)


async def test_a_missing_secret_is_not_the_callers_fault(gateway: World, there: Backend) -> None:
    target = remote(there, credential=ir.Credential("never-delivered-either"))
    only_there = (ir.Chain("remote-0", ir.PPM),)
    route = await gateway.serve(model([], [target], chains=only_there))

    answer = await gateway.ask(route)

    assert (answer.status, answer.error, there.hits) == (503, "destination_failed", 0)


async def test_a_rotated_token_is_used_at_once_and_a_withdrawn_one_is_kept(gateway: World, there: Backend) -> None:
    route = model([], [remote(there, credential=ir.Credential("token-4"))], share_ppm=ir.PPM)
    await gateway.serve(route, [ir.Secret("token-4", "old")])
    await gateway.ask(route)
    await gateway.secret(ir.Secret("token-4", "new"))
    await gateway.ask(route)
    gateway.forget(SECRET, "token-4")
    await gateway.ask(route)

    assert [seen.headers["authorization"] for seen in there.seen] == ["Bearer old", "Bearer new", "Bearer new"]


async def test_no_token_is_in_the_configuration_that_envoy_shows_or_the_log(gateway: World, there: Backend) -> None:
    route = model([], [remote(there, credential=ir.Credential("token-5"))], share_ppm=ir.PPM)
    await gateway.serve(route, [ir.Secret("token-5", "very-secret")])
    await gateway.ask(route, path="/token/logged", headers={"authorization": "Bearer very-secret-too"})
    await gateway.logged("/token/logged")

    assert "very-secret" not in await gateway.envoy.ask("/config_dump?include_eds")
    assert "very-secret" not in gateway.access_log.read_text() + gateway.envoy.log


@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_a_wrong_certificate_is_not_talked_to(
    gateway: World, here: Backend, authority: trustme.CA, ca_pem: str, wrong: str
) -> None:
    issuer = trustme.CA() if wrong == "authority" else authority
    context = server_tls(issuer, NAME if wrong == "authority" else "other.test")
    async with http_backend("impostor", tls=context) as there:
        route = model([here], [remote(there, tls=pinned(ca_pem), protocol=ir.Protocol.AUTO)], share_ppm=ir.PPM)
        await gateway.serve(route)
        answer = await gateway.ask(route, "POST", f"/wrong/{wrong}", data=b"x")

    assert (answer.status, answer.destination, there.hits) == (200, "local", 0)
    assert "CERTIFICATE_VERIFY_FAILED" in (await gateway.logged(f"/wrong/{wrong}"))["errors"]["remote-0"]


@pytest.mark.parametrize("known", [True, False])
async def test_without_an_authority_of_its_own_the_systems_judge_a_remote(
    gateway: World, here: Backend, authority: trustme.CA, known: bool
) -> None:
    async with http_backend("remote", tls=server_tls(gateway.system if known else authority, NAME)) as there:
        target = remote(there, tls=ir.Tls(sni=NAME, san=NAME), protocol=ir.Protocol.AUTO)
        route = await gateway.serve(model([here], [target], share_ppm=ir.PPM))

        assert (await gateway.ask(route)).destination == ("remote-0" if known else "local")


async def test_a_remote_by_address_is_pinned_by_its_address(gateway: World, authority: trustme.CA, ca_pem: str) -> None:
    async with http_backend("remote", tls=server_tls(authority, "127.0.0.1")) as there:
        target = remote(there, tls=pinned(ca_pem, "127.0.0.1"), protocol=ir.Protocol.AUTO)
        route = await gateway.serve(model([], [target], share_ppm=ir.PPM))

        assert (await gateway.ask(route)).status == 200


@pytest.mark.parametrize("protocol", [ir.Protocol.AUTO, ir.Protocol.HTTP2])
async def test_a_remote_that_offers_http2_gets_it(
    gateway: World, authority: trustme.CA, ca_pem: str, protocol: ir.Protocol
) -> None:
    async with http2_backend("h2", server_tls(authority, NAME)) as there:
        target = remote(there, tls=pinned(ca_pem), protocol=protocol)
        route = await gateway.serve(model([], [target], share_ppm=ir.PPM))

        answer = await gateway.ask(route, "POST", "/v1/chat", data=b"x")

    assert (answer.status, answer.text) == (200, "h2 speaks HTTP/2")
    assert there.seen[0].headers[":authority"] == "h2.test"


async def test_a_remote_over_ipv6(gateway: World) -> None:
    async with http_backend("remote", host=ipv6_or_skip()) as there:
        route = await gateway.serve(model([], [remote(there)], share_ppm=ir.PPM))

        assert (await gateway.ask(route)).destination == "remote-0"


async def test_a_remote_over_its_own_limit_gives_back(gateway: World, here: Backend, there: Backend) -> None:
    route = await gateway.serve(model([here], [remote(there, limit=2)], share_ppm=ir.PPM))
    there.behave = hold

    requests = asyncio.gather(*(gateway.ask(route, "POST", data=b"x") for _ in range(6)))
    await until(lambda: here.hits + there.hits == 6)
    there.gate.set()

    assert {answer.status for answer in await requests} == {200}
    assert (here.hits, there.hits) == (4, 2)


async def test_models_with_equal_remotes_share_its_limit_and_cluster(gateway: World, there: Backend) -> None:
    first = await gateway.serve(model([], [remote(there)], share_ppm=ir.PPM))
    second = await gateway.serve(model([], [remote(there, authority="second.test")], share_ppm=ir.PPM))

    await gateway.ask(first)
    await gateway.ask(second)

    assert [seen.headers["host"] for seen in there.seen] == ["there.test", "second.test"]
    assert first.remotes[0].backend == second.remotes[0].backend


async def test_a_remote_that_refuses_connections_is_left_alone_for_a_while(gateway: World, here: Backend) -> None:
    route = await gateway.serve(model([here], [remote(dead(here))], share_ppm=ir.PPM))

    answers = [await gateway.ask(route, "POST", f"/refused/{number}", data=b"x") for number in range(6)]

    assert {(answer.status, answer.destination) for answer in answers} == {(200, "local")}
    assert (await gateway.logged("/refused/5"))["errors"]["remote-0"].startswith("UH")


async def test_a_remote_that_accepts_and_says_nothing_in_tls_is_given_up(
    gateway: World, here: Backend, ca_pem: str
) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        there = Backend("silent", hold, "127.0.0.1", server.sockets[0].getsockname()[1])
        route = model([here], [remote(there, tls=pinned(ca_pem), protocol=ir.Protocol.AUTO)], share_ppm=ir.PPM)
        await gateway.serve(route)

        answer = await gateway.ask(route, "POST", "/hung", data=b"x")

    assert (answer.status, answer.destination) == (200, "local")
    assert "timeout" in (await gateway.logged("/hung"))["errors"]["remote-0"]


async def test_a_caller_that_gives_up_on_a_hanging_remote_frees_its_slot_there(gateway: World, there: Backend) -> None:
    there.behave = hold
    route = await gateway.serve(model([], [remote(there)], share_ppm=ir.PPM))
    leaving = asyncio.ensure_future(gateway.ask(route))
    await until(lambda: there.in_flight == 1)

    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)

    await until(lambda: there.in_flight == 0)


async def test_a_remote_that_stays_silent_is_given_up_and_nobody_else_is_asked(
    tmp_path: Path, here: Backend, there: Backend
) -> None:
    there.behave = hold
    async with world(tmp_path, stream_idle_timeout_s=1) as impatient:
        route = await impatient.serve(model([here], [remote(there)], share_ppm=ir.PPM))

        assert (await impatient.ask(route, "POST", data=b"x")).status == 504
        assert (here.hits, there.hits) == (0, 1)


async def test_a_dead_endpoint_is_ejected_and_the_others_serve(gateway: World, here: Backend, there: Backend) -> None:
    route = await gateway.serve(model([here, dead(here)], [remote(there)]))

    async def ejected() -> bool:
        assert (await gateway.ask(route)).status == 200
        return f"{dead(here).host}:{here.port}::health_flags::/failed_outlier_check" in await gateway.envoy.ask(
            "/clusters"
        )

    await eventually(ejected)
    there.seen.clear()
    await gateway.ask_many(route, 20)

    assert there.hits == 0
