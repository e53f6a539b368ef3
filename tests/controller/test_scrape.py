"""Scraping endpoints for their own metrics, against small exporters."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from controller.adapters.scrape import EndpointScraper
from controller.metrics import Fold, Reading, ScrapeQuery, Unknown, Value
from controller.selector import Matcher
from tests.support.outside import Heard, http_server, refusing_port, running, tcp_server
from xds.ir import Endpoint

RUNNING = "vllm:num_requests_running"
INTERVAL_S = 0.05


def query(metric: str = RUNNING, *matchers: Matcher, fold: Fold = Fold.AVERAGE) -> ScrapeQuery:
    return ScrapeQuery("default/llama", 80, metric, matchers, fold)


@dataclass
class Exporter:
    """A server that says how many requests run, and counts how often it was asked."""

    value: float = 1.0
    page: Callable[[], str] | None = None
    status: int = 200
    delay_s: float = 0.0
    scrapes: int = 0
    endpoint: Endpoint = field(default_factory=lambda: Endpoint("", 0))

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.scrapes += 1
        assert request.path == "/metrics"
        await asyncio.sleep(self.delay_s)
        text = self.page() if self.page else f'{RUNNING}{{model_name="llama"}} {self.value}\nwaiting 5\n'
        return web.Response(text=text, status=self.status, headers={"Location": "/elsewhere"})


@contextlib.asynccontextmanager
async def exporting(*exporters: Exporter) -> AsyncIterator[tuple[Endpoint, ...]]:
    async with contextlib.AsyncExitStack() as stack:
        for exporter in exporters:
            port = await stack.enter_async_context(http_server(exporter.answer))
            exporter.endpoint = Endpoint("127.0.0.1", port)
        yield tuple(exporter.endpoint for exporter in exporters)


def scraper(heard: Heard, **options: float) -> EndpointScraper:
    return EndpointScraper(
        options.pop("interval_s", INTERVAL_S),
        heard.append,
        timeout_s=options.pop("timeout_s", 30.0),
        at_once=int(options.pop("at_once", 8)),
        page_bytes=1_000_000,
        jitter=lambda: 0.5,
    )


def readings(heard: Heard, asked: ScrapeQuery) -> list[Reading]:
    return [event.reading for event in heard if event.query == asked]


async def ask(asked: ScrapeQuery, *targets: Endpoint, **options: float) -> Reading:
    """The first answer."""
    heard = Heard()
    source = scraper(heard, interval_s=3600, **options)
    source.watch(asked, targets)
    async with running(source.run()):
        await heard.until(lambda _: readings(heard, asked))
    return readings(heard, asked)[0]


def reason(reading: Reading) -> str:
    assert isinstance(reading, Unknown), reading
    return reading.reason


async def test_an_average_and_a_sum_are_taken_over_all_endpoints() -> None:
    async with exporting(Exporter(2), Exporter(4)) as targets:
        assert await ask(query(fold=Fold.AVERAGE), *targets) == Value(3)
        assert await ask(query(fold=Fold.SUM), *targets) == Value(6)


async def test_labels_choose_the_series() -> None:
    async with exporting(Exporter(2)) as targets:
        assert await ask(query(RUNNING, Matcher("model_name", ("llama",))), *targets) == Value(2)
        assert reason(await ask(query(RUNNING, Matcher("model_name", ("other",))), *targets)) == "Empty"


async def test_an_ipv6_address_is_written_in_brackets() -> None:
    with refusing_port() as port:
        found = await ask(query(), Endpoint("::1", port))
    assert isinstance(found, Unknown)
    assert "http://[::1]:" in found.message


async def test_one_scrape_answers_all_queries_of_an_endpoint() -> None:
    exporter, heard = Exporter(2), Heard()
    asked = [query(), query("waiting"), query(fold=Fold.SUM)]
    async with exporting(exporter) as targets:
        source = scraper(heard, interval_s=3600)
        for each in asked:
            source.watch(each, targets)
        async with running(source.run()):
            await heard.until(lambda _: all(readings(heard, each) for each in asked))

    assert [readings(heard, each) for each in asked] == [[Value(2)], [Value(5)], [Value(2)]]
    assert exporter.scrapes == 1


async def test_new_values_are_heard_as_they_come() -> None:
    exporter, heard = Exporter(2), Heard()
    async with exporting(exporter) as targets:
        source = scraper(heard)
        source.watch(query(), targets)
        async with running(source.run()):
            await heard.until(lambda _: Value(2) in readings(heard, query()))
            exporter.value = 7
            await heard.until(lambda _: readings(heard, query())[-1] == Value(7))


async def test_no_endpoint_is_answered_at_once() -> None:
    heard = Heard()
    scraper(heard).watch(query(), ())
    assert reason(heard[0].reading) == "NoEndpoints"


# Endpoints that come and go


async def test_targets_follow_the_service() -> None:
    first, second, heard = Exporter(2), Exporter(8), Heard()
    async with exporting(first, second) as targets:
        source = scraper(heard)
        source.watch(query(), targets[:1])
        async with running(source.run()):
            await heard.until(lambda _: readings(heard, query())[-1:] == [Value(2)])
            source.watch(query(), targets)
            await heard.until(lambda _: readings(heard, query())[-1] == Value(5))
            source.watch(query(), targets[1:])
            await heard.until(lambda _: readings(heard, query())[-1] == Value(8))
            source.watch(query(), ())
            assert reason(readings(heard, query())[-1]) == "NoEndpoints"
            source.watch(query(), targets[:1])
            await heard.until(lambda _: readings(heard, query())[-1] == Value(2))


async def test_an_endpoint_is_asked_as_long_as_one_query_needs_it_and_no_longer() -> None:
    shared, marker, heard = Exporter(2), Exporter(1), Heard()
    one, other = query(), query("waiting")
    async with exporting(shared, marker) as targets:
        source = scraper(heard)
        source.watch(one, targets[:1])
        source.watch(other, targets[:1])
        async with running(source.run()):
            await heard.until(lambda _: readings(heard, one) and readings(heard, other))
            source.unwatch(one)
            heard.clear()
            await heard.until(lambda _: len(readings(heard, other)) > 2)
            assert readings(heard, one) == []
            source.unwatch(other)
            source.unwatch(other)
            heard.clear()
            source.watch(one, targets[1:])
            await heard.until(lambda _: readings(heard, one))
            scraped = shared.scrapes
            await heard.until(lambda _: len(readings(heard, one)) > 5)

    # One scrape may have been on its way when the last query went.
    assert shared.scrapes <= scraped + 1


async def test_an_endpoint_that_leaves_is_not_waited_for() -> None:
    good, stuck, heard = Exporter(2), Exporter(delay_s=3600), Heard()
    async with exporting(good, stuck) as targets:
        source = scraper(heard, timeout_s=3600)
        source.watch(query(), targets)
        async with running(source.run()):
            await heard.until(lambda _: good.scrapes > 2 and stuck.scrapes)
            assert readings(heard, query()) == []
            source.watch(query(), targets[:1])
            await heard.until(lambda _: readings(heard, query()))
    assert readings(heard, query())[0] == Value(2)


# Endpoints that fail


async def test_an_endpoint_that_is_down_leaves_the_average_to_the_others_and_no_sum() -> None:
    with refusing_port() as port:
        down = Endpoint("127.0.0.1", port)
        async with exporting(Exporter(2), Exporter(4)) as targets:
            assert await ask(query(fold=Fold.AVERAGE), *targets, down) == Value(3)
            found = await ask(query(fold=Fold.SUM), *targets, down)
    assert reason(found) == "Unreachable"
    assert isinstance(found, Unknown)
    assert f"127.0.0.1:{port}" in found.message


async def test_a_slow_endpoint_does_not_hold_up_the_queries_that_do_not_need_it() -> None:
    fast, slow, heard = Exporter(2), Exporter(delay_s=3600), Heard()
    async with exporting(fast, slow) as targets:
        source = scraper(heard, timeout_s=3600)
        source.watch(query(), targets)
        source.watch(query("waiting"), targets[:1])
        async with running(source.run()):
            await heard.until(lambda _: len(readings(heard, query("waiting"))) > 3)
    assert readings(heard, query()) == []


async def test_a_slow_endpoint_is_a_timeout_and_the_others_count() -> None:
    heard = Heard()
    average, total = query(fold=Fold.AVERAGE), query(fold=Fold.SUM)
    async with exporting(Exporter(2), Exporter(delay_s=3600)) as targets:
        source = scraper(heard, timeout_s=0.3)
        source.watch(average, targets)
        source.watch(total, targets)
        async with running(source.run()):
            # Not the first answer: on a busy machine the fast endpoint may miss a timeout, too.
            await heard.until(lambda _: Value(2) in readings(heard, average))
    assert {reason(reading) for reading in readings(heard, total)} == {"Timeout"}


@pytest.mark.parametrize(
    ("exporter", "expected"),
    [
        (Exporter(status=500), "Refused"),
        (Exporter(status=404), "Refused"),
        (Exporter(status=302), "Refused"),
        (Exporter(page=lambda: "<html>not metrics</html>"), "Empty"),
        (Exporter(page=lambda: f"{RUNNING} many\n"), "Malformed"),
        (Exporter(page=lambda: f"{RUNNING} NaN\n"), "NotANumber"),
        (Exporter(page=lambda: "# padding\n" * 200_000), "TooLarge"),
    ],
    ids=["500", "404", "redirect", "html", "malformed", "NaN", "too large"],
)
async def test_a_page_that_is_of_no_use_is_unknown_with_its_reason(exporter: Exporter, expected: str) -> None:
    async with exporting(exporter) as targets:
        assert reason(await ask(query(), *targets)) == expected


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nvllm",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 90_000,
    ],
    ids=["nothing", "no HTTP", "half a body", "endless header"],
)
async def test_a_server_that_does_not_speak_http_is_unreachable(said: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(said)
        await writer.drain()

    async with tcp_server(talk) as port:
        assert reason(await ask(query(), Endpoint("127.0.0.1", port))) == "Unreachable"


async def test_a_page_in_another_encoding_still_gives_its_numbers() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + f'{RUNNING}{{owner="m\xfcller"}} 3\n'.encode("latin-1"))
        await writer.drain()

    async with tcp_server(talk) as port:
        assert await ask(query(), Endpoint("127.0.0.1", port)) == Value(3)


async def test_an_endpoint_that_comes_back_is_heard_again() -> None:
    exporter, heard = Exporter(2, status=503), Heard()
    async with exporting(exporter) as targets:
        source = scraper(heard)
        source.watch(query(), targets)
        async with running(source.run()):
            await heard.until(lambda _: readings(heard, query()))
            exporter.status = 200
            await heard.until(lambda _: readings(heard, query())[-1] == Value(2))


async def test_the_end_does_not_wait_for_a_slow_endpoint() -> None:
    slow = Exporter(delay_s=3600)
    async with exporting(slow) as targets:
        source = scraper(Heard(), timeout_s=3600)
        source.watch(query(), targets)
        async with running(source.run()) as task:
            await Heard().until(lambda _: slow.scrapes)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 30)


async def test_many_endpoints_are_asked_a_bounded_number_at_a_time() -> None:
    at_once = most = 0

    async def answer(_: web.BaseRequest) -> web.Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return web.Response(text=f"{RUNNING} 1\n")

    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(http_server(answer)) for _ in range(12)]
        targets = [Endpoint("127.0.0.1", port) for port in ports]
        assert await ask(query(fold=Fold.SUM), *targets, at_once=3) == Value(12)
    assert most <= 3
