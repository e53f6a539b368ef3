"""Shell: the composition root of `spillway run`: every part is made here, and one task group runs them.

One task calls the engine: it takes what has queued up, hands it over together, and carries out the effects. Everything
else feeds that queue. An unexpected exception anywhere ends the process; Envoy keeps its configuration, and the next
start goes on from the state file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import certifi

from controller import collector, events
from controller.adapters.admin import AdminServer
from controller.adapters.envoy_process import EnvoyError, EnvoyOptions, EnvoyProcess, left_behind
from controller.adapters.files import ManifestDirectory
from controller.adapters.host import StartError, bind, join, only_one, steady_clock
from controller.adapters.last_good import LastGood
from controller.adapters.oauth import TokenKeeper
from controller.adapters.prometheus import PrometheusSource
from controller.adapters.scrape import EndpointScraper
from controller.adapters.state_file import StateFile
from controller.api import ModelDeployment
from controller.engine import Engine
from controller.events import Effect, Event
from controller.metrics import PromQuery, ScrapeQuery, Source
from controller.resolution import Config
from controller.settings import Settings
from controller.status import report
from controller.telemetry import Telemetry
from xds import events as gateway_events
from xds.publisher import Publisher
from xds.server import Server, ServerTls
from xds.translate import Gateway

EVENTS_AT_ONCE = 1_000
"""Events taken together, so that a flood of them cannot keep effects waiting for long."""

log = logging.getLogger("spillway")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The flags of `spillway run`. Addresses are (host, port); port 0 takes a free one."""

    directory: Path
    state_directory: Path
    listen: tuple[str, int]
    xds: tuple[str, int]
    admin: tuple[str, int]
    envoy_admin: tuple[str, int]
    start_envoy: bool = True
    access_log: str = "/dev/stdout"
    ready_file: Path | None = None
    drain_s: float = 10.0


