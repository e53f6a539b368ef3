"""What the page shows of `benchmarks.overflow` beside its figures: all policies at all loads, as tables and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOO_LATE_MIN = 0.01
"""Percent: what lies below is drawn there, since the axis is logarithmic."""

COLOURS = {
    "none": "0.4",
    "beamlit": "tab:purple",
    "fixed": "tab:red",
    "proportional": "tab:orange",
    "spill": "tab:blue",
    "spill + proportional": "tab:green",
    "oracle": "black",
}

Row = Mapping[str, Any]


def tables(result: Result) -> str:
    """Markdown. In each cell: first byte within the SLO, remote share."""
    shown = {
        "played": "Played, the excerpt",
        "simulated": "Simulated, the excerpt",
        "whole": "Simulated, the whole trace",
    }
    parts = [
        f"**{title}**: % of the first bytes within 2 s / % that left\n\n{_table(result.data[name])}"
        for name, title in shown.items()
    ]
    return "\n\n".join(parts)


def _table(rows: Iterable[Row]) -> str:
    cells = {(row["policy"], row["load"]): _cell(row) for row in rows}
    policies, loads = (list(dict.fromkeys(key[index] for key in cells)) for index in (0, 1))
    lines = [["load", *(f"{load:g}" for load in loads)], ["---"] * (1 + len(loads))]
    lines += [[policy, *(cells[policy, load] for load in loads)] for policy in policies]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(row: Row) -> str:
    return f"{100 * row['slo_attainment']:.1f} / {100 * row['remote_share']:.1f}"


def plot(result: Result) -> Figure:
    """For each load who waited too long against what left: sweeps as lines, simulated; the played policies as dots."""
    from matplotlib.figure import Figure

    loads = list(dict.fromkeys(row["load"] for row in result.data["played"]))
    figure = Figure(figsize=(11, 4 * ((len(loads) + 1) // 2)), layout="constrained")
    grid = figure.subplots((len(loads) + 1) // 2, min(2, len(loads)), sharex=True, sharey=True, squeeze=False)
    for axes, load in zip(grid.flat, loads, strict=False):
        _panel(axes, load, result.data)
    for axes in grid[-1]:
        axes.set_xlabel("remote share, % of the requests")
    for axes in grid[:, 0]:
        axes.set_ylabel("first byte after more than 2 s, %")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _panel(axes: Axes, load: float, data: Mapping[str, Any]) -> None:
    played = {row["policy"]: row for row in data["played"] if row["load"] == load}
    for policy, colour in COLOURS.items():
        swept = [row for row in data["sweeps"] if (row["policy"], row["load"]) == (policy, load)]
        single = len(swept) == 1
        axes.plot(
            *_points(swept), color=colour, marker="*" if single else ".", markersize=10 if single else 4,
            linestyle="none" if single else "-", linewidth=1, label=f"{policy}, simulated",
        )  # fmt: skip
        if policy in played:
            axes.plot(
                *_points([played[policy]]), color=colour, marker="o", markersize=8, linestyle="none",
                markerfacecolor="none", markeredgewidth=2, label=f"{policy}, played",
            )  # fmt: skip
    axes.set_title(f"load {load:g}", fontsize="medium")
    axes.set_yscale("log")
    axes.grid(visible=True, color="0.9")


def _points(rows: Iterable[Row]) -> tuple[list[float], list[float]]:
    """Remote shares, and who waited too long, in percent."""
    rows = list(rows)
    too_late = [max(TOO_LATE_MIN, 100 * (1 - row["slo_attainment"])) for row in rows]
    return [100 * row["remote_share"] for row in rows], too_late
