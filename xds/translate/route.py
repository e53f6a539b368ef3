"""Pure: routing. `choose/<model>` picks a destination, a scope leads Hosts to it, `deliver` carries out one attempt.

A route's chains become *priority groups*: the k-th attempt of a request picks in the k-th group. Envoy uses one random
(or hash) value for all attempts of a request, so when every group lists the same weights in the same order, a request
that fell on the i-th entry of the first group falls on the i-th of every other. Group k therefore holds, at place i,
the k-th destination of chain i, and each chain is followed exactly:

    chains          local 70 % -> remote-0        remote-0 30 % -> remote-1
    group 0         local 700000                  remote-0 300000
    group 1         remote-0 700000               remote-1 300000

A chain that is shorter than the others repeats its last destination.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from protos.envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from protos.envoy.config.route.v3.route_components_pb2 import RetryPolicy, Route, RouteAction
from protos.envoy.config.route.v3.route_pb2 import RouteConfiguration
from protos.envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from protos.envoy.extensions.router.cluster_specifiers.priority_group.v3.priority_group_pb2 import (
    PriorityGroupClusterSpecifier,
)
from xds import ir
from xds.translate import words
from xds.translate.cluster import backend_cluster_name, local_cluster_name

NOT_FOR_CHOOSE = (
    words.FAILURE,  # only Envoy's own replies of stage 2 carry it, and they get it after this
    "x-envoy-overloaded",  # stage 1 would not retry an answer with one of these: they are meant for one cluster
    "x-envoy-ratelimited",
)
"""Response headers that stage 2 keeps from stage 1, whoever set them."""

CLIMBING = r"(?i).*([/\\]|%2f|%5c)(\.|%2e){2}(([/\\;]|%2f|%5c|%3b).*)?"
"""A normalised path that has a `..` in it for a server that decodes it first, or that drops `;` and what follows."""

Group = tuple[tuple[str, int], ...]
"""Slots and their weights in parts per million."""


def choose_name(route: str) -> str:
    return f"choose/{route}"


def groups(chains: Sequence[ir.Chain], attempts: int) -> tuple[Group, ...]:
    """One group for the first attempt and one for each retry that has somewhere to go, at most `attempts` of them."""
    paths = [(chain.first, *chain.fallbacks) for chain in chains]
    depth = min(max(len(path) for path in paths), attempts + 1)
    return tuple(
        tuple((path[min(k, len(path) - 1)], chain.weight_ppm) for path, chain in zip(paths, chains, strict=True))
        for k in range(depth)
    )


def choose(route: ir.Route) -> RouteConfiguration:
    """Stage 1 for one model: any path, any Host, since whoever leads here has settled those."""
    configuration = RouteConfiguration(name=choose_name(route.name))
    host = configuration.virtual_hosts.add(name=route.name, domains=["*"])
    match = host.routes.add(name=route.name, match={"prefix": "/"})
    if route.chains:
        _fill(match, route)
    else:
        _refuse(match, route.name)
    return configuration


def scope(host: str, route: str) -> ScopedRouteConfiguration:
    """Requests for `host` use the route of that name."""
    return ScopedRouteConfiguration(
        name=host,
        route_configuration_name=choose_name(route),
        key={"fragments": [{"string_key": host}]},
    )


def deliver_local() -> RouteConfiguration:
    """Stage 2 for all models' own endpoints. Host and path are the caller's."""
    configuration, match = _deliver(words.DELIVER_LOCAL)
    match.request_headers_to_remove.extend(words.REQUEST_HEADERS)
    return configuration


def deliver_remote() -> RouteConfiguration:
    """Stage 2 for all remotes. Their clusters remove our headers: here it would be before they are read."""
    configuration, match = _deliver(words.DELIVER_REMOTE)
    routes = configuration.virtual_hosts[0].routes
    routes.insert(0, Route(name="climbing", match={"safe_regex": {"regex": CLIMBING}}))
    routes[0].direct_response.status = 400
    routes[0].direct_response.body.inline_string = "this path might leave the prefix that the remote is under"
    match.route.host_rewrite_header = words.HOST
    match.route.path_rewrite = f"%REQ({words.PATH_PREFIX})%%PATH(NQ)%"
    return configuration


def _deliver(name: str) -> tuple[RouteConfiguration, Route]:
    """One attempt, at the cluster that its header names."""
    configuration = RouteConfiguration(name=name)
    host = configuration.virtual_hosts.add(name=name, domains=["*"])
    match = host.routes.add(name=name, match={"prefix": "/"}, response_headers_to_remove=NOT_FOR_CHOOSE)
    match.route.cluster_header = words.CLUSTER
    match.route.timeout.SetInParent()
    return configuration, match


def _fill(match: Route, route: ir.Route) -> None:
    action = match.route
    action.timeout.SetInParent()
    picks = groups(route.chains, route.retry.attempts)
    specifier = PriorityGroupClusterSpecifier(
        priority_groups=[
            {
                "name": str(number),
                "clusters": [{"cluster_name": slot, "weight": {"value": weight}} for slot, weight in group],
            }
            for number, group in enumerate(picks)
        ]
    )
    if route.affinity_header:
        specifier.use_hash_policy.value = True
        action.hash_policy.add(header=RouteAction.HashPolicy.Header(header_name=route.affinity_header))
    action.inline_cluster_specifier_plugin.extension.CopyFrom(_priority_group(specifier))
    if len(picks) > 1:
        action.retry_policy.CopyFrom(_retry_policy(len(picks) - 1, route.retry.status_codes))
    match.metadata.filter_metadata[words.DESTINATIONS].update(_destinations(route))
    match.response_headers_to_remove.append(words.FAILURE)


def _priority_group(specifier: PriorityGroupClusterSpecifier) -> TypedExtensionConfig:
    return words.extension("envoy.router.cluster_specifier_plugin.priority_group", specifier)


def _refuse(match: Route, name: str) -> None:
    message = f"model {name} has no destination that can serve it: no ready endpoint and no usable remote"
    body = json.dumps({"error": {"code": "no_destination", "message": message}})
    match.direct_response.status = 503
    match.direct_response.body.inline_string = body + "\n"
    match.response_headers_to_add.append(words.overwrite("content-type", "application/json"))


def _destinations(route: ir.Route) -> dict[str, dict[str, str]]:
    """What each slot means for this model, with traffic or without: so a changed share changes weights only."""
    slots = {ir.LOCAL: {words.CLUSTER: local_cluster_name(route.name)}}
    for index, remote in enumerate(route.remotes):
        slots[ir.remote_slot(index)] = {
            words.CLUSTER: backend_cluster_name(remote.backend),
            words.HOST: remote.authority,
            words.PATH_PREFIX: remote.path_prefix,
        }
    return slots


@lru_cache
def _retry_policy(num_retries: int, status_codes: tuple[int, ...]) -> RetryPolicy:
    """Another destination, at once, for what failed inside Envoy and for answers that mean "not me"."""
    return RetryPolicy(
        retry_on="retriable-headers,retriable-status-codes",
        retriable_headers=[{"name": words.FAILURE, "present_match": True}],
        retriable_status_codes=status_codes,
        num_retries={"value": num_retries},
        retry_back_off={"base_interval": {"nanos": 1_000_000}, "max_interval": {"nanos": 2_000_000}},
        refresh_cluster_on_retry=True,
    )
