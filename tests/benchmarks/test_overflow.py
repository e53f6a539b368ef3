"""The benchmark of overflow: which minutes it plays, what it says, and that every step of it works."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import overflow
from benchmarks.figures import Report
from benchmarks.overflow import Load, load_trace
from controller.simulate import trace
from controller.simulate.workload import Arrival


def busy(*per_minute: int) -> Load:
    """A load with so many requests in each minute, all of one second of work."""
    arrivals = [
        Arrival(60.0 * minute + 60.0 * number / count, 0, 40)
        for minute, count in enumerate(per_minute)
        for number in range(count)
    ]
    return Load("made up", tuple(arrivals), has_goals=False)


def test_the_excerpt_is_the_stretch_whose_load_is_nearest_to_the_wholes() -> None:
    load = busy(10, 10, 20, 20, 40, 20)
    excerpt = load.excerpt(120)
    assert len(excerpt) == 40
    assert excerpt[0].at_s == 0
    assert excerpt[-1].at_s < 120


def test_a_load_that_is_shorter_than_the_excerpt_is_played_whole() -> None:
    load = busy(5, 5)
    assert load.excerpt(1200) == load.arrivals


def test_the_trace_is_the_one_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(trace.save([Arrival(0, 10, 20), Arrival(1.5, 30, 40)]))
    load = load_trace({"SPILLWAY_TRACE": str(file)})
    assert (load.name, load.arrivals) == ("mine.csv", (Arrival(0, 10, 20), Arrival(1.5, 30, 40)))
    assert load.has_goals


def test_without_a_name_one_is_made_up_always_the_same_and_as_busy_as_the_one_of_the_goals() -> None:
    load = load_trace({})
    assert load == load_trace({})
    assert load.at(overflow.GOAL_SLOTS) == pytest.approx(1.08, abs=0.1)
    assert not load.has_goals


async def test_every_step_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPILLWAY_TRACE", raising=False)
    report = Report("overflow", quick=True)
    await overflow.run(report, quick=True)
    result = report.result(0.0)
    played = {row["policy"]: row for row in result.data["played"]}
    assert list(played) == list(overflow.PLAYED)
    assert played["none"]["remote_share"] == 0
    assert played["spill"]["remote_share"] > 0
    assert result.find("answers other than 200")[0].maximum == 0
    assert {row["gateways"] for row in result.data["gateways"]} == {2}
    assert "| spill |" in overflow.tables(result)
    assert len(overflow.plot(result).axes) == 1
