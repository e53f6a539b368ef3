"""Pure: the words that the two stages of a gateway say to each other, and small builders that every noun uses.

`choose` (stage 1) tells `deliver` (stage 2) in request headers what each destination of the model is; a gate between
them stamps which destination this attempt is for. All such headers begin with `x-spillway-`: the front removes what
callers send under that prefix, and stage 2 removes ours before a request leaves the gateway.

Messages kept at module level are templates. They are copied (assigning a message into another one copies it) and never
changed.
"""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from protos.envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from protos.envoy.config.core.v3.base_pb2 import HeaderValueOption
from protos.envoy.config.core.v3.config_source_pb2 import ConfigSource
from protos.envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from protos.envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from protos.envoy.extensions.filters.http.upstream_codec.v3.upstream_codec_pb2 import UpstreamCodec
from protos.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

PREFIX = "x-spillway-"
SLOT = PREFIX + "slot"
"""Request, gate -> deliver: which destination this attempt is for."""
LOCAL_CLUSTER = PREFIX + "local"
"""Request, choose -> deliver: the model's local cluster."""
FAILURE = PREFIX + "failure"
"""Response, deliver -> choose: Envoy itself answered, so no byte of an answer was sent and another destination may."""
DESTINATION = PREFIX + "destination"
"""Response, gate -> caller: the destination that served."""

DELIVER = "deliver"
"""The internal listener of stage 2, and its route table."""

ERRORS = PREFIX + "errors"
"""Namespace of dynamic metadata: why an attempt was not a success, by destination. Only the access log reads it."""


def cluster_header(remote: int) -> str:
    """The request header that names the cluster of a model's remote."""
    return f"{PREFIX}cluster-{remote}"


def host_header(remote: int) -> str:
    """The request header with the Host that a model's remote is addressed by."""
    return f"{PREFIX}host-{remote}"


def prefix_header(remote: int) -> str:
    """The request header with the path prefix of a model's remote."""
    return f"{PREFIX}prefix-{remote}"


def packed(message: Message) -> Any:
    """A message as Any; equal messages give equal bytes."""
    result = Any()
    result.Pack(message, deterministic=True)
    return result


def extension(name: str, message: Message) -> TypedExtensionConfig:
    return TypedExtensionConfig(name=name, typed_config=packed(message))


def http_filter(name: str, message: Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=packed(message))


def overwrite(header: str, value: str) -> HeaderValueOption:
    """Set a header to this very text, empty or not: a per cent sign is not a command of Envoy's formatter."""
    return HeaderValueOption(
        header={"key": header, "value": value.replace("%", "%%")},
        append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        keep_empty_value=not value,
    )


def without_prefix(prefix: str) -> HeaderMutation:
    """Remove all headers that begin with `prefix`."""
    return HeaderMutation(remove_on_match={"key_matcher": {"prefix": prefix}})


def mutate_headers(
    name: str, request: list[HeaderMutation] | None = None, response: list[HeaderMutation] | None = None
) -> HttpFilter:
    mutations = {"request_mutations": request or [], "response_mutations": response or []}
    return http_filter(name, header_mutation_pb2.HeaderMutation(mutations=mutations))


ADS = ConfigSource(ads={}, resource_api_version="V3")
"""Everything that a gateway subscribes to comes over the one aggregated stream."""

UPSTREAM_CODEC = http_filter("codec", UpstreamCodec())
"""What every chain of upstream filters ends with."""
