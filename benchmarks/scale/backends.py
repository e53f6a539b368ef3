"""Two model servers that answer at once: listeners of an Envoy of their own, so that they take next to no CPU."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.envoy import running

NAMES = ("local", "remote")
EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"
Address = tuple[str, int]


@asynccontextmanager
async def backends(directory: Path) -> AsyncIterator[tuple[Address, Address]]:
    """The addresses of the local and the remote one. Both answer 200 with no body."""
    configuration = {
        "admin": {"address": _address()},
        "static_resources": {"listeners": [_listener(name) for name in NAMES]},
    }
    async with running(directory, json.dumps(configuration)) as envoy:
        local, remote = [await envoy.listener(name) for name in NAMES]
        yield local, remote


def _listener(name: str) -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": f"{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{EXTENSIONS}.http.router.v3.Router"},
            }
        ],
    }
    return {
        "name": name,
        "address": _address(),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _address() -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