class Runtime:
    """Everything that runs, and what connects it."""

    def __init__(self, options: RunOptions, settings: Settings) -> None:
        self.options = options
        self.settings = settings
        self.queue: asyncio.Queue[Event] = asyncio.Queue()
        emit = self.queue.put_nowait
        self.telemetry = Telemetry()
        self.state = StateFile(options.state_directory / "state.json")
        config = Config(Source(settings.metric_informer.type), settings.default_remote_backend, settings.workspace)
        self.engine = Engine(config, self.state.load())
        last_good = LastGood(options.state_directory / "last-good.db")
        self.manifests = ManifestDirectory(options.directory, last_good=last_good)
        self.prometheus = PrometheusSource(settings.metric_informer.prometheus, emit)
        endpoints = settings.metric_informer.endpoints
        self.scraper = EndpointScraper(endpoints.interval_seconds, emit, timeout_s=endpoints.timeout_seconds)
        self.clock = steady_clock()
        self.tokens = TokenKeeper(emit, clock=self.clock)
        self.publisher = Publisher(_gateway(options, settings), emit)
        self.server = Server(self.publisher, self.telemetry)
        self.admin = AdminServer(self.status, self.not_ready, self.telemetry.registry)
        self.telemetry.watch(self.engine.records.values, lambda: self.server.streams)
        self.envoy: EnvoyProcess | None = None
        self.addresses: dict[str, str] = {}
        self.turned_away: dict[str, str] = {}

    def status(self) -> dict[str, object]:
        """What /status shows."""
        engine = self.engine
        now_s = self.clock()
        return {
            "now_s": now_s,
            "addresses": self.addresses,
            "models": report(engine.records, engine.refused.values(), engine.vault, engine.gateways.connected, now_s),
            "gateways": self.server.status(),
            "leased_limits": engine.leasing.limits,
            "refused_gateways": self.turned_away,
            "problems": [problem.as_json() for problem in self.manifests.problems],
        }

    def not_ready(self) -> str:
        """What keeps traffic from being served, empty if nothing does."""
        return "" if self.engine.gateways.connected else "no gateway is connected"

    def in_scope(self, event: Event) -> bool:
        """Whether an event concerns this controller: models of other namespaces than the configured ones do not."""
        if isinstance(event, events.Applied) and isinstance(event.object, ModelDeployment):
            return self.settings.in_scope(event.object.metadata.namespace)
        return True

    def take(self, event: Event) -> None:
        """Queues what a manifest says."""
        if self.in_scope(event):
            self.queue.put_nowait(event)

    def load(self) -> None:
        """Takes in all that there is before the first gateway may ask: one that kept its configuration must not lose a
        part of it. Raises ManifestError.
        """
        with collector.at_rest():
            loaded = [event for event in self.manifests.load() if self.in_scope(event)]
            self.carry_out(self.engine.handle_all(in_saved_order(loaded, self.state.order), self.clock()))
            self._forget_the_deleted()

    def _forget_the_deleted(self) -> None:
        """Drops what was saved of models that were deleted meanwhile. One may still stand in a file that is bad now."""
        if all(problem.warning for problem in self.manifests.problems):
            gone = self.engine.forget_saved()
            self.state.save(dict.fromkeys(gone))

    # Carrying out effects

    def carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case events.Publish(update=update):
                    for refusal in self.publisher.publish(update):
                        refused = frozenset({refusal.route})
                        self.queue.put_nowait(
                            gateway_events.Rejected("controller", "", frozenset(), refused, refusal.message)
                        )
                case events.Watch():
                    self._watch(effect)
                case events.Unwatch():
                    self._unwatch(effect)
                case events.Grant(leases=leases):
                    self.publisher.grant(leases)
                case events.Conduct(survey=survey):
                    self.publisher.survey(survey)
                case events.KeepToken(client=client):
                    self.tokens.keep(client)
                case events.DropToken(name=name):
                    self.tokens.drop(name)
                case events.Save(states=states):
                    self.state.save(states)
                case events.Announce():
                    self._announce(effect)
                case events.Expose():
                    pass  # outside a cluster there is no Service to take over

    def _watch(self, effect: events.Watch) -> None:
        match effect.query:
            case PromQuery() as query:
                self.prometheus.watch(query)
            case ScrapeQuery() as query:
                self.scraper.watch(query, effect.targets)
            case _:
                pass  # outside a cluster nothing asks its metrics APIs

    def _unwatch(self, effect: events.Unwatch) -> None:
        match effect.query:
            case PromQuery() as query:
                self.prometheus.unwatch(query)
            case ScrapeQuery() as query:
                self.scraper.unwatch(query)
            case _:
                pass

    def _announce(self, effect: events.Announce) -> None:
        record = self.engine.records.get(effect.model)
        fields = {"model": effect.model, "reason": effect.reason}
        if record is not None:
            fields |= {"state": str(record.decision.state), "share_ppm": str(record.decision.share_ppm)}
            self.telemetry.decisions.labels(effect.model, str(record.decision.state), effect.reason).inc()
        log.log(logging.WARNING if effect.warning else logging.INFO, effect.message, extra=fields)

    async def decide(self) -> None:
        """The one task that calls the engine."""
        while True:
            batch = await self._next_events()
            for event in batch:
                self._count(event)
            now = self.clock()
            self.carry_out((*self.engine.handle_all(batch, now), *self.engine.advance(now)))

    async def _next_events(self) -> list[Event]:
        """Waits for an event, or until time alone changes something; then takes what else has come."""
        wake_at_s = self.engine.wake_at()
        timeout_s = None if wake_at_s is None else max(0.0, wake_at_s - self.clock())
        batch: list[Event] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                batch.append(await self.queue.get())
        while not self.queue.empty() and len(batch) < EVENTS_AT_ONCE:
            batch.append(self.queue.get_nowait())
        return batch

    def _count(self, event: Event) -> None:
        match event:
            case events.TokenIssued(name=name):
                self.telemetry.tokens.labels(name, "issued").inc()
            case events.TokenFailed(name=name):
                self.telemetry.tokens.labels(name, "failed").inc()
            case gateway_events.GatewayRefused(gateway=gateway, message=message):
                self.turned_away[gateway] = message
                log.error(message, extra={"gateway": gateway})
            case gateway_events.GatewayConnected(gateway=gateway):
                self.turned_away.pop(gateway, None)
            case _:
                pass


