"""Shell: a simulation as a picture: who served, what was decided, and how long the first byte took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from controller.simulate.score import Decided, Served
from controller.simulate.timeline import Timeline, timeline
from xds import ir

LOCAL, REMOTE, SHARE = "#2a78b8", "#d1622b", "#3b3b3b"
INTERVALS = 240


def draw(path: Path, title: str, served: Sequence[Served], decided: Sequence[Decided], slo_s: float) -> None:
    """Raises OSError."""
    line = timeline(served, decided, slo_s, INTERVALS)
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    rates, shares, waits = figure.subplots(3, 1, sharex=True, height_ratios=(1.3, 1, 1.6))
    for axes in (rates, shares, waits):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#000000", alpha=0.08)
    _draw_rates(rates, line)
    _draw_shares(shares, line, decided)
    _draw_waits(waits, served, slo_s)
    waits.set_xlim(0, line.every_s * INTERVALS)
    waits.set_xlabel("seconds of the trace")
    figure.suptitle(title, fontsize=13)
    figure.savefig(path, dpi=110)


def _draw_rates(axes: Axes, line: Timeline) -> None:
    middles_s = [(index + 0.5) * line.every_s for index in range(INTERVALS)]
    axes.bar(middles_s, line.local, width=line.every_s, color=LOCAL, label="local")
    axes.bar(middles_s, line.remote, width=line.every_s, bottom=line.local, color=REMOTE, label="remote")
    axes.set_ylabel("requests a second")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _draw_shares(axes: Axes, line: Timeline, decided: Sequence[Decided]) -> None:
    middles_s = [(index + 0.5) * line.every_s for index in range(INTERVALS)]
    served = [100 * remote / max(1e-9, whole) for remote, whole in zip(line.remote, line.arrivals, strict=True)]
    axes.fill_between(middles_s, served, step="mid", color=REMOTE, alpha=0.4, lw=0, label="went remote")
    times_s = [*(each.at_s for each in decided), line.every_s * INTERVALS]
    levels = [100 * each.share_ppm / ir.PPM for each in decided]
    axes.step(times_s, [*levels, levels[-1]], where="post", color=SHARE, lw=1, label="decided by the metric")
    axes.set_ylim(0, 100)
    axes.set_ylabel("share, %")
    axes.legend(frameon=False, loc="upper right", ncols=2)


def _draw_waits(axes: Axes, served: Sequence[Served], slo_s: float) -> None:
    for colour, name, here in ((LOCAL, "local", True), (REMOTE, "remote", False)):
        some = [each for each in served if each.destination and (each.destination == ir.LOCAL) is here]
        times_s, waits_s = [each.at_s for each in some], [each.first_byte_s for each in some]
        axes.scatter(times_s, waits_s, s=2, color=colour, label=name, zorder=3, rasterized=True)
    axes.axhline(slo_s, color="#b00020", lw=1, ls=":", label=f"{slo_s:g} s")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.01)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylabel("first byte after, s")
