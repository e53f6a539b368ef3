"""What a simulation has shown, as text."""

from __future__ import annotations

import json
import math

from controller.simulate.report import LABEL_WIDTH, as_json, plot, table
from controller.simulate.score import Score
from controller.simulate.timeline import Timeline

GOOD = Score(1000, 0, 0.9988, 0.144, 0.147, 2.0, 12.5, 1234.5, 0.279, 1.414)
BAD = Score(1000, 1000, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, math.inf, math.inf)


def test_each_score_is_a_column_under_its_name() -> None:
    lines = table({"default/m": GOOD, "all local": BAD}, 1.5, priced=True).splitlines()

    assert lines[0].split() == ["default/m", "all", "local"]
    assert lines[1].split()[-4:] == ["99.88", "%", "0.00", "%"]
    assert lines[1].startswith("first byte within 1.5 s ")
    assert lines[3].split()[-4:] == ["1.41", "s", "inf", "s"]
    assert lines[-1].split() == ["cost", "1,234.50", "0.00"]
    assert len({len(line) for line in lines}) == 1


def test_costs_are_told_where_there_are_prices() -> None:
    assert "cost" not in table({"default/m": GOOD}, 2.0, priced=False)


def test_bars_stand_under_each_other_to_the_same_scale() -> None:
    line = Timeline(10.0, local=[1.0, 2.0], remote=[0.0, 2.0], late=[0.0, 0.0], share=[0.0, 0.5])
    drawn = [text[LABEL_WIDTH:] for text in plot(line).splitlines()]

    assert drawn == [" █", "▄█", "", "▄█", "", " █", "", "", "", " █", "0 s20 s"]


def test_json_has_every_number() -> None:
    made = as_json({"m": GOOD, "all local": BAD}, 2.0)

    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["slo_s"] == 2.0
    assert made["scores"]["m"]["p99_first_byte_s"] == 1.414
    assert made["scores"]["all local"]["p99_first_byte_s"] is None
