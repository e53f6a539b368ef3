"""Pure: the three kinds of cluster. Gates lead from stage 1 to stage 2; local clusters and backends are the real ones.

- A *gate* is a destination slot, shared by all models: an internal connection to `deliver`. Everything that can go
  wrong with an attempt happens behind it, so to stage 1 each failure is a response, and may be retried at another gate.
- `local/<model>` has the model's own endpoints (EDS) and its limit as circuit breaker.
- `remote/<address>:<port>/<hash>` is a backend, shared by all models that use it with the same settings. It carries
  what is its own: headers, credential, TLS. Its name is its content, so a changed backend is another cluster, and a
  running one never changes.

Only connections that cannot be made eject a host; an application's own errors never do.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address

import xxhash
from google.protobuf.any_pb2 import Any

from protos.envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from protos.envoy.config.cluster.v3.cluster_pb2 import Cluster, UpstreamConnectionOptions
from protos.envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from protos.envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from protos.envoy.extensions.clusters.common.dns.v3.dns_pb2 import ALL as IPV4_AND_IPV6
from protos.envoy.extensions.clusters.dns.v3.dns_cluster_pb2 import DnsCluster
from protos.envoy.extensions.filters.http.credential_injector.v3.credential_injector_pb2 import CredentialInjector
from protos.envoy.extensions.filters.http.lua.v3.lua_pb2 import Lua
from protos.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from protos.envoy.extensions.http.injected_credentials.generic.v3.generic_pb2 import Generic
from protos.envoy.extensions.network.dns_resolver.cares.v3.cares_dns_resolver_pb2 import CaresDnsResolverConfig
from protos.envoy.extensions.transport_sockets.internal_upstream.v3.internal_upstream_pb2 import (
    InternalUpstreamTransport,
)
from protos.envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from protos.envoy.extensions.transport_sockets.tls.v3.common_pb2 import SubjectAltNameMatcher, TlsParameters
from protos.envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from protos.envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from protos.envoy.type.matcher.v3.http_inputs_pb2 import HttpResponseHeaderMatchInput
from xds import ir
from xds.translate import words
from xds.translate.endpoint import address_of, load_assignment

PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

CLIENT_CREDENTIALS = ("authorization", "proxy-authorization", "cookie", "x-api-key", "api-key")
"""Headers with what a client proves itself by. They do not go to a remote that has a credential of its own."""

ENVOYS_OWN = ("x-envoy-external-address", "x-envoy-internal")
"""Request headers that the front's connection manager adds about the caller; x-forwarded-for says enough."""

BACKEND_PREFIX = "remote/"
LOCAL_PREFIX = "local/"

LOCAL_IDLE_TIMEOUT_S = 4
"""Below the 5 s after which common model servers (uvicorn, Node) close an idle connection: to write on one that is just
being closed is a failed attempt, which would send a request elsewhere for nothing."""

REMOTE_IDLE_TIMEOUT_S = 30
GATE_IDLE_TIMEOUT_S = 300
"""Below the hour after which `deliver` would close the other end."""

TURNS = 32
"""Envoy looks after ejected hosts cluster by cluster, each at its interval, 2 µs each. Thousands that came together and
have one interval hold up everything else at one moment of each second; so intervals differ, by the cluster's name.
"""

NOTE_ERROR = """\
function envoy_on_response(handle)
  local headers = handle:headers()
  local failure = headers:get("%s") or headers:get(":status")
  handle:streamInfo():dynamicMetadata():set("%s", "%s", failure)
end
"""


def gate_names() -> tuple[str, ...]:
    """All slots; a gate is called like its slot."""
    return (ir.LOCAL, *(ir.remote_slot(index) for index in range(ir.MAX_REMOTES)))


def local_cluster_name(route: str) -> str:
    return f"{LOCAL_PREFIX}{route}"


