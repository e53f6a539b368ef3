"""What a benchmark says is computed, judged, kept and shown as it was measured."""

from pathlib import Path

import pytest

from benchmarks.figures import Report, Result, at_least, at_most
from benchmarks.page import _number, _table


def test_a_figure_is_the_median_with_its_spread() -> None:
    made = Report("any", quick=False).figure("latency", "ms", [3.0, 1.0, 2.0, 9.0], at_most(3.0), models=10)
    assert (made.median, made.minimum, made.maximum, made.p99, made.count) == (2.5, 1.0, 9.0, None, 4)
    assert made.verdicts == (True,)


def test_p99_is_given_from_a_hundred_on_and_judged_then() -> None:
    report = Report("any", quick=False)
    goals = at_most(3.0), at_most(98.0, "p99")
    assert report.figure("few", "ms", [1.0] * 99, *goals).verdicts == (True,)
    many = report.figure("many", "ms", [float(value) for value in range(1, 101)], *goals)
    assert many.p99 == 99.0
    assert many.verdicts == (False, False)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = Report("any", quick=False)
    report.figure("share", "%", 99.7, at_least(99.5), gateways=4, load=1.08)
    report.figure("memory", "MiB", [1.0, 2.0], gateways=1)
    report.note("a note")
    report.data["points"] = [[1, 2]]
    written = report.result(1.5)
    read = Result.read(written.write(tmp_path))
    assert read == written
    assert [each.median for each in read.find("share", gateways=4)] == [99.7]
    assert read.find("share", gateways=1) == []


def test_the_table_has_a_column_for_each_key_and_says_what_missed() -> None:
    report = Report("any", quick=False)
    report.figure("share", "%", 99.2, at_least(99.5), gateways=4)
    report.figure("remote", "%", 12.0, at_most(16.0), load=1.08)
    lines = _table(tuple(report.figures)).splitlines()
    assert lines[0] == "|  | gateways | load | median | p99 | min – max | n | goal |"
    assert lines[2] == "| share | 4 |  | **99.2** % |  |  | 1 | ≥ 99.5 ✗ |"
    assert lines[3] == "| remote |  | 1.08 | **12** % |  |  | 1 | ≤ 16 ✓ |"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (1.2345, "1.23"), (12345.6, "12,346"), (100.0, "100"), (0.5, "0.5"), (2.0, "2")]
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert _number(value) == shown
