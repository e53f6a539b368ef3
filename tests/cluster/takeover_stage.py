"""A Service on a real API server, somebody who takes it over, and callers who look at its slices all the time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import msgspec

from controller.adapters.kubernetes import decode
from controller.adapters.kubernetes.client import Cluster
from controller.adapters.kubernetes.reflector import Handler, Reflector, Reflectors, Selection, selections
from controller.adapters.kubernetes.takeover import Takeover
from controller.api import MODEL_API_VERSION
from controller.events import Event, Exposed, Exposure
from controller.objects import MANAGED_BY_LABEL, MANAGER, SERVICE_LABEL, EndpointSlice, GatewayPod, shadow_name
from tests.cluster.harness.api import RequestError
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.paper_node import PaperNode
from tests.kubernetes.tasks import running, until

Json = dict[str, Any]

GATEWAYS = (GatewayPod("gateway-0", ("10.9.0.1",)), GatewayPod("gateway-1", ("10.9.0.2",)))
GATEWAY_PORT = 20_001
PORTS = [
    {"name": "http", "port": 80, "targetPort": "web"},
    {"name": "metrics", "port": 9090, "targetPort": 9090},
]
SELECTOR = {"app": "php"}


class Stage:
    """One namespace. `told`: the last of each model's conditions. `gaps`: moments in which callers of a port in one of
    the `families` reached none of those at the addresses `serving`.
    """

    def __init__(self, plane: ControlPlane, cluster: Cluster, node: PaperNode, namespace: str) -> None:
        self.plane, self.cluster, self.node, self.namespace = plane, cluster, node, namespace
        self.key = f"{namespace}/php"
        self.told: dict[str, Exposed] = {}
        self.history: list[str] = []
        self.gaps: list[str] = []
        self.steady = self.other = ""
        self.serving: set[str] = set()
        self.families: tuple[str, ...] = ("IPv4",)
        self._deleted: set[str] = set()
        self._slices: dict[str, EndpointSlice] = {}
        self._served = False

    # What users do

    def manifest(self, **changes: Any) -> Json:
        spec = {"selector": SELECTOR, "ports": PORTS, **changes}
        metadata = {"name": "php", "namespace": self.namespace, "annotations": {"team": "shop"}}
        return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}

    def apply(self, obj: Json) -> None:
        self.plane.kubectl("apply", "-f", "-", stdin=msgspec.json.encode(obj).decode())

    def run_pod(self, name: str, web: int = 8080, labels: Mapping[str, str] = SELECTOR) -> str:
        ports = [{"name": "web", "containerPort": web}]
        return self.node.run(self.namespace, name, labels=labels, ports=ports)

    async def begin(self) -> None:
        """A model, and a Service with two pods that serve its named port at different numbers."""
        self.plane.api.create(self.path("modeldeployments", group=MODEL_API_VERSION), self.model_body())
        self.steady = self.run_pod("steady")
        self.other = self.run_pod("other", web=8081)
        self.serving = {self.steady, *(pod.addresses[0] for pod in GATEWAYS)}
        self.apply(self.manifest())
        await until(lambda: self.own_pods() == {"steady", "other"} and self.endpoints() is not None)

    def model_body(self, name: str = "m") -> Json:
        spec = {
            "model": name,
            "modelSourceRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "php"},
            "serviceRef": {"name": "php", "targetPort": 80},
        }
        metadata = {"name": name, "namespace": self.namespace}
        return {"apiVersion": MODEL_API_VERSION, "kind": "ModelDeployment", "metadata": metadata, "spec": spec}

    def exposure(self, gateways: tuple[GatewayPod, ...] = GATEWAYS, **changes: Any) -> Exposure:
        fields = {"service": self.key, "port": 80, "gateway_port": GATEWAY_PORT, "gateways": gateways, **changes}
        return Exposure(**fields)

    def delete_slice(self, name: str) -> None:
        """That callers miss it is no gap."""
        self._deleted.add(f"{self.namespace}/{name}")
        self.plane.api.delete(self.path("endpointslices", name, "discovery.k8s.io/v1"))

    # What there is

    def path(self, plural: str, name: str = "", group: str = "v1") -> str:
        root = f"/apis/{group}" if "/" in group else f"/api/{group}"
        return f"{root}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def service(self, name: str = "php") -> Json:
        return self.plane.api.get(self.path("services", name))

    def has_shadow(self) -> bool:
        return self.plane.api.exists(self.path("services", shadow_name("php")))

    def model_path(self, name: str = "m") -> str:
        return self.path("modeldeployments", name, MODEL_API_VERSION)

    def finalizers(self) -> list[str]:
        found: list[str] = self.plane.api.get(self.model_path())["metadata"].get("finalizers", [])
        return found

    def versions(self) -> dict[str, str]:
        """Of all slices of the Service."""
        return {each["metadata"]["name"]: each["metadata"]["resourceVersion"] for each in self.slices()}

    def slices(self) -> list[Json]:
        path = self.path("endpointslices", group="discovery.k8s.io/v1")
        items: list[Json] = self.plane.api.get(f"{path}?labelSelector={SERVICE_LABEL}%3Dphp")["items"]
        return items

    def own_pods(self) -> set[str]:
        """The pods in the slices that Kubernetes itself has written for the Service."""
        return {
            endpoint["targetRef"]["name"]
            for each in self.slices()
            if each["metadata"]["labels"][MANAGED_BY_LABEL] == "endpointslice-controller.k8s.io"
            for endpoint in each["endpoints"] or ()
        }

    def endpoints(self) -> Json | None:
        try:
            return self.plane.api.get(self.path("endpoints", "php"))
        except RequestError as refused:
            if refused.status != HTTPStatus.NOT_FOUND:
                raise
            return None

    def targets(self) -> dict[str, set[str]]:
        """By port name, the ready '<address>:<port>' that callers are sent to."""
        found: dict[str, set[str]] = {}
        for each in self.slices():
            for port in each["ports"] or ():
                ready = (e["addresses"][0] for e in each["endpoints"] or () if e["conditions"]["ready"])
                found.setdefault(port.get("name", ""), set()).update(f"{address}:{port['port']}" for address in ready)
        return found

    def is_taken(self) -> bool:
        managers = {each["metadata"]["labels"][MANAGED_BY_LABEL] for each in self.slices()}
        return "selector" not in self.service()["spec"] and managers == {MANAGER} and self.endpoints() is None

    def snapshot(self) -> Json:
        """Everything that has to be as it was before."""
        service, endpoints = self.service(), self.endpoints()
        metadata = service["metadata"]
        return {
            "spec": service["spec"],
            "labels": metadata.get("labels"),
            "annotations": metadata.get("annotations"),
            "managers": sorted(entry["manager"] for entry in metadata["managedFields"]),
            "targets": self.targets(),
            "writers": sorted({each["metadata"]["labels"][MANAGED_BY_LABEL] for each in self.slices()}),
            "subsets": endpoints and endpoints.get("subsets"),
            "shadow": self.has_shadow(),
        }

    def reason(self, model: str = "m") -> str:
        told = self.told.get(f"{self.namespace}/{model}")
        return told.reason if told else ""

    # Who takes it over

    @asynccontextmanager
    async def taking_over(
        self, serves: Callable[[str], bool] = lambda namespace: True, linger_s: float = 0.0
    ) -> AsyncIterator[Takeover]:
        """A controller that leads."""
        takeover = Takeover(self.cluster, self._hear, serves=serves, linger_s=linger_s)
        reflectors = Reflectors()
        for number, (selection, handler) in enumerate(self._watched(takeover)):
            reflectors.start(str(number), Reflector(self.cluster, selection, handler))
        async with running(reflectors.run()), running(takeover.run()):
            await reflectors.wait_synced()
            takeover.resume()
            yield takeover

    @asynccontextmanager
    async def callers(self) -> AsyncIterator[None]:
        """Looks whether each port leads to the steady pod or a gateway, at each change of a slice."""
        selection = selections("discovery.k8s.io/v1", "endpointslices", (self.namespace,), f"{SERVICE_LABEL}=php")[0]
        handler = Handler(decode.endpoint_slice, self._see, self._lose, lambda key, problems: None)
        reflector = Reflector(self.cluster, selection, handler)
        async with running(reflector.run()):
            await reflector.synced.wait()
            yield
            await asyncio.sleep(0)

    def _watched(self, takeover: Takeover) -> list[tuple[Selection, Handler[Any]]]:
        def handler(
            decoder: Callable[[bytes], Any], see: Callable[[Any], None], lose: Callable[[str], None]
        ) -> Handler[Any]:
            return Handler(decoder, see, lose, lambda key, problems: None)

        obj = msgspec.json.Decoder(Json).decode
        kinds = [
            ("v1", "services", handler(obj, takeover.see_service, takeover.lose_service)),
            ("v1", "endpoints", handler(_key, takeover.see_endpoints, takeover.lose_endpoints)),
            (
                "discovery.k8s.io/v1",
                "endpointslices",
                handler(decode.endpoint_slice, takeover.see_slice, takeover.lose_slice),
            ),
            (MODEL_API_VERSION, "modeldeployments", handler(obj, takeover.see_model, takeover.lose_model)),
        ]
        return [(selections(group, plural, (self.namespace,))[0], each) for group, plural, each in kinds]

    def _hear(self, event: Event) -> None:
        assert isinstance(event, Exposed)
        self.told[event.key] = event
        self.history.append(event.reason)

    def _see(self, seen: EndpointSlice) -> None:
        self._slices[seen.key] = seen
        self._look(f"{seen.key} changed")

    def _lose(self, key: str) -> None:
        del self._slices[key]
        self._look("" if key in self._deleted else f"{key} went")
        self._deleted.discard(key)

    def _look(self, when: str) -> None:
        reached = {
            (each.address_type, port.name)
            for each in self._slices.values()
            for port in each.ports
            if any(endpoint.ready and endpoint.addresses[0] in self.serving for endpoint in each.endpoints)
        }
        missing = {(family, port) for family in self.families for port in ("http", "metrics")} - reached
        if missing and self._served and when:
            self.gaps.append(f"{when}: nobody serves {sorted(missing)}")
        self._served = not missing


def _key(body: bytes) -> str:
    metadata = msgspec.json.decode(body)["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"
