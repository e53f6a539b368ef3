"""Shell: the composition root of `spillway controller`: a controller whose manifests come from a Kubernetes API.

It starts in steps, since a gateway that kept its configuration must not lose a part of it: everything that the cluster
says is read; the engine takes it in, with what the last leader decided; the Secrets that are referred to are read; only
then gateways may connect. Whether this controller leads is settled after that, and changes nothing at that moment.

Who leads decides, writes status and Events, and takes Services over; the others publish what it decided. A leader that
cannot reach the API server goes on deciding, since nobody else can take its place without the API server either; it
stops when it learns of another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from controller import collector, events
from controller.adapters.admin import HEALTH, METRICS, READINESS, AdminServer
from controller.adapters.host import StartError, join, write_addresses
from controller.adapters.kubernetes.client import Cluster
from controller.adapters.kubernetes.election import Election
from controller.adapters.kubernetes.metrics_api import MetricsApiSource
from controller.adapters.kubernetes.peers import Peers
from controller.adapters.kubernetes.recorder import Recorder
from controller.adapters.kubernetes.session import ConnectError
from controller.adapters.kubernetes.source import Source, where_of
from controller.adapters.kubernetes.status_writer import StatusWriter
from controller.adapters.kubernetes.takeover import Takeover
from controller.api import ModelDeployment
from controller.election import Terms
from controller.events import Effect, Event, Kind
from controller.exposures import Cluster as ClusterTerms
from controller.kube_status import order_of, saved_of
from controller.metrics import PromQuery, Query, ScrapeQuery
from controller.reporter import Reporter
from controller.resolution import Config
from controller.runtime import Runtime, Saved
from controller.settings import Settings
from xds import ir
from xds.translate import Gateway

SECRETS_WITHIN_S = 5.0
"""How long a start waits for the Secrets that are referred to."""

log = logging.getLogger("spillway")


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    """The flags of `spillway controller`. Addresses are (host, port). `identity`: this replica's name, unique among
    them. `kubeconfig` None: the pod's own account, or the user's kubeconfig.
    """

    kubeconfig: Path | None
    xds: tuple[str, int]
    admin: tuple[str, int]
    metrics: tuple[str, int]
    probe: tuple[str, int]
    identity: str
    ready_file: Path | None = None


class InCluster(Runtime):
    """A controller whose manifests come from an API server. `queue`: what has been read so far."""

    def __init__(
        self,
        options: ControllerOptions,
        settings: Settings,
        cluster: Cluster,
        source: Source,
        takeover: Takeover,
        queue: asyncio.Queue[Event],
    ) -> None:
        config = Config(
            settings.metric_informer.type,
            settings.default_remote_backend,
            settings.workspace,
            referable=settings.referable(in_cluster=True),
            destinations=settings.reachable(in_cluster=True),
            cluster=ClusterTerms(settings.takeover, settings.gateway.port_range),
        )
        super().__init__(settings, config, _saved(source), _gateway(settings), queue)
        self.options = options
        self.source = source
        self.takeover = takeover
        self.metrics_api = MetricsApiSource(cluster, settings.metric_informer.kubernetes, queue.put_nowait)
        self.recorder = Recorder(cluster)
        self.writer = StatusWriter(cluster)
        self.reporter = Reporter(self.engine, source.models, self.writer, settings.workspace, self.clock)
        lease = settings.leader_election
        terms = Terms(lease.lease_duration_seconds, lease.renew_deadline_seconds, lease.retry_period_seconds)
        self.election = Election(
            cluster,
            cluster.namespace,
            lease.name,
            options.identity,
            self.elected,
            tell_holder=lambda holder: queue.put_nowait(events.Elected(holder == options.identity)),
            terms=terms,
        )
        self.peers = Peers(
            cluster,
            cluster.namespace,
            lease.name,
            options.identity,
            self.engine.peer_report,
            queue.put_nowait,
            leads=lambda: self.election.leads,
        )

    def parts(self) -> tuple[Coroutine[object, object, None], ...]:
        telling = self.recorder, self.writer, self.reporter, self.takeover
        return *super().parts(), *(each.run() for each in (self.metrics_api, *telling, self.election, self.peers))

    def status(self) -> dict[str, object]:
        replica = {"identity": self.options.identity, "leader": self.election.holder, "others": self.peers.names}
        return {**super().status(), "replica": replica, "problems": [*self.source.troubles, *self.peers.troubles]}

    def not_ready(self) -> str:
        """Gateways find this controller once it is ready, so it must not wait for them."""
        return "" if "xds" in self.addresses else "no gateway can connect yet"

    def load(self) -> None:
        """Takes in all that has been read."""
        loaded = [self.queue.get_nowait() for _ in range(self.queue.qsize())]
        with collector.at_rest():
            self.carry_out(self.engine.handle_all(oldest_first(loaded), self.clock()))

    def carry_out(self, effects: Sequence[Effect]) -> None:
        super().carry_out(effects)
        self.reporter.mark(self.engine.take_touched())
        self.source.follow_secrets(self.engine.followed_secrets)

    def _count(self, event: Event) -> None:
        """A decision that is read back and is not ours was written over; what was written has to be written again."""
        super()._count(event)
        if isinstance(event, events.Decided) and self.election.leads:
            record = self.engine.records.get(event.key)
            if record is not None and record.saved != event.saved:
                self.reporter.repair(event.key)

    def measure(self, query: Query, targets: tuple[ir.Endpoint, ...]) -> None:
        match query:
            case PromQuery() | ScrapeQuery():
                super().measure(query, targets)
            case _:
                self.metrics_api.watch(query)

    def cease(self, query: Query) -> None:
        match query:
            case PromQuery() | ScrapeQuery():
                super().cease(query)
            case _:
                self.metrics_api.unwatch(query)

    def tell(self, effect: events.Save | events.Announce | events.Expose) -> None:
        super().tell(effect)
        match effect:
            case events.Announce(model=key):
                if seen := self.source.models.get(key):
                    self.recorder.record(seen.uid, effect)
            case events.Expose(key=key, exposure=exposure):
                self.takeover.expose(key, exposure)
            case events.Save():
                pass  # it is a part of the status

    def elected(self, leads: bool) -> None:
        """Whether this controller may write. It decides until it hears that another holds the lease, so after an outage
        of the API server it has led all the time, and who writes has to be told everything once more.
        """
        for writing in (self.writer, self.reporter, self.takeover):
            writing.resume() if leads else writing.pause()
        if leads:
            self.queue.put_nowait(events.Elected(leads=True))

    async def serve(self, group: asyncio.TaskGroup) -> None:
        """Opens all addresses but the probes', and runs until it is cancelled."""
        public = AdminServer(self.status, self.not_ready, self.telemetry.registry, (METRICS,))
        try:
            await _open(public, self.options.metrics)
            await self.listen(self.options.xds, [self.options.admin])
            log.info("xDS for gateways: %s", self.addresses["xds"])
            if self.options.ready_file:
                write_addresses(self.options.ready_file, self.addresses)
            for part in self.parts():
                group.create_task(part)
            await asyncio.Event().wait()
        finally:
            self.reporter.report()
            await self.writer.flush()
            await self.server.stop(grace_s=1.0)
            await self.admin.stop()
            await public.stop()


