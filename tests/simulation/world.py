"""The engine in a world of its own, in virtual time: manifests, gateway, token issuer, metric, plant, and faults.

One tick is one second. What the engine wants is carried out a second later; what happens is told to it a second later.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from controller import events
from controller.api import ModelDeployment
from controller.engine import Engine
from controller.events import Applied, Effect, Event, Observed
from controller.metrics import Query, Reading, Source, Unknown, Value, number
from controller.offload import Reason, State
from controller.resolution import Config
from tests.controller.manifests import OAUTH, endpoint_slice, model, secret, service
from tests.simulation.plant import Load, Local, Meter, Signal
from xds import events as gateway_events
from xds import ir

START_S = 1_700_000_000.0
KEY = "default/llama"
TARGET = 10.0
"""Of the metric in the manifest."""
DELAY_S = 1
TOKEN_S = 120.0
Behavior = tuple[tuple[str, Any], ...]
"""Fields of `offloadingConfig.behavior`."""
CLEAN = Signal()
REMOTE = {"host": "remote.example.com", "scheme": "https", "authConfig": OAUTH}


class Fault(StrEnum):
    METRIC_SILENT = "MetricSilent"
    METRIC_NAN = "MetricNaN"
    LOCAL_DOWN = "LocalDown"
    REMOTE_DOWN = "RemoteDown"
    ISSUER_DOWN = "IssuerDown"
    RESTART = "Restart"
    RECONNECT = "Reconnect"


@dataclass(frozen=True, slots=True)
class Outage:
    """A fault from `at_s` after the start, for `for_s` (which a restart does not have)."""

    fault: Fault
    at_s: int
    for_s: int = 0

    @property
    def until_s(self) -> int:
        return self.at_s + self.for_s


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that a run depends on."""

    load: Load
    length_s: int
    signal: Signal = CLEAN
    outages: tuple[Outage, ...] = ()
    limited: bool = False
    behavior: Behavior = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """One second. `unfit`: the slots known to be unable to take requests; `misrouted`: the part that starts at one of
    them. `healthy`: some side could take every request.
    """

    t: int
    load: float
    state: State
    reason: Reason
    share: float
    ratio: float | None
    local: float
    remote: float
    failed: float
    refused: float
    dropped: float
    queue: float
    unfit: frozenset[str]
    misrouted: float
    healthy: bool
    growth: int


class Gateway:
    """Keeps what was published, and sends requests along its chains."""

    def __init__(self) -> None:
        self.chains: tuple[ir.Chain, ...] = ()
        self.limit = ir.UNLIMITED
        self.secrets: dict[str, ir.Secret] = {}

    def take(self, update: ir.Update) -> Iterator[Event]:
        for name, value in update.secrets.items():
            if value is None:
                self.secrets.pop(name, None)
            else:
                self.secrets[name] = value
        if delivered := frozenset(update.secrets) & self.secrets.keys():
            yield gateway_events.SecretsDelivered("envoy", delivered)
        for route in update.routes.values():
            if route is not None:
                self.chains = route.chains
        if update.routes:
            yield gateway_events.Programmed("envoy", frozenset(update.routes))

    @property
    def share(self) -> float:
        return sum(chain.weight_ppm for chain in self.chains if chain.first != ir.LOCAL) / ir.PPM


