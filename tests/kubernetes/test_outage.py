"""A controller that led before an outage of the API server, and leads after it."""

from __future__ import annotations

import asyncio

from controller import events
from controller.adapters.kubernetes.client import Cluster
from controller.adapters.kubernetes.source import Source, where_of
from controller.adapters.kubernetes.takeover import Takeover
from controller.cluster import ControllerOptions, InCluster
from controller.events import Elected, Event
from controller.settings import Settings
from tests.controller.cluster_world import pod, served
from tests.controller.world import KEY
from xds import events as gateway_events


class Heard(Takeover):
    """`said`: what the engine has said to it since it was told to act."""

    said: dict[str, object]

    def resume(self) -> None:
        self.said = {}
        super().resume()

    def expose(self, model: str, exposure: events.Exposure | None) -> None:
        self.said[model] = exposure
        super().expose(model, exposure)


async def test_what_is_taken_over_is_wanted_as_before(cluster: Cluster) -> None:
    queue: asyncio.Queue[Event] = asyncio.Queue()
    anywhere = ("127.0.0.1", 0)
    options = ControllerOptions(None, anywhere, anywhere, anywhere, anywhere, "me")
    takeover = Heard(cluster, queue.put_nowait)
    source = Source(cluster, where_of(Settings(), "shop"), queue.put_nowait, takeover)
    runtime = InCluster(options, Settings(), cluster, source, takeover, queue)

    def settle(*batch: Event) -> None:
        for event in batch:
            queue.put_nowait(event)
        runtime.load()

    runtime.elected(True)
    settle(Elected(leads=True), events.GatewaysSeen((pod("g"),)), gateway_events.GatewayConnected("g", "1.40.0"))
    settle(*served("llama"))
    settle(gateway_events.Programmed("g", frozenset({KEY})))
    wanted = dict(takeover.said)
    assert wanted[KEY] is not None

    runtime.elected(False)  # who holds the lease cannot be asked, so nobody else was heard of
    runtime.elected(True)
    settle()

    assert takeover.said == wanted
