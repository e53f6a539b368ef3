"""A run in equal intervals."""

from __future__ import annotations

import math

import pytest

from controller.simulate.score import Decided, Served
from controller.simulate.timeline import timeline


def served(at_s: float, destination: str, wait_s: float = 0.1) -> Served:
    return Served(at_s, destination, wait_s, at_s + wait_s, 1, 1)


def test_requests_count_where_they_were_served_and_when_they_came() -> None:
    some = [served(0, "local"), served(4, "remote-0"), served(5, "local", 3), served(10, "", math.inf)]

    line = timeline(some, [], slo_s=2.0, intervals=2)

    assert line.every_s == 5
    assert line.local == [0.2, 0.2]
    assert line.remote == [0.2, 0.0]
    assert line.late == [0.0, 0.4]
    assert line.arrivals == [0.4, 0.2]


def test_a_share_counts_for_as_long_as_it_was_in_force() -> None:
    decided = [Decided(0, "Standby", 0), Decided(5, "Overflowing", 400_000), Decided(25, "Standby", 0)]

    line = timeline([served(0, "local"), served(40, "local")], decided, slo_s=2.0, intervals=4)

    assert line.share == pytest.approx([0.2, 0.4, 0.2, 0.0])


def test_a_load_of_one_moment_is_an_interval_too() -> None:
    assert timeline([served(0, "local")], [], slo_s=2.0, intervals=1).local == [1.0]
