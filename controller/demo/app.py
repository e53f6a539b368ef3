"""Shell: the command `spillway demo`: the view it is shown in, and how it ends. Its flags are in flags.py."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Coroutine
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from controller.demo.children import ChildError
from controller.demo.frame import summary_text
from controller.demo.run import DemoError, Recording, run
from controller.demo.scenario import LONG, SHORT, Scenario
from controller.demo.view import LiveView, PlainView

T = TypeVar("T")

NEEDED = ("dnslib", "envoy", "flask", "matplotlib", "trustme")
"""What the parts import that are loaded later, or in another process."""


def run_demo(options: argparse.Namespace) -> int:
    """Returns the exit status: 0 if all went well, 1 if not, 128 + its number if a signal ended it."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return _fail(f"the demo needs more packages ({', '.join(missing)}): install Spillway with its extra 'demo'")
    if not options.output.parent.is_dir():
        return _fail(f"--output {options.output}: there is no directory {options.output.parent}")
    scenario = SHORT if options.short else LONG
    console = Console()
    live = console.is_terminal and not options.plain
    view = LiveView(console, scenario) if live else PlainView(console)
    try:
        recording = asyncio.run(_until_a_signal(run(scenario, view)))
    except (ChildError, DemoError) as error:
        return _fail(str(error))
    if isinstance(recording, signal.Signals):
        return _fail(f"ended by {recording.name}; nothing is left running", 128 + recording)
    print(f"\n{summary_text(recording.summary, scenario)}")
    return max(_draw(options.output, scenario, recording), int(bool(recording.summary.failures)))


def _draw(path: Path, scenario: Scenario, recording: Recording) -> int:
    from controller.demo.picture import draw  # it takes a second to load, which a run has no time for

    try:
        draw(path, scenario, recording.outcomes, recording.moments, recording.without_s)
    except OSError as error:
        return _fail(f"--output {path}: {error.strerror or error}")
    print(f"timeline: {path}")
    return 0


async def _until_a_signal(work: Coroutine[None, None, T]) -> T | signal.Signals:
    """The work's result, or the signal that ended it early: it is cancelled, and cleans up."""
    task = asyncio.ensure_future(work)
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not received:  # whoever presses Ctrl-C twice would only interrupt the cleaning up
            task.cancel()
        received.append(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        return received[0]


def _fail(message: str, status: int = 1) -> int:
    print(f"spillway demo: {message}", file=sys.stderr)
    return status
