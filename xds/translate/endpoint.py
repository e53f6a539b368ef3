"""Pure: addresses and a model's endpoints, as Envoy's ClusterLoadAssignment."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from protos.envoy.config.core.v3.address_pb2 import Address
from protos.envoy.config.endpoint.v3.endpoint_components_pb2 import LocalityLbEndpoints
from protos.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from xds import ir
from xds.snapshot import bytes_field, text_field


def address_of(address: str, port: int) -> Address:
    """`address` is an IP literal, or a name where Envoy resolves names."""
    return Address(socket_address={"address": address, "port_value": port})


def load_assignment(cluster: str, endpoints: Iterable[ir.Endpoint]) -> ClusterLoadAssignment:
    """The endpoints of a cluster in one locality. None at all: attempts fail at once and go elsewhere."""
    return ClusterLoadAssignment.FromString(encoded_assignment(cluster, endpoints))


def encoded_assignment(cluster: str, endpoints: Iterable[ir.Endpoint]) -> bytes:
    """As `load_assignment`, serialized.

    One endpoint changes at a time, so it is joined from what was made of the others before: messages that stand one
    after the other are one message.
    """
    name = text_field(ClusterLoadAssignment.CLUSTER_NAME_FIELD_NUMBER, cluster)
    hosts = b"".join(_host(each.address, each.port) for each in endpoints)
    return name + bytes_field(ClusterLoadAssignment.ENDPOINTS_FIELD_NUMBER, hosts) if hosts else name


@lru_cache(maxsize=65_536)
def _host(address: str, port: int) -> bytes:
    """A locality with this endpoint alone."""
    locality = LocalityLbEndpoints()
    locality.lb_endpoints.add().endpoint.address.CopyFrom(address_of(address, port))
    return locality.SerializeToString(deterministic=True)
