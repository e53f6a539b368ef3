"""Asking Prometheus: a real one for its answers, small servers for its failures."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_api_client import PrometheusConnect
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from controller.adapters.prometheus import AT_ONCE, PrometheusSource, base_url
from controller.metrics import PromQuery, Reading, Unknown, Value
from controller.selector import Matcher, promql, quoted
from controller.settings import PrometheusSettings
from tests.support.outside import Heard, http_server, refusing_port, running, tcp_server
from tests.support.prometheus import running_prometheus

NASTY = (
    *(
        "plain",
        "",
        "two words",
        'quo"te',
        "back\\slash",
        "new\nline",
        "\\n",
        '\\"',
        '{a="b"}',
        "a|b",
        ".*",
        "a.b",
        "axb",
    ),
    *("(", "[", "^$", "+?", "größe", "日本語", "tab\there", "per%20cent&x=1", "a+b", "'", "`", "#", "\U0001f600"),
)
USER, PASSWORD = "spillway", "prometheus-password"
PASSWORD_BCRYPT = "$2b$04$TbIcI0IpSdlNncTeMHwQ5e1M9/rtYFh0CwN9RKkQrhBGnh7SO2LPS"
ANSWER = {"status": "success", "data": {"resultType": "scalar", "result": [1700000000, "1"]}}


@pytest.fixture(scope="module")
def exporter() -> Iterator[int]:
    registry = CollectorRegistry()
    nasty = Gauge("nasty", "One series for each nasty value.", ["value"], registry=registry)
    for number, value in enumerate(NASTY):
        nasty.labels(value).set(number + 1)
    Gauge("broken", "Not a number.", registry=registry).set(float("nan"))
    pair = Gauge("running_requests", "Two series.", ["model", "engine"], registry=registry)
    pair.labels("llama", "0").set(3)
    pair.labels("llama", "1").set(4)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def prometheus(exporter: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), exporter) as address:
        yield address


def settings_for(address: str | int | None, **others: object) -> PrometheusSettings:
    address = f"127.0.0.1:{address}" if isinstance(address, int) else address
    return PrometheusSettings.model_validate(
        {"address": address, "interval_seconds": 3600, "timeout_seconds": 30, **others}
    )


def readings(heard: Heard, query: PromQuery) -> list[Reading]:
    return [event.reading for event in heard if event.query == query]


async def ask(settings: PrometheusSettings, *promqls: str) -> list[Reading]:
    """The first answer to each query."""
    heard = Heard()
    source = PrometheusSource(settings, heard.append)
    queries = [PromQuery(text) for text in promqls]
    for query in queries:
        source.watch(query)
    async with running(source.run()):
        await heard.until(lambda _: all(readings(heard, query) for query in queries))
    return [readings(heard, query)[0] for query in queries]


async def ask_scraped(address: str, promqls: Sequence[str]) -> list[Reading]:
    """The first answers after Prometheus has scraped the exporter."""
    heard = Heard()
    source = PrometheusSource(settings_for(address, interval_seconds=0.1), heard.append)
    scraped, queries = PromQuery("nasty"), [PromQuery(text) for text in promqls]
    source.watch(scraped)
    async with running(source.run()):
        await heard.until(lambda _: any(isinstance(reading, Value) for reading in readings(heard, scraped)))
        heard.clear()
        for query in queries:
            source.watch(query)
        await heard.until(lambda _: all(readings(heard, query) for query in queries))
    return [readings(heard, query)[0] for query in queries]


def reason(reading: Reading) -> str:
    assert isinstance(reading, Unknown), reading
    return reading.reason


def message(reading: Reading) -> str:
    assert isinstance(reading, Unknown), reading
    return reading.message


# A real Prometheus


@pytest.mark.integration
async def test_each_kind_of_answer_is_understood(prometheus: str) -> None:
    expected: dict[str, Reading | str] = {
        "running_requests": Value(7),
        'running_requests{engine="1"}': Value(4),
        "sum(running_requests)": Value(7),
        "scalar(sum(running_requests))": Value(7),
        "40 + 2": Value(42),
        "running_requests[1m]": "Matrix",
        "no_such_metric": "Empty",
        "broken": "NotANumber",
        "1 / 0": "NotANumber",
        '"text"': "NotANumber",
        "sum(": "Refused",
    }
    found = await ask_scraped(prometheus, list(expected))

    assert dict(zip(expected, [r if isinstance(r, Value) else r.reason for r in found], strict=True)) == expected


@pytest.mark.integration
async def test_a_query_that_prometheus_refuses_is_answered_in_its_own_words(prometheus: str) -> None:
    (found,) = await ask(settings_for(prometheus), "sum(")
    assert "bad_data" in message(found)
    assert "parse error" in message(found)


@pytest.mark.integration
async def test_defect_14_every_label_value_finds_its_own_series_and_no_other(prometheus: str) -> None:
    one = [promql("nasty", [Matcher("value", (value,))]) for value in NASTY if value]
    several = [promql("nasty", [Matcher("value", tuple(sorted({value, "absent"})))]) for value in NASTY if value]
    none = [
        promql("nasty", [Matcher("value", tuple(sorted({value, "absent"})), negated=True)]) for value in NASTY if value
    ]
    numbers = [float(number + 1) for number, value in enumerate(NASTY) if value]
    everything = float(sum(range(1, len(NASTY) + 1)))

    found = await ask_scraped(prometheus, [*one, *several, *none])

    assert found == [Value(n) for n in [*numbers, *numbers, *(everything - number for number in numbers)]]


@pytest.mark.integration
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_prometheus_reads_any_quoted_text_as_it_was(prometheus: str, value: str) -> None:
    with PrometheusConnect(f"http://{prometheus}") as client:
        assert client.custom_query(quoted(value))[1] == value


@pytest.mark.integration
async def test_basic_auth_is_sent_from_the_password_file(exporter: int, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text(PASSWORD + "\n")
    wrong.write_text("not-the-password")
    with running_prometheus(tmp_path, exporter, f"basic_auth_users: {{{USER}: '{PASSWORD_BCRYPT}'}}") as address:
        accepted = await ask(settings_for(address, username=USER, password_file=str(right)), "1 + 1")
        refused = await ask(settings_for(address, username=USER, password_file=str(wrong)), "1 + 1")

    assert accepted == [Value(2)]
    assert reason(refused[0]) == "Refused"
    assert "401" in message(refused[0])
    assert "not-the-password" not in message(refused[0])


# Credentials and TLS


async def test_a_bearer_token_is_read_anew_for_every_query(tmp_path: Path) -> None:
    seen = Heard()

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response(ANSWER)

    file, heard = tmp_path / "token", Heard()
    file.write_text("first\n")
    async with http_server(answer) as port:
        source = PrometheusSource(settings_for(port, interval_seconds=0.1, bearer_token_file=str(file)), heard.append)
        source.watch(PromQuery("up"))
        async with running(source.run()):
            await seen.until(lambda _: "Bearer first" in seen)
            file.write_text("second\n")
            await seen.until(lambda _: "Bearer second" in seen)

    assert set(seen) == {"Bearer first", "Bearer second"}


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"two\nlines", "tök€n".encode()])
async def test_a_token_file_that_cannot_be_used_is_named_and_not_shown(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with refusing_port() as port:
        (found,) = await ask(settings_for(port, bearer_token_file=str(file)), "up")

    assert reason(found) == "Credentials"
    assert str(file) in message(found)
    assert "lines" not in message(found).replace("more than one line", "")


async def test_an_authority_of_ones_own_is_trusted_if_it_is_named(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.json_response(ANSWER)

    async with http_server(answer, tls=context) as port:
        address = f"https://localhost:{port}"
        trusted = await ask(settings_for(address, ca_file=str(ca_file)), "up")
        untrusted = await ask(settings_for(address), "up")
        missing = await ask(settings_for(address, ca_file=str(tmp_path / "nowhere.pem")), "up")

    assert trusted == [Value(1)]
    assert [reason(untrusted[0]), reason(missing[0])] == ["Unreachable", "Unreachable"]
    assert "certificate is not trusted" in message(untrusted[0])
    assert "nowhere.pem" in message(missing[0])


# Failures


async def test_prometheus_down_is_unreachable_and_says_why() -> None:
    with refusing_port() as port:
        (found,) = await ask(settings_for(port), "up")
    assert found == Unknown("Unreachable", "Prometheus cannot be asked: Connection refused")


async def test_no_address_is_an_answer_too() -> None:
    (found,) = await ask(settings_for(None), "up")
    assert reason(found) == "NoAddress"


@pytest.mark.parametrize(
    "address", ["ftp://127.0.0.1:1", "http://", "a..b:9090", "x" * 70 + ":9090", "127.0.0.1:99999"]
)
async def test_an_address_that_leads_nowhere_is_an_answer_too(address: str) -> None:
    (found,) = await ask(settings_for(address), "up")
    assert reason(found) == "Unreachable"


async def test_a_user_and_password_in_the_address_are_never_shown() -> None:
    with refusing_port() as port:
        (found,) = await ask(settings_for(f"http://user:s3cret@127.0.0.1:{port}"), "up")
    assert "s3cret" not in message(found)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"], ids=["silent", "stops in the middle"]
)
async def test_a_slow_prometheus_is_a_timeout(said: bytes) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await asyncio.sleep(3600)

    async with tcp_server(talk) as port:
        (found,) = await ask(settings_for(port, timeout_seconds=0.2), "up")
    assert reason(found) == "Timeout"


async def test_a_prometheus_that_drips_is_a_timeout_too() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with tcp_server(talk) as port:
        (found,) = await ask(settings_for(port, timeout_seconds=0.2), "up")
    assert reason(found) == "Timeout"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, "<html>a login page</html>", "BadAnswer"),
        (200, "", "BadAnswer"),
        (200, "[]", "BadAnswer"),
        (200, "null", "BadAnswer"),
        (200, '{"data": null}', "BadAnswer"),
        (200, "[" * 100_000, "BadAnswer"),
        (200, '{"data": {"result": 7}}', "BadAnswer"),
        (404, "not here", "Refused"),
        (502, "<html>bad gateway</html>", "Refused"),
        (503, '{"error": 1}', "Refused"),
        (503, "[" * 100_000, "Refused"),
        (422, '{"status":"error","errorType":"execution","error":"' + "many words " * 1000 + '"}', "Refused"),
    ],
)
async def test_whatever_is_not_prometheus_answer_is_unknown(status: int, body: str, expected: str) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, text=body)

    async with http_server(answer) as port:
        (found,) = await ask(settings_for(port), "up")
    assert reason(found) == expected
    assert len(message(found)) < 400


async def test_a_failed_query_waits_for_the_next_interval() -> None:
    asked = 0

    async def answer(_: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=503)

    async with http_server(answer) as port:
        await ask(settings_for(port), "up")
    assert asked == 1


# Many queries, over time


async def test_prometheus_is_told_to_give_up_when_we_do() -> None:
    seen: dict[str, str] = {}

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.update(request.query)
        return web.json_response(ANSWER)

    async with http_server(answer) as port:
        await ask(settings_for(port, timeout_seconds=2.5), 'm{a="é&b"}')
    assert seen == {"query": 'm{a="é&b"}', "timeout": "2500ms"}


async def test_many_queries_are_never_a_herd() -> None:
    at_once = most = 0

    async def answer(_: web.BaseRequest) -> web.Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return web.json_response(ANSWER)

    async with http_server(answer) as port:
        found = await ask(settings_for(port), *(f"m{number}" for number in range(40)))
    assert found == [Value(1)] * 40
    assert most <= AT_ONCE


async def test_a_query_is_answered_again_and_again_until_it_is_unwatched() -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.json_response(ANSWER)

    kept, dropped, heard = PromQuery("kept"), PromQuery("dropped"), Heard()
    async with http_server(answer) as port:
        source = PrometheusSource(settings_for(port, interval_seconds=0.1), heard.append)
        async with running(source.run()):
            source.watch(kept)
            source.watch(dropped)
            await heard.until(lambda _: len(readings(heard, kept)) > 2 and len(readings(heard, dropped)) > 2)
            source.unwatch(dropped)
            heard.clear()
            await heard.until(lambda _: len(readings(heard, kept)) > 2)

    assert readings(heard, dropped) == []
    assert set(readings(heard, kept)) == {Value(1)}


async def test_a_prometheus_that_comes_back_is_heard_again() -> None:
    up = False

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.json_response(ANSWER) if up else web.Response(status=503)

    heard = Heard()
    async with http_server(answer) as port:
        source = PrometheusSource(settings_for(port, interval_seconds=0.1), heard.append)
        source.watch(PromQuery("up"))
        async with running(source.run()):
            await heard.until(lambda _: heard and isinstance(heard[-1].reading, Unknown))
            up = True
            await heard.until(lambda _: heard[-1].reading == Value(1))


async def test_the_end_does_not_wait_for_a_silent_prometheus() -> None:
    asked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readline()
        asked.set()
        await asyncio.sleep(3600)

    async with tcp_server(talk) as port:
        source = PrometheusSource(settings_for(port, timeout_seconds=60), Heard().append)
        source.watch(PromQuery("up"))
        async with running(source.run()) as task:
            await asyncio.wait_for(asked.wait(), 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 30)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("my-local-prom:9090", "http://my-local-prom:9090"),
        ("https://prom.example.com/prometheus/", "https://prom.example.com/prometheus"),
        ("[::1]:9090", "http://[::1]:9090"),
    ],
)
def test_an_address_needs_no_scheme(address: str, expected: str) -> None:
    assert base_url(address) == expected
