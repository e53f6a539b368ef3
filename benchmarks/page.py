"""The page: for each result its benchmark's own words, a table, a plot, and what was learnt (`notes/<name>.md`)."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

from matplotlib import rcParams

from benchmarks.figures import RESULTS, Figure, Result

HERE = Path(__file__).parent
PAGE = HERE / "README.md"


def write() -> None:
    """Makes README.md from `intro.md`, the results there are, and the notes beside them."""
    from benchmarks.__main__ import NAMES

    results = [Result.read(path) for name in NAMES if (path := RESULTS / f"{name}.json").exists()]
    parts = [(HERE / "intro.md").read_text(encoding="utf-8").strip()]
    parts += [_section(each) for each in results]
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _section(result: Result) -> str:
    benchmark = importlib.import_module(f"benchmarks.{result.name}")
    parts = [f"## {benchmark.TITLE}", inspect.getdoc(benchmark) or "", _table(result.figures)]
    parts += [benchmark.tables(result)] if hasattr(benchmark, "tables") else []
    if hasattr(benchmark, "plot") and (drawn := benchmark.plot(result)):
        target = RESULTS / f"{result.name}.svg"
        rcParams["svg.hashsalt"] = result.name  # the same figures are the same file
        drawn.savefig(target, bbox_inches="tight", metadata={"Date": None})
        parts.append(f"![{benchmark.TITLE}](results/{target.name})")
    parts += ["\n".join(f"- {note}" for note in result.notes)] if result.notes else []
    notes = HERE / "notes" / f"{result.name}.md"
    parts += [notes.read_text(encoding="utf-8").strip()] if notes.exists() else []
    machine = result.machine
    parts.append(
        f"<sub>`python -m benchmarks {result.name}`, {result.took_s:.0f} s, commit {machine['commit']}: "
        f"{machine['cores']} x {machine['processor']}, {machine['memory_gib']:g} GiB, Linux {machine['kernel']}, "
        f"Python {machine['python']}, Envoy {machine['envoy']}, grpcio {machine['grpcio']}.</sub>"
    )
    return "\n\n".join(parts)


def _table(figures: tuple[Figure, ...]) -> str:
    """One row a figure; the columns of the case are those that any of them has."""
    keys = list(dict.fromkeys(key for figure in figures for key in figure.case))
    head = ["", *(key.replace("_", " ") for key in keys), "median", "p99", "min – max", "n", "goal"]
    rows = [
        [
            each.name,
            *(_number(value) if isinstance(value := each.case.get(key, ""), float) else str(value) for key in keys),
            f"**{_number(each.median)}** {each.unit}",
            "" if each.p99 is None else _number(each.p99),
            f"{_number(each.minimum)} – {_number(each.maximum)}" if each.count > 1 else "",
            str(each.count),
            "; ".join(map(_goal, [each] * len(each.goals), range(len(each.goals)))),
        ]
        for each in figures
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _goal(figure: Figure, index: int) -> str:
    goal = figure.goals[index]
    relation = {"<=": "≤", ">=": "≥"}[goal.relation]
    statistic = "" if goal.statistic == "median" else f"{goal.statistic} "
    return f"{statistic}{relation} {_number(goal.bound)} {'✓' if figure.verdicts[index] else '✗'}"


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value and abs(value) < 0.001:
        return f"{value:.2g}"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return re.sub(r"(\.\d*?)0+$", r"\1", text).rstrip(".") if "." in text and "e" not in text else text