async def run(options: RunOptions, settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT, then drains. Raises StartError, EnvoyError or ManifestError if it cannot start."""
    if options.start_envoy and settings.xds.tls:
        raise StartError(
            "xds.tls is for gateways elsewhere, and the one started here has no certificate: use --no-envoy"
        )
    with only_one(options.state_directory):
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        reserved = _reserve_listener(options)
        # Port 0 is settled here for an Envoy of our own; gateways elsewhere take a free one each.
        listen = reserved.getsockname()[:2] if options.start_envoy else options.listen
        runtime = Runtime(replace(options, listen=listen), settings)
        runtime.load()
        with reserved:
            await _run(runtime, stop)


async def _run(runtime: Runtime, stop: asyncio.Event) -> None:
    """Runs all parts until `stop`. An Envoy that serves is ended only then: a controller that fails leaves it be."""
    try:
        async with asyncio.TaskGroup() as group:
            await _listen(runtime)
            parts = (
                runtime.decide(),
                runtime.server.run(),
                runtime.state.run(),
                runtime.tokens.run(),
                runtime.prometheus.run(),
                runtime.scraper.run(),
                runtime.manifests.watch(runtime.take),
                _serve(runtime),
            )
            tasks = [group.create_task(part) for part in parts]
            await stop.wait()
            log.info("stopping: requests in flight are finished first")
            for task in tasks:
                task.cancel()
    except ExceptionGroup as failures:
        expected, others = failures.split((StartError, EnvoyError))
        if expected is None or others is not None:
            raise
        raise expected.exceptions[0] from None
    finally:
        if runtime.envoy is not None and (stop.is_set() or "listen" not in runtime.addresses):
            await runtime.envoy.stop()
        await runtime.admin.stop()
        await runtime.server.stop(grace_s=1.0)


async def _serve(runtime: Runtime) -> None:
    """Starts or adopts Envoy, says where everything is, and keeps Envoy alive."""
    options, addresses = runtime.options, runtime.addresses
    if options.start_envoy:
        host, port = options.envoy_admin
        runtime.envoy = EnvoyProcess(
            EnvoyOptions(
                directory=options.state_directory,
                xds=addresses["xds"],
                admin_host=host,
                admin_port=port,
                listen=join(*options.listen),
                drain_s=options.drain_s,
            )
        )
        if not await runtime.envoy.adopt():
            bind("--envoy-admin", options.envoy_admin).close()
            await runtime.envoy.start()
        addresses["listen"] = await runtime.envoy.listener()
        addresses["envoy_admin"] = runtime.envoy.admin
    _announce_addresses(runtime)
    if runtime.envoy is not None:
        await runtime.envoy.run()


async def _listen(runtime: Runtime) -> None:
    """Opens the xDS and admin addresses. Raises StartError that names a busy port."""
    options, addresses = runtime.options, runtime.addresses
    try:
        port = await runtime.server.start(join(*options.xds), _tls(runtime.settings))
    except OSError as error:
        raise StartError(f"--xds {join(*options.xds)}: {error.strerror or error}") from error
    addresses["xds"] = join(options.xds[0], port)
    try:
        bound = await runtime.admin.start([options.admin])
    except OSError as error:
        raise StartError(f"--admin {join(*options.admin)}: {error.strerror or error}") from error
    addresses["admin"] = join(*bound[0])


def _tls(settings: Settings) -> ServerTls | None:
    tls = settings.xds.tls
    return ServerTls(Path(tls.cert_file), Path(tls.key_file), Path(tls.client_ca_file)) if tls else None


def _announce_addresses(runtime: Runtime) -> None:
    shown = runtime.addresses
    for name, what in (
        ("listen", "callers use"),
        ("envoy_admin", "Envoy's admin interface"),
        ("admin", "status, metrics, health"),
        ("xds", "xDS for gateways"),
    ):
        if name in shown:
            log.info(f"{what}: http://{shown[name]}" if name != "xds" else f"{what}: {shown[name]}")
    if runtime.options.ready_file:
        temporary = runtime.options.ready_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(shown))
        temporary.replace(runtime.options.ready_file)


def _reserve_listener(options: RunOptions) -> socket.socket:
    """Holds the listener's address, shared, so that nobody else is given it while Envoy comes and goes.

    Raises StartError if somebody else has it, unless that is an Envoy of ours.
    """
    envoy = left_behind(options.state_directory)
    if envoy is None or envoy.listen != join(*options.listen):
        bind("--listen", options.listen).close()
    return bind("--listen", options.listen, shared=True)


def in_saved_order(batch: Sequence[Event], order: Sequence[str]) -> list[Event]:
    """Models that were saved first, in the order they were saved: names they held before a restart stay theirs."""
    rank = {key: index for index, key in enumerate(order)}

    def place(event: Event) -> int:
        key = event.object.key if isinstance(event, events.Applied) else ""
        return rank.get(key, len(rank))

    return sorted(batch, key=place)


def _gateway(options: RunOptions, settings: Settings) -> Gateway:
    return Gateway(
        address=options.listen[0],
        port=options.listen[1],
        access_log_path=options.access_log,
        system_ca_path=ssl.get_default_verify_paths().cafile or certifi.where(),
        dns_resolvers=settings.gateway.resolvers,
    )