class World:
    """Runs a scenario second by second."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.t = 0
        self.timeline: list[Moment] = []
        self.restarts: list[tuple[int, tuple[ir.Chain, ...], tuple[ir.Chain, ...]]] = []
        """When, and what was wanted of the gateway before and after."""
        self.offered = 0.0
        self.local = Local(limited=scenario.limited)
        self.gateway = Gateway()
        self._meter = Meter(scenario.signal, random.Random(scenario.seed))
        self._agenda: list[tuple[int, int, Event | ir.Update]] = []
        self._order = itertools.count()
        self._queries: set[Query] = set()
        self._clients: set[str] = set()
        self._expiry: dict[str, float] = {}
        self._saved: dict[str, Any] = {}
        self._ratio: float | None = None
        self._model = self._manifest()
        self.engine = self._start()

    def run(self) -> World:
        while self.t < self.scenario.length_s:
            self.tick()
        return self

    def tick(self) -> None:
        self.t += 1
        self._start_and_end_faults()
        self._serve()
        self._issue_tokens()
        while self._agenda and self._agenda[0][0] <= self.t:
            _, _, due = heapq.heappop(self._agenda)
            for event in self.gateway.take(due) if isinstance(due, ir.Update) else (due,):
                self._carry_out(self.engine.handle(event, self.now))
        if self.t % self.scenario.signal.every_s == 0:
            self._sample()
        wake_at = self.engine.wake_at()
        if wake_at is not None and wake_at <= self.now:
            self._carry_out(self.engine.advance(self.now))

    @property
    def now(self) -> float:
        return START_S + self.t

    def suffers(self, fault: Fault) -> bool:
        return any(each.fault is fault and each.at_s <= self.t < each.until_s for each in self.scenario.outages)

    @property
    def authorized(self) -> bool:
        """The gateway holds a token that the remote accepts."""
        return any(self._expiry.get(held.value, 0.0) > self.now for held in self.gateway.secrets.values())

    # The engine's surroundings

    def _manifest(self) -> ModelDeployment:
        offloading: dict[str, Any] = {"remoteBackend": REMOTE, "behavior": dict(self.scenario.behavior)}
        if self.scenario.limited:
            offloading["localLimit"] = {"maxConcurrentRequestsPerReplica": 8}
        return model(**offloading)

    def _restart(self) -> None:
        """From the saved state. What the controller was about to hear is lost; what it published is not."""
        self._carry_out(self.engine.advance(self.now))
        before = self.engine.records[KEY].route
        self._agenda = sorted(due for due in self._agenda if isinstance(due[2], ir.Update))
        self._start()
        after = self.engine.records[KEY].route
        self.restarts.append((self.t, before.chains if before else (), after.chains if after else ()))

    def _start(self) -> Engine:
        self.engine = Engine(Config(Source.PROMETHEUS), self._saved)
        things = (self._model, service(), self._slice(), secret(client_secret="s3cret"))
        self._carry_out(self.engine.handle_all([Applied(thing) for thing in things], self.now))
        self._carry_out(self.engine.handle(gateway_events.GatewayConnected("envoy", "1.40.0"), self.now))
        return self.engine

    def _slice(self) -> Any:
        return endpoint_slice("10.0.0.1", ready=self.local.up)

    def _later(self, what: Event | ir.Update) -> None:
        heapq.heappush(self._agenda, (self.t + DELAY_S, next(self._order), what))

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case events.Publish(update=update):
                    self._later(update)
                case events.Watch(query=query):
                    self._queries.add(query)
                case events.Unwatch(query=query):
                    self._queries.discard(query)
                case events.KeepToken(client=client):
                    self._clients.add(client.name)
                case events.DropToken(name=name):
                    self._clients.discard(name)
                case events.Save(states=states):
                    self._saved |= json.loads(json.dumps(states))
                case events.Announce() | events.Grant() | events.Conduct() | events.Expose():
                    pass

    def _issue_tokens(self) -> None:
        """A fresh token well before the last one expires."""
        for name in self._clients:
            held = self.gateway.secrets.get(name)
            if held and self._expiry[held.value] - self.now > TOKEN_S / 4:
                continue
            if self.suffers(Fault.ISSUER_DOWN):
                self._later(events.TokenFailed(name, "the issuer does not answer"))
            elif not any(isinstance(due, events.TokenIssued) for _, _, due in self._agenda):
                token = f"token-{self.t}"
                self._expiry[token] = self.now + TOKEN_S
                self._later(events.TokenIssued(name, token, self.now + TOKEN_S))

    def _start_and_end_faults(self) -> None:
        for outage in self.scenario.outages:
            if self.t not in (outage.at_s, outage.until_s):
                continue
            match outage.fault:
                case Fault.RESTART:
                    self._restart()
                case Fault.RECONNECT if self.t == outage.at_s:
                    self._later(gateway_events.GatewayDisconnected("envoy"))
                case Fault.RECONNECT:
                    self._later(gateway_events.GatewayConnected("envoy", "1.40.0"))
                case Fault.LOCAL_DOWN:
                    self.local.up = not self.suffers(Fault.LOCAL_DOWN)
                    self._later(Applied(self._slice()))
                case _:
                    pass

    def _sample(self) -> None:
        reading: Reading
        ratio = self._meter.sample()
        if self.suffers(Fault.METRIC_SILENT):
            return
        if ratio is None:
            reading = Unknown("Lost", "no answer")
        elif self.suffers(Fault.METRIC_NAN):
            reading = number(float("nan"))
        else:
            reading, self._ratio = Value(ratio * TARGET), ratio
        for query in self._queries:
            self._carry_out(self.engine.handle(Observed(query, reading), self.now))

    # Requests

    def _takes(self, slot: str) -> bool:
        if slot == ir.LOCAL:
            return self.local.up
        return not self.suffers(Fault.REMOTE_DOWN) and self.authorized

    def _serve(self) -> None:
        load = self.scenario.load(self.t)
        sent = {"remote": 0.0, "failed": 0.0, "refused": 0.0}
        self.local.arrived = 0.0
        for chain in self.gateway.chains:
            rest = load * chain.weight_ppm / ir.PPM
            for slot in (chain.first, *chain.fallbacks):
                if slot == ir.LOCAL:
                    part = min(rest, self.local.room())
                    self.local.arrived += part
                else:
                    part = rest if self._takes(slot) else 0.0
                    sent["remote"] += part
                rest -= part
            full = any(self._takes(slot) for slot in (chain.first, *chain.fallbacks))
            sent["refused" if full else "failed"] += rest
        if not self.gateway.chains:
            sent["failed"] += load
        self.offered += load
        dropped = self.local.work()
        self._meter.record(self.local)
        self.timeline.append(self._moment(load, dropped, sent))

    def _moment(self, load: float, dropped: float, sent: dict[str, float]) -> Moment:
        record = self.engine.records[KEY]
        fit = {ir.LOCAL: self.local.up, ir.remote_slot(0): self.authorized}
        unfit = frozenset(slot for slot, able in fit.items() if not able)
        return Moment(
            t=self.t,
            load=load,
            state=record.decision.state,
            reason=record.decision.reason,
            share=self.gateway.share,
            ratio=self._ratio,
            local=self.local.served,
            **sent,
            dropped=dropped,
            queue=self.local.queue,
            unfit=unfit,
            misrouted=sum(c.weight_ppm for c in self.gateway.chains if c.first in unfit) / ir.PPM,
            healthy=self._takes(ir.LOCAL) or self._takes(ir.remote_slot(0)),
            growth=record.decision.buffer_growth,
        )