@lru_cache(maxsize=4096)
def backend_cluster_name(backend: ir.Backend) -> str:
    """Equal backends have one name, and a name means one content for ever."""
    return f"{BACKEND_PREFIX}{backend.address}:{backend.port}/{xxhash.xxh3_64_hexdigest(repr(backend).encode())[:8]}"


def gate(slot: str) -> Cluster:
    """Says to stage 2 what the slot is for the request's model, names it to the caller, and notes a failed attempt."""
    cluster = Cluster(
        name=slot,
        type=Cluster.STATIC,
        connect_timeout={"seconds": 1},
        circuit_breakers=_circuit_breakers(ir.UNLIMITED),
        typed_extension_protocol_options={
            PROTOCOL_OPTIONS: words.packed(
                HttpProtocolOptions(
                    common_http_protocol_options={"idle_timeout": {"seconds": GATE_IDLE_TIMEOUT_S}},
                    use_downstream_protocol_config={"http_protocol_options": {}, "http2_protocol_options": {}},
                    http_filters=[_slot_filter(slot), _outcome_filter(slot), words.UPSTREAM_CODEC],
                )
            )
        },
    )
    host = cluster.load_assignment.endpoints.add().lb_endpoints.add()
    host.endpoint.address.envoy_internal_address.server_listener_name = (
        words.DELIVER_LOCAL if slot == ir.LOCAL else words.DELIVER_REMOTE
    )
    cluster.load_assignment.cluster_name = slot
    cluster.transport_socket.name = "internal_upstream"
    cluster.transport_socket.typed_config.CopyFrom(
        words.packed(
            InternalUpstreamTransport(
                transport_socket={"name": "raw_buffer", "typed_config": words.packed(RawBuffer())}
            )
        )
    )
    return cluster


def local(route: str, protocol: ir.Protocol, initial_limit: int) -> Cluster:
    """A model's own endpoints, which come over EDS."""
    cluster = Cluster()
    name = local_cluster_name(route)
    cluster.CopyFrom(_local_template(protocol, _turn(name)))
    cluster.name = name
    cluster.circuit_breakers.thresholds[0].max_requests.value = initial_limit
    _name_statistics(cluster)
    return cluster


def backend(backend: ir.Backend, dns_resolvers: tuple[ir.Endpoint, ...], system_ca_path: str) -> Cluster:
    """A real remote, by DNS name or IP literal. `dns_resolvers` and `system_ca_path` are the gateway's."""
    name = backend_cluster_name(backend)
    cluster = Cluster(
        name=name,
        connect_timeout={"seconds": 3},
        lb_policy=Cluster.LEAST_REQUEST,
        circuit_breakers=_circuit_breakers(backend.limit),
        outlier_detection=_outlier_detection(_turn(name)),
        common_lb_config=_COMMON_LB_CONFIG,
        upstream_connection_options=_KEEPALIVE,
        load_assignment=load_assignment(name, [ir.Endpoint(backend.address, backend.port)]),
        typed_extension_protocol_options={
            PROTOCOL_OPTIONS: _protocol_options(backend.protocol, REMOTE_IDLE_TIMEOUT_S, _backend_filters(backend))
        },
    )
    if _is_ip(backend.address):
        cluster.type = Cluster.STATIC
    else:
        cluster.cluster_type.name = "envoy.clusters.dns"
        cluster.cluster_type.typed_config.CopyFrom(words.packed(_dns_cluster(dns_resolvers)))
    if backend.tls:
        cluster.transport_socket.name = "tls"
        cluster.transport_socket.typed_config.CopyFrom(
            words.packed(_tls_context(backend.tls, backend.protocol, system_ca_path))
        )
    _name_statistics(cluster)
    return cluster


