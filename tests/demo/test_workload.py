"""Shaping a recorded load, and how long a model takes for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.demo.workload import Phase, Timing, shape
from controller.simulate.workload import Arrival


@given(
    st.lists(st.floats(0, 100), max_size=30).map(sorted),
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5)), max_size=4),
    st.floats(0.5, 8),
)
def test_shaping_keeps_the_order_and_a_part_of_each_phase(
    times_s: list[float], phases: list[tuple[float, int]], speed: float
) -> None:
    trace = [Arrival(at_s, number, 1) for number, at_s in enumerate(times_s)]

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
