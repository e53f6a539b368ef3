"""A publisher and its server, listening on loopback, for tests that talk to them over real connections."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from xds import ir
from xds.events import GatewayEvent, Programmed, Rejected
from xds.publisher import Publisher, Refusal
from xds.server import Server, ServerTls
from xds.translate import Gateway

Event = TypeVar("Event")
DEADLINE_S = 30.0


class Counts:
    """Stands in for the metrics."""

    def __init__(self) -> None:
        self.by_label: Counter[str] = Counter()
        self.observed: list[float] = []

    def labels(self, *values: Any) -> "Labelled":
        return Labelled(self.by_label, str(values[0]))

    def observe(self, amount: float) -> None:
        self.observed.append(amount)


@dataclass
class Labelled:
    counts: Counter[str]
    label: str

    def inc(self) -> None:
        self.counts[self.label] += 1


@dataclass
class Metrics:
    pushes: Counts = field(default_factory=Counts)
    nacks: Counts = field(default_factory=Counts)
    ack_seconds: Counts = field(default_factory=Counts)


@dataclass
class Plane:
    """What a test holds: it publishes, and sees what the gateways report."""

    publisher: Publisher
    server: Server
    metrics: Metrics
    events: list[GatewayEvent]
    port: int = 0

    def publish(self, *routes: ir.Route, secrets: tuple[ir.Secret, ...] = ()) -> tuple[Refusal, ...]:
        update = ir.Update({route.name: route for route in routes}, {secret.name: secret for secret in secrets})
        return self.publisher.publish(update)

    def remove(self, *routes: ir.Route) -> None:
        self.publisher.publish(ir.Update({route.name: None for route in routes}))

    def saw(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    async def programmed(self, *routes: ir.Route) -> None:
        """Waits until a gateway has reported these since the last look at its reports."""
        names = {route.name for route in routes}
        await eventually(lambda: names <= {name for each in self.saw(Programmed) for name in each.routes})
        self.events.clear()

    async def rejected(self) -> Rejected:
        await eventually(lambda: bool(self.saw(Rejected)))
        return self.saw(Rejected)[0]


@asynccontextmanager
async def serving(
    address: str = "127.0.0.1:0", tls: ServerTls | None = None, gateway: Gateway | None = None, **options: Any
) -> AsyncIterator[Plane]:
    """A control plane for gateways whose front listens on a free port, unless they are others."""
    events: list[GatewayEvent] = []
    publisher = Publisher(gateway or Gateway("127.0.0.1", 0), events.append)
    metrics = Metrics()
    plane = Plane(publisher, Server(publisher, metrics, **options), metrics, events)
    plane.port = await plane.server.start(address, tls)
    try:
        yield plane
    finally:
        await plane.server.stop()


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits, generously, until it holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not so after {DEADLINE_S:g} s"
        await asyncio.sleep(0.01)


def model(name: str = "m", *ports: int, **changes: Any) -> ir.Route:
    """A model of local endpoints, reached by its name as Host."""
    endpoints = tuple(ir.Endpoint("127.0.0.1", port) for port in ports)
    return replace(ir.Route(f"default/{name}", (name,), ir.Local(endpoints)), **changes)
