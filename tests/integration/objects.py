"""Manifests for the whole product, as files hold them, and a model server that has a metric."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.support.backends import Backend, Behaviour, echo

Json = dict[str, Any]


class Queue:
    """What a model server says of its queue. None: it has no metrics page."""

    def __init__(self, length: float | None = 0) -> None:
        self.length = length

    def behaviour(self, otherwise: Behaviour = echo) -> Behaviour:
        async def behave(backend: Backend, request: web.BaseRequest) -> web.StreamResponse:
            if request.path != "/metrics":
                return await otherwise(backend, request)
            backend.seen.pop()
            if self.length is None:
                return web.Response(status=500)
            return web.Response(text=f"vllm:num_requests_waiting {self.length}\n")

        return behave


PODS_METRIC: Json = {
    "type": "Pods",
    "pods": {
        "metric": {"name": "vllm:num_requests_waiting"},
        "target": {"type": "AverageValue", "averageValue": "10"},
    },
}
FAST: Json = {"percentage": 50, "activationSeconds": 1, "bufferSeconds": 3}


def service(name: str = "llama", port: int = 80, **spec: Any) -> Json:
    ports = spec.pop("ports", [{"port": port, "targetPort": 8000}])
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }


def endpoint_slice(backend: Backend | None, of: str = "llama", *, ready: bool = True, port_name: str = "") -> Json:
    """The backend's address as the Service's only endpoint; none at all without a backend."""
    endpoints = [{"addresses": [backend.host], "conditions": {"ready": ready}}] if backend else []
    port: Json = {"port": backend.port if backend else 8000}
    if port_name:
        port["name"] = port_name
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{of}-1", "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "ports": [port],
        "endpoints": endpoints,
    }


def remote(backend: Backend, **more: Any) -> Json:
    return {"host": f"{backend.host}:{backend.port}", **more}


def model(name: str = "llama", of: str = "llama", **offloading: Any) -> Json:
    return {
        "apiVersion": "deployment.beamlit.com/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": name,
            "modelSourceRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": of},
            "serviceRef": {"name": of, "targetPort": 80},
            "offloadingConfig": {"behavior": FAST, **offloading},
        },
    }


def secret(name: str, **data: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "stringData": {key.replace("_", "-"): value for key, value in data.items()},
    }


def oauth(token_url: str, client_id: str = "client", **more: Any) -> Json:
    """An authConfig whose client secret is in the Secret `credentials`."""
    return {
        "type": "oauth",
        "oauthConfig": {
            "clientId": client_id,
            "clientSecretRef": {"name": "credentials", "key": "client-secret"},
            "tokenUrl": token_url,
            **more,
        },
    }
