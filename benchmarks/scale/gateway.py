"""A light gateway: a delta client that subscribes to all that an Envoy would, accepts it, and keeps only its names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress

import grpc
import grpc.aio

from protos.envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from protos.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource
from xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, RUNTIME, SCOPED_ROUTE, SECRET
from xds.translate import LIMIT_LAYERS
from xds.translate.runtime import layer_name

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
NODE = {"cluster": "spillway", "user_agent_name": "envoy", "user_agent_version": "1.40.0"}

Call = grpc.aio.StreamStreamCall[bytes, bytes]


class LightGateway:
    """What it has been given so far. A model is whole when its endpoints and its route are there."""

    def __init__(self, call: Call) -> None:
        self.received: dict[str, set[str]] = {}
        self._call = call
        self._news = asyncio.Event()

    async def until_whole(self, models: int) -> None:
        """Waits until so many models have been accepted."""
        while min(len(self.received.get(each, ())) for each in (ENDPOINTS, ROUTE)) < models:
            self._news.clear()
            await self._news.wait()

    async def follow(self, credentials: Iterable[str], name: str) -> None:
        """Subscribes, and accepts whatever comes, until the stream ends. `credentials`: the names of remotes' secrets,
        which an Envoy finds in their clusters.
        """
        await self._say(RUNTIME, map(layer_name, range(LIMIT_LAYERS)), node={**NODE, "id": name})
        for type_url in (CLUSTER, LISTENER, SCOPED_ROUTE):
            await self._say(type_url)
        await self._say(SECRET, credentials)
        async for raw in self._call:
            response = DeltaDiscoveryResponse.FromString(raw)
            news = self._take(response)
            if response.type_url == CLUSTER and news:  # as Envoy: a cluster's endpoints before its ACK
                await self._say(ENDPOINTS, (name for name in news if name.startswith("local/")))
            await self._say(response.type_url, response_nonce=response.nonce)
            if response.type_url == SCOPED_ROUTE and (routes := set(_routes(response.resources))):
                await self._say(ROUTE, routes - self.received.get(ROUTE, set()))
            self._news.set()

    def _take(self, response: DeltaDiscoveryResponse) -> set[str]:
        """The names that are new."""
        names = {each.name for each in response.resources}
        known = self.received.setdefault(response.type_url, set())
        news = names - known
        known |= names
        known.difference_update(response.removed_resources)
        return news

    async def _say(self, type_url: str, names: Iterable[str] = (), **fields: object) -> None:
        request = DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names, **fields)  # type: ignore[arg-type]
        await self._call.write(request.SerializeToString())


def _routes(scopes: Iterable[Resource]) -> Iterator[str]:
    for each in scopes:
        yield ScopedRouteConfiguration.FromString(each.resource.value).route_configuration_name


@asynccontextmanager
async def light_gateway(
    port: int, credentials: Iterable[str], name: str = "light", kind: type[LightGateway] = LightGateway
) -> AsyncIterator[LightGateway]:
    """Connects, and follows until the block ends."""
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        gateway = kind(channel.stream_stream(METHOD, None, None)(None))
        following = asyncio.create_task(gateway.follow(credentials, name))
        try:
            yield gateway
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
