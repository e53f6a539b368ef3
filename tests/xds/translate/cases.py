"""The golden cases: what each file in testdata/in asks for, and the resources that it becomes.

A file may have `routes`, `secrets`, `limits` (route name -> limit), and `gateway`, whose presence asks for what a
gateway has without any model.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from xds import ir
from xds.snapshot import Resource
from xds.translate import (
    Gateway,
    backend_resource,
    gateway_resources,
    limit_layer,
    limits_resource,
    route_resources,
    secret_resource,
)

TESTDATA = Path(__file__).parent / "testdata"
INPUTS = sorted((TESTDATA / "in").glob("*.yaml"))


def routes(path: Path) -> tuple[ir.Route, ...]:
    return TypeAdapter(tuple[ir.Route, ...]).validate_python(_read(path).get("routes", []))


def resources(path: Path) -> tuple[Resource, ...]:
    """All that a gateway with these models is sent, without repetition."""
    asked = _read(path)
    gateway = TypeAdapter(Gateway).validate_python(asked.get("gateway", {}))
    result = list(gateway_resources(gateway)) if "gateway" in asked else []
    models = routes(path)
    backends = dict.fromkeys(remote.backend for model in models for remote in model.remotes)
    result += [backend_resource(backend, gateway) for backend in backends]
    for model in models:
        result += route_resources(model, gateway)
    result += [secret_resource(secret) for secret in _secrets(asked)]
    layers: dict[int, dict[str, int]] = defaultdict(dict)
    for name, limit in asked.get("limits", {}).items():
        layers[limit_layer(name)][name] = limit
    result += [limits_resource(layer, limits) for layer, limits in sorted(layers.items())]
    return tuple(result)


def _secrets(asked: dict[str, Any]) -> tuple[ir.Secret, ...]:
    return TypeAdapter(tuple[ir.Secret, ...]).validate_python(asked.get("secrets", []))


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content
