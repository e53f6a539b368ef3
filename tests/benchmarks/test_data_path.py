"""The benchmark of the data path goes through every step, and its load generator counts what it was answered."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from benchmarks import data_path
from benchmarks.figures import Report
from benchmarks.gateway_load.gateways import full
from benchmarks.gateway_load.load import HTTP1, Load, LoadError, event_stream, json_answer
from benchmarks.gateway_load.parts import WITHOUT
from benchmarks.gateway_load.wire import BODY, END, FIRST_BYTE, HOST, Http1, Http2, WireError


@pytest.fixture
def load() -> Iterator[Load]:
    with closing(Load()) as opened:
        yield opened


@pytest.mark.integration
async def test_it_goes_through_every_step() -> None:
    report = Report("data_path", quick=True)
    await data_path.run(report, quick=True)
    taken = {each.name for each in report.figures}
    assert {"added to a request, p99", "added to the first event, p50", "served at saturation, bare"} <= taken
    assert any(name.startswith("CPU of: ") for name in taken)
    assert data_path.plot(report.result(1.0)).axes


@pytest.mark.integration
@pytest.mark.parametrize("part", WITHOUT)
async def test_a_gateway_without_a_part_still_serves(tmp_path: Path, load: Load, part: str) -> None:
    async with full(tmp_path, load.address, WITHOUT[part]) as gateway:
        assert load.callers(gateway.address, HTTP1).pace(rate=100.0, duration_s=0.1, seed=1).took_s


def test_paced_requests_are_all_answered(load: Load) -> None:
    first = load.callers(load.address, HTTP1).pace(rate=2000.0, duration_s=0.05, seed=1)
    again = load.callers(load.address, HTTP1).pace(rate=2000.0, duration_s=0.05, seed=1)
    assert len(first.took_s) == len(first.late_s) == len(again.took_s)
    assert min(first.took_s) > 0


def test_an_event_comes_before_its_stream_ends(load: Load) -> None:
    load.answer = event_stream()
    run = load.callers(load.address, HTTP1).pace(rate=500.0, duration_s=0.05, seed=1)
    assert len(run.first_byte_s) == len(run.took_s)
    assert min(run.took_s) >= 0.002


def test_large_answers_are_counted_whole(load: Load) -> None:
    load.answer = json_answer(100 << 10)
    assert load.callers(load.address, HTTP1).saturate(0.02).rate > 0


def test_a_gateway_that_closes_is_an_error(load: Load) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as gateway:
        callers = load.callers(gateway.getsockname(), HTTP1)
    with pytest.raises((LoadError, ConnectionError)):
        callers.pace(rate=100.0, duration_s=0.05, seed=1)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_http1_answers_are_understood_in_any_pieces(size: int) -> None:
    caller = Http1()
    for answer in (
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ):
        assert caller.ask()[1].endswith(BODY)
        pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
        assert [event for piece in pieces for event in caller.feed(piece)] == [(0, FIRST_BYTE), (0, END)]


def test_any_other_status_is_an_error() -> None:
    caller = Http1()
    caller.ask()
    with pytest.raises(WireError, match="503"):
        list(caller.feed(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno"))


@pytest.mark.parametrize("size", [1, 10, 100_000])
def test_http2_is_what_an_implementation_of_it_expects(size: int) -> None:
    caller = Http2()
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    server.receive_data(caller.opening())
    for _ in range(2):
        stream, request = caller.ask()
        events = server.receive_data(request)
        (asked,) = (each for each in events if isinstance(each, RequestReceived))
        assert dict(asked.headers)[b":authority"] == HOST.encode()
        assert b"".join(each.data for each in events if isinstance(each, DataReceived)) == BODY
        assert any(isinstance(each, StreamEnded) for each in events)
        server.send_headers(stream, [(":status", "200")])
        server.send_data(stream, b"hello")
        server.end_stream(stream)
        sent = server.data_to_send()
        pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
        assert [event for piece in pieces for event in caller.feed(piece)] == [(stream, FIRST_BYTE), (stream, END)]
        server.receive_data(caller.owed())
