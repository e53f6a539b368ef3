"""When an issuer is asked again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.refresh import ASSUMED_LIFETIME_S, PACE, next_refresh_s, next_retry_s

JITTER = st.floats(0, 1)


@pytest.mark.parametrize(
    ("lifetime_s", "jitter", "expected"),
    [(100, 0.5, 80), (100, 0, 75), (100, 1, 85), (3600, 0.5, 2880), (0.1, 0.5, 1), (ASSUMED_LIFETIME_S, 0.5, 240)],
)
def test_a_token_is_renewed_at_four_fifths_of_its_life(lifetime_s: float, jitter: float, expected: float) -> None:
    assert next_refresh_s(PACE, lifetime_s, jitter) == pytest.approx(expected)


@pytest.mark.parametrize(("failures", "expected"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (1_000_000, 60)])
def test_pauses_after_failures_double_up_to_a_minute(failures: int, expected: float) -> None:
    assert next_retry_s(PACE, failures, jitter=1) == expected
    assert next_retry_s(PACE, failures, jitter=0) == expected / 2


@given(st.floats(2, 1e9), JITTER)
def test_a_refresh_always_leaves_time_before_expiry(lifetime_s: float, jitter: float) -> None:
    assert 0 < next_refresh_s(PACE, lifetime_s, jitter) < 0.9 * lifetime_s


@given(st.integers(1, 10**9), JITTER)
def test_a_retry_never_comes_at_once_and_never_later_than_the_cap(failures: int, jitter: float) -> None:
    assert 0.5 <= next_retry_s(PACE, failures, jitter) <= 60


@given(st.floats(0, 10), JITTER)
def test_a_token_that_is_dead_on_arrival_does_not_hammer_the_issuer(lifetime_s: float, jitter: float) -> None:
    assert next_refresh_s(PACE, lifetime_s, jitter) >= 1
