"""The smallest control plane that a real Envoy accepts: delta ADS, everything at once, to see what Envoy does with
our resources. The product's own server has tests of its own.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
import grpc.aio

from protos.envoy.service.discovery.v3 import discovery_pb2 as discovery
from xds.snapshot import CLUSTER, LISTENER, SCOPED_ROUTE, Resource

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
WILDCARD = frozenset({CLUSTER, LISTENER, SCOPED_ROUTE})


class Ads:
    """Holds the wanted resources and tells every stream what changed. `refused`: Envoy's words, which a test asserts to
    be none.
    """

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.port = 0
        self._resources: dict[tuple[str, str], Resource] = {}
        self._streams: set[_Stream] = set()
        self._server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve, discovery.DeltaDiscoveryRequest.FromString, discovery.DeltaDiscoveryResponse.SerializeToString
        )
        service, _, method = METHOD[1:].partition("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))

    async def start(self) -> None:
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    def put(self, resources: Iterable[Resource]) -> None:
        """In this order, so put what others need first."""
        for resource in resources:
            self._resources[resource.type_url, resource.name] = resource
            self._tell(resource.type_url, resource.name)

    def remove(self, type_url: str, name: str) -> None:
        if self._resources.pop((type_url, name), None):
            self._tell(type_url, name)

    async def settled(self) -> None:
        """Waits until every response sent so far has been acknowledged."""
        async with asyncio.timeout(30):
            while any(stream.waiting for stream in self._streams):
                await asyncio.sleep(0.005)
        assert self.refused == []

    def _tell(self, type_url: str, name: str) -> None:
        for stream in self._streams:
            if type_url in stream.wildcards or (type_url, name) in stream.names:
                self._send(stream, type_url, [name])

    def _send(self, stream: "_Stream", type_url: str, names: Iterable[str]) -> None:
        response = discovery.DeltaDiscoveryResponse(type_url=type_url, nonce=f"{stream.sent}")
        for name in names:
            if found := self._resources.get((type_url, name)):
                entry = response.resources.add(name=name, version=found.version)
                entry.resource.ParseFromString(found.body)
            else:
                response.removed_resources.append(name)
        stream.waiting.add(response.nonce)
        stream.sent += 1
        stream.queue.put_nowait(response)

    async def _serve(
        self,
        requests: AsyncIterator[discovery.DeltaDiscoveryRequest],
        context: grpc.aio.ServicerContext[discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse],
    ) -> None:
        stream = _Stream()
        self._streams.add(stream)
        writer = asyncio.create_task(_write(stream, context))
        try:
            async for request in requests:
                self._receive(stream, request)
        finally:
            writer.cancel()
            self._streams.discard(stream)

    def _receive(self, stream: "_Stream", request: discovery.DeltaDiscoveryRequest) -> None:
        kind = request.type_url
        stream.waiting.discard(request.response_nonce)
        if request.HasField("error_detail"):
            self.refused.append(request.error_detail.message)
        names = list(request.resource_names_subscribe)
        if kind not in stream.seen and kind in WILDCARD and not names:
            stream.wildcards.add(kind)
            names = [name for type_url, name in self._resources if type_url == kind]
            self._send(stream, kind, names)
        elif names:
            self._send(stream, kind, names)
        stream.seen.add(kind)
        stream.names |= {(kind, name) for name in request.resource_names_subscribe}
        stream.names -= {(kind, name) for name in request.resource_names_unsubscribe}


class _Stream:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[discovery.DeltaDiscoveryResponse] = asyncio.Queue()
        self.names: set[tuple[str, str]] = set()
        self.wildcards: set[str] = set()
        self.seen: set[str] = set()
        self.waiting: set[str] = set()
        self.sent = 1


async def _write(
    stream: _Stream,
    context: grpc.aio.ServicerContext[discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse],
) -> None:
    while True:
        await context.write(await stream.queue.get())