def _name_statistics(cluster: Cluster) -> None:
    """Dots separate the parts of a statistic's name, so its cluster has none."""
    if "." in cluster.name:
        cluster.alt_stat_name = cluster.name.replace(".", "_")


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _circuit_breakers(max_requests: int) -> CircuitBreakers:
    """Only requests are limited. Envoy's defaults for the rest (1024; 3 retries!) would be limits that nobody set."""
    return CircuitBreakers(
        thresholds=[
            {
                "max_requests": {"value": max_requests},
                "max_connections": {"value": ir.UNLIMITED},
                "max_pending_requests": {"value": ir.UNLIMITED},
                "max_retries": {"value": ir.UNLIMITED},
            }
        ]
    )


def _slot_filter(slot: str) -> HttpFilter:
    said = (words.CLUSTER,) if slot == ir.LOCAL else words.REQUEST_HEADERS
    return words.mutate_headers(
        "slot",
        request=[
            *(HeaderMutation(append=words.formatted(name, words.destination(slot, name))) for name in said),
            *words.removed(ENVOYS_OWN),
        ],
        response=[HeaderMutation(append=words.overwrite(words.DESTINATION, slot))],
    )


def _outcome_filter(slot: str) -> HttpFilter:
    """Keeps why an attempt failed for the access log, which itself sees only the last response. (Lua, since Envoy has
    header_to_metadata for downstream filters only.)
    """
    note = Lua(default_source_code={"inline_string": NOTE_ERROR % (words.FAILURE, words.ERRORS, slot)})
    failed = words.matches(HttpResponseHeaderMatchInput(header_name=words.FAILURE), ".*")  # in gRPC with status 200
    no_error = words.matches(HttpResponseHeaderMatchInput(header_name=":status"), "[123].*")
    success = words.Predicate(and_matcher={"predicate": [no_error, {"not_matcher": failed}]})
    return words.skipped(words.http_filter("outcome", note), where=success)


def _protocol_options(protocol: ir.Protocol, idle_timeout_s: int, filters: list[HttpFilter]) -> Any:
    options = HttpProtocolOptions(
        common_http_protocol_options={"idle_timeout": {"seconds": idle_timeout_s}}, http_filters=filters
    )
    http2 = {"connection_keepalive": {"interval": {"seconds": 30}, "timeout": {"seconds": 10}}}
    match protocol:
        case ir.Protocol.HTTP1:
            options.explicit_http_config.http_protocol_options.SetInParent()
        case ir.Protocol.HTTP2:
            options.explicit_http_config.MergeFrom(HttpProtocolOptions.ExplicitHttpConfig(http2_protocol_options=http2))
        case ir.Protocol.AUTO:
            options.auto_config.MergeFrom(
                HttpProtocolOptions.AutoHttpConfig(http_protocol_options={}, http2_protocol_options=http2)
            )
    return words.packed(options)


@lru_cache
def _local_template(protocol: ir.Protocol, turn: int) -> Cluster:
    return Cluster(
        type=Cluster.EDS,
        connect_timeout={"seconds": 1},
        eds_cluster_config={"eds_config": words.ADS},
        lb_policy=Cluster.LEAST_REQUEST,
        circuit_breakers=_circuit_breakers(ir.UNLIMITED),
        outlier_detection=_outlier_detection(turn),
        common_lb_config=_COMMON_LB_CONFIG,
        typed_extension_protocol_options={PROTOCOL_OPTIONS: _protocol_options(protocol, LOCAL_IDLE_TIMEOUT_S, [])},
    )


def _turn(cluster: str) -> int:
    return xxhash.xxh3_64_intdigest(cluster.encode()) % TURNS


def _outlier_detection(turn: int) -> OutlierDetection:
    """Only failed connections count. Each interval Envoy sees which hosts may come back."""
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure={"value": 3},
        enforcing_consecutive_local_origin_failure={"value": 100},
        interval={"seconds": 1, "nanos": turn * 1_000_000_000 // TURNS},
        base_ejection_time={"seconds": 2},
        max_ejection_time={"seconds": 30},
        max_ejection_percent={"value": 100},
        enforcing_consecutive_5xx={"value": 0},
        enforcing_consecutive_gateway_failure={"value": 0},
        enforcing_success_rate={"value": 0},
        enforcing_local_origin_success_rate={"value": 0},
        enforcing_failure_percentage={"value": 0},
        enforcing_failure_percentage_local_origin={"value": 0},
    )


