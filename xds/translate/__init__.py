"""Pure: from what we want (`xds.ir`) to what Envoy is sent (`xds.snapshot.Resource`). One module per noun of Envoy's.

A gateway has `gateway_resources` whatever the models. A model adds `route_resources`, and one `backend_resource` for
each remote that no other model brought already. Credentials and deviating limits travel apart from both. Equal input
gives equal bytes, in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial

from xds import ir
from xds.snapshot import (
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    ROUTE,
    RUNTIME,
    SCOPED_ROUTE,
    SECRET,
    Key,
    Resource,
    encoded_resource,
    resource,
)
from xds.translate import cluster, endpoint, listener, route, runtime, secret, words
from xds.translate.cluster import backend_cluster_name
from xds.translate.listener import Gateway
from xds.translate.runtime import BORROWED, LENT
from xds.translate.runtime import LAYERS as LIMIT_LAYERS
from xds.translate.runtime import layer_of as limit_layer

__all__ = [
    "BORROWED",
    "LENT",
    "LIMIT_LAYERS",
    "Gateway",
    "backend_cluster_name",
    "backend_resource",
    "gateway_resources",
    "lease_resources",
    "limit_layer",
    "limits_resource",
    "route_resources",
    "secret_resource",
]


def gateway_resources(gateway: Gateway) -> tuple[Resource, ...]:
    """The gates and the listeners."""
    gates = tuple(resource(CLUSTER, slot, cluster.gate(slot)) for slot in cluster.gate_names())
    return (
        *gates,
        resource(LISTENER, words.DELIVER_LOCAL, listener.deliver_local()),
        resource(LISTENER, words.DELIVER_REMOTE, listener.deliver_remote()),
        resource(LISTENER, listener.FRONT, listener.front(gateway)),
    )


def route_resources(
    wanted: ir.Route,
    gateway: Gateway,
    before: ir.Route | None = None,
    made: Mapping[Key, Resource] | None = None,
) -> tuple[Resource, ...]:
    """A model: `local/<name>`, its endpoints, `choose/<name>`, a scope for each host and a listener for its own port.
    Without its backends.

    `made`: what came of the route as it was `before`. What is made of the same parts is taken from there, so a changed
    share makes one resource.
    """
    known = {key: parts for key, parts, _ in _recipes(before, gateway)} if before and made else {}
    return tuple(
        made[key] if made and key in known and known[key] == parts else make()
        for key, parts, make in _recipes(wanted, gateway)
    )


def _recipes(wanted: ir.Route, gateway: Gateway) -> Iterator[tuple[Key, object, Callable[[], Resource]]]:
    """Each resource of a route, the parts of the route that it is made of beside the name, and how it is made."""
    name, local = wanted.name, wanted.local
    own, choose = cluster.local_cluster_name(name), route.choose_name(name)
    yield (CLUSTER, own), (local.protocol, local.initial_limit), lambda: _local(own, wanted)
    yield (ENDPOINTS, own), local.endpoints, lambda: _endpoints(own, wanted)
    parts = (wanted.chains, wanted.remotes, wanted.retry, wanted.affinity_header)
    yield (ROUTE, choose), parts, lambda: _choose(choose, own, wanted)
    for host in wanted.hosts:
        yield (SCOPED_ROUTE, host), None, partial(_scope, host, wanted)
    if wanted.port is not None:
        yield (LISTENER, listener.own_name(wanted.port)), None, partial(_own_port, wanted.port, wanted, gateway)


def _local(own: str, wanted: ir.Route) -> Resource:
    message = cluster.local(wanted.name, wanted.local.protocol, wanted.local.initial_limit)
    return resource(CLUSTER, own, message, ((ENDPOINTS, own),))


def _endpoints(own: str, wanted: ir.Route) -> Resource:
    return encoded_resource(ENDPOINTS, own, endpoint.encoded_assignment(own, wanted.local.endpoints))


def _choose(choose: str, own: str, wanted: ir.Route) -> Resource:
    slots = dict.fromkeys(slot for chain in wanted.chains for slot in (chain.first, *chain.fallbacks))
    clusters = [*slots, own, *dict.fromkeys(backend_cluster_name(remote.backend) for remote in wanted.remotes)]
    return resource(ROUTE, choose, route.choose(wanted), tuple((CLUSTER, name) for name in clusters))


def _scope(host: str, wanted: ir.Route) -> Resource:
    refs = ((ROUTE, route.choose_name(wanted.name)),)
    return resource(SCOPED_ROUTE, host, route.scope(host, wanted.name), refs)


def _own_port(port: int, wanted: ir.Route, gateway: Gateway) -> Resource:
    refs = ((ROUTE, route.choose_name(wanted.name)),)
    return resource(LISTENER, listener.own_name(port), listener.own(wanted.name, port, gateway), refs)


@lru_cache(maxsize=4096)
def backend_resource(backend: ir.Backend, gateway: Gateway) -> Resource:
    """The cluster of a real remote, one object for all that share it. It needs its secret, which may come later: until
    then its attempts fail.
    """
    refs = ((SECRET, backend.credential.secret),) if backend.credential else ()
    message = cluster.backend(backend, gateway.dns_resolvers, gateway.system_ca_path)
    return resource(CLUSTER, backend_cluster_name(backend), message, refs)


def secret_resource(value: ir.Secret) -> Resource:
    """A credential's value."""
    return resource(SECRET, value.name, secret.secret(value))


def limits_resource(layer: int, limits: Mapping[str, int]) -> Resource:
    """A layer of limits: route name -> concurrent requests, of those routes that deviate from their initial limit."""
    return encoded_resource(RUNTIME, runtime.layer_name(layer), runtime.layer(runtime.layer_name(layer), limits))


def lease_resources(lease: ir.Lease) -> tuple[Resource, Resource]:
    """The two layers of limits that are one gateway's own; they end after `ir.LENT_TTL_S` and `ir.BORROWED_TTL_S`."""
    layers = ((LENT, lease.lent), (BORROWED, lease.borrowed))
    lent, borrowed = (encoded_resource(RUNTIME, name, runtime.layer(name, limits)) for name, limits in layers)
    return lent, borrowed