async def run(options: ControllerOptions, settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises StartError if it cannot start."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        cluster = await Cluster.connect(options.kubeconfig)
    except ConnectError as error:
        raise StartError(f"the Kubernetes API cannot be used: {error}") from error
    try:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(_run(options, settings, cluster))
            await stop.wait()
            log.info("stopping: gateways go on with what they have")
            work.cancel()
    except ExceptionGroup as failures:
        expected, others = failures.split(StartError)
        if expected is None or others is not None:
            raise
        raise expected.exceptions[0] from None
    finally:
        await cluster.close()


async def _run(options: ControllerOptions, settings: Settings, cluster: Cluster) -> None:
    queue: asyncio.Queue[Event] = asyncio.Queue()
    where = where_of(settings, cluster.namespace)
    takeover = Takeover(cluster, queue.put_nowait, serves=where.serves)
    source = Source(cluster, where, queue.put_nowait, takeover)
    started: list[InCluster] = []

    def not_ready() -> str:
        """What a start waits for can be read where it is looked for first."""
        return started[0].not_ready() if started else "; ".join(source.troubles) or "the cluster is being read"

    probed = AdminServer(dict, not_ready, CollectorRegistry(), (HEALTH, READINESS))
    try:
        await _open(probed, options.probe)
        async with asyncio.TaskGroup() as group:
            group.create_task(source.run())
            await source.synced()
            runtime = InCluster(options, settings, cluster, source, takeover, queue)
            runtime.load()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SECRETS_WITHIN_S):
                    await source.synced()
            runtime.load()
            started.append(runtime)
            await runtime.serve(group)
    finally:
        await probed.stop()


async def _open(server: AdminServer, address: tuple[str, int]) -> None:
    try:
        await server.start([address])
    except OSError as error:
        raise StartError(f"{join(*address)}: {error.strerror or error}") from error


def oldest_first(loaded: Sequence[Event]) -> list[Event]:
    """What models refer to, then the models by age, so that every replica comes to the same. What was said of one thing
    stays in its order: while much is read, some of it is changed or deleted.
    """
    models = (event.object for event in loaded if isinstance(event, events.Applied))
    ages = {model.key: order_of(model) for model in models if isinstance(model, ModelDeployment)}

    def place(event: Event) -> tuple[int, tuple[str, str]]:
        match event:
            case events.Applied(object=ModelDeployment(key=key)) | events.Decided(key=key):
                return 1, ages.get(key, ("", key))
            case events.Refused(kind=Kind.MODEL_DEPLOYMENT, key=key) | events.Removed(Kind.MODEL_DEPLOYMENT, key=key):
                return 1, ages.get(key, ("", key))
            case _:
                return 0, ("", "")

    return sorted(loaded, key=place)


def _saved(source: Source) -> Saved:
    """What the last leader left in the statuses."""
    return {key: saved for key, seen in source.models.items() if (saved := saved_of(seen.status)) is not None}


def _gateway(settings: Settings) -> Gateway:
    return Gateway(
        address=settings.gateway.address, port=settings.gateway.listen, dns_resolvers=settings.gateway.resolvers
    )