def _backend_filters(backend: ir.Backend) -> list[HttpFilter]:
    """What a request to this backend gets and loses, in order: our headers and the client's credentials out, its own
    headers and credential in.
    """
    own = dict(backend.headers)
    mutations = words.removed(words.REQUEST_HEADERS)
    if backend.credential or not own.keys().isdisjoint(CLIENT_CREDENTIALS):
        header = [backend.credential.header] if backend.credential else []
        mutations += words.removed(dict.fromkeys([*CLIENT_CREDENTIALS, *header]))
    mutations += [HeaderMutation(append=words.overwrite(name, value)) for name, value in backend.headers]
    filters = [words.mutate_headers("headers", request=mutations)]
    if backend.credential:
        filters.append(words.http_filter("credential", _credential_injector(backend.credential)))
    return [*filters, words.UPSTREAM_CODEC]


def _credential_injector(credential: ir.Credential) -> CredentialInjector:
    """Without its secret an attempt fails, and goes elsewhere. It never goes on with no credential, or the client's."""
    return CredentialInjector(
        overwrite=True,
        credential=words.extension(
            "generic",
            Generic(
                credential={"name": credential.secret, "sds_config": words.ADS},
                header=credential.header,
                header_value_prefix=credential.value_prefix,
            ),
        ),
    )


def _tls_context(tls: ir.Tls, protocol: ir.Protocol, system_ca_path: str) -> UpstreamTlsContext:
    """The peer must hold a certificate for `san` by a trusted authority; SNI cannot be an IP address."""
    san_type = SubjectAltNameMatcher.IP_ADDRESS if _is_ip(tls.san) else SubjectAltNameMatcher.DNS
    context = UpstreamTlsContext(
        sni="" if _is_ip(tls.sni) else tls.sni,
        common_tls_context={
            "tls_params": {"tls_maximum_protocol_version": TlsParameters.TLSv1_3},
            "alpn_protocols": ["h2"] if protocol is ir.Protocol.HTTP2 else [],
            "validation_context": {
                "match_typed_subject_alt_names": [{"san_type": san_type, "matcher": {"exact": tls.san}}]
            },
        },
    )
    validation = context.common_tls_context.validation_context
    if tls.ca_pem is None:
        validation.trusted_ca.filename = system_ca_path  # Envoy refuses system_root_certs where a SAN is pinned
    else:
        validation.trusted_ca.inline_string = tls.ca_pem
    return context


def _dns_cluster(resolvers: tuple[ir.Endpoint, ...]) -> DnsCluster:
    """IPv4 and IPv6. A record is followed within its TTL; a name that does not resolve is asked again soon."""
    return DnsCluster(
        dns_refresh_rate={"seconds": 2},  # where there is no TTL: a name that does not exist
        dns_failure_refresh_rate={"base_interval": {"nanos": 500_000_000}, "max_interval": {"seconds": 5}},
        respect_dns_ttl=True,
        dns_lookup_family=IPV4_AND_IPV6,
        typed_dns_resolver_config=words.extension(
            "envoy.network.dns_resolver.cares",
            CaresDnsResolverConfig(
                resolvers=[address_of(each.address, each.port) for each in resolvers],
                query_timeout_seconds={"value": 2},
                query_tries={"value": 2},
            ),
        ),
    )


_COMMON_LB_CONFIG = Cluster.CommonLbConfig(
    update_merge_window={},  # an ejected host leaves at once; by default the second one in a second is late
    healthy_panic_threshold={},  # no traffic to hosts known to be dead: it goes to the next destination
)

_KEEPALIVE = UpstreamConnectionOptions(
    tcp_keepalive={
        "keepalive_probes": {"value": 3},
        "keepalive_time": {"value": 30},
        "keepalive_interval": {"value": 10},
    }
)
