"""Pure: addresses and a model's endpoints, as Envoy's ClusterLoadAssignment."""

from __future__ import annotations

from collections.abc import Iterable

from protos.envoy.config.core.v3.address_pb2 import Address
from protos.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from xds import ir


def address_of(address: str, port: int) -> Address:
    """`address` is an IP literal, or a name where Envoy resolves names."""
    return Address(socket_address={"address": address, "port_value": port})


def load_assignment(cluster: str, endpoints: Iterable[ir.Endpoint]) -> ClusterLoadAssignment:
    """The endpoints of a cluster in one locality. None at all: attempts fail at once and go elsewhere."""
    assignment = ClusterLoadAssignment(cluster_name=cluster)
    hosts = [{"endpoint": {"address": address_of(each.address, each.port)}} for each in endpoints]
    if hosts:
        assignment.endpoints.add(lb_endpoints=hosts)
    return assignment
