"""The computed queue against one that is simulated in small steps of time, without any cleverness."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from controller.demo.baseline import first_token_waits_s
from controller.demo.workload import Timing
from controller.simulate.workload import Arrival

UNIT = Timing(base_s=0.0, context_token_s=1.0, token_s=1.0)
"""Whole seconds only, so that steps of one second miss nothing."""


def simulated_waits_s(requests: list[Arrival], slots: int) -> list[float]:
    """One second after the other: requests arrive, free slots take the longest waiting, running ones go on."""
    waits_s = [0.0] * len(requests)
    queue: deque[int] = deque()
    left_s: dict[int, int] = {}
    arrivals = deque(range(len(requests)))
    now_s = 0
    while arrivals or queue or left_s:
        left_s = {index: left - 1 for index, left in left_s.items() if left > 1}
        while arrivals and requests[arrivals[0]].at_s <= now_s:
            queue.append(arrivals.popleft())
        while queue and len(left_s) < slots:
            index = queue.popleft()
            request = requests[index]
            left_s[index] = request.context_tokens + request.generated_tokens
            waits_s[index] = now_s - request.at_s + request.context_tokens + 1
        now_s += 1
    return waits_s


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5), st.integers(1, 8)), max_size=25).map(sorted),
    st.integers(1, 4),
)
def test_the_queue_is_that_of_a_brute_force_simulation(rows: list[tuple[int, int, int]], slots: int) -> None:
    requests = [Arrival(*row) for row in rows]

    assert list(first_token_waits_s(requests, slots, UNIT)) == simulated_waits_s(requests, slots)


def test_with_enough_slots_nobody_waits_for_another() -> None:
    requests = [Arrival(0.0, 2, 50)] * 10

    assert set(first_token_waits_s(requests, 10, UNIT)) == {3.0}
    assert max(first_token_waits_s(requests, 9, UNIT)) == 55.0
