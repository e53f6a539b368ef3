"""Pure: what is controlled: the model's own replicas, its remotes, and the gateways before them, in virtual time.

A replica has slots, and a queue in the order of arrival before them, so with a request's arrival its end is known. A
gateway does what Envoy does with an `ir.Route`: it draws a first destination by weight, counts its own requests in
progress against the limit of a destination, and goes on along the chain where a destination is full or has no endpoint.
Remotes take everything within their own limits. Nothing fails otherwise.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from controller.simulate.score import Served
from controller.simulate.workload import Arrival, Timing
from xds import ir

Draw = Callable[[], float]
"""A number from 0 to 1, 1 excluded, another one each time."""


class Replica:
    """One of the model's own servers. Counts what has arrived and what has been completed."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.arrived = 0
        self.completed = 0
        self._free_at_s = [0.0] * slots

    @property
    def in_progress(self) -> int:
        return self.arrived - self.completed

    @property
    def running(self) -> int:
        return min(self.in_progress, self.slots)

    @property
    def waiting(self) -> int:
        return self.in_progress - self.running

    def take(self, at_s: float, service_s: float) -> float:
        """When the request gets its slot."""
        self.arrived += 1
        began_s = max(at_s, self._free_at_s[0])
        heapq.heapreplace(self._free_at_s, began_s + service_s)
        return began_s


@dataclass(slots=True)
class Gateway:
    """One Envoy. `route` None: it has not been told of the model. `limit`: what it was leased of local's limit, None:
    the route's. `in_progress`: its requests by slot; `at_replica`: of those at local, by replica. `issued` and
    `refused` count what local was given, and what it had no room for, since that was last asked.
    """

    route: ir.Route | None = None
    limit: int | None = None
    issued: int = 0
    refused: int = 0
    in_progress: Counter[str] = field(default_factory=Counter)
    at_replica: Counter[int] = field(default_factory=Counter)

    def attempts(self, draw: Draw) -> Sequence[str]:
        """The slots that a request tries, one after the other."""
        route = self.route
        if route is None or not route.chains:
            return ()
        chain = route.chains[0]
        if len(route.chains) > 1:
            rest_ppm = draw() * ir.PPM
            for chain in route.chains:
                rest_ppm -= chain.weight_ppm
                if rest_ppm < 0:
                    break
        return (chain.first, *chain.fallbacks[: route.retry.attempts])

    def has_room(self, slot: str) -> bool:
        if self.route is None:
            return False
        if slot == ir.LOCAL:
            limit = self.route.local.limit if self.limit is None else self.limit
            return bool(self.route.local.endpoints) and self.in_progress[slot] < limit
        remote = self.route.remotes[int(slot.rpartition("-")[2])]
        return self.in_progress[slot] < remote.backend.limit

    def replica(self, replicas: int, draw: Draw) -> int:
        """Envoy's LEAST_REQUEST: of two picked at random the one with fewer requests of this gateway."""
        if replicas == 1:
            return 0
        one, other = int(draw() * replicas), int(draw() * replicas)
        return min(one, other, key=self.at_replica.__getitem__)


class Plant:
    """Everything behind the callers. Requests come in the order of their time."""

    def __init__(self, replicas: int, slots: int, gateways: int, local: Timing, remote: Timing, draw: Draw) -> None:
        self.replicas = tuple(Replica(slots) for _ in range(replicas))
        self.gateways = tuple(Gateway() for _ in range(gateways))
        self._local = local
        self._remote = remote
        self._draw = draw
        self._ends: list[tuple[float, int, str, int]] = []
        """When a request ends, at which gateway, in which slot, at which replica."""

    def settle(self, now_s: float) -> None:
        """Ends what has ended by now."""
        ends = self._ends
        while ends and ends[0][0] <= now_s:
            _, number, slot, index = heapq.heappop(ends)
            gateway = self.gateways[number]
            gateway.in_progress[slot] -= 1
            if slot == ir.LOCAL:
                gateway.at_replica[index] -= 1
                self.replicas[index].completed += 1

    def serve(self, arrival: Arrival, number: int) -> Served:
        """A request that comes in at a gateway."""
        self.settle(arrival.at_s)
        gateway = self.gateways[number]
        slot = self._destination(gateway)
        began_s, index, timing = arrival.at_s, 0, self._remote
        if slot == ir.LOCAL:
            timing = self._local
            index = gateway.replica(len(self.replicas), self._draw)
            began_s = self.replicas[index].take(arrival.at_s, timing.service_s(arrival))
            gateway.at_replica[index] += 1
        if slot:
            first_byte_s = began_s - arrival.at_s + timing.first_byte_s(arrival)
            done_s = began_s + timing.service_s(arrival)
            gateway.in_progress[slot] += 1
            heapq.heappush(self._ends, (done_s, number, slot, index))
        else:
            first_byte_s, done_s = math.inf, arrival.at_s
        return Served(arrival.at_s, slot, first_byte_s, done_s, arrival.context_tokens, arrival.generated_tokens)

    def _destination(self, gateway: Gateway) -> str:
        """The first slot with room, '' if there is none."""
        for slot in gateway.attempts(self._draw):
            if gateway.has_room(slot):
                gateway.issued += slot == ir.LOCAL
                return slot
            gateway.refused += slot == ir.LOCAL
        return ""


def spread(weights: Sequence[float], draw: Draw) -> Iterator[int]:
    """For each request the gateway at which it comes in, drawn by weight."""
    whole = sum(weights)
    while True:
        rest, number = draw() * whole, 0
        while number < len(weights) - 1 and rest >= weights[number]:
            rest -= weights[number]
            number += 1
        yield number
