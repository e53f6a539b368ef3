"""An engine, and what its effects have come to so far, for tests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Self

from controller import events
from controller.engine import Engine
from controller.events import Applied, Effect, Observed
from controller.metrics import Source, Unknown, Value
from controller.offload import State
from controller.resolution import Config
from controller.status import report
from xds import ir

KEY = "default/llama"


def is_prose(message: str) -> bool:
    """Whether it ends as a sentence does, and is not put together of ends."""
    return message.endswith(".") and not re.search(r"\.[.,;:]|[ ;:]\.$|  ", message)


class World:
    """An engine, and what its effects have come to so far."""

    def __init__(self, saved: dict[str, Any] | None = None, **config: Any) -> None:
        self.engine = Engine(Config(Source.PROMETHEUS, **config), saved or {})
        self.now = 1_000.0
        self.routes: dict[str, ir.Route] = {}
        self.secrets: dict[str, ir.Secret] = {}
        self.watched: dict[Any, tuple[ir.Endpoint, ...]] = {}
        self.clients: dict[str, events.OAuthClient] = {}
        self.saved: dict[str, Any] = {}
        self.said: list[events.Announce] = []
        self.exposed: dict[str, events.Exposure | None] = {}
        self.leases: dict[str, ir.Lease] = {}
        self.survey = ir.Survey()
        self.published = 0

    def give(self, *batch: Any) -> Self:
        things = [Applied(each) if isinstance(each, events.Object) else each for each in batch]
        return self._take(self.engine.handle_all(things, self.now))

    def wait(self, seconds: float) -> Self:
        self.now += seconds
        return self._take(self.engine.advance(self.now))

    def read(self, value: float | None, every: float = 1.0, times: int = 1) -> Self:
        """Samples of every watched metric, `every` seconds apart."""
        for _ in range(times):
            self.wait(every)
            reading = Unknown("Down", "no answer") if value is None else Value(value)
            self.give(*(Observed(query, reading) for query in list(self.watched)))
        return self

    def _publish(self, update: ir.Update) -> None:
        self.published += 1
        for name, route in update.routes.items():
            self.routes.pop(name, None) if route is None else self.routes.update({name: route})
        for name, value in update.secrets.items():
            self.secrets.pop(name, None) if value is None else self.secrets.update({name: value})

    def _take(self, effects: Iterable[Effect]) -> Self:
        for effect in effects:
            match effect:
                case events.Publish(update=update):
                    self._publish(update)
                case events.Grant(leases=leases):
                    self.leases |= {lease.gateway: lease for lease in leases}
                case events.Conduct(survey=survey):
                    self.survey = survey
                case events.Watch(query=query, targets=targets):
                    self.watched[query] = targets
                case events.Unwatch(query=query):
                    del self.watched[query]
                case events.KeepToken(client=client):
                    self.clients[client.name] = client
                case events.DropToken(name=name):
                    del self.clients[name]
                case events.Save(states=states):
                    self.saved |= states
                case events.Announce(reason=reason, message=message):
                    assert reason == "ProxyRejected" or is_prose(message), message  # those are Envoy's words
                    self.said.append(effect)
                case events.Expose():
                    self.exposed[effect.key] = effect.exposure
        return self

    def share(self, key: str = KEY) -> int:
        """The part of the traffic that starts remote, as published."""
        return sum(c.weight_ppm for c in self.routes[key].chains if c.first != ir.LOCAL)

    def state(self, key: str = KEY) -> State:
        return self.engine.records[key].decision.state

    def condition(self, type_: str, key: str = KEY) -> tuple[str, str, str]:
        connected = self.engine.gateways.connected
        shown = report(self.engine.records, self.engine.refused.values(), self.engine.vault, connected, self.now)
        found = next(m for m in shown if m["key"] == key)
        conditions: Any = found["conditions"]
        each = next(c for c in conditions if c["type"] == type_)
        assert is_prose(each["message"]), each["message"]
        return each["status"], each["reason"], each["message"]

    def restarted(self) -> World:
        saved = json.loads(json.dumps({k: v for k, v in self.saved.items() if v is not None}))
        after = World(saved)
        after.now = self.now + 5
        return after
