"""Pure: the listeners of a gateway. Callers arrive at `front`, where the Host says which model they mean, or at a
model's own port, where nothing but the port does. The internal ones are those of stage 2.

Wherever callers arrive, headers that claim to be ours are removed, and a line of JSON is logged for each request, with
the attempts that failed before the one that answered, and never a query string or a credential.

**A model's own replicas get a request as its caller wrote it**: path, query, body and, at the model's own port, the
Host too. What is added is an address to X-Forwarded-For and, where they are absent, X-Forwarded-Proto and X-Request-Id.
Whoever called a Service before the gateway stood in its place finds it as it was.

**A remote gets a path that cannot climb out of the prefix** that stands before it there. It is normalised on the way
out only, in `deliver-remote`. One that might be read as climbing even so (`/..%2fadmin`) is refused there, which is a
failed attempt: the request goes elsewhere. Other escaped slashes stay: there are models with one in their name.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.any_pb2 import Any

from protos.envoy.config.accesslog.v3.accesslog_pb2 import AccessLog, AccessLogFilter
from protos.envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from protos.envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from protos.envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from protos.envoy.config.listener.v3.listener_pb2 import Listener
from protos.envoy.config.route.v3.route_pb2 import RouteConfiguration
from protos.envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from protos.envoy.extensions.access_loggers.stream.v3.stream_pb2 import StdoutAccessLog
from protos.envoy.extensions.filters.http.lua.v3.lua_pb2 import Lua
from protos.envoy.extensions.filters.http.router.v3.router_pb2 import Router
from protos.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    ResponseMapper,
)
from protos.envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation as EarlyHeaderMutation,
)
from protos.envoy.type.matcher.v3.http_inputs_pb2 import HttpRequestHeaderMatchInput
from xds import ir
from xds.translate import words
from xds.translate.endpoint import address_of
from xds.translate.route import choose_name
from xds.translate.route import deliver_local as deliver_local_routes
from xds.translate.route import deliver_remote as deliver_remote_routes

FRONT = "front"

STDOUT = "/dev/stdout"

LOWER_CASE_HOST = """\
function envoy_on_request(handle)
  local headers = handle:headers()
  headers:replace(":authority", headers:get(":authority"):lower())
end
"""
"""Scopes match exactly, and Envoy has no other way to fold the case of a Host."""

ACCESS_LOG_FIELDS = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "model": "%ROUTE_NAME%",
    "host": "%REQ(:authority)%",
    "method": "%REQ(:method)%",
    "path": "%PATH(NQ)%",
    "protocol": "%PROTOCOL%",
    "destination": "%UPSTREAM_CLUSTER_RAW%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "errors": f"%DYNAMIC_METADATA({words.ERRORS})%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    "request_bytes": "%BYTES_RECEIVED%",
    "response_bytes": "%BYTES_SENT%",
    "request_id": "%REQ(x-request-id)%",
}


@dataclass(frozen=True, slots=True)
class Gateway:
    """What all gateways have in common, whatever the models."""

    address: str = "127.0.0.1"
    """Where callers arrive; `::` takes IPv4 as well."""
    port: int = 8080
    """Where callers of all models do; 0 takes a free port."""
    access_log_path: str = STDOUT
    max_request_bytes: int = 16 * 1024 * 1024
    """Bodies up to this size can be sent again, to another destination; of a longer one there is one attempt."""
    stream_idle_timeout_s: int = 3600
    """How long a stream may be silent in both directions. Inference may be, for minutes."""
    dns_resolvers: tuple[ir.Endpoint, ...] = ()
    """Who is asked for the names of remotes; none: whom the gateway's system asks."""
    system_ca_path: str = "/etc/ssl/certs/ca-certificates.crt"
    """Where the gateway's machine keeps the authorities that judge remotes without one of their own."""


def front(gateway: Gateway) -> Listener:
    """Where callers of all models arrive. The Host's scope (SRDS) names the route."""
    manager = _callers(gateway)
    manager.MergeFrom(
        HttpConnectionManager(
            scoped_routes={
                "name": FRONT,
                "scope_key_builder": {
                    "fragments": [{"header_value_extractor": {"name": ":authority", "index": 0}}],
                },
                "rds_config_source": words.ADS,
                "scoped_rds": {"scoped_rds_config_source": words.ADS},
            },
            strip_any_host_port=True,
            strip_trailing_host_dot=True,
            local_reply_config={"mappers": [_unknown_host()]},
            http_filters=[_lower_case_host(), _router()],
        )
    )
    return _listener(FRONT, gateway.port, manager, gateway)


def own_name(port: int) -> str:
    """The listener of a model's own port. It is called by the port, which may pass from model to model."""
    return f"port-{port}"


def own(route: str, port: int, gateway: Gateway) -> Listener:
    """Where callers of one model arrive, whatever Host they name, or none, as HTTP/1.0 may.

    Who sends them on is believed what it says of its own callers (X-Forwarded-Proto), as the model did before.
    """
    manager = _callers(gateway)
    manager.MergeFrom(
        HttpConnectionManager(
            rds={"route_config_name": choose_name(route), "config_source": words.ADS},
            http_protocol_options={"accept_http_10": True, "default_host_for_http_10": "localhost"},
            xff_num_trusted_hops=1,
            local_reply_config={"mappers": [_not_configured(route)]},
            http_filters=[_router()],
        )
    )
    return _listener(own_name(port), port, manager, gateway)


def deliver_local() -> Listener:
    """Attempts at models' own endpoints."""
    return _deliver(words.DELIVER_LOCAL, deliver_local_routes(), count_status_codes=False)


