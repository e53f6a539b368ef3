"""Resources as readable data, and as one static bootstrap that `envoy --mode validate` judges without a control plane.

Envoy loads a static listener with its routes inline and takes secrets and endpoints from the file; the configuration is
the same otherwise, down to each filter.
"""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import MessageToJson

from protos.envoy.config.bootstrap.v3 import bootstrap_pb2  # noqa: F401  (registers what resources are made of)
from tests.support.binaries import envoy_path
from xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, RUNTIME, SCOPED_ROUTE, SECRET, Resource

Object = dict[str, Any]


def decoded(resource: Resource) -> Object:
    """The resource as Envoy's configuration language has it, with `@type`s only inside."""
    message = AnyMessage.FromString(resource.body)
    fields: Object = json.loads(MessageToJson(message, preserving_proto_field_name=True))
    assert fields.pop("@type") == resource.type_url
    return fields


def bootstrap(resources: Iterable[Resource]) -> Object:
    """One bootstrap with all of these; resources of one name must be equal, as they must for a gateway."""
    by_type: dict[str, dict[str, Object]] = {}
    for resource in resources:
        by_type.setdefault(resource.type_url, {})[resource.name] = decoded(resource)
    endpoints = by_type.get(ENDPOINTS, {})
    return {
        "node": {"id": "gateway", "cluster": "spillway"},
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
                },
            }
        ],
        "static_resources": {
            "clusters": [
                _without_ads(_with_endpoints(cluster, endpoints)) for cluster in by_type.get(CLUSTER, {}).values()
            ],
            "listeners": [_with_routes(listener, by_type) for listener in by_type.get(LISTENER, {}).values()],
            "secrets": list(by_type.get(SECRET, {}).values()),
        },
        "layered_runtime": {
            "layers": [
                {"name": name, "static_layer": layer.get("layer", {})}
                for name, layer in by_type.get(RUNTIME, {}).items()
            ]
        },
    }


def validate(bootstrap: Object, file: Path) -> str:
    """What Envoy has against it; empty if nothing."""
    file.write_text(json.dumps(bootstrap))
    command = [str(envoy_path()), "--mode", "validate", "--config-path", str(file), "--log-level", "warning"]
    result = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False)
    words = [line for line in result.stderr.splitlines() if "[warning]" in line or "[error]" in line]
    return "" if result.returncode == 0 and not words else result.stdout + result.stderr


def _with_endpoints(cluster: Object, endpoints: dict[str, Object]) -> Object:
    if cluster.get("type") != "EDS":
        return cluster
    cluster = {key: value for key, value in cluster.items() if key != "eds_cluster_config"}
    return cluster | {"type": "STATIC", "load_assignment": endpoints[cluster["name"]]}


def _without_ads(value: Any) -> Any:
    """Secrets are looked up by name among the static ones when nothing says where else they are."""
    if isinstance(value, dict):
        return {key: _without_ads(each) for key, each in value.items() if key != "sds_config"}
    return [_without_ads(each) for each in value] if isinstance(value, list) else value


def _with_routes(listener: Object, by_type: dict[str, dict[str, Object]]) -> Object:
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    if "rds" in manager:
        manager["route_config"] = by_type[ROUTE][manager.pop("rds")["route_config_name"]]
    scopes = by_type.get(SCOPED_ROUTE, {}).values()
    if "scoped_routes" in manager and scopes:
        scoped = manager["scoped_routes"]
        del scoped["scoped_rds"], scoped["rds_config_source"]
        scoped["scoped_route_configurations_list"] = {
            "scoped_route_configurations": [
                {
                    "name": scope["name"],
                    "key": scope["key"],
                    "route_configuration": by_type[ROUTE][scope["route_configuration_name"]],
                }
                for scope in scopes
            ]
        }
    return listener
