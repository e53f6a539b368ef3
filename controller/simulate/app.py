"""Shell: the command `spillway simulate`: files in, a table and plots out. Its flags are in flags.py."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from controller.adapters.files import ManifestDirectory, ManifestError
from controller.manifests import FileProblem, Manifest, read
from controller.settings import Settings
from controller.simulate import report, trace
from controller.simulate.scenario import Outcome, Scenario, ScenarioError, Servers, all_local, scenario_of, simulate
from controller.simulate.score import Price, Prices, Score, score
from controller.simulate.timeline import timeline
from controller.simulate.workload import Arrival, Timing

WRONG_CALL = 2
LENGTH_MAX_S = 7 * 24 * 3600
"""A longer one is a mistake in its times, or takes minutes: each second of it may ask for a metric."""
_COLUMNS_MAX = 160


def run_simulate(options: argparse.Namespace, settings: Settings) -> int:
    """Returns the exit status: 0, or 2 if what was given cannot be simulated."""
    if options.plot and find_spec("matplotlib") is None:
        return _fail("--plot needs one more package (matplotlib): install Spillway with its extra 'demo'")
    try:
        arrivals = _arrivals(options.trace, options.speed)
        scenario = scenario_of(_manifests(options.policy), settings, _servers(options))
    except ScenarioError as error:
        return _fail(str(error))
    for note in scenario.notes:
        print(f"note: {note}", file=sys.stderr)
    outcome = simulate(scenario, arrivals, random.Random(options.seed).random)
    without = simulate(all_local(scenario), arrivals, random.Random(options.seed).random)
    scores = {scenario.model.key: _score(outcome, options), "all local": _score(without, options)}
    if options.output == "json":
        print(json.dumps(report.as_json(scores, options.slo), indent=2))
    else:
        _print(scenario, arrivals, scores, outcome, options)
    return _draw(options, scenario, outcome) if options.plot else 0


def _arrivals(path: Path, speed: float) -> list[Arrival]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            arrivals = trace.read(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"--trace {path}: {_reason(error)}") from None
    except trace.TraceError as error:
        raise ScenarioError(f"--trace {path}: {error}") from None
    if arrivals[-1].at_s / speed > LENGTH_MAX_S:
        raise ScenarioError(f"--trace {path}: is {arrivals[-1].at_s / speed:,.0f} s long; at most {LENGTH_MAX_S:,} s")
    return [replace(arrival, at_s=arrival.at_s / speed) for arrival in arrivals]


def _manifests(path: Path) -> Sequence[Manifest]:
    """All that is in a file or a directory; warnings go to standard error. Raises ScenarioError for more than that."""
    problems: Sequence[FileProblem]
    try:
        if path.is_dir():
            files = ManifestDirectory(path, lines=True)
            files.load()
            manifests, problems = files.manifests, files.problems
        else:
            contents = read(path, path.read_text(encoding="utf-8"))
            manifests = contents.manifests
            problems = [*contents.problems, *(problem for manifest in manifests for problem in manifest.problems)]
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"--policy {path}: {_reason(error)}") from None
    except ManifestError as error:
        raise ScenarioError(f"--policy: {error}") from None
    if errors := [problem for problem in problems if not problem.warning]:
        raise ScenarioError("\n".join(f"--policy {problem}" for problem in errors))
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return manifests


def _servers(options: argparse.Namespace) -> Servers:
    return Servers(
        slots=options.slots,
        replicas=options.replicas,
        local=Timing(0.0, options.context_ms / 1000, options.token_ms / 1000),
        remote=Timing(options.remote_latency, options.remote_context_ms / 1000, options.remote_token_ms / 1000),
        split=options.gateways,
        interval_s=options.interval,
        scrape_s=options.scrape_interval,
        meanings=dict(options.signal),
    )


def _score(outcome: Outcome, options: argparse.Namespace) -> Score:
    prices = Prices(options.price_local or Price(), options.price_remote or Price())
    return score(outcome.served, outcome.decided, slo_s=options.slo, prices=prices)


def _print(
    scenario: Scenario,
    arrivals: Sequence[Arrival],
    scores: dict[str, Score],
    outcome: Outcome,
    options: argparse.Namespace,
) -> None:
    priced = bool(options.price_local or options.price_remote)
    columns = max(20, min(_COLUMNS_MAX, shutil.get_terminal_size().columns) - report.LABEL_WIDTH - 1)
    line = timeline(outcome.served, outcome.decided, options.slo, columns)
    parts = (report.load_text(scenario, arrivals), report.table(scores, options.slo, priced=priced), report.plot(line))
    print("\n\n".join(parts))


def _draw(options: argparse.Namespace, scenario: Scenario, outcome: Outcome) -> int:
    from controller.simulate.picture import draw  # it takes a second to load, and is not always there

    try:
        draw(
            options.plot, f"{scenario.model.key} on {options.trace.name}", outcome.served, outcome.decided, options.slo
        )
    except OSError as error:
        return _fail(f"--plot {options.plot}: {_reason(error)}")
    print(f"plot: {options.plot}", file=sys.stderr)
    return 0


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def _fail(message: str) -> int:
    print("\n".join(f"spillway simulate: {line}" for line in message.splitlines()), file=sys.stderr)
    return WRONG_CALL
