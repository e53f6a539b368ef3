"""What became of a load, as numbers."""

from __future__ import annotations

import math

import pytest

from controller.simulate.score import Decided, Price, Prices, Served, score


def served(
    at_s: float, destination: str = "local", wait_s: float = 0.1, tokens: tuple[int, int] = (100, 100)
) -> Served:
    return Served(at_s, destination, wait_s, at_s + wait_s + 1, *tokens)


def test_who_waited_too_long_and_what_left() -> None:
    result = score([served(0), served(1, wait_s=2.0), served(2, wait_s=2.1), served(3, "remote-1", tokens=(700, 100))])

    assert result.requests == 4
    assert result.slo_attainment == 0.75
    assert result.remote_share == 0.25
    assert result.remote_token_share == pytest.approx(800 / 1400)
    assert (result.p50_first_byte_s, result.p99_first_byte_s) == (0.1, 2.1)


def test_a_request_that_nobody_took_failed_and_missed_the_slo() -> None:
    result = score([served(0), Served(1, "", math.inf, 1, 100, 100)])

    assert (result.failed, result.slo_attainment, result.remote_share) == (1, 0.5, 0.0)


def test_shifts_are_changes_of_state_and_moves_are_changes_of_the_share() -> None:
    states = [
        ("Standby", 0),
        ("Overflowing", 250_000),
        ("Overflowing", 400_000),
        ("Overflowing", 400_000),
        ("Standby", 0),
    ]
    decided = [Decided(float(at_s), *state) for at_s, state in enumerate(states)]

    result = score([served(0), served(1800)], decided)

    assert (result.shifts_per_hour, result.moves_per_hour) == (4, 6)


def test_a_load_of_one_moment_has_no_hours_to_divide_by() -> None:
    assert score([served(0)], [Decided(0, "Standby", 0), Decided(0, "Overflowing", 1)]).shifts_per_hour == 0


def test_costs_are_hours_of_each_side_and_tokens_where_they_were_served() -> None:
    prices = Prices(local=Price(hour=10), remote=Price(context_1k=2, generated_1k=6))

    result = score([served(0), served(1800, "remote-0", tokens=(500, 1000))], prices=prices)

    assert result.cost == pytest.approx(5 + 1 + 6)
