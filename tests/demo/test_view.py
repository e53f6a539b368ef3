"""What is shown: bars, lines, the screen, the picture."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from controller.demo.frame import Frame, frame_of
from controller.demo.measure import Moment, Outcome
from controller.demo.picture import draw
from controller.demo.scenario import LONG
from controller.demo.view import LiveView, PlainView, addresses_text
from controller.simulate.chart import BLOCKS, bars
from controller.simulate.workload import Arrival

MOMENTS = [
    Moment(0.0, "Standby", 0, "BelowTarget", "Calm.", 3.0, 12.0),
    Moment(8.0, "Overflowing", 300_000, "ThresholdReached", "Local is full [bold].", 16.0, 12.0),
    Moment(11.0, "Standby", 0, "Returned", "Local could carry all requests.", 4.0, 12.0),
]


def outcomes() -> list[Outcome]:
    requests = [Arrival(0.1 * number, 10, 10) for number in range(120)]
    seen = [Outcome(r, r.at_s, r.at_s + 0.05, r.at_s + 0.3, 200, "local") for r in requests]
    return [replace(o, destination="remote-0") if n % 3 == 0 else o for n, o in enumerate(seen)]


def frame(at_s: float = 12.0) -> Frame:
    return frame_of(outcomes(), MOMENTS, in_flight=3, at_s=at_s)


def test_a_bar_is_as_high_as_its_value() -> None:
    assert bars([0, 1, 8, 12, 16, 99], top=16, width=7, height=2) == ["   ▄██ ", " ▁████ "]


def test_the_newest_values_are_shown_when_there_are_too_many() -> None:
    assert bars([1.0, 1.0, 0.0], top=1.0, width=2, height=1) == ["█ "]


@given(st.lists(st.floats(0, 1000), max_size=50), st.floats(0, 1000), st.integers(1, 40), st.integers(1, 4))
def test_bars_fill_exactly_their_place(values: list[float], top: float, width: int, height: int) -> None:
    lines = bars(values, top, width, height)

    assert [len(line) for line in lines] == [width] * height
    assert set("".join(lines)) <= set(BLOCKS)


def test_without_a_terminal_events_and_numbers_are_lines() -> None:
    output = io.StringIO()
    with PlainView(Console(file=output, width=60)) as view:
        view.event(MOMENTS[1])
        view.show(frame(1.0))
        view.show(frame(6.0))
        view.show(frame(7.0))
        view.say("[1] a line that is longer than the console is wide, and stays one line for whoever searches it")
    lines = output.getvalue().splitlines()

    assert lines[0] == "  8.0 s  Overflowing, 30% remote  ThresholdReached: Local is full [bold]."
    assert [line[:7] for line in lines[1:2]] == ["  6.0 s"]
    assert lines[2].startswith("[1] a line")
    assert len(lines) == 3


@pytest.mark.parametrize("width", [80, 120, 200])
def test_in_a_terminal_one_screen_shows_state_share_rates_errors_and_events(width: int) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=width, height=40, color_system=None)
    with LiveView(console, LONG) as view:
        for moment in MOMENTS:
            view.event(moment)
        view.show(frame())
    shown = output.getvalue()

    for words in ("state Standby", "share 0%", "local 80", "remote 40", "errors 0", "in flight 3", "4 of 12", "p95"):
        assert words in " ".join(shown.split()), words
    assert "ThresholdReached" in shown
    assert "Local is full [bold]." in shown
    assert "█" in shown


def test_the_addresses_can_be_tried() -> None:
    addresses = {"listen": "127.0.0.1:1", "admin": "127.0.0.1:2", "envoy_admin": "127.0.0.1:3", "xds": "127.0.0.1:4"}

    text = addresses_text(addresses, "chat.demo.svc.cluster.local", "demo-model")

    assert "curl http://127.0.0.1:1/v1/chat/completions -H 'Host: chat.demo.svc.cluster.local'" in text
    assert "spillway status --admin 127.0.0.1:2" in text
    assert all(address in text for address in addresses.values())


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "timeline.png"

    draw(path, LONG, outcomes(), MOMENTS, [0.1] * 120)

    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_run_without_any_answer_has_a_picture_too(tmp_path: Path) -> None:
    path = tmp_path / "timeline.png"

    draw(path, LONG, [], [], [])

    assert path.exists()


def test_a_picture_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        draw(tmp_path / "missing" / "x.png", LONG, outcomes(), MOMENTS, [0.1] * 120)
