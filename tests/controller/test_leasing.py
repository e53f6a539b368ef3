"""Limits divided by demand: in a world of gateways, callers and a network that delays and loses, in virtual time. Never
more in progress than the limit, in all; and where load is uneven, more of it stays local than with static parts.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from controller.events import Conduct, Grant
from controller.gateways import GRACE_S, Gateways
from controller.leasing import Leasing
from xds import ir
from xds.events import GatewayConnected, GatewayDisconnected, GatewayEvent, LeaseAccepted, LoadReported, LocalLoad

MODEL = "default/llama"


@dataclass
class Gateway:
    """What a real one does: applies leases, lets them end, keeps to its limit, and reports."""

    name: str
    static: int
    rate: float
    connected: bool = False
    reachable: bool = True
    lent: tuple[float, int] | None = None
    borrowed: tuple[float, int] | None = None
    active: int = 0
    issued: int = 0
    refused: int = 0
    local: int = 0
    remote: int = 0

    def limit(self, now: float) -> int:
        for lease in (self.borrowed, self.lent):
            if lease and now < lease[0]:
                return lease[1]
        return self.static


@dataclass
class World:
    """`total`: the model's limit. `hold_s`: how long a request takes. Everything happens in virtual time."""

    total: int
    seed: int = 0
    hold_s: Callable[[random.Random], float] = lambda rng: rng.expovariate(1 / 5.0)
    now: float = 1_000.0
    gateways: dict[str, Gateway] = field(default_factory=dict)
    peak: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.turns = 0
        self.urgent = False
        self.controls = True
        self.boot(0)

    def boot(self, restored: int) -> None:
        """A new controller."""
        self.counts = Gateways(restored)
        self.leasing = Leasing(self.counts.count)
        self.divided_by = 0
        self.controls = True
        self.timer_at_s = 0.0
        self.booted_at_s = self.now

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self.turns += 1
        heapq.heappush(self.queue, (self.now + delay_s, self.turns, action))

    def run(self, duration_s: float) -> None:
        end_s = self.now + duration_s
        while self.queue and self.queue[0][0] <= end_s:
            self.now, _, action = heapq.heappop(self.queue)
            action()
            self.peak = max(self.peak, sum(each.active for each in self.gateways.values()))
        self.now = end_s

    # The controller

    def tell(self, event: GatewayEvent) -> None:
        if not self.controls:
            return
        match event:
            case GatewayConnected(gateway, version):
                self.counts.join(gateway, version, self.now)
            case GatewayDisconnected(gateway):
                self.counts.leave(gateway, self.now)
            case _:
                pass
        self.leasing.take(event, self.counts, self.now)
        self.settle()

    def settle(self) -> None:
        if not self.controls:
            return
        self.counts.expire(self.now)
        self.leasing.retain(self.counts)
        if self.counts.count != self.divided_by:
            self.divided_by = self.counts.count
            static = max(1, self.total // self.divided_by)
            self.leasing.set_limit(MODEL, self.total, static)
            for each in self.gateways.values():
                self.publish(each, static)
        for effect in self.leasing.step(self.now):
            match effect:
                case Grant(leases):
                    for lease in leases:
                        self.deliver(lease)
                case Conduct(survey):
                    self.urgent = survey.urgent
                case _:
                    raise AssertionError(effect)
        at_s = self.leasing.wake_at()
        if at_s is not None and not self.now < self.timer_at_s <= at_s:
            self.timer_at_s = max(at_s, self.now)
            self.after(self.timer_at_s - self.now, self.settle)

    def publish(self, gateway: Gateway, static: int) -> None:
        def arrive() -> None:
            if gateway.connected:
                gateway.static = static

        self.after(self.rng.uniform(0.001, 0.02), arrive)

    def deliver(self, lease: ir.Lease) -> None:
        gateway = self.gateways[lease.gateway]

        def arrive() -> None:
            if not gateway.connected or not gateway.reachable:
                return
            gateway.lent = (self.now + ir.LENT_TTL_S, lease.lent[MODEL]) if MODEL in lease.lent else None
            gateway.borrowed = (
                (self.now + ir.BORROWED_TTL_S, lease.borrowed[MODEL]) if MODEL in lease.borrowed else None
            )
            answer = LeaseAccepted(gateway.name, lease.serial)
            self.after(self.rng.uniform(0.001, 0.02), lambda: self.tell(answer) if gateway.connected else None)

        self.after(self.rng.uniform(0.02, 0.03), arrive)  # after what was published with it

    # Gateways

    def join(self, name: str, rate: float) -> Gateway:
        gateway = self.gateways[name] = Gateway(name, static=0, rate=rate)
        self.connect(gateway)
        self.after(self.rng.expovariate(rate), lambda: self.arrive(gateway))
        self.after(1.0, lambda: self.report(gateway))
        return gateway

    def connect(self, gateway: Gateway) -> None:
        gateway.connected = gateway.reachable = True
        self.tell(GatewayConnected(gateway.name, "1.40.0"))
        static = max(1, self.total // max(1, self.divided_by))
        self.publish(gateway, static)

    def disconnect(self, gateway: Gateway) -> None:
        gateway.connected = False
        self.tell(GatewayDisconnected(gateway.name))

    def reconnect(self, gateway: Gateway) -> None:
        if self.controls and not gateway.connected:
            self.connect(gateway)

    def recover(self, gateway: Gateway) -> None:
        """Its network is back, before anybody noticed that the connection was gone."""
        gateway.reachable = True

    def lose_the_controller(self) -> None:
        self.controls = False
        for gateway in self.gateways.values():
            gateway.connected = False

    def report(self, gateway: Gateway) -> None:
        if gateway.connected and gateway.reachable:
            load = LocalLoad(MODEL, gateway.active, gateway.issued, gateway.refused)
            busy = (load,) if load.active or load.issued or load.refused else ()
            event = LoadReported(gateway.name, (), busy, frozenset([MODEL]))
            gateway.issued = gateway.refused = 0
            self.after(self.rng.uniform(0.001, 0.02), lambda: self.tell(event) if gateway.connected else None)
        self.after(0.2 if self.urgent else 1.0, lambda: self.report(gateway))

    def arrive(self, gateway: Gateway) -> None:
        if gateway.active < gateway.limit(self.now):
            gateway.active += 1
            gateway.issued += 1
            gateway.local += 1
            self.after(self.hold_s(self.rng), lambda: self.leave(gateway))
        else:
            gateway.refused += 1
            gateway.remote += 1
        self.after(self.rng.expovariate(gateway.rate), lambda: self.arrive(gateway))

    def leave(self, gateway: Gateway) -> None:
        gateway.active -= 1


@dataclass
class Tally:
    """Requests over several worlds."""

    local: int = 0
    remote: int = 0

    def add(self, world: World, duration_s: float) -> None:
        for each in world.gateways.values():
            each.local = each.remote = 0
        world.run(duration_s)
        self.local += sum(each.local for each in world.gateways.values())
        self.remote += sum(each.remote for each in world.gateways.values())

    @property
    def remote_share(self) -> float:
        return self.remote / (self.remote + self.local)


def uneven(total: int, offered: float, parts: list[float], seed: int, hold_s: float = 5.0) -> World:
    """`offered`: load as a part of the total; `parts`: how it is spread."""
    world = World(total, seed, lambda rng: rng.expovariate(1 / hold_s))
    for index, part in enumerate(parts):
        world.join(f"g{index}", offered * total / hold_s * part)
        world.run(0.5)
    world.run(30)
    return world


def test_with_uneven_load_much_more_stays_local_than_with_static_parts() -> None:
    """One gateway is the best there can be: the few slots that are free are where the next request comes in."""
    parts = [0.4, 0.3, 0.2, 0.1]
    one, leased, static = Tally(), Tally(), Tally()
    for seed in range(3):
        one.add(uneven(28, 1.08, [1.0], seed), 600)
        world = uneven(28, 1.08, parts, seed)
        leased.add(world, 600)
        assert world.peak <= 28
        world.lose_the_controller()
        world.run(ir.LENT_TTL_S)
        static.add(world, 600)
    assert one.remote_share < leased.remote_share < 1.5 * one.remote_share
    assert static.remote_share > 1.8 * one.remote_share


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_lost_there_are_never_more_than_the_limit(seed: int) -> None:
    """Streams break, networks hang, gateways come, load moves, the controller dies and comes back without memory."""
    world = uneven(20, 1.5, [0.6, 0.3, 0.1], seed)
    rng = random.Random(seed)
    for turn in range(40):
        gateway = rng.choice(list(world.gateways.values()))
        match rng.randrange(7):
            case 0 if gateway.connected and world.controls:
                world.disconnect(gateway)
                world.after(rng.uniform(0, GRACE_S - 1), partial(world.reconnect, gateway))
            case 1 if gateway.connected and gateway.reachable:
                gateway.reachable = False
                world.after(rng.uniform(0, 40), partial(world.recover, gateway))
            case 2 | 3 if len(world.gateways) < 6 and world.controls and world.now > world.booted_at_s + 15:
                world.join(f"more-{turn}", rng.uniform(0.5, 3))
            case 4:
                for each in world.gateways.values():
                    each.rate = rng.uniform(0.1, 6)
            case 5 if world.controls:
                world.lose_the_controller()
            case _ if not world.controls:
                world.boot(world.divided_by)
                for each in list(world.gateways.values()):
                    world.reconnect(each)
            case _:
                pass
        world.run(rng.uniform(0.1, 20))
        assert world.peak <= world.total, (turn, world.gateways)


def test_a_dead_control_plane_gives_everything_back() -> None:
    world = uneven(20, 1.2, [0.8, 0.2], seed=3)
    world.run(20)
    assert any(each.limit(world.now) > each.static for each in world.gateways.values())
    world.lose_the_controller()
    world.run(ir.LENT_TTL_S + 1)
    assert [each.limit(world.now) for each in world.gateways.values()] == [10, 10]
    assert world.peak <= 20


def test_calm_gives_everything_back() -> None:
    world = uneven(20, 1.2, [0.8, 0.2], seed=4)
    world.run(20)
    assert world.leasing.limits[MODEL]
    for each in world.gateways.values():
        each.rate = 0.1
    world.run(200)
    assert world.leasing.limits == {}
    assert {each.limit(world.now) for each in world.gateways.values()} == {10}
    assert not world.urgent
    assert world.leasing.wake_at() is None


def test_a_gateway_that_is_gone_leaves_its_part_to_the_others() -> None:
    world = uneven(20, 1.5, [0.5, 0.5], seed=5)
    gone = world.gateways["g1"]
    world.disconnect(gone)
    gone.rate = 1e-9
    world.run(GRACE_S + 30)
    world.settle()
    world.run(1)
    assert world.gateways["g0"].limit(world.now) == 20


def test_one_gateway_has_the_whole_limit_and_nothing_to_report() -> None:
    world = uneven(20, 2.0, [1.0], seed=6)
    world.run(20)
    assert world.gateways["g0"].limit(world.now) == 20
    assert world.leasing.limits == {}
    assert not world.urgent
