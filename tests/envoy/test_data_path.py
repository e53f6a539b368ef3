"""Where requests go in a real Envoy, and where they go next: weights, the limit, failures, hosts, paths, the log."""

import asyncio
import hashlib
from collections import Counter
from dataclasses import replace

import pytest

from tests.envoy.world import World, dead, eventually, model, remote, until
from tests.support.backends import Backend, echo, hold, reset, status
from xds import ir

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


async def test_requests_are_shared_out_by_weight(gateway: World, here: Backend, there: Backend) -> None:
    route = await gateway.serve(model([here], [remote(there)], share_ppm=300_000))

    answers = await gateway.ask_many(route, 1000)

    assert {answer.status for answer in answers} == {200}
    assert 230 <= there.hits <= 370
    assert here.hits + there.hits == 1000
    assert Counter(answer.destination for answer in answers) == {"local": here.hits, "remote-0": there.hits}


async def test_a_changed_share_moves_the_next_requests_and_comes_back(
    gateway: World, here: Backend, there: Backend
) -> None:
    route = await gateway.serve(model([here], [remote(there)]))
    for chains, expected in (
        ((ir.Chain("remote-0", ir.PPM, ("local",)),), "remote-0"),
        ((ir.Chain("local", ir.PPM, ("remote-0",)),), "local"),
        ((ir.Chain("remote-0", ir.PPM, ("local",)),), "remote-0"),
    ):
        route = await gateway.change(route, chains=chains)
        assert {answer.destination for answer in await gateway.ask_many(route, 20)} == {expected}


async def test_what_exceeds_the_limit_spills_and_nothing_fails(gateway: World, here: Backend, there: Backend) -> None:
    route = await gateway.serve(model([here], [remote(there)], limit=3))
    here.behave = hold

    requests = asyncio.gather(*(gateway.ask(route, "POST", data=b"{}") for _ in range(12)))
    await until(lambda: here.hits + there.hits >= 12)
    here.gate.set()
    answers = await requests

    assert {answer.status for answer in answers} == {200}
    assert (here.hits, there.hits) == (3, 9)


async def test_a_limit_follows_the_runtime_both_ways_and_cuts_nothing(
    gateway: World, here: Backend, there: Backend
) -> None:
    route = await gateway.serve(model([here], [remote(there)], limit=3))
    here.behave = hold
    pending: list[asyncio.Task[object]] = []

    async def arrive(count: int) -> None:
        pending.extend(asyncio.ensure_future(gateway.ask(route)) for _ in range(count))
        await until(lambda: here.hits + there.hits >= len(pending))

    await arrive(5)
    assert here.in_flight == 3
    await gateway.limit(route, 7)
    await arrive(6)
    assert here.in_flight == 7
    await gateway.limit(route, 0)
    await arrive(4)
    assert here.in_flight == 7
    await gateway.limit(route, None)
    here.gate.set()
    answers = await asyncio.gather(*pending)

    assert {getattr(answer, "status", None) for answer in answers} == {200}
    assert here.hits == 7
    assert (await gateway.ask(route)).destination == "local"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
async def test_a_dead_local_fails_over_whatever_the_method(gateway: World, there: Backend, method: str) -> None:
    route = await gateway.serve(model([dead(there)], [remote(there)]))

    answer = await gateway.ask(route, method, data=b"body")

    assert (answer.status, answer.destination) == (200, "remote-0")
    assert [(seen.method, seen.body_bytes) for seen in there.seen] == [(method, 4)]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_connection_cut_before_the_answer_fails_over(
    gateway: World, here: Backend, there: Backend, method: str
) -> None:
    here.behave = reset
    route = await gateway.serve(model([here], [remote(there)]))

    answers = await gateway.ask_many(route, 10, method=method, data=b"body")

    assert {(answer.status, answer.destination) for answer in answers} == {(200, "remote-0")}


async def test_a_model_without_endpoints_is_served_elsewhere(gateway: World, there: Backend) -> None:
    route = await gateway.serve(model([], [remote(there)]))

    assert (await gateway.ask(route, "POST", data=b"x")).destination == "remote-0"


async def test_a_failed_remote_comes_back_to_local(gateway: World, here: Backend, there: Backend) -> None:
    route = await gateway.serve(model([here], [remote(dead(there))], share_ppm=ir.PPM))

    assert (await gateway.ask(route, "POST", data=b"x")).destination == "local"


