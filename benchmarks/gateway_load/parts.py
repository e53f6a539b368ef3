"""Parts of the full gateway, and what its configuration is like without each, to see what it costs.

The product leaves none of them out: these are changes to finished resources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence, Sequence
from typing import TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from benchmarks.gateway_load.gateways import MODEL, Edit
from protos.envoy.config.cluster.v3.cluster_pb2 import Cluster
from protos.envoy.config.listener.v3.listener_pb2 import Listener
from protos.envoy.config.route.v3.route_components_pb2 import RouteAction
from protos.envoy.config.route.v3.route_pb2 import RouteConfiguration
from protos.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from protos.envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from xds import ir
from xds.snapshot import CLUSTER, LISTENER, ROUTE, Resource, resource
from xds.translate.cluster import PROTOCOL_OPTIONS, local_cluster_name
from xds.translate.listener import FRONT
from xds.translate.route import choose_name

M = TypeVar("M", bound=Message)


def _resource(type_url: str, name: str, kind: type[M], change: Callable[[M], object]) -> Edit:
    def edit(resources: Sequence[Resource]) -> list[Resource]:
        return [changed(each) if each.key == (type_url, name) else each for each in resources]

    def changed(old: Resource) -> Resource:
        message = _unpacked(Any.FromString(old.body), kind)
        change(message)
        return resource(type_url, name, message, old.refs)

    return edit


def _manager(listener: str, change: Callable[[HttpConnectionManager], object]) -> Edit:
    def edit(message: Listener) -> None:
        packed = message.filter_chains[0].filters[0].typed_config
        manager = _unpacked(packed, HttpConnectionManager)
        change(manager)
        packed.Pack(manager)

    return _resource(LISTENER, listener, Listener, edit)


def _action(change: Callable[[RouteAction], object]) -> Edit:
    def edit(message: RouteConfiguration) -> None:
        change(message.virtual_hosts[0].routes[0].route)

    return _resource(ROUTE, choose_name(MODEL), RouteConfiguration, edit)


def _without_outcome(gate: Cluster) -> None:
    packed = gate.typed_extension_protocol_options[PROTOCOL_OPTIONS]
    options = _unpacked(packed, HttpProtocolOptions)
    _drop(options.http_filters, "outcome")
    packed.Pack(options)


def _to_local(action: RouteAction) -> None:
    action.ClearField("inline_cluster_specifier_plugin")
    action.cluster = local_cluster_name(MODEL)


def _drop(filters: MutableSequence[HttpFilter], name: str) -> None:
    (found,) = (each for each in filters if each.name == name)
    filters.remove(found)


def _unpacked(packed: Any, kind: type[M]) -> M:
    message = kind()
    if not packed.Unpack(message):
        raise TypeError(f"{packed.type_url} is no {kind.__name__}")
    return message


WITHOUT: Mapping[str, Edit] = {
    "gate and second stage": _action(_to_local),
    "access log": _manager(FRONT, lambda manager: manager.ClearField("access_log")),
    "Host in lower case (Lua)": _manager(FRONT, lambda manager: _drop(manager.http_filters, "host")),
    "callers' headers that look like ours": _manager(
        FRONT, lambda manager: manager.ClearField("early_header_mutation_extensions")
    ),
    "note of failed attempts (Lua)": _resource(CLUSTER, ir.LOCAL, Cluster, _without_outcome),
    "retry": _action(lambda action: action.ClearField("retry_policy")),
}
"""By what the part does."""
