"""Shell: what every controller has, wherever its manifests come from: the engine and its queue, sources of metrics and
tokens, the xDS server, and the admin address.

One task calls the engine: it takes what has queued up, hands it over together, and carries out the effects. Everything
else feeds that queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path

from controller import events
from controller.adapters.admin import AdminServer
from controller.adapters.host import StartError, join, steady_clock
from controller.adapters.oauth import TokenKeeper
from controller.adapters.prometheus import PrometheusSource
from controller.adapters.scrape import EndpointScraper
from controller.engine import Engine
from controller.events import Effect, Event
from controller.metrics import PromQuery, Query, ScrapeQuery
from controller.resolution import Config
from controller.settings import Settings
from controller.status import report
from controller.telemetry import Telemetry
from xds import events as gateway_events
from xds import ir
from xds.publisher import Publisher
from xds.server import Server, ServerTls
from xds.translate import Gateway

EVENTS_AT_ONCE = 1_000
"""Events taken together, so that a flood of them cannot keep effects waiting for long."""

Saved = Mapping[str, Mapping[str, object]]

log = logging.getLogger("spillway")


class Runtime:
    """Everything that runs, and what connects it. What depends on where manifests come from is a subclass'."""

    def __init__(
        self,
        settings: Settings,
        config: Config,
        saved: Saved,
        gateway: Gateway,
        queue: asyncio.Queue[Event] | None = None,
    ) -> None:
        self.settings = settings
        self.queue: asyncio.Queue[Event] = queue or asyncio.Queue()
        emit = self.queue.put_nowait
        self.clock = steady_clock()
        self.telemetry = Telemetry()
        self.engine = Engine(config, saved)
        self.prometheus = PrometheusSource(settings.metric_informer.prometheus, emit)
        endpoints = settings.metric_informer.endpoints
        self.scraper = EndpointScraper(endpoints.interval_seconds, emit, timeout_s=endpoints.timeout_seconds)
        self.tokens = TokenKeeper(emit, clock=self.clock, obstacle=config.destinations.denies)
        self.publisher = Publisher(gateway, emit)
        self.server = Server(self.publisher, self.telemetry)
        self.admin = AdminServer(self.status, self.not_ready, self.telemetry.registry)
        self.telemetry.watch(self.engine.records.values, lambda: self.server.streams)
        self.addresses: dict[str, str] = {}
        self.turned_away: dict[str, str] = {}

    def parts(self) -> tuple[Coroutine[object, object, None], ...]:
        """All that runs at the same time, until it is cancelled."""
        return self.decide(), self.server.run(), self.tokens.run(), self.prometheus.run(), self.scraper.run()

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
        }

    def not_ready(self) -> str:
        """What keeps this controller from doing its work, empty if nothing does."""
        return "" if self.engine.gateways.connected else "no gateway is connected"

    async def listen(self, xds: tuple[str, int], admin: Sequence[tuple[str, int]]) -> None:
        """Opens the xDS and admin addresses, (host, port). Raises StartError that names a busy one."""
        try:
            port = await self.server.start(join(*xds), _tls(self.settings))
        except OSError as error:
            raise StartError(f"--xds {join(*xds)}: {error.strerror or error}") from error
        self.addresses["xds"] = join(xds[0], port)
        try:
            bound = await self.admin.start(admin)
        except OSError as error:
            raise StartError(
                f"--admin {', '.join(join(*each) for each in admin)}: {error.strerror or error}"
            ) from error
        self.addresses["admin"] = join(*bound[0])

    # Carrying out effects

    def carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case events.Publish(update=update):
                    self._publish(update)
                case events.Grant(leases=leases):
                    self.publisher.grant(leases)
                case events.Conduct(survey=survey):
                    self.publisher.survey(survey)
                case events.Watch(query=query, targets=targets):
                    self.measure(query, targets)
                case events.Unwatch(query=query):
                    self.cease(query)
                case events.KeepToken(client=client):
                    self.tokens.keep(client)
                case events.DropToken(name=name):
                    self.tokens.drop(name)
                case events.Save() | events.Announce() | events.Expose():
                    self.tell(effect)

    def _publish(self, update: ir.Update) -> None:
        for refusal in self.publisher.publish(update):
            refused = frozenset({refusal.route})
            self.queue.put_nowait(gateway_events.Rejected("controller", "", frozenset(), refused, refusal.message))

    def measure(self, query: Query, targets: tuple[ir.Endpoint, ...]) -> None:
        """Has a query answered from now on, or elsewhere than before."""
        match query:
            case PromQuery():
                self.prometheus.watch(query)
            case ScrapeQuery():
                self.scraper.watch(query, targets)
            case _:
                raise NotImplementedError(f"there is no source for {query}")

    def cease(self, query: Query) -> None:
        """The answer is not needed any more."""
        match query:
            case PromQuery():
                self.prometheus.unwatch(query)
            case ScrapeQuery():
                self.scraper.unwatch(query)
            case _:
                raise NotImplementedError(f"there is no source for {query}")

    def tell(self, effect: events.Save | events.Announce | events.Expose) -> None:
        """Tells who has to know of a model."""
        if isinstance(effect, events.Announce):
            self._announce(effect)

    def _announce(self, effect: events.Announce) -> None:
        record = self.engine.records.get(effect.model)
        fields = {"model": effect.model, "reason": effect.reason}
        if record is not None:
            fields |= {"state": str(record.decision.state), "share_ppm": str(record.decision.share_ppm)}
            self.telemetry.decisions.labels(effect.model, str(record.decision.state), effect.reason).inc()
        log.log(logging.WARNING if effect.warning else logging.INFO, effect.message, extra=fields)

    # Deciding

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


def _tls(settings: Settings) -> ServerTls | None:
    tls = settings.xds.tls
    return ServerTls(Path(tls.cert_file), Path(tls.key_file), Path(tls.client_ca_file)) if tls else None