async def test_every_destination_of_a_chain_is_tried_in_order(
    gateway: World, here: Backend, there: Backend, elsewhere: Backend
) -> None:
    route = await gateway.serve(model([here], [remote(there), remote(elsewhere)]))
    here.behave, there.behave = reset, status(429)

    answer = await gateway.ask(route, "POST", "/chain", data=b"x")

    assert answer.destination == "remote-1"
    assert (here.hits, there.hits, elsewhere.hits) == (1, 1, 1)


async def test_a_chain_that_is_shorter_than_others_leads_nowhere_else(
    gateway: World, here: Backend, there: Backend, elsewhere: Backend
) -> None:
    there.behave = status(429)
    chains = (ir.Chain("local", 1, ("remote-0", "remote-1")), ir.Chain("remote-0", ir.PPM - 1))
    route = await gateway.serve(model([here], [remote(there), remote(elsewhere)], chains=chains))

    answer = await gateway.ask(route, "POST", data=b"x")

    assert (answer.status, answer.text) == (429, "there says 429")
    assert (here.hits, elsewhere.hits) == (0, 0)


async def test_when_nobody_can_serve_the_last_failure_is_told_as_json(gateway: World, here: Backend) -> None:
    route = await gateway.serve(model([dead(here)], [remote(dead(here))]))

    answer = await gateway.ask(route)

    assert (answer.status, answer.error) == (503, "destination_failed")
    assert answer.headers["content-type"] == "application/json"
    assert "x-spillway-failure" not in answer.headers


async def test_a_model_without_any_destination_is_refused_in_words(gateway: World, here: Backend) -> None:
    route = await gateway.serve(model([here], chains=()))

    answer = await gateway.ask(route, "POST", data=b"x")

    assert (answer.status, answer.error) == (503, "no_destination")
    assert answer.headers["content-type"] == "application/json"
    assert route.name in answer.text
    assert here.hits == 0


async def test_without_retries_a_failure_is_the_answer(gateway: World, there: Backend) -> None:
    route = await gateway.serve(model([dead(there)], [remote(there)], retry=ir.Retry(attempts=0)))

    assert (await gateway.ask(route)).status == 503
    assert there.hits == 0


@pytest.mark.parametrize("code", [400, 401, 404, 422, 500, 503])
async def test_an_answer_of_the_application_passes_once_and_untouched(
    gateway: World, here: Backend, there: Backend, code: int
) -> None:
    here.behave = status(code, x_own="kept", x_spillway_failure="forged", x_envoy_overloaded="true")
    route = await gateway.serve(model([here], [remote(there)]))

    answer = await gateway.ask(route, "POST", data=b"x")

    assert (answer.status, answer.text, answer.headers["x-own"]) == (code, f"here says {code}", "kept")
    assert (here.hits, there.hits) == (1, 0)
    assert "x-spillway-failure" not in answer.headers


async def test_a_configured_status_is_tried_elsewhere_and_others_are_not(
    gateway: World, here: Backend, there: Backend
) -> None:
    here.behave = status(429, x_envoy_ratelimited="true")
    route = await gateway.serve(model([here], [remote(there)]))
    assert (await gateway.ask(route, "POST", data=b"x")).destination == "remote-0"

    route = await gateway.change(route, retry=ir.Retry(attempts=8, status_codes=(503,)))
    assert (await gateway.ask(route, "POST", data=b"x")).status == 429
    here.behave = status(503)
    assert (await gateway.ask(route, "POST", data=b"x")).destination == "remote-0"


@pytest.mark.parametrize("code", [429, 503])
async def test_a_refusing_remote_is_tried_elsewhere_where_so_configured(
    gateway: World, here: Backend, there: Backend, code: int
) -> None:
    there.behave = status(code)
    retry = ir.Retry(attempts=8, status_codes=(429, 503))
    route = await gateway.serve(model([here], [remote(there)], share_ppm=ir.PPM, retry=retry))

    assert (await gateway.ask(route, "POST", data=b"x")).destination == "local"


