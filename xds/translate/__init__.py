"""Pure: from what we want (`xds.ir`) to what Envoy is sent (`xds.snapshot.Resource`). One module per noun of Envoy's.

A gateway has `gateway_resources` whatever the models. A model adds `route_resources`, and one `backend_resource` for
each remote that no other model brought already. Credentials and deviating limits travel apart from both. Equal input
gives equal bytes, in every process.
"""

from __future__ import annotations

from collections.abc import Mapping

from xds import ir
from xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, RUNTIME, SCOPED_ROUTE, SECRET, Resource, resource
from xds.translate import cluster, endpoint, listener, route, runtime, secret
from xds.translate.cluster import backend_cluster_name
from xds.translate.listener import Gateway
from xds.translate.runtime import LAYERS as LIMIT_LAYERS
from xds.translate.runtime import layer_of as limit_layer

__all__ = [
    "LIMIT_LAYERS",
    "Gateway",
    "backend_cluster_name",
    "backend_resource",
    "gateway_resources",
    "limit_layer",
    "limits_resource",
    "route_resources",
    "secret_resource",
]


def gateway_resources(gateway: Gateway) -> tuple[Resource, ...]:
    """The gates and both listeners."""
    gates = tuple(resource(CLUSTER, slot, cluster.gate(slot)) for slot in cluster.gate_names())
    return (
        *gates,
        resource(LISTENER, "deliver", listener.deliver()),
        resource(LISTENER, "front", listener.front(gateway)),
    )


def route_resources(wanted: ir.Route) -> tuple[Resource, ...]:
    """A model: `local/<name>`, its endpoints, `choose/<name>` and a scope for each host. Without its backends."""
    local = cluster.local_cluster_name(wanted.name)
    choose = route.choose_name(wanted.name)
    slots = dict.fromkeys(slot for chain in wanted.chains for slot in (chain.first, *chain.fallbacks))
    clusters = [*slots, local, *dict.fromkeys(backend_cluster_name(remote.backend) for remote in wanted.remotes)]
    return (
        resource(
            CLUSTER,
            local,
            cluster.local(wanted.name, wanted.local.protocol, wanted.local.initial_limit),
            ((ENDPOINTS, local),),
        ),
        resource(ENDPOINTS, local, endpoint.load_assignment(local, wanted.local.endpoints)),
        resource(ROUTE, choose, route.choose(wanted), tuple((CLUSTER, name) for name in clusters)),
        *(resource(SCOPED_ROUTE, host, route.scope(host, wanted.name), ((ROUTE, choose),)) for host in wanted.hosts),
    )


def backend_resource(backend: ir.Backend, gateway: Gateway) -> Resource:
    """The cluster of a real remote. It needs its secret, which may come later: until then its attempts fail."""
    refs = ((SECRET, backend.credential.secret),) if backend.credential else ()
    message = cluster.backend(backend, gateway.dns_resolvers, gateway.system_ca_path)
    return resource(CLUSTER, backend_cluster_name(backend), message, refs)


def secret_resource(value: ir.Secret) -> Resource:
    """A credential's value."""
    return resource(SECRET, value.name, secret.secret(value))


def limits_resource(layer: int, limits: Mapping[str, int]) -> Resource:
    """A layer of limits: route name -> concurrent requests, of those routes that deviate from their initial limit."""
    return resource(RUNTIME, runtime.layer_name(layer), runtime.layer(layer, limits))
