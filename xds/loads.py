"""Pure: load reports (Envoy's LRS): what we ask gateways to report, and what a report says, in our words.

A gateway reports once an interval, in all its clusters that we name, what finished since its last report. Measured on
Envoy 1.40: each report repeats the node, 61 KB, and all named clusters, idle ones too, 35 bytes each. So only those are
named that somebody wants to know of: remotes, and the local clusters of a `Survey`, at shorter intervals if it is
urgent and they are few. To have all clusters of 10,000 models reported would be 0.4 MB a second from each gateway.

For each report Envoy's main thread goes through all the clusters that it has, named or not: 20-35 ms for 20,000, in
which it takes no configuration. So the more there are, the rarer the reports.
"""

from __future__ import annotations

from dataclasses import dataclass

from protos.envoy.config.endpoint.v3.load_report_pb2 import ClusterStats
from protos.envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse
from xds.events import BackendLoad, LoadReported, LocalLoad
from xds.ir import Survey
from xds.snapshot import CLUSTER, Snapshot
from xds.translate.cluster import BACKEND_PREFIX, LOCAL_PREFIX, local_cluster_name

INTERVAL_MS = 1_000
URGENT_INTERVAL_MS = 200

URGENT_MAX = 1_000
"""With more clusters than this, reports keep to the usual interval."""

CLUSTERS_A_SECOND = 5_000
"""How many clusters a gateway may have to go through for reports; five times as many when they are urgent."""

MAX_INTERVAL_MS, MAX_SURVEY_INTERVAL_MS = 4_000, 2_000
"""However many clusters there are; the second with a survey, whose reports are leases' signs of life."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a gateway is asked: which remotes' clusters, and the local ones of which routes."""

    backends: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    interval_ms: int = INTERVAL_MS

    def encode(self) -> bytes:
        """It takes the place of the one before."""
        names = sorted((*self.backends, *map(local_cluster_name, self.routes)))
        interval = {"seconds": self.interval_ms // 1_000, "nanos": self.interval_ms % 1_000 * 1_000_000}
        return LoadStatsResponse(clusters=names, load_reporting_interval=interval).SerializeToString()


def wanted(snapshot: Snapshot, survey: Survey) -> Question:
    """What gateways are to report now."""
    clusters = snapshot.logs[CLUSTER]
    names = [each.name for each in clusters.resources()]
    backends = frozenset(name for name in names if name.startswith(BACKEND_PREFIX))
    routes = frozenset(route for route in survey.routes if clusters.get(local_cluster_name(route)))
    hurry = survey.urgent and len(backends) + len(routes) <= URGENT_MAX
    bearable_ms = len(names) * 1_000 // CLUSTERS_A_SECOND
    interval_ms = max(URGENT_INTERVAL_MS, bearable_ms // 5) if hurry else max(INTERVAL_MS, bearable_ms)
    return Question(backends, routes, min(interval_ms, MAX_SURVEY_INTERVAL_MS if routes else MAX_INTERVAL_MS))


def read(gateway: str, report: LoadStatsRequest, routes: frozenset[str] = frozenset()) -> LoadReported | None:
    """What there is to say; None if that is nothing. `routes`: those that the gateway was asked about."""
    backends: list[BackendLoad] = []
    models: list[LocalLoad] = []
    for stats in report.cluster_stats:
        if stats.cluster_name.startswith(BACKEND_PREFIX):
            load = _finished(stats)
            if load.succeeded or load.failed:
                backends.append(load)
        elif stats.cluster_name.startswith(LOCAL_PREFIX):
            models.append(_carried(stats))
    if not backends and not routes:
        return None
    busy = tuple(load for load in models if load.active or load.issued or load.refused)
    return LoadReported(gateway, tuple(backends), busy, routes)


def _carried(stats: ClusterStats) -> LocalLoad:
    localities = stats.upstream_locality_stats
    return LocalLoad(
        route=stats.cluster_name.removeprefix(LOCAL_PREFIX),
        active=sum(each.total_requests_in_progress for each in localities),
        issued=sum(each.total_issued_requests for each in localities),
        refused=stats.total_dropped_requests,
    )


def _finished(stats: ClusterStats) -> BackendLoad:
    """What the remote itself did. A request that its limit here kept from it is both a dropped one and an error."""
    errors = sum(each.total_error_requests for each in stats.upstream_locality_stats)
    return BackendLoad(
        cluster=stats.cluster_name,
        succeeded=sum(each.total_successful_requests for each in stats.upstream_locality_stats),
        failed=max(0, errors - stats.total_dropped_requests),
    )
