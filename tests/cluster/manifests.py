"""A ModelDeployment that uses every field, and what is changed in it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

Json = dict[str, Any]
Path = tuple[str | int, ...]

ABSENT = object()


def _metric(name: str) -> Json:
    expression = {"key": "pod", "operator": "In", "values": ["a", "b"]}
    return {"name": name, "selector": {"matchLabels": {"model": "llama"}, "matchExpressions": [expression]}}


EVERYTHING: Json = {
    "apiVersion": "deployment.beamlit.com/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "everything"},
    "spec": {
        "model": "llama",
        "enabled": True,
        "environment": "production",
        "takeover": "Auto",
        "modelSourceRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "llama", "namespace": "models"},
        "serviceRef": {"kind": "Service", "name": "llama", "targetPort": 80},
        "metricServiceRef": {"name": "llama-metrics", "namespace": "models", "targetPort": 9090},
        "policies": [{"refType": "localPolicy", "name": "europe"}],
        "serverlessConfig": {
            "minNumReplicas": 0,
            "maxNumReplicas": 10,
            "metric": "rps",
            "target": "10",
            "scaleUpMinimum": 2,
            "scaleDownDelay": "1m",
            "stableWindow": "1m",
            "lastPodRetentionPeriod": "1m",
        },
        "offloadingConfig": {
            "remoteBackends": [
                {
                    "name": "provider",
                    "host": "api.example.com:8443",
                    "scheme": "https",
                    "pathPrefix": "/$workspace/$model",
                    "headersToAdd": {"x-team": "a"},
                    "authConfig": {
                        "type": "oauth",
                        "oauthConfig": {
                            "clientId": "spillway",
                            "clientSecretRef": {"name": "provider", "key": "secret", "namespace": "models"},
                            "tokenUrl": "https://issuer.example.com/oauth/token",
                            "scopes": ["inference"],
                            "audience": "api",
                            "authStyle": "post",
                        },
                    },
                    "tls": {"caRef": {"name": "ca", "key": "ca.crt"}, "sni": "api.example.com"},
                    "weight": 3,
                    "priority": 1,
                    "maxConcurrentRequests": 100,
                    "location": {"name": "eu-par-1", "country": "fr", "continent": "eu"},
                    "flavors": [{"type": "gpu", "name": "t4"}],
                },
                {
                    "name": "second-cluster",
                    "host": "[2001:db8::1]:80",
                    "authConfig": {
                        "type": "apiKey",
                        "apiKeyConfig": {
                            "secretRef": {"name": "second", "key": "key"},
                            "header": "x-api-key",
                            "prefix": "Key ",
                        },
                    },
                },
            ],
            "metrics": [
                {
                    "type": "Resource",
                    "source": "kubernetes",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
                },
                {
                    "type": "ContainerResource",
                    "containerResource": {
                        "name": "memory",
                        "container": "model",
                        "target": {"type": "AverageValue", "averageValue": "2Gi"},
                    },
                },
                {
                    "type": "Pods",
                    "source": "endpoints",
                    "pods": {"metric": _metric("queue"), "target": {"type": "AverageValue", "averageValue": 4}},
                },
                {
                    "type": "Object",
                    "object": {
                        "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "llama"},
                        "metric": _metric("requests"),
                        "target": {"type": "Value", "value": "500m"},
                    },
                },
                {
                    "type": "External",
                    "source": "prometheus",
                    "external": {
                        "metric": _metric("vllm:num_requests_waiting"),
                        "target": {"type": "Value", "value": "1e3"},
                    },
                },
            ],
            "behavior": {
                "percentage": 80,
                "strategy": "Proportional",
                "activationSeconds": 0,
                "bufferSeconds": 12.5,
                "maxStepPercentage": 10,
                "intervalSeconds": 5,
                "metricScope": "Total",
                "staleSeconds": 30,
                "onMetricsUnavailable": "Local",
                "mode": "DryRun",
            },
            "localLimit": {"maxConcurrentRequestsPerReplica": 16},
            "sessionAffinity": {"header": "x-session"},
            "retry": {"attempts": 0, "statusCodes": [429, 503]},
        },
    },
}


def paths(value: object, at: Path = ()) -> Iterator[Path]:
    """Where there is something in a manifest: mappings, lists, and what they hold."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, each in value.items():
            yield from paths(each, (*at, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from paths(each, (*at, index))


def changed(manifest: Json, *changes: tuple[Path, object]) -> Json:
    """A copy with other values at some paths; ABSENT takes one out. A change below what is not there does nothing."""
    made = deepcopy(manifest)
    for path, value in changes:
        try:
            at: Any = made
            for part in path[:-1]:
                at = at[part]
            if value is ABSENT:
                del at[path[-1]]
            else:
                at[path[-1]] = value
        except (IndexError, KeyError, TypeError):
            pass
    return made
