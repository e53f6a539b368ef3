"""Pure: where callers of a Service that is taken over arrive: each model's own port on the gateway, and the gateway
pods that already listen there.

A port is a model's as long as anything may still lead there: until the Service is given back, or the model is gone. It
is handed out again as late as possible, so that whoever still connects to the port of a model that is gone does not
reach another.

A pod listens from the moment its Envoy has acknowledged the model's route until the pod is not ready any more: an Envoy
that loses its control plane goes on listening, one that is started anew is not ready before it has everything. One
that was not ready only for a while and kept its stream has what it had. After a change of leader nobody has
acknowledged anything yet; so for `HOLD_S`, or until all have, what stands is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

from controller.api import Takeover
from controller.events import RELEASED, Expose, Exposure
from controller.objects import GatewayPod
from controller.record import Record

HOLD_S = 10.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is so in a cluster only. `takeover`: of models that do not say. `ports`: for models, on the gateway."""

    takeover: Takeover = Takeover.AUTO
    ports: range = range(20_000, 30_000)


class Exposures:
    """Owned by the engine. `cluster` None: there is none, and nothing is exposed. `held`: ports before a restart."""

    def __init__(self, cluster: Cluster | None, held: Mapping[str, int]) -> None:
        self._cluster = cluster
        self._pods: Mapping[str, GatewayPod] | None = None
        """By name, ready or not; None before they have been seen."""
        self._held: dict[str, int] = {}
        self._models: dict[int, str] = {}
        self._hold_until_s = float("-inf")
        for key, port in sorted(held.items()):
            if cluster and port in cluster.ports and port not in self._models:
                self._held[key], self._models[port] = port, key
        self._next = max(self._models, default=0) + 1

    def see(self, pods: Iterable[GatewayPod], records: Iterable[Record]) -> bool:
        """Takes all pods of the gateway. Returns whether they are others than before."""
        before, self._pods = self._pods, {pod.name: pod for pod in pods}
        known = before or {}
        lost = {name for name, pod in known.items() if not self._is_still(pod) or not self._pods[name].ready}
        back = {name for name, pod in known.items() if not pod.ready and self._is_still(pod)} - lost
        for record in records if lost or back else ():
            record.listening -= lost
            record.listening |= record.programmed & back
        return before != self._pods

    def _is_still(self, pod: GatewayPod) -> bool:
        """Whether it is there, and not another one of the same name."""
        now = (self._pods or {}).get(pod.name)
        return now is not None and now.addresses == pod.addresses

    @property
    def _ready(self) -> dict[str, GatewayPod]:
        return {name: pod for name, pod in sorted((self._pods or {}).items()) if pod.ready}

    def start(self, records: Iterable[Record], now: float) -> None:
        """From now on this controller leads: what it wants has to be said once more."""
        self._hold_until_s = now + HOLD_S
        for record in records:
            record.expose = record.exposed = None

    def settle(self, record: Record) -> None:
        """Gives a model its port, or frees the one it does not need any more."""
        if self._cluster is None:
            return
        wants = self._wants(record)
        if wants:
            record.gateway_port = self._port(record.key, self._cluster.ports)
        elif record.exposed and record.exposed.reason == RELEASED:
            self.release(record.key)
            record.gateway_port = None
        record.lacks_port = wants and record.gateway_port is None

    def at(self, ports: Iterable[int]) -> set[str]:
        """The models that have one of these ports."""
        return {self._models[port] for port in ports if port in self._models}

    def hold(self, key: str, port: int | None) -> str | None:
        """Gives a model this very port, as the leader said. Returns the model that had it and has none now."""
        if self._held.get(key) == port:
            return None
        self.release(key)
        if port is None:
            return None
        loser = self._models.get(port)
        if loser is not None:
            del self._held[loser]
        self._held[key], self._models[port] = port, key
        self._next = port + 1
        return loser

    def release(self, key: str) -> None:
        if (port := self._held.pop(key, None)) is not None:
            del self._models[port]

    def expose(self, record: Record, now: float) -> Expose | None:
        """What is to be done about a model's Service, if that is news."""
        if self._cluster is None:
            return None
        effect = Expose(record.key, self._exposure(record))
        if effect == record.expose or (record.expose is None and self._waits(record, effect.exposure, now)):
            return None
        record.expose = effect
        if effect.exposure and record.exposed and record.exposed.reason == RELEASED:
            record.exposed = None  # not for long
        return effect

    def _waits(self, record: Record, exposure: Exposure | None, now: float) -> bool:
        """Whether it is too early to begin: nothing is led anywhere yet, or where it leads may still be right."""
        has_to_be_made = record.make is not None and exposure is not None and exposure.port is None
        if exposure is None or has_to_be_made:
            return False
        return self.is_held(record, now) or not (exposure.gateways or record.is_touched)

    def is_held(self, record: Record, now: float) -> bool:
        """Whether gateways may still be about to say that they listen."""
        if self._pods is None:
            return True
        return now < self._hold_until_s and not self._ready.keys() <= record.listening

    def held_until_s(self, record: Record, now: float) -> float | None:
        """When `expose` may have news without an event."""
        held = self._pods is not None and record.expose is None and self.is_held(record, now)
        return self._hold_until_s if held else None

    def _wants(self, record: Record) -> bool:
        spec, cluster = record.spec, self._cluster
        if not cluster or (spec.spec.takeover or cluster.takeover) is Takeover.MANUAL:
            return False
        leaves = record.wanted.metadata.is_leaving
        return spec.spec.enabled and not leaves and bool(record.service) and not record.port_holder

    def _exposure(self, record: Record) -> Exposure | None:
        if not self._wants(record) or record.service is None or record.gateway_port is None:
            return None
        gateways = tuple(pod for name, pod in self._ready.items() if name in record.listening)
        owner_uid = None if record.spec.spec.service_ref else record.spec.metadata.uid
        return Exposure(*record.service, record.gateway_port, gateways, record.make, owner_uid)

    def _port(self, key: str, ports: range) -> int | None:
        """The model's port, None if all are taken."""
        held = self._held.get(key)
        if held in ports:
            return held
        after = min(max(self._next, ports.start), ports.stop)
        candidates = chain(range(after, ports.stop), range(ports.start, after))
        free = next((port for port in candidates if port not in self._models), None)
        self.hold(key, free)
        return free
