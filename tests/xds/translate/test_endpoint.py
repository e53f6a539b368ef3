"""Endpoints, joined from pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protos.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from xds import ir
from xds.translate.endpoint import encoded_assignment

ADDRESSES = st.sampled_from(("10.0.0.1", "fd00::1", "models.example.com"))
ENDPOINTS = st.builds(ir.Endpoint, ADDRESSES, st.integers(1, 65_535))


@given(st.text("abc/-", min_size=1, max_size=300), st.lists(ENDPOINTS, max_size=200))
def test_the_pieces_are_what_protobuf_makes_of_the_whole(cluster: str, endpoints: list[ir.Endpoint]) -> None:
    whole = ClusterLoadAssignment(cluster_name=cluster)
    if endpoints:
        locality = whole.endpoints.add()
        for each in endpoints:
            address = locality.lb_endpoints.add().endpoint.address.socket_address
            address.address, address.port_value = each.address, each.port
    assert encoded_assignment(cluster, endpoints) == whole.SerializeToString(deterministic=True)
