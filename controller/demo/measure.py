"""Pure: what was seen during a run, and what it comes to. Times are seconds since the first request could be sent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import ceil

from controller.simulate.workload import Arrival

STANDBY = "Standby"
OVERFLOW = "UO "
"""Envoy's response flag for a destination at its limit."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client saw of one request. `status` 0: no answer. `error` is empty if the answer came to its end."""

    request: Arrival
    sent_s: float
    first_byte_s: float | None
    done_s: float
    status: int
    destination: str
    error: str = ""

    @property
    def wait_s(self) -> float | None:
        """From the moment it was meant to be sent to its first byte: what a late player costs counts too."""
        return None if self.first_byte_s is None else self.first_byte_s - self.request.at_s

    @property
    def went_remote(self) -> bool:
        return self.destination.startswith("remote")


@dataclass(frozen=True, slots=True)
class Moment:
    """What the controller said of the model at one moment. `value` None: its metric is not known.

    `obstacle`: why its remote cannot be used, empty if it can.
    """

    at_s: float
    state: str
    share_ppm: int
    reason: str
    message: str
    value: float | None = None
    target: float | None = None
    obstacle: str = ""


class Departure(StrEnum):
    """Why a request went remote."""

    OFFLOAD = "offload"
    SPILL = "spill"
    FAILOVER = "failover"


EXPLAINED: Mapping[Departure, str] = {
    Departure.OFFLOAD: "the metric was above its target, so a share of all requests left",
    Departure.SPILL: "local was at its limit at that moment, so this one request left",
    Departure.FAILOVER: "the attempt at local failed otherwise before its first byte",
}


def moment_of(status: Mapping[str, object], at_s: float) -> Moment | None:
    """The first model of the controller's /status, None while there is none."""
    models = status.get("models")
    if not isinstance(models, Sequence) or not models:
        return None
    model = models[0]
    metrics, remotes = model.get("metrics") or [{}], model.get("remotes") or [{}]
    return Moment(
        at_s=at_s,
        state=model.get("state") or "",
        share_ppm=model.get("share_ppm") or 0,
        reason=model.get("reason") or "",
        message=model.get("message") or "",
        value=metrics[0].get("value"),
        target=metrics[0].get("target"),
        obstacle="" if remotes[0].get("ready") else remotes[0].get("reason") or "it is not known",
    )


def departure_of(line: str) -> Departure | None:
    """Why the request of an access log line went remote; None if it did not."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None  # a line that is being written
    if not str(entry.get("destination")).startswith("remote"):
        return None
    errors = entry.get("errors") or {}
    local = errors.get("local") if isinstance(errors, Mapping) else None
    if local is None:
        return Departure.OFFLOAD
    return Departure.SPILL if str(local).startswith(OVERFLOW) else Departure.FAILOVER


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed; 0 of nothing."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0


def per_second(times_s: Iterable[float], until_s: float) -> list[int]:
    """How many of the times lie in each second from 0 to `until_s`."""
    counts = Counter(int(time_s) for time_s in times_s)
    return [counts[second] for second in range(ceil(until_s))]


@dataclass(frozen=True, slots=True)
class Waits:
    """How long the first token took, in seconds, and for how many it was too long."""

    p50_s: float
    p95_s: float
    p99_s: float
    slow: int


def waits_of(waits_s: Sequence[float], slow_s: float) -> Waits:
    slow = sum(wait_s > slow_s for wait_s in waits_s)
    return Waits(percentile(waits_s, 50), percentile(waits_s, 95), percentile(waits_s, 99), slow)


@dataclass(frozen=True, slots=True)
class Summary:
    """A whole run. `departures`: how many requests went remote, by why. `without`: the same trace with local alone."""

    requests: int
    local: int
    remote: int
    errors: Mapping[str, int]
    departures: Mapping[Departure, int]
    overflows: int
    state: str
    overflows_wanted: int
    waits: Waits
    without: Waits
    slow_s: float

    @property
    def failures(self) -> list[str]:
        """What a run must not end with, in words."""
        found = [f"{count} client errors: {error}" for error, count in self.errors.items()]
        if not self.remote:
            found.append("no request went remote")
        if self.overflows < self.overflows_wanted:
            found.append(f"local overflowed {self.overflows} times instead of {self.overflows_wanted}")
        if self.state != STANDBY:
            found.append(f"the model is in state {self.state or 'unknown'} at the end, not in {STANDBY}")
        return found


def summarize(
    outcomes: Sequence[Outcome],
    moments: Sequence[Moment],
    departures: Iterable[Departure],
    without_s: Sequence[float],
    slow_s: float,
    overflows_wanted: int,
) -> Summary:
    """`without_s`: what each request would have waited with local alone. `slow_s`: a wait that is too long."""
    good = [outcome for outcome in outcomes if not outcome.error]
    waits_s = [outcome.wait_s for outcome in good if outcome.wait_s is not None]
    return Summary(
        requests=len(outcomes),
        local=sum(not outcome.went_remote for outcome in good),
        remote=sum(outcome.went_remote for outcome in good),
        errors=Counter(outcome.error for outcome in outcomes if outcome.error),
        departures=Counter(departures),
        overflows=overflows(moments),
        state=moments[-1].state if moments else "",
        overflows_wanted=overflows_wanted,
        waits=waits_of(waits_s, slow_s),
        without=waits_of(without_s, slow_s),
        slow_s=slow_s,
    )


def overflows(moments: Sequence[Moment]) -> int:
    """How often the model left Standby."""
    states = [STANDBY, *(moment.state for moment in moments)]
    return sum(before == STANDBY != after for before, after in pairwise(states))
