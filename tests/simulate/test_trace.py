"""Reading, writing and making up loads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.simulate.trace import TraceError, bursty, read, save
from controller.simulate.workload import LOCAL, REMOTE, Arrival

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens"
ROW = "2023-11-16 18:15:46.6805900,374,44"


def test_a_trace_is_read_relative_to_its_first_request() -> None:
    trace = read([HEAD, ROW, "2023-11-16 18:15:50.9951690,396,109"])

    assert trace == [Arrival(0.0, 374, 44), Arrival(4.314579, 396, 109)]


def test_a_trace_may_cross_midnight_and_have_more_columns() -> None:
    trace = read(["x," + HEAD, "1,2023-12-31 23:59:59,1,2", "2,2024-01-01 00:00:01.5,3,4"])

    assert [arrival.at_s for arrival in trace] == [0.0, 2.5]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "line 1: the column TIMESTAMP is missing"),
        (["TIMESTAMP,GeneratedTokens"], "line 1: the column ContextTokens is missing"),
        ([HEAD], "no request"),
        ([HEAD, "yesterday,1,2"], "line 2: TIMESTAMP: 'yesterday'"),
        ([HEAD, ROW, "2023-11-16 18:15:50,many,2"], "line 3: ContextTokens: 'many'"),
        ([HEAD, "2023-11-16 18:15:50,1,-2"], "line 2: GeneratedTokens: '-2'"),
        ([HEAD, "2023-11-16 18:15:50,1"], "line 2: GeneratedTokens: None"),
        ([HEAD, ROW, "2023-11-16 18:15:45,1,2"], "line 3: TIMESTAMP: 2023-11-16 18:15:45 is before"),
    ],
)
def test_a_trace_that_cannot_be_read_says_where_and_why(lines: list[str], words: str) -> None:
    with pytest.raises(TraceError) as raised:
        read(lines)

    assert words in str(raised.value)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1))
def test_what_is_saved_is_read_again(rows: list[tuple[int, int, int]]) -> None:
    began_us = min(at_us for at_us, _, _ in rows)
    trace = [Arrival((at_us - began_us) / 1e6, *tokens) for at_us, *tokens in sorted(rows)]

    assert read(save(trace).splitlines()) == trace


def test_a_bursty_load_has_its_rate_and_the_sizes_of_conversations() -> None:
    trace = bursty(1, 50_000, 5.0)

    assert len(trace) / 50_000 == pytest.approx(5.0, rel=0.1)
    assert sum(each.context_tokens for each in trace) / len(trace) == pytest.approx(1155, rel=0.02)
    assert sum(each.generated_tokens for each in trace) / len(trace) == pytest.approx(211, rel=0.02)
    assert [each.at_s for each in trace] == sorted(each.at_s for each in trace)


def test_a_bursty_load_comes_in_bursts_and_is_told_by_its_seed() -> None:
    trace = bursty(7, 3600, 5.0, ratio=4.0)
    minutes = [sum(60 * minute <= each.at_s < 60 * (minute + 1) for each in trace) for minute in range(60)]

    assert max(minutes) > 3 * min(minutes)
    assert bursty(7, 3600, 5.0, ratio=4.0) == trace
    assert bursty(8, 3600, 5.0, ratio=4.0) != trace


def test_a_server_reads_the_context_before_the_first_byte_and_writes_the_rest_after_it() -> None:
    arrival = Arrival(0.0, 1000, 200)

    assert LOCAL.first_byte_s(arrival) == pytest.approx(0.15)
    assert LOCAL.service_s(arrival) == pytest.approx(5.15)
    assert REMOTE.first_byte_s(arrival) == pytest.approx(0.6)
