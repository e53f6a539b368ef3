"""Pure: what a gateway is sent, as resources that are encoded once and versioned by their content."""

from __future__ import annotations

from dataclasses import dataclass

import xxhash
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

_TYPE = "type.googleapis.com/"
CLUSTER = _TYPE + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = _TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = _TYPE + "envoy.config.listener.v3.Listener"
ROUTE = _TYPE + "envoy.config.route.v3.RouteConfiguration"
SCOPED_ROUTE = _TYPE + "envoy.config.route.v3.ScopedRouteConfiguration"
SECRET = _TYPE + "envoy.extensions.transport_sockets.tls.v3.Secret"
RUNTIME = _TYPE + "envoy.service.runtime.v3.Runtime"


@dataclass(frozen=True, slots=True)
class Resource:
    """One xDS resource. `body`: a serialized google.protobuf.Any; `version`: hash of it; `refs`: (type_url, name) of
    the resources that this one needs to exist.
    """

    type_url: str
    name: str
    version: str
    body: bytes
    refs: tuple[tuple[str, str], ...] = ()


def resource(type_url: str, name: str, message: Message, refs: tuple[tuple[str, str], ...] = ()) -> Resource:
    """Packs a message; equal messages give equal bytes and versions."""
    body = Any(type_url=type_url, value=message.SerializeToString(deterministic=True)).SerializeToString()
    return Resource(type_url, name, xxhash.xxh3_64_hexdigest(body), body, refs)
