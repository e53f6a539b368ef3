"""Small manifests for tests, as Python values."""

from __future__ import annotations

from typing import Any

from controller import api, objects
from controller.api import ModelDeployment, Parsed

Json = dict[str, Any]

OAUTH: Json = {
    "type": "oauth",
    "oauthConfig": {
        "clientId": "client",
        "clientSecretRef": {"name": "remote", "key": "client-secret"},
        "tokenUrl": "https://issuer.example.com/oauth/token",
    },
}
EXTERNAL: Json = {
    "type": "External",
    "external": {"metric": {"name": "queue_length"}, "target": {"type": "Value", "value": "10"}},
}


def model(name: str = "llama", namespace: str = "default", **offloading: Any) -> ModelDeployment:
    """A valid ModelDeployment on Service `llama`, port 80, with one plain remote unless told otherwise."""
    return model_from(model_manifest(name, namespace, **offloading))


def model_manifest(name: str = "llama", namespace: str = "default", **offloading: Any) -> Json:
    if "remoteBackends" not in offloading:
        offloading.setdefault("remoteBackend", {"host": "remote.example.com:80"})
    if offloading.get("remoteBackend", {}) is None:
        del offloading["remoteBackend"]
    return {
        "apiVersion": "deployment.beamlit.com/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": name,
            "modelSourceRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "serviceRef": {"name": name, "targetPort": 80},
            "offloadingConfig": {"metrics": [EXTERNAL], **offloading},
        },
    }


def model_from(manifest: Json) -> ModelDeployment:
    parsed = api.parse(manifest)
    assert isinstance(parsed, Parsed), parsed
    return parsed.model


def service(name: str = "llama", namespace: str = "default", port: int = 80) -> objects.Service:
    parsed = objects.parse_service(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"ports": [{"port": port, "targetPort": 8000}], "selector": {"app": name}},
        }
    )
    assert isinstance(parsed, Parsed), parsed
    return parsed.model


def endpoint_slice(
    *addresses: str, of: str = "llama", namespace: str = "default", ready: bool = True
) -> objects.EndpointSlice:
    parsed = objects.parse_endpoint_slice(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": of, "namespace": namespace, "labels": {"kubernetes.io/service-name": of}},
            "addressType": "IPv4",
            "ports": [{"port": 8000}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address in addresses],
        }
    )
    assert isinstance(parsed, Parsed), parsed
    return parsed.model


def secret(name: str = "remote", namespace: str = "default", **data: str) -> objects.Secret:
    parsed = objects.parse_secret(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": {key.replace("_", "-"): value for key, value in data.items()},
        }
    )
    assert isinstance(parsed, Parsed), parsed
    return parsed.model
