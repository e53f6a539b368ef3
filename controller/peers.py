"""Pure: what controllers that run beside each other tell of the gateways that are connected to them.

Each says all it knows, over and over, so nothing is lost with a report that nobody read. Requests are counted from the
start of its run; what happened between two reports is their `difference`.

A report is the text of an annotation, so its size is bounded. What does not fit is left out, and `cut` says of what:
remotes first, those that are used least before others, then refusals, and gateways last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Annotated

import msgspec

from xds.events import BackendLoad

TEXT_MAX = 131_072
"""Bytes of a report; all annotations of an object together may have twice as many."""

REJECTED_MAX = 20

_PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class PeerReport:
    """What one controller says. `run`: an id of its process.

    `gateways`: those with a stream, and at which of the models' own ports each listens. `rejected`: by model, in the
    gateways' words. `loads`: by remote (cluster), how many requests succeeded and failed there since the run began.
    `cut`: the fields of which something was left out.
    """

    run: str = ""
    gateways: Mapping[str, frozenset[int]] = field(default_factory=dict)
    rejected: Mapping[str, str] = field(default_factory=dict)
    loads: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    cut: frozenset[str] = frozenset()


Count = Annotated[int, msgspec.Meta(ge=0)]


class _Text(msgspec.Struct, omit_defaults=True):
    """A report as JSON has it. `gateways`: with ports like '20000-20105,20107'."""

    run: str = ""
    gateways: dict[str, str] = {}
    rejected: dict[str, str] = {}
    loads: dict[str, tuple[Count, Count]] = {}
    cut: list[str] = []


def to_text(report: PeerReport) -> str:
    """At most `TEXT_MAX` bytes in UTF-8."""
    ranges = {ports: _ranges(ports) for ports in set(report.gateways.values())}
    text = _Text(
        report.run,
        {name: ranges[ports] for name, ports in sorted(report.gateways.items())},
        dict(islice(sorted(report.rejected.items()), REJECTED_MAX)),
        dict(sorted(report.loads.items(), key=lambda each: (-sum(each[1]), each[0]))),
    )
    cut = {*report.cut, *(["rejected"] if len(report.rejected) > REJECTED_MAX else [])}
    text.cut = sorted(cut)
    for name in "loads", "rejected", "gateways":
        while len(msgspec.json.encode(text)) > TEXT_MAX and (entries := getattr(text, name)):
            setattr(text, name, dict(islice(entries.items(), len(entries) // 2)))
            text.cut = sorted(cut := cut | {name})
    return msgspec.json.encode(text).decode()


def from_text(text: str) -> PeerReport | None:
    """The inverse of `to_text`; None for what it cannot have made."""
    try:
        decoded = msgspec.json.decode(text, type=_Text)
        ports = {ranges: _ports(ranges) for ranges in set(decoded.gateways.values())}
    except (ValueError, RecursionError):  # msgspec's are ValueErrors, except for nesting
        return None
    gateways = {name: ports[ranges] for name, ranges in decoded.gateways.items()}
    return PeerReport(decoded.run, gateways, decoded.rejected, decoded.loads, frozenset(decoded.cut))


def difference(before: PeerReport | None, after: PeerReport) -> tuple[BackendLoad, ...]:
    """How requests ended between two reports of one controller.

    Nothing is known of when those of a first report did, or those of a remote that was left out before.
    """
    if before is None:
        return ()
    goes_on = before.run == after.run
    known = before.loads if goes_on else {}
    loads = []
    for cluster, (succeeded, failed) in after.loads.items():
        if cluster not in known and goes_on and "loads" in before.cut:
            continue
        past = known.get(cluster, (0, 0))
        if succeeded < past[0] or failed < past[1]:
            past = (0, 0)  # no model had it for a while, so counting began anew
        if (succeeded, failed) != past:
            loads.append(BackendLoad(cluster, succeeded - past[0], failed - past[1]))
    return tuple(loads)


def moved_ports(before: PeerReport, after: PeerReport) -> frozenset[int]:
    """The ports at which some gateway listens that did not, or no longer does."""
    moved: frozenset[int] = frozenset()
    for name in before.gateways.keys() | after.gateways.keys():
        moved |= before.gateways.get(name, frozenset()) ^ after.gateways.get(name, frozenset())
    return moved


def _ranges(ports: Iterable[int]) -> str:
    parts = []
    for _, numbered in groupby(enumerate(sorted(ports)), key=lambda each: each[1] - each[0]):
        run = [port for _, port in numbered]
        parts.append(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}")
    return ",".join(parts)


def _ports(ranges: str) -> frozenset[int]:
    """Raises ValueError. Ranges have to rise, so there cannot be more ports than there are."""
    ports: set[int] = set()
    last = 0
    for part in ranges.split(",") if ranges else ():
        begin, _, end = part.partition("-")
        run = range(int(begin), int(end or begin) + 1)
        if not last < run.start < run.stop <= _PORT_MAX + 1:
            raise ValueError(f"{part!r} is no range of ports above {last}")
        ports.update(run)
        last = run[-1]
    return frozenset(ports)
