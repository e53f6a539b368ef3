"""Pure: what a viewer sees at one moment, and the words it is told in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from controller.demo.measure import EXPLAINED, STANDBY, Moment, Outcome, Summary, Waits, per_second, waits_of
from controller.demo.scenario import Scenario

RECENT_S = 10.0
PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Frame:
    """`shares` (0 to 1), `local` and `remote` (requests answered) have one value for each second so far."""

    at_s: float
    moment: Moment | None
    in_flight: int
    errors: int
    local_total: int
    remote_total: int
    shares: list[float]
    local: list[int]
    remote: list[int]
    recent: Waits

    @property
    def local_per_s(self) -> float:
        return _rate(self.local)

    @property
    def remote_per_s(self) -> float:
        return _rate(self.remote)


def frame_of(outcomes: Sequence[Outcome], moments: Sequence[Moment], in_flight: int, at_s: float) -> Frame:
    """Requests count in the second of their first byte."""
    answered = [(o.first_byte_s, o.went_remote) for o in outcomes if o.first_byte_s is not None and not o.error]
    recent = [o.wait_s for o in outcomes if o.wait_s is not None and o.done_s > at_s - RECENT_S]
    return Frame(
        at_s=at_s,
        moment=moments[-1] if moments else None,
        in_flight=in_flight,
        errors=sum(bool(o.error) for o in outcomes),
        local_total=sum(not remote for _, remote in answered),
        remote_total=sum(remote for _, remote in answered),
        shares=share_per_second(moments, at_s),
        local=per_second((first_s for first_s, remote in answered if not remote), at_s),
        remote=per_second((first_s for first_s, remote in answered if remote), at_s),
        recent=waits_of(recent, slow_s=0),
    )


def share_per_second(moments: Sequence[Moment], until_s: float) -> list[float]:
    """The share (0 to 1) at the end of each second."""
    shares: list[float] = []
    last, index = 0.0, 0
    for second in range(ceil(until_s)):
        while index < len(moments) and moments[index].at_s < second + 1:
            last = moments[index].share_ppm / PPM
            index += 1
        shares.append(last)
    return shares


def _rate(counts: Sequence[int]) -> float:
    """Of the last whole seconds; the newest one is not over yet."""
    recent = counts[-4:-1]
    return sum(recent) / len(recent) if recent else 0.0


def tells_apart(before: Moment | None, after: Moment) -> bool:
    """Whether something happened that a viewer should read."""
    return before is None or (before.state, before.reason) != (after.state, after.reason)


def event_text(moment: Moment) -> str:
    return (
        f"{moment.at_s:5.1f} s  {moment.state}, {moment.share_ppm / PPM:.0%} remote  {moment.reason}: {moment.message}"
    )


def progress_text(frame: Frame) -> str:
    """A frame in one line."""
    moment = frame.moment
    state = f"{moment.state}, {moment.share_ppm / PPM:.0%} remote" if moment else "unknown"
    return (
        f"{frame.at_s:5.1f} s  {state}: local {frame.local_total} ({frame.local_per_s:.1f}/s),"
        f" remote {frame.remote_total} ({frame.remote_per_s:.1f}/s), errors {frame.errors},"
        f" in flight {frame.in_flight}, first token p50 {frame.recent.p50_s:.2f} s p95 {frame.recent.p95_s:.2f} s"
    )


def summary_text(summary: Summary, scenario: Scenario) -> str:
    """The end of a run, for people."""
    errors = sum(summary.errors.values())
    share = summary.remote / summary.requests if summary.requests else 0.0
    times = "once" if summary.overflows == 1 else f"{summary.overflows} times"
    back = f"is back in {STANDBY}" if summary.state == STANDBY else f"is still in state {summary.state or 'unknown'}"
    lines = [
        f"{summary.requests} requests, {errors} client errors",
        f"{summary.local} served by local, {summary.remote} by the remote ({share:.0%}); why they went there:",
        *(f"  {summary.departures.get(why, 0):5}  {why}: {text}" for why, text in EXPLAINED.items()),
        f"local overflowed {times} and {back}",
        "",
        f"Wait for the first token, in seconds of this run (the trace is played {scenario.speed:g} times faster):",
        f"  {'':21}   p50     p95     p99   over {scenario.slow_s:g} s",
        f"  {'with Spillway':21}{_waits_text(summary.waits)}",
        f"  {'local alone, computed':21}{_waits_text(summary.without)}",
    ]
    return "\n".join([*lines, *(f"FAILED: {failure}" for failure in summary.failures)])


def _waits_text(waits: Waits) -> str:
    return f"{waits.p50_s:6.2f}  {waits.p95_s:6.2f}  {waits.p99_s:6.2f}  {waits.slow:6}"
