"""Pure: the directory that the demo's controller runs on: as a user would write it, with this run's addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.demo.scenario import MODEL, Scenario

NAMESPACE = "demo"
SERVICE = "chat"
HOST = f"{SERVICE}.{NAMESPACE}.svc.cluster.local"
"""What callers ask for: the Service's own name."""
REMOTE_NAME = "remote.spillway.test"
CLIENT_ID = "spillway-demo"
SCOPE = "inference"
PREFIX = "/tenants/$workspace/models/$model"
METRIC = "vllm:num_requests_running"

Manifest = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class World:
    """Where the simulated outside is. `ca_pem`: the authority of the remote's certificate. `dns`: 'host:port'."""

    local_port: int
    remote_port: int
    dns: str
    token_url: str
    ca_pem: str


def remote_path_prefix() -> str:
    """`PREFIX` as the remote sees it. Without a configured workspace, the namespace stands for it."""
    return PREFIX.replace("$workspace", NAMESPACE).replace("$model", MODEL)


def config(world: World) -> Manifest:
    """config.yaml: metrics are read from the model's own endpoints, names are looked up at the demo's DNS server."""
    return {"metricInformer": {"type": "endpoints"}, "gateway": {"dnsResolvers": [world.dns]}}


def manifests(world: World, scenario: Scenario, client_secret: str) -> tuple[Manifest, ...]:
    """Everything in the directory."""
    return (
        _model(world, scenario),
        _object("v1", "Service", SERVICE, spec={"ports": [{"name": "http", "port": 80, "targetPort": "http"}]}),
        _object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            f"{SERVICE}-1",
            labels={"kubernetes.io/service-name": SERVICE},
            addressType="IPv4",
            ports=[{"name": "http", "port": world.local_port, "protocol": "TCP"}],
            endpoints=[{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        ),
        _object("v1", "Secret", "remote-login", stringData={"client-secret": client_secret}),
        _object("v1", "Secret", "remote-ca", stringData={"ca.crt": world.ca_pem}),
    )


def _model(world: World, scenario: Scenario) -> Manifest:
    return _object(
        "deployment.beamlit.com/v1alpha1",
        "ModelDeployment",
        SERVICE,
        spec={
            "model": MODEL,
            "modelSourceRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": SERVICE},
            "serviceRef": {"name": SERVICE, "targetPort": 80},
            "offloadingConfig": {
                "metrics": [_metric(scenario)],
                "localLimit": {"maxConcurrentRequestsPerReplica": scenario.slots},
                "behavior": {
                    "strategy": "Proportional",
                    "percentage": scenario.percentage,
                    "activationSeconds": scenario.activation_s,
                    "bufferSeconds": scenario.buffer_s,
                    "intervalSeconds": scenario.interval_s,
                    "maxStepPercentage": scenario.max_step_percentage,
                },
                "remoteBackend": _remote(world),
            },
        },
    )


def _metric(scenario: Scenario) -> Manifest:
    return {
        "type": "Pods",
        "pods": {
            "metric": {"name": METRIC, "selector": {"matchLabels": {"model_name": MODEL}}},
            "target": {"type": "AverageValue", "averageValue": str(scenario.target)},
        },
    }


def _remote(world: World) -> Manifest:
    return {
        "host": f"{REMOTE_NAME}:{world.remote_port}",
        "scheme": "https",
        "pathPrefix": PREFIX,
        "tls": {"caRef": {"name": "remote-ca", "key": "ca.crt"}},
        "authConfig": {
            "type": "oauth",
            "oauthConfig": {
                "clientId": CLIENT_ID,
                "clientSecretRef": {"name": "remote-login", "key": "client-secret"},
                "tokenUrl": world.token_url,
                "scopes": [SCOPE],
            },
        },
    }


def _object(
    api_version: str, kind: str, name: str, labels: Mapping[str, str] | None = None, **rest: object
) -> Manifest:
    metadata = {"name": name, "namespace": NAMESPACE, **({"labels": dict(labels)} if labels else {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}
