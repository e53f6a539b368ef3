"""An engine in a cluster, and a gateway of pods, for tests."""

from __future__ import annotations

import json
from typing import Any, Self

from controller import events
from controller.events import Applied, Decided, Elected, GatewaysSeen
from controller.exposures import HOLD_S, Cluster
from controller.objects import EndpointSlice, GatewayPod, Service, ServicePort, SliceEndpoint, SlicePort, Workload
from tests.controller.manifests import Json, endpoint_slice, model_from, model_manifest, service
from tests.controller.world import KEY, World
from xds import events as gateway_events

SELECTOR = {"app": "llama"}


def pod(name: str, *, ready: bool = True, address: str = "") -> GatewayPod:
    return GatewayPod(name, (address or f"10.1.0.{sum(map(ord, name)) % 250}",), ready)


def workload(name: str = "llama", *, desired: int = 2, ready: int = 2, **more: Any) -> Workload:
    return Workload("Deployment", f"default/{name}", selector=f"app={name}", desired=desired, ready=ready, **more)


def taken(name: str = "llama", namespace: str = "default") -> Service:
    """A Service whose selector was taken away."""
    return Service(f"{namespace}/{name}", (ServicePort(80, target_port=8000),), taken=True)


def slice_of(name: str, of: str, *addresses: str, managed_by: str = "") -> EndpointSlice:
    """An EndpointSlice `name` of Service `of`, both in namespace default."""
    endpoints = tuple(SliceEndpoint((address,)) for address in addresses)
    return EndpointSlice(f"default/{name}", f"default/{of}", "IPv4", (SlicePort(8000),), endpoints, managed_by)


class ClusterWorld(World):
    """A controller in a cluster. It leads nobody until it is elected."""

    def __init__(self, saved: dict[str, Any] | None = None, cluster: Cluster | None = None, **config: Any) -> None:
        config.setdefault("referable", frozenset())
        super().__init__(saved, cluster=cluster or Cluster(), **config)

    def lead(self) -> Self:
        self.give(Elected(leads=True))
        return self

    def follow(self) -> Self:
        self.give(Elected(leads=False))
        return self

    def sleep(self, seconds: float) -> Self:
        """Time passes, and the controller wakes whenever it asks for it."""
        end_s = self.now + seconds
        while (at_s := self.engine.wake_at()) is not None and at_s <= end_s:
            self.wait(max(0.0, at_s - self.now))
        self.wait(end_s - self.now)
        return self

    def see(self, *pods: str | GatewayPod) -> Self:
        """All pods of the gateway; those named are ready."""
        self.give(GatewaysSeen(tuple(pod(each) if isinstance(each, str) else each for each in pods)))
        return self

    def connect(self, *gateways: str) -> Self:
        self.give(*(gateway_events.GatewayConnected(each, "1.40.0") for each in gateways))
        return self

    def disconnect(self, gateway: str) -> Self:
        self.give(gateway_events.GatewayDisconnected(gateway))
        return self

    def accept(self, *gateways: str, models: tuple[str, ...] = ()) -> Self:
        """Gateways have what is published, of these models or of all."""
        routes = frozenset(models or self.routes)
        self.give(*(gateway_events.Programmed(each, routes) for each in gateways))
        return self

    def released(self, key: str = KEY) -> Self:
        self.give(events.Exposed(key, "False", events.RELEASED, "Nothing of ours is left."))
        return self

    def gateways_of(self, key: str = KEY) -> list[str]:
        """Where callers of the model's Service are led; no Exposure is no gateway."""
        exposure = self.exposed[key]
        return [each.name for each in exposure.gateways] if exposure else []

    def port_of(self, key: str = KEY) -> int | None:
        return self.engine.records[key].gateway_port

    def words(self) -> list[Decided]:
        """What the status says of each model, as another controller reads it."""
        kept = {key: saved for key, saved in self.saved.items() if saved is not None}
        return [Decided(key, saved) for key, saved in json.loads(json.dumps(kept)).items()]


def leader(**config: Any) -> ClusterWorld:
    """A controller that has led for so long that it waits for nobody."""
    found = ClusterWorld(**config).lead()
    found.wait(HOLD_S)
    return found


def manifest(name: str = "llama", namespace: str = "default", **offloading: Any) -> Json:
    """As `model_manifest`, with the unique id that every object of a cluster has."""
    made = model_manifest(name, namespace, **offloading)
    made["metadata"]["uid"] = f"uid-of-{namespace}-{name}"
    return made


def served(name: str, **spec: Any) -> list[Applied]:
    """A model with a Service and two endpoints of its own. `spec`: further fields."""
    made = manifest(name)
    made["spec"] |= spec
    things = (service(name), endpoint_slice("10.0.0.1", "10.0.0.2", of=name), model_from(made))
    return [Applied(each) for each in things]