@pytest.mark.parametrize("first", ["serves", "fails"])
async def test_a_body_of_ten_mebibytes_arrives_whole(gateway: World, here: Backend, there: Backend, first: str) -> None:
    here.behave = echo if first == "serves" else status(429)
    route = await gateway.serve(model([here], [remote(there)]))
    body = bytes(range(256)) * 40960

    answer = await gateway.ask(route, "POST", data=body)

    server = here if first == "serves" else there
    assert (answer.status, server.seen[-1].body_bytes) == (200, len(body))
    assert server.seen[-1].body_sha256 == hashlib.sha256(body).hexdigest()


async def test_a_body_beyond_the_retry_buffer_passes_once(gateway: World, here: Backend, there: Backend) -> None:
    route = await gateway.serve(model([here], [remote(there)]))
    body = bytes(gateway.gateway.max_request_bytes + 1_000_000)

    answer = await gateway.ask(route, "POST", data=body)

    assert (answer.status, here.seen[-1].body_bytes) == (200, len(body))
    assert there.hits == 0


async def test_sessions_stay_where_they_are_when_the_share_grows(gateway: World, here: Backend, there: Backend) -> None:
    route = await gateway.serve(model([here], [remote(there)], share_ppm=300_000, affinity_header="x-session"))
    sessions = [f"session-{number}" for number in range(100)]

    async def places() -> dict[str, str]:
        answers = await asyncio.gather(*(gateway.ask(route, headers={"x-session": name}) for name in sessions))
        return {name: answer.destination for name, answer in zip(sessions, answers, strict=True)}

    before, again = await places(), await places()
    assert before == again
    grown = (ir.Chain("local", 500_000, ("remote-0",)), ir.Chain("remote-0", 500_000, ("local",)))
    await gateway.change(route, chains=grown)
    after = await places()

    assert 10 < Counter(before.values())["remote-0"] < Counter(after.values())["remote-0"]
    assert all(after[name] == "remote-0" for name, place in before.items() if place == "remote-0")


async def test_a_caller_that_goes_away_frees_its_slot(gateway: World, here: Backend, there: Backend) -> None:
    route = await gateway.serve(model([here], [remote(there)], limit=1))
    here.behave = hold
    leaving = asyncio.ensure_future(gateway.ask(route))
    await until(lambda: here.in_flight == 1)
    assert (await gateway.ask(route)).destination == "remote-0"

    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)

    await until(lambda: here.in_flight == 0)
    here.gate.set()

    async def served_locally() -> bool:
        return (await gateway.ask(route)).destination == "local"

    await eventually(served_locally)


@pytest.mark.parametrize("host", ["{}", "{}:8080", "{}.", "{}.:80"])
async def test_a_host_is_known_in_any_case_with_port_and_final_dot(gateway: World, here: Backend, host: str) -> None:
    route = await gateway.serve(model([here]))

    for spelled in (route.hosts[0], route.hosts[0].upper(), route.hosts[0].title()):
        assert (await gateway.ask(host.format(spelled))).status == 200


async def test_an_unknown_host_is_named_in_a_404(gateway: World) -> None:
    answer = await gateway.ask("Nobody.example:8080")

    assert (answer.status, answer.error) == (404, "unknown_host")
    assert "nobody.example" in answer.text


