"""Pure: limits that deviate from those that the clusters were created with, as layers of Envoy's runtime (RTDS).

Envoy reads `circuit_breakers.<cluster>.default.max_requests` at each request, so a limit changes without touching the
cluster, whose connections and counters live on. Every change makes Envoy merge all keys of the layer again (0.6-0.85 ms
for 1,000), so the routes are spread over `LAYERS` layers, which the bootstrap names.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import xxhash
from google.protobuf.struct_pb2 import Struct

from protos.envoy.service.runtime.v3.rtds_pb2 import Runtime
from xds.snapshot import bytes_field, text_field
from xds.translate.cluster import local_cluster_name

LAYERS = 8


def layer_of(route: str) -> int:
    """The layer that holds a route's limit, 0 to `LAYERS` - 1; always the same one, in every process."""
    return xxhash.xxh3_64_intdigest(route.encode()) % LAYERS


def layer_name(layer: int) -> str:
    return f"limits-{layer}"


LENT, BORROWED = "lent", "borrowed"
"""The layers of a gateway's own, over those that all have: the last one of them that has a key is in force."""


def layer(name: str, limits: Mapping[str, int]) -> bytes:
    """A Runtime, serialized. `limits`: route name -> concurrent requests. A limit of 0 also lets none wait for a
    connection.

    One limit changes at a time, so it is joined from what was made of the others before: messages that stand one after
    the other are one message.
    """
    fields = b"".join(_thresholds(route, limits[route]) for route in sorted(limits))
    return text_field(Runtime.NAME_FIELD_NUMBER, name) + bytes_field(Runtime.LAYER_FIELD_NUMBER, fields)


@lru_cache(maxsize=16_384)
def _thresholds(route: str, limit: int) -> bytes:
    """A Struct with the keys of one route."""
    thresholds = f"circuit_breakers.{local_cluster_name(route)}.default"
    struct = Struct()
    struct.fields[f"{thresholds}.max_requests"].number_value = limit
    if limit == 0:
        struct.fields[f"{thresholds}.max_pending_requests"].number_value = 0
    return struct.SerializeToString(deterministic=True)
