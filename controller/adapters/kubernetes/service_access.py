"""Shell: the API server's word about one Service, and what is done to it there. What to do is planned in
`controller.takeover`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from controller.adapters.kubernetes import decode
from controller.adapters.kubernetes.client import METADATA_ONLY, ApiError, Cluster, path_of
from controller.adapters.kubernetes.reflector import UnusableError
from controller.api import MODEL_API_VERSION
from controller.objects import SERVICE_LABEL, EndpointSlice, shadow_name
from controller.takeover import finalizer
from controller.takeover.actions import Action, request_of
from controller.takeover.world import ServiceView, World, view_of

OVERTAKEN = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY})
"""How `carry_out` fails if things are not any more as they were when it was planned: look again."""


class _Slices(msgspec.Struct):
    items: list[msgspec.Raw] | None = None


async def read_world(cluster: Cluster, key: str) -> World:
    """The Service, what belongs to it, then its shadow. Raises ApiError."""
    namespace, _, name = key.partition("/")
    shadow = f"{namespace}/{shadow_name(name)}"
    # The Service first: slices that are read after a selector was seen are not from before it.
    service = await _service(cluster, key)
    slices, endpoints = await asyncio.gather(
        _slices(cluster, namespace, (name, shadow_name(name))),
        _metadata(cluster, path_of("v1", "endpoints", namespace, name)),
    )
    return World(
        service,
        # The shadow last: one that is seen to be old was there when its slices were read.
        await _service(cluster, shadow),
        tuple(each for each in slices if each.service_key == key),
        tuple(each for each in slices if each.service_key == shadow),
        endpoints is not None,
    )


async def carry_out(cluster: Cluster, action: Action) -> None:
    """Raises ApiError; see `OVERTAKEN`."""
    request = request_of(action)
    match request.method:
        case "POST":
            await cluster.create(request.path, request.body)
        case "PATCH":
            await cluster.json_patch(request.path, request.body)
        case "APPLY":
            await cluster.apply(request.path, request.body)
        case _:
            await cluster.delete(request.path, uid=request.uid, version=request.version)


async def hold_model(cluster: Cluster, key: str, *, hold: bool) -> None:
    """Adds the finalizer to a ModelDeployment, or takes it away; one that is gone needs neither. Raises ApiError."""
    namespace, _, name = key.partition("/")
    path = path_of(MODEL_API_VERSION, "modeldeployments", namespace, name)
    metadata = await _metadata(cluster, path)
    if metadata is not None and (operations := finalizer.edit_of(metadata, hold=hold)):
        await cluster.json_patch(path, operations)


async def _service(cluster: Cluster, key: str) -> ServiceView | None:
    namespace, _, name = key.partition("/")
    found = await cluster.find(path_of("v1", "services", namespace, name))
    return view_of(found) if found else None


async def _slices(cluster: Cluster, namespace: str, services: tuple[str, ...]) -> list[EndpointSlice]:
    query = {"labelSelector": f"{SERVICE_LABEL} in ({','.join(services)})"}
    body = await cluster.request("GET", path_of("discovery.k8s.io/v1", "endpointslices", namespace), query=query)
    try:
        return [decode.endpoint_slice(bytes(item)) for item in msgspec.json.decode(body, type=_Slices).items or ()]
    except (msgspec.DecodeError, UnusableError) as error:
        raise ApiError(0, "BadAnswer", f"not what the Kubernetes API says: {error}") from error


async def _metadata(cluster: Cluster, path: str) -> Mapping[str, Any] | None:
    found = await cluster.find(path, accept=METADATA_ONLY)
    return found["metadata"] if found else None