def deliver_remote() -> Listener:
    """Attempts at remotes. Load reports count an answer of 5xx as failed only along with the statistics by code."""
    return _deliver(words.DELIVER_REMOTE, deliver_remote_routes(), count_status_codes=True, normalize_path=True)


def _deliver(
    name: str, routes: RouteConfiguration, *, count_status_codes: bool, normalize_path: bool = False
) -> Listener:
    """One attempt is one request here. Envoy's own replies are marked as failures, which stage 1 may try elsewhere.

    A silent stream is the front's to end: if it were ended here, that would be a failure, and tried again.
    """
    manager = _connection_manager(name, stream_idle_timeout_s=0)
    manager.MergeFrom(
        HttpConnectionManager(
            route_config=routes,
            generate_request_id={"value": False},
            skip_xff_append=True,
            normalize_path={"value": normalize_path},
            local_reply_config={"mappers": _failures()},
            http_filters=[_router(count_status_codes=count_status_codes)],
        )
    )
    listener = Listener(name=name, internal_listener={})
    listener.filter_chains.add().filters.add(name="http", typed_config=words.packed(manager))
    return listener


def _connection_manager(name: str, stream_idle_timeout_s: int) -> HttpConnectionManager:
    return HttpConnectionManager(
        stat_prefix=name,
        server_header_transformation=HttpConnectionManager.PASS_THROUGH,
        upgrade_configs=[{"upgrade_type": "websocket"}],
        stream_idle_timeout={"seconds": stream_idle_timeout_s},
    )


def _callers(gateway: Gateway) -> HttpConnectionManager:
    """HTTP/1.1 and cleartext HTTP/2, WebSocket too."""
    manager = _connection_manager(FRONT, gateway.stream_idle_timeout_s)
    manager.MergeFrom(
        HttpConnectionManager(
            use_remote_address={"value": True},
            preserve_external_request_id=True,
            request_headers_timeout={"seconds": 30},
            access_log=[_access_log(gateway.access_log_path)],
            early_header_mutation_extensions=[_strip(words.PREFIX, "x-envoy-")],
        )
    )
    return manager


def _listener(name: str, port: int, manager: HttpConnectionManager, gateway: Gateway) -> Listener:
    listener = Listener(name=name, address=address_of(gateway.address, port))
    listener.address.socket_address.ipv4_compat = gateway.address == "::"
    listener.per_connection_buffer_limit_bytes.value = gateway.max_request_bytes
    listener.filter_chains.add().filters.add(name="http", typed_config=words.packed(manager))
    return listener


def _router(*, count_status_codes: bool = False) -> HttpFilter:
    """Where callers arrive, statistics by status code would be those of gates, which nobody reads."""
    router = Router(suppress_envoy_headers=True, dynamic_stats={"value": count_status_codes})
    return words.http_filter("router", router)


def _strip(*prefixes: str) -> TypedExtensionConfig:
    """Removes all headers that begin so. Envoy itself adds some of `x-envoy-` later, which gates remove."""
    mutations = [HeaderMutation(remove_on_match={"key_matcher": {"prefix": prefix}}) for prefix in prefixes]
    return words.extension("strip", EarlyHeaderMutation(mutations=mutations))


def _lower_case_host() -> HttpFilter:
    lua = Lua(default_source_code={"inline_string": LOWER_CASE_HOST})
    lower_case = words.matches(HttpRequestHeaderMatchInput(header_name=":authority"), "[^A-Z]*")
    return words.skipped(words.http_filter("host", lua), where=lower_case)


def _error(code: str, message: str) -> SubstitutionFormatString:
    """A body in the form that clients of model servers know. Envoy escapes what it puts in."""
    body = SubstitutionFormatString()
    error = body.json_format.fields["error"].struct_value
    error.fields["code"].string_value = code
    error.fields["message"].string_value = message
    return body


def _unknown_host() -> ResponseMapper:
    return ResponseMapper(
        filter={"response_flag_filter": {"flags": ["NR"]}},
        status_code={"value": 404},
        body_format_override=_error("unknown_host", "no model is served under the host '%REQ(:authority)%'"),
    )


def _not_configured(route: str) -> ResponseMapper:
    message = f"the gateway has not been told where model {route} is served".replace("%", "%%")
    return ResponseMapper(
        filter={"response_flag_filter": {"flags": ["NR"]}},
        status_code={"value": 503},
        body_format_override=_error("not_configured", message),
    )


def _failures() -> list[ResponseMapper]:
    """A missing credential is our lack, not the caller's: 503, where Envoy says 401."""
    marked = ResponseMapper(body_format_override=_error("destination_failed", "%LOCAL_REPLY_BODY%"))
    marked.headers_to_add.add(
        header={"key": words.FAILURE, "value": "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%"},
        append_action="OVERWRITE_IF_EXISTS_OR_ADD",
    )
    unauthorized = ResponseMapper(filter=_status("EQ", 401), status_code={"value": 503})
    unauthorized.MergeFrom(marked)
    marked.filter.CopyFrom(_status("GE", 100))
    return [unauthorized, marked]


def _status(op: str, code: int) -> AccessLogFilter:
    """Envoy wants a runtime key too; nobody sets it."""
    value = {"default_value": code, "runtime_key": "spillway.unset"}
    return AccessLogFilter(status_code_filter={"comparison": {"op": op, "value": value}})


def _access_log(path: str) -> AccessLog:
    log_format = SubstitutionFormatString()
    for name, command in ACCESS_LOG_FIELDS.items():
        log_format.json_format.fields[name].string_value = command
    log: Any
    if path == STDOUT:
        log = words.packed(StdoutAccessLog(log_format=log_format))
    else:
        log = words.packed(FileAccessLog(path=path, log_format=log_format))
    return AccessLog(name="requests", typed_config=log)
