"""Shell: shows a run as it happens: drawn in place in a terminal, as plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from controller.demo.frame import PPM, Frame, event_text, progress_text
from controller.demo.measure import STANDBY, Moment
from controller.demo.scenario import Scenario
from controller.simulate.chart import bars

EVENTS_SHOWN = 7
PLAIN_EVERY_S = 5.0
CHART_HEIGHT = 3
LOCAL, REMOTE, SHARE = "cyan", "magenta", "yellow"
STATE_COLOURS = {STANDBY: "green", "Overflowing": "yellow", "Failover": "red"}


class PlainView:
    """Lines that a log can hold: every event, and the numbers from time to time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown_at_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def event(self, moment: Moment) -> None:
        self.say(event_text(moment))

    def show(self, frame: Frame) -> None:
        if frame.at_s >= self._shown_at_s + PLAIN_EVERY_S:
            self._shown_at_s = frame.at_s
            self.say(progress_text(frame))


class LiveView:
    """Everything on one screen, drawn anew in place; what is said stays above it."""

    def __init__(self, console: Console, scenario: Scenario) -> None:
        self._console = console
        self._scenario = scenario
        self._events: list[Moment] = []
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def event(self, moment: Moment) -> None:
        self._events.append(moment)

    def show(self, frame: Frame) -> None:
        self._live.update(self._drawn(frame), refresh=True)

    def _drawn(self, frame: Frame) -> RenderableType:
        width = max(20, min(self._console.width - 24, 100))
        title = f"Spillway demo  {frame.at_s:.0f} s of about {self._scenario.length_s + self._scenario.buffer_s:.0f}"
        events = Table.grid(padding=(0, 2))
        for moment in self._events[-EVENTS_SHOWN:]:
            colour = STATE_COLOURS.get(moment.state, "white")
            events.add_row(f"{moment.at_s:5.1f} s", Text(moment.reason, colour), Text(moment.message))
        parts = (self._numbers(frame), Text(), _charts(frame, width), Text(), events)
        return Panel(Group(*parts), title=title, border_style="dim")

    def _numbers(self, frame: Frame) -> Table:
        moment = frame.moment
        state = moment.state if moment else "unknown"
        share = f"{moment.share_ppm / PPM:.0%}" if moment else "-"
        metric = f"{moment.value:g} of {moment.target:g}" if moment and moment.value is not None else "unknown"
        table = Table.grid(padding=(0, 2))
        table.add_row(
            Text.assemble("state ", (state, f"bold {STATE_COLOURS.get(state, 'white')}")),
            Text.assemble("local ", (f"{frame.local_total}", f"bold {LOCAL}"), f"  {frame.local_per_s:.1f}/s"),
            f"first token p50 {frame.recent.p50_s:.2f} s",
            f"in flight {frame.in_flight}",
        )
        table.add_row(
            Text.assemble("share ", (share, f"bold {SHARE}")),
            Text.assemble("remote ", (f"{frame.remote_total}", f"bold {REMOTE}"), f"  {frame.remote_per_s:.1f}/s"),
            f"first token p95 {frame.recent.p95_s:.2f} s",
            Text(f"errors {frame.errors}", "bold red" if frame.errors else "bold green"),
        )
        table.add_row(f"metric {metric}")
        return table


def _charts(frame: Frame, width: int) -> Table:
    """Share, local and remote over time, one column a second; the two rates on one scale."""
    top = float(max([*frame.local, *frame.remote, 10]))
    table = Table.grid(padding=(0, 1))
    rows: tuple[tuple[str, str, list[float], float], ...] = (
        ("share", SHARE, frame.shares, 1.0),
        ("local/s", LOCAL, [float(count) for count in frame.local], top),
        ("remote/s", REMOTE, [float(count) for count in frame.remote], top),
    )
    for name, colour, values, highest in rows:
        label = f"{name:>8} {'100 %' if name == 'share' else f'{highest:g}':>5}"
        lines = bars(values, highest, width, CHART_HEIGHT)
        table.add_row(Text(label, colour), Text("\n".join(lines), colour))
    return table


def addresses_text(addresses: Mapping[str, str], host: str, model: str) -> str:
    """Where to look and what to try from another terminal, while it runs."""
    front = addresses["listen"]
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "hello"}}]}}'
    return "\n".join(
        (
            f"front listener    http://{front}  (Host: {host})",
            f"controller        http://{addresses['admin']}/status  /metrics  /healthz",
            f"Envoy's admin     http://{addresses['envoy_admin']}",
            f"xDS               {addresses['xds']}",
            "Try in another terminal:",
            f"  curl http://{front}/v1/chat/completions -H 'Host: {host}' -d '{body}'",
            f"  spillway status --admin {addresses['admin']}",
        )
    )