async def test_a_request_without_a_host_is_a_bad_one(gateway: World) -> None:
    assert (await gateway.raw(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n"))[0] == 400
    assert "script log" not in gateway.envoy.log


async def test_any_byte_in_a_host_still_makes_json(gateway: World) -> None:
    code, body = await gateway.raw(b'GET / HTTP/1.1\r\nhost: a"b\\c\r\nconnection: close\r\n\r\n')

    assert code == 400 or '\\"' in body


async def test_headers_that_look_like_ours_have_no_effect(gateway: World, here: Backend, there: Backend) -> None:
    route = await gateway.serve(model([here], [remote(there)]))
    forged = {
        "x-spillway-cluster": "remote-0",
        "x-spillway-host": "forged.test",
        "x-spillway-prefix": "/forged",
        "X-Spillway-Anything": "x",
        "x-envoy-max-retries": "0",
        "x-envoy-upstream-rq-timeout-ms": "1",
    }

    answer = await gateway.ask(route, headers=forged)

    assert answer.destination == "local"
    assert (here.seen[0].headers["host"], here.seen[0].path) == (route.hosts[0], "/v1/models")
    assert not [name for name in here.seen[0].headers if name.startswith(("x-spillway", "x-envoy"))]


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ("/v1/chat?q=1&r=%2F..", "/serving/a/v1/chat?q=1&r=%2F.."),
        ("/../admin", "/serving/a/admin"),
        ("/v1/../../../admin", "/serving/a/admin"),
        ("/v1//chat", "/serving/a/v1//chat"),
        ("/v1/%2e%2E/../admin", "/serving/a/admin"),
        ("/v1\\..\\..\\admin", "/serving/a/admin"),
        ("/v1/..;/admin", "/serving/a/admin"),
        ("/v1/models/meta%2Fllama-3..1", "/serving/a/v1/models/meta%2Fllama-3..1"),
        ("/?q", "/serving/a/?q"),
        ("/a%20b%25", "/serving/a/a%20b%25"),
    ],
)
async def test_no_path_climbs_out_of_a_prefix(gateway: World, there: Backend, sent: str, arrives: str) -> None:
    route = await gateway.serve(model([], [remote(there, prefix="/serving/a")], share_ppm=ir.PPM))

    code, _ = await gateway.raw(f"GET {sent} HTTP/1.1\r\nhost: {route.hosts[0]}\r\nconnection: close\r\n\r\n".encode())

    assert (code, [seen.path for seen in there.seen]) == (200, [arrives])


@pytest.mark.parametrize(
    "sent",
    ["/..%2fadmin", "/v1/%2e%2e%2F%2E%2E%2Fadmin", "/v1%5c..%5C..%5cadmin", "/v1/..%3Bx/admin", "/v1%2f..;x"],
)
async def test_a_path_that_may_be_read_as_climbing_is_served_by_local_alone_as_it_is(
    gateway: World, here: Backend, there: Backend, sent: str
) -> None:
    route = await gateway.serve(model([here], [remote(there, prefix="/serving/a")], share_ppm=ir.PPM))

    code, _ = await gateway.raw(f"GET {sent} HTTP/1.1\r\nhost: {route.hosts[0]}\r\nconnection: close\r\n\r\n".encode())

    assert (code, [seen.path for seen in here.seen], there.hits) == (200, [sent], 0)


async def test_the_log_says_why_a_request_left(gateway: World, here: Backend, there: Backend) -> None:
    here.behave = hold
    route = await gateway.serve(model([here], [remote(there)], limit=0))

    await gateway.ask(route, "POST", "/why/spilled?key=secret", data=b"12345")
    entry = await gateway.logged("/why/spilled")

    assert entry["model"] == route.name
    assert (entry["destination"], entry["attempts"], entry["status"]) == ("remote-0", 2, 200)
    assert "overflow" in entry["errors"]["local"]
    assert (entry["method"], entry["request_bytes"], entry["host"]) == ("POST", 5, route.hosts[0])
    assert entry["duration_ms"] >= entry["first_byte_ms"] >= 0
    assert "secret" not in str(entry)


async def test_the_log_has_the_failed_attempts_of_a_request_that_nobody_served(gateway: World, here: Backend) -> None:
    here.behave = status(429)
    route = await gateway.serve(model([here], [remote(dead(here))]))

    await gateway.ask(route, "GET", "/why/failed")
    entry = await gateway.logged("/why/failed")

    assert (entry["status"], entry["attempts"]) == (503, 2)
    assert entry["errors"]["local"] == "429"
    assert "UF" in entry["errors"]["remote-0"]


async def test_the_statistics_that_dashboards_need_are_there_and_no_others(
    gateway: World, here: Backend, there: Backend
) -> None:
    route = await gateway.serve(replace(model([here], [remote(there)], limit=0), name="tests/llama-3.1"))
    await gateway.ask(route)
    cluster = "cluster.local/tests/llama-3_1"

    spilled = await gateway.envoy.statistic(f"{cluster}.upstream_rq_active_overflow")
    names = {line.partition(": ")[0] for line in (await gateway.envoy.ask(f"/stats?filter=^{cluster}")).splitlines()}

    assert spilled == 2  # the probe that found the model served, and the request
    assert names == {
        f"{cluster}.{name}"
        for name in (
            "membership_healthy",
            "upstream_cx_connect_fail",
            "upstream_rq_active",
            "upstream_rq_active_overflow",
            "upstream_rq_total",
        )
    }
