"""Pure: the gateways that are connected to other controllers, as those report them.

What is known of them is less than of our own. That one listens at a model's own port says that it had the model's route
once, not that it has the newest; of a model without such a port it is taken to have what it does not refuse.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from controller.events import PeerReported
from controller.peers import PeerReport
from controller.record import WORDS_MAX, Record


class Elsewhere:
    """Owned by the engine: what each other controller said last."""

    def __init__(self) -> None:
        self._reports: dict[str, PeerReport] = {}

    @property
    def gateways(self) -> frozenset[str]:
        """All that are connected to other controllers."""
        return frozenset(name for report in self._reports.values() for name in report.gateways)

    def take(self, event: PeerReported) -> PeerReport | None:
        """Takes what a controller says, or that it is gone. Returns what it said before."""
        before = self._reports.pop(event.replica, None)
        if event.report is not None:
            self._reports[event.replica] = event.report
        return before

    def mark(self, record: Record, here: Collection[str]) -> None:
        """Tells a model which gateways have it, and what is refused. `here`: our own gateways, which speak for
        themselves.
        """
        port = record.route.port if record.route else None
        for replica, report in self._reports.items():
            for gateway, ports in report.gateways.items():
                if gateway not in here and (port is None or port in ports):
                    record.programmed.add(gateway)
                    if port is not None:
                        record.listening.add(gateway)
            if words := report.rejected.get(record.key):
                record.rejections[replica] = words


def own_report(
    run: str, records: Iterable[Record], here: Collection[str], loads: Mapping[str, tuple[int, int]]
) -> PeerReport:
    """What this controller tells the others. `here`: the gateways that are connected to it."""
    ports: dict[str, set[int]] = {name: set() for name in here}
    rejected: dict[str, str] = {}
    for record in records:
        if record.route is not None and record.route.port is not None:
            for name in record.listening & ports.keys():
                ports[name].add(record.route.port)
        if record.rejections or record.refused_remotes:
            own = {words for name, words in record.rejections.items() if name in ports}
            if words := "; ".join(sorted(own | set(record.refused_remotes.values()))):
                rejected[record.key] = words[:WORDS_MAX]
    return PeerReport(run, {name: frozenset(each) for name, each in ports.items()}, rejected, loads)
