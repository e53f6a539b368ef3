"""Shell: the timeline of a run as a PNG: share, who answered, wait for the first token with and without Spillway."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from controller.demo.frame import PPM
from controller.demo.measure import STANDBY, Moment, Outcome, per_second
from controller.demo.scenario import Scenario

LOCAL, REMOTE, SHARE, WITHOUT = "#2a78b8", "#d1622b", "#3b3b3b", "#9a9a9a"
STATE_COLOURS = {"Overflowing": "#f6dfae", "Failover": "#f2b8b5"}


def draw(
    path: Path, scenario: Scenario, outcomes: Sequence[Outcome], moments: Sequence[Moment], without_s: Sequence[float]
) -> None:
    """`without_s`: for each request in the order of arrival, the wait with local alone. Raises OSError."""
    end_s = max([*(o.done_s for o in outcomes), *(m.at_s for m in moments), 1.0])
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    share, rates, waits = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1.4, 1.6))
    for axes in (share, rates, waits):
        _bands(axes, moments, end_s)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#000000", alpha=0.08)
    _draw_share(share, moments, end_s)
    _draw_rates(rates, outcomes, end_s)
    _draw_waits(waits, scenario, outcomes, without_s)
    figure.suptitle("Spillway: local overflows, the excess leaves, and comes back", fontsize=13)
    waits.set_xlabel(
        f"seconds of the run (trace: Azure LLM inference 2023, CC-BY 4.0, {scenario.speed:g} times faster)"
    )
    waits.set_xlim(0, end_s * 1.06)  # room for the words of the last change
    figure.savefig(path, dpi=110)


def _bands(axes: Axes, moments: Sequence[Moment], end_s: float) -> None:
    ends_s = [*(moment.at_s for moment in moments[1:]), end_s]
    for moment, until_s in zip(moments, ends_s, strict=False):
        if moment.state != STANDBY:
            axes.axvspan(moment.at_s, until_s, color=STATE_COLOURS.get(moment.state, "white"), lw=0, zorder=0)


def _draw_share(axes: Axes, moments: Sequence[Moment], end_s: float) -> None:
    times_s = [*(moment.at_s for moment in moments), end_s]
    shares = [moment.share_ppm / PPM * 100 for moment in moments]
    axes.step(times_s, [*shares, *(shares[-1:] or [0.0])], where="post", color=SHARE, lw=2)
    axes.set_ylim(0, 100)
    axes.set_ylabel("share decided, %")
    before = STANDBY
    for moment in moments:
        if moment.state != before:
            axes.annotate(
                f"{moment.state}\n{moment.reason}",
                (moment.at_s, 98),
                xytext=(4, 0),
                textcoords="offset points",
                va="top",
                fontsize=8,
            )
        before = moment.state


def _draw_rates(axes: Axes, outcomes: Sequence[Outcome], end_s: float) -> None:
    answered = [(o.first_byte_s, o.went_remote) for o in outcomes if o.first_byte_s is not None and not o.error]
    local = per_second((at_s for at_s, remote in answered if not remote), end_s)
    remote = per_second((at_s for at_s, remote in answered if remote), end_s)
    seconds = [second + 0.5 for second in range(len(local))]
    axes.bar(seconds, local, width=1, color=LOCAL, label="local")
    axes.bar(seconds, remote, width=1, bottom=local, color=REMOTE, label="remote")
    axes.set_ylabel("requests answered a second")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _draw_waits(axes: Axes, scenario: Scenario, outcomes: Sequence[Outcome], without_s: Sequence[float]) -> None:
    for remote, colour, name in ((False, LOCAL, "with Spillway, local"), (True, REMOTE, "with Spillway, remote")):
        seen = [(o.request.at_s, o.wait_s) for o in outcomes if o.wait_s is not None and o.went_remote is remote]
        axes.scatter(
            [at_s for at_s, _ in seen], [wait_s for _, wait_s in seen], s=7, color=colour, label=name, zorder=3
        )
    arrivals_s = sorted(outcome.request.at_s for outcome in outcomes)
    axes.plot(arrivals_s, list(without_s)[: len(arrivals_s)], color=WITHOUT, lw=2, label="local alone, computed")
    axes.axhline(scenario.slow_s, color="#b00020", lw=1, ls=":", label=f"{scenario.slow_s:g} s")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylabel("wait for the first token, s")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
