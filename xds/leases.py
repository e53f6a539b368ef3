"""Pure: the runtime layers of one gateway alone, on its delta stream: limits that it is leased, and their renewals.

They take a way of their own beside the lanes of `xds.session`: what a lease says differs from gateway to gateway, ends
by itself (Envoy drops a resource whose ttl has run out), and is renewed by naming it once more without its content.

Nothing is said of these layers until there is a lease: a gateway that comes back keeps what it has. And a lease is sent
only when no other runtime layer is under way, so whoever acknowledges it has the limits from before it too.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from google.protobuf.any_pb2 import Any

from protos.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse
from protos.envoy.service.discovery.v3.discovery_pb2 import Resource as WireResource
from xds import ir
from xds.response import Push
from xds.snapshot import RUNTIME, Resource
from xds.translate import BORROWED, LENT, lease_resources

NAMES = frozenset({LENT, BORROWED})
TTL_S = {LENT: ir.LENT_TTL_S, BORROWED: ir.BORROWED_TTL_S}

OVERDUE_S = 5.0
"""After this long, a lease is sent again although the last one has not been answered."""


@dataclass(slots=True)
class Granted:
    """What a gateway is leased now; shared by its streams. None before the first lease."""

    lease: ir.Lease | None = None
    layers: tuple[Resource, ...] = ()

    def grant(self, lease: ir.Lease) -> None:
        if self.lease is None or (self.lease.lent, self.lease.borrowed) != (lease.lent, lease.borrowed):
            self.layers = lease_resources(lease)
        self.lease = lease


@dataclass(slots=True)
class LeaseLane:
    """One stream's part in it. Serials grow, so they serve as nonces too."""

    granted: Granted
    names: set[str] = field(default_factory=set)
    _sent_serial: int = 0
    _sent: dict[str, tuple[str, float]] = field(default_factory=dict)
    _waits_since_s: float | None = None

    def subscribe(self, names: Collection[str]) -> None:
        """The stream asks for these layers, or for them again."""
        for name in names:
            self.names.add(name)
            self._sent.pop(name, None)
            self._sent_serial = 0

    def unsubscribe(self, names: Collection[str]) -> None:
        self.names.difference_update(names)

    def offer(self, now_s: float) -> Push | None:
        """The response that is due, if one is; it counts as sent."""
        lease = self.granted.lease
        if lease is None or not self.names or lease.serial == self._sent_serial:
            return None
        if self._waits_since_s is not None and now_s < self._waits_since_s + OVERDUE_S:
            return None
        response = DeltaDiscoveryResponse(type_url=RUNTIME, nonce=f"lease-{lease.serial}")
        limits = {LENT: lease.lent, BORROWED: lease.borrowed}
        for layer in self.granted.layers:
            if layer.name in self.names:
                response.resources.append(self._renewed(layer, TTL_S[layer.name] if limits[layer.name] else 0, now_s))
        self._sent_serial, self._waits_since_s = lease.serial, now_s
        return Push(RUNTIME, (), (), response.nonce, "", response.SerializeToString())

    def answer(self, nonce: str) -> int:
        """The serial of the lease that this answers; 0: of none."""
        if self._waits_since_s is None or nonce != f"lease-{self._sent_serial}":
            return 0
        self._waits_since_s = None
        return self._sent_serial

    def _renewed(self, layer: Resource, ttl_s: int, now_s: float) -> WireResource:
        """Only its name, if the gateway has this version of it for sure. `ttl_s` 0: it is empty, and need not end."""
        version, sent_at_s = self._sent.get(layer.name, ("", 0.0))
        wire = WireResource(name=layer.name, version=layer.version)
        if ttl_s:
            wire.ttl.seconds = ttl_s
        if version != layer.version or (ttl_s and now_s > sent_at_s + ttl_s / 2):
            wire.resource.CopyFrom(Any.FromString(layer.body))
        self._sent[layer.name] = (layer.version, now_s)
        return wire
