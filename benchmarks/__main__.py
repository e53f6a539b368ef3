"""Runs benchmarks one after the other, each in a process of its own, and writes their results and the page."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import subprocess
import sys
import time

from benchmarks import page
from benchmarks.figures import RESULTS, Report

NAMES = ("share_change", "fan_out", "cold_start", "engine", "operator", "data_path", "overflow", "leasing")
"""In the order of the page."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which ones, of: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="only show that they work; nothing is written")
    parser.add_argument("--page", action="store_true", help="only make the page anew from the results there are")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"there is no benchmark called {', '.join(sorted(unknown))}")
    if arguments.page:
        page.write()
        return 0
    if len(arguments.names) == 1:
        return _run(arguments.names[0], quick=arguments.quick)
    quick = ["--quick"] if arguments.quick else []
    chosen = [name for name in NAMES if name in (arguments.names or NAMES)]
    codes = [
        subprocess.run([sys.executable, "-m", "benchmarks", name, *quick], check=False).returncode for name in chosen
    ]
    failed = [name for name, code in zip(chosen, codes, strict=True) if code]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, *, quick: bool) -> int:
    benchmark = importlib.import_module(f"benchmarks.{name}")
    report = Report(name, quick=quick)
    report.say(f"{benchmark.TITLE} (at most {benchmark.BUDGET_S} s)")
    started = time.monotonic()
    asyncio.run(benchmark.run(report, quick=quick))
    result = report.result(round(time.monotonic() - started, 1))
    report.say(f"took {result.took_s:.0f} s")
    if not quick:
        result.write(RESULTS)
        page.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
