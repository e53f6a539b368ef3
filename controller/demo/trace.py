"""Shell: the recorded load that comes with the demo; TRACE.md says what it is."""

from __future__ import annotations

from importlib import resources

from controller.simulate.trace import read
from controller.simulate.workload import Arrival


def bundled_trace() -> tuple[Arrival, ...]:
    """All requests, the first one at 0 s."""
    with resources.files("controller.demo").joinpath("trace.csv").open() as file:
        return tuple(read(file))
