"""Pure: who decides, and when. `play` lets a load run through a plant under a `Steering`; the one that counts is the
production engine with what surrounds it: gateways that take what it publishes or leases at once, and report what they
carry when it asks for that; and a meter for its queries.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from controller import events
from controller.api import ModelDeployment, Policy
from controller.engine import Engine
from controller.events import Applied, Effect, Event
from controller.objects import EndpointSlice, Service
from controller.resolution import Config
from controller.simulate.meter import Meter, Sampling, Signal
from controller.simulate.plant import Draw, Plant, spread
from controller.simulate.score import Decided, Served
from controller.simulate.workload import Arrival
from xds import events as gateway_events
from xds import ir
from xds.loads import INTERVAL_MS, URGENT_INTERVAL_MS

EPOCH_S = 1_700_000_000.0
"""When a load begins, for an engine that counts in seconds since the epoch."""


class Steering(Protocol):
    """What tells a plant's gateways where requests go."""

    @property
    def wake_at_s(self) -> float:
        """When it wants to do something next, in seconds of the load; infinite: never."""

    def wake(self, now_s: float) -> None:
        """Does what is due."""


def play(
    arrivals: Iterable[Arrival], plant: Plant, steering: Steering, split: Sequence[float], draw: Draw
) -> list[Served]:
    """Each arrival, served. `split`: the gateways' parts of them. What happens at one moment: first the steering's."""
    served: list[Served] = []
    wake_at_s = steering.wake_at_s
    for arrival, number in zip(arrivals, spread(split, draw), strict=False):
        while wake_at_s <= arrival.at_s:
            plant.settle(wake_at_s)
            steering.wake(wake_at_s)
            wake_at_s = steering.wake_at_s
        served.append(plant.serve(arrival, number))
    return served


class EngineSteering:
    """The production engine, with one model. `decided`: each decision that came into force. `leases` False: gateways
    report nothing, so each keeps its static part of the limit.
    """

    def __init__(
        self,
        config: Config,
        model: ModelDeployment,
        objects: Iterable[Service | EndpointSlice | Policy],
        plant: Plant,
        sampling: Sampling,
        meanings: Mapping[str, Signal],
        *,
        leases: bool = True,
    ) -> None:
        self.decided: list[Decided] = []
        self._engine = Engine(config, {})
        self._key = model.key
        self._meter = Meter(plant, sampling, meanings)
        self._gateways = {f"gateway-{number}": gateway for number, gateway in enumerate(plant.gateways)}
        self._leases = leases
        self._survey = ir.Survey()
        self._report_at_s = math.inf
        connected = [gateway_events.GatewayConnected(name, "1.40.0") for name in self._gateways]
        self._tell([*connected, *(Applied(thing) for thing in (*objects, model))], 0.0)

    @property
    def wake_at_s(self) -> float:
        engine_s = self._engine.wake_at()
        own_s = min(self._meter.wake_at_s, self._report_at_s)
        return own_s if engine_s is None else min(own_s, engine_s - EPOCH_S)

    def wake(self, now_s: float) -> None:
        self._tell([*self._meter.observe(now_s), *self._reports(now_s)], now_s)

    @property
    def _report_s(self) -> float:
        """How often gateways with one model are asked to report."""
        return (URGENT_INTERVAL_MS if self._survey.urgent else INTERVAL_MS) / 1_000

    def _reports(self, now_s: float) -> Iterator[Event]:
        """What each gateway carries, if that is due."""
        if now_s < self._report_at_s:
            return
        self._report_at_s = now_s + self._report_s
        for name, gateway in self._gateways.items():
            active = gateway.in_progress[ir.LOCAL]
            load = gateway_events.LocalLoad(self._key, active, gateway.issued, gateway.refused)
            gateway.issued = gateway.refused = 0
            yield gateway_events.LoadReported(name, (), (load,), self._survey.routes)

    def _tell(self, batch: Sequence[Event], now_s: float) -> None:
        """Hands events to the engine, and then what comes of its effects, until there is no more."""
        now = EPOCH_S + now_s
        effects = deque((*self._engine.handle_all(batch, now), *self._engine.advance(now)))
        while effects:
            for event in self._carry_out(effects.popleft(), now_s):
                effects += self._engine.handle(event, now)
        self._note(now_s)

    def _carry_out(self, effect: Effect, now_s: float) -> Iterator[Event]:
        """What happens because of it. A model without credentials needs no tokens, and nothing is restarted here."""
        match effect:
            case events.Publish(update=update):
                for name, gateway in self._gateways.items():
                    if self._key in update.routes:
                        gateway.route = update.routes[self._key]
                        yield gateway_events.Programmed(name, frozenset({self._key}))
            case events.Grant(leases=leases):
                for lease in leases:
                    limits = {**lease.lent, **lease.borrowed}
                    self._gateways[lease.gateway].limit = limits.get(self._key)
                    yield gateway_events.LeaseAccepted(lease.gateway, lease.serial)
            case events.Conduct(survey=survey) if self._leases:
                self._survey = survey
                self._report_at_s = min(self._report_at_s, now_s + self._report_s) if survey.routes else math.inf
            case events.Watch(query=query):
                self._meter.watch(query, now_s)
            case events.Unwatch(query=query):
                self._meter.unwatch(query)
            case _:
                pass

    def _note(self, now_s: float) -> None:
        decision = self._engine.records[self._key].decision
        latest = Decided(now_s, decision.state, decision.share_ppm)
        if not self.decided or replace(latest, at_s=self.decided[-1].at_s) != self.decided[-1]:
            self.decided.append(latest)
