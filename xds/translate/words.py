"""Pure: the words that the two stages of a gateway say to each other, and small builders that every noun uses.

The metadata of a model's route (stage 1, `choose`) says what each of its destinations is. A gate writes what its own
destination is into request headers, which `deliver` (stage 2) follows and removes. Their names begin with
`x-spillway-`, and the front removes what callers send under that prefix. Every header that goes from stage to stage
costs a request 2 % of Envoy's work, which is why only one destination's do.

Messages kept at module level are templates. They are copied (assigning a message into another one copies it) and never
changed.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from protos.envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from protos.envoy.config.core.v3.base_pb2 import HeaderValueOption
from protos.envoy.config.core.v3.config_source_pb2 import ConfigSource
from protos.envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from protos.envoy.extensions.common.matching.v3.extension_matcher_pb2 import ExtensionWithMatcher
from protos.envoy.extensions.filters.common.matcher.action.v3.skip_action_pb2 import SkipFilter
from protos.envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from protos.envoy.extensions.filters.http.upstream_codec.v3.upstream_codec_pb2 import UpstreamCodec
from protos.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from protos.xds.type.matcher.v3.matcher_pb2 import Matcher

Predicate = Matcher.MatcherList.Predicate

PREFIX = "x-spillway-"
CLUSTER = PREFIX + "cluster"
"""Request, gate -> deliver: the cluster of this attempt."""
HOST = PREFIX + "host"
"""Request, gate -> deliver: the Host that the remote is addressed by."""
PATH_PREFIX = PREFIX + "prefix"
"""Request, gate -> deliver: what the remote has before each path."""
REQUEST_HEADERS = (CLUSTER, HOST, PATH_PREFIX)
FAILURE = PREFIX + "failure"
"""Response, deliver -> choose: Envoy itself answered, so no byte of an answer was sent and another destination may."""
DESTINATION = PREFIX + "destination"
"""Response, gate -> caller: the destination that served."""

DELIVER_LOCAL = "deliver-local"
DELIVER_REMOTE = "deliver-remote"
"""The internal listeners of stage 2, and their route tables."""

DESTINATIONS = "destinations"
"""Namespace of a route's metadata: slot -> what it is for this model, a value for each of REQUEST_HEADERS."""

ERRORS = PREFIX + "errors"
"""Namespace of dynamic metadata: why an attempt was not a success, by destination. Only the access log reads it."""


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
    return formatted(header, value.replace("%", "%%"))


def formatted(header: str, command: str) -> HeaderValueOption:
    """Set a header to what Envoy's formatter makes of `command`, empty or not."""
    return HeaderValueOption(
        header={"key": header, "value": command},
        append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        keep_empty_value=True,
    )


def destination(slot: str, header: str) -> str:
    """The command that gives what a route's metadata has for this slot and header."""
    return f"%METADATA(ROUTE:{DESTINATIONS}:{slot}:{header})%"


def removed(headers: Iterable[str]) -> list[HeaderMutation]:
    return [HeaderMutation(remove=header) for header in headers]


def mutate_headers(
    name: str, request: list[HeaderMutation] | None = None, response: list[HeaderMutation] | None = None
) -> HttpFilter:
    mutations = {"request_mutations": request or [], "response_mutations": response or []}
    return http_filter(name, header_mutation_pb2.HeaderMutation(mutations=mutations))


def matches(value: Message, regex: str) -> Predicate:
    """Of a matcher: whether `value`, one of Envoy's inputs for matching, is there and the regex fits all of it."""
    return Predicate(
        single_predicate={
            "input": {"name": "value", "typed_config": packed(value)},
            "value_match": {"safe_regex": {"google_re2": {}, "regex": regex}},
        }
    )


def skipped(filter_: HttpFilter, *, where: Predicate) -> HttpFilter:
    """A filter that is passed by where the predicate holds: Lua that only finds that there is nothing to do costs a
    request 3 % of Envoy's work.
    """
    skip = Matcher.OnMatch(action={"name": "skip", "typed_config": packed(SkipFilter())})
    delegate = ExtensionWithMatcher(
        xds_matcher={"matcher_list": {"matchers": [{"predicate": where, "on_match": skip}]}},
        extension_config={"name": filter_.name, "typed_config": filter_.typed_config},
    )
    return http_filter(filter_.name, delegate)


ADS = ConfigSource(ads={}, resource_api_version="V3")
"""Everything that a gateway subscribes to comes over the one aggregated stream."""

UPSTREAM_CODEC = http_filter("codec", UpstreamCodec())
"""What every chain of upstream filters ends with."""
