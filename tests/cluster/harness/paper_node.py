"""A node that exists on paper only: a test says what its pods do, and the real controllers believe it.

A pod counts in an EndpointSlice once it is bound to a Node that exists and its status names an address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.cluster.harness.api import Api, Json

NAME = "paper"
_IMAGE = "localhost/none"


class PaperNode:
    def __init__(self, api: Api, name: str = NAME) -> None:
        self._api = api
        self._name = name
        self._addresses = 0
        if not api.exists(f"/api/v1/nodes/{name}"):
            api.create("/api/v1/nodes", {"metadata": {"name": name}})

    def run(self, namespace: str, name: str, *, labels: Mapping[str, str], ready: bool = True, **spec: Any) -> str:
        """Makes a pod and runs it; its address. `spec`: more fields of its first container, such as `ports`."""
        container = {"name": "main", "image": _IMAGE, **spec}
        metadata = {"name": name, "labels": dict(labels)}
        body = {"metadata": metadata, "spec": {"nodeName": self._name, "containers": [container]}}
        self._api.create(f"/api/v1/namespaces/{namespace}/pods", body)
        return self.set(namespace, name, ready=ready)

    def run_all(self, namespace: str, selector: str) -> list[str]:
        """Binds the pods that a workload made and nobody runs yet, and makes them ready; their names."""
        pods = self._api.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")["items"]
        waiting = [pod["metadata"]["name"] for pod in pods if not pod["spec"].get("nodeName")]
        for name in waiting:
            binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": self._name}}
            self._api.create(f"{_path(namespace, name)}/binding", binding)
            self.set(namespace, name)
        return waiting

    def set(self, namespace: str, name: str, *, ready: bool = True, addresses: tuple[str, ...] = ()) -> str:
        """Readiness of a bound pod, and its addresses where the next free one will not do; the first of them."""
        status = self._api.get(_path(namespace, name))["status"]
        addresses = addresses or tuple(each["ip"] for each in status.get("podIPs", ())) or (self._next_address(),)
        conditions = [{"type": type_, "status": str(ready)} for type_ in ("ContainersReady", "Ready")]
        body: Json = {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": each} for each in addresses]}
        self._api.merge(f"{_path(namespace, name)}/status", {"status": {**body, "conditions": conditions}})
        return addresses[0]

    def terminate(self, namespace: str, name: str) -> None:
        """It is being deleted, and takes its time: until `remove`."""
        self._api.delete(_path(namespace, name))

    def remove(self, namespace: str, name: str) -> None:
        self._api.delete(_path(namespace, name), grace_s=0)

    def _next_address(self) -> str:
        self._addresses += 1
        return f"10.244.{self._addresses >> 8}.{self._addresses & 0xFF}"


def _path(namespace: str, pod: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{pod}"
