"""Reading a recorded load, and shaping it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.demo.trace import TraceError, read_trace
from controller.demo.workload import Phase, Request, Timing, shape

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens"
ROW = "2023-11-16 18:15:46.6805900,374,44"


def test_a_trace_is_read_relative_to_its_first_request() -> None:
    trace = read_trace([HEAD, ROW, "2023-11-16 18:15:50.9951690,396,109"])

    assert trace == (Request(0.0, 374, 44), Request(4.314579, 396, 109))


def test_a_trace_may_cross_midnight_and_have_more_columns() -> None:
    trace = read_trace(["x," + HEAD, "1,2023-12-31 23:59:59,1,2", "2,2024-01-01 00:00:01.5,3,4"])

    assert [request.at_s for request in trace] == [0.0, 2.5]


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
        read_trace(lines)

    assert words in str(raised.value)


@given(
    st.lists(st.floats(0, 100), max_size=30).map(sorted),
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5)), max_size=4),
    st.floats(0.5, 8),
)
def test_shaping_keeps_the_order_and_a_part_of_each_phase(
    times_s: list[float], phases: list[tuple[float, int]], speed: float
) -> None:
    trace = [Request(at_s, number, 1) for number, at_s in enumerate(times_s)]

    shaped = shape(trace, speed, [Phase(*phase) for phase in phases])

    expected = []
    for request in trace:
        ends_s = [sum(length_s for length_s, _ in phases[: index + 1]) for index in range(len(phases))]
        phase = next((index for index, end_s in enumerate(ends_s) if request.at_s / speed < end_s), None)
        if phase is not None and request.context_tokens % phases[phase][1] == 0:
            expected.append((request.at_s / speed, request.context_tokens))
    assert [(request.at_s, request.context_tokens) for request in shaped] == expected


def test_a_model_at_twice_the_speed_takes_half_the_time() -> None:
    timing = Timing(base_s=0.5, context_token_s=0.001, token_s=0.02)

    assert timing.service_s(100, 11) == pytest.approx(0.5 + 0.1 + 0.22)
    assert timing.at_speed(2).service_s(100, 11) == pytest.approx(0.41)
    assert timing.service_s(100, 0) == timing.first_token_s(100)
