"""Shell: the load reporting service (LRS), beside discovery on the xDS port. `xds.loads` says what is asked and heard.

A gateway reports every second, also when it has nothing to say; so if there are other remotes by now, it is asked
again when its next report comes. A stream that breaks is opened again by its gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from protos.envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest
from xds import loads
from xds.node import introduce
from xds.publisher import Publisher
from xds.snapshot import CLUSTER

SERVICE, METHOD = "envoy.service.load_stats.v3.LoadReportingService", "StreamLoadStats"

FIRST_REPORT_S = 30.0
"""How long a new stream may take to say who it is."""

Context = grpc.aio.ServicerContext[bytes, bytes]

EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # its stubs lack it


class LoadService:
    """What the gateways of a publisher carry, asked of at most `max_streams` at a time. `watch` is entered around each
    stream, and sees it fail.
    """

    def __init__(
        self, publisher: Publisher, max_streams: int, watch: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._publisher = publisher
        self._max_streams = max_streams
        self._watch = watch
        self._streams = 0

    def handler(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        method = grpc.stream_stream_rpc_method_handler(self._serve)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    async def _serve(self, _: AsyncIterator[bytes], context: Context) -> None:
        self._streams += 1
        try:
            with self._watch():
                await self._admit(context)
        finally:
            self._streams -= 1

    async def _admit(self, context: Context) -> None:
        try:
            if self._streams > self._max_streams:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"all {self._max_streams} streams are taken")
            async with asyncio.timeout(FIRST_REPORT_S):
                first = await context.read()
            if first is EOF:
                return
            who = introduce(LoadStatsRequest.FromString(first).node)
            del first  # it is large, and the stream is long
            if who.objection:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, who.objection)
            with on_stream_of(who.gateway):
                await self._listen(who.gateway, context)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the report cannot be decoded")
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no report in {FIRST_REPORT_S:g} s")

    async def _listen(self, gateway: str, context: Context) -> None:
        publisher, clusters = self._publisher, self._publisher.snapshot.logs[CLUSTER]
        basis = (clusters.version, publisher.surveyed)
        asked = loads.wanted(publisher.snapshot, publisher.surveyed)
        covered = asked.routes
        await context.write(asked.encode())
        while (report := await context.read()) is not EOF:
            if reported := loads.read(gateway, LoadStatsRequest.FromString(report), covered):
                publisher.hear_load(reported)
            del report
            covered = asked.routes
            if basis != (clusters.version, publisher.surveyed):
                basis, known = (clusters.version, publisher.surveyed), asked
                asked = loads.wanted(publisher.snapshot, publisher.surveyed)
                covered = asked.routes & known.routes  # the next report may have been under way already
                if asked != known:
                    await context.write(asked.encode())


@contextmanager
def on_stream_of(gateway: str) -> Iterator[None]:
    """Has the traceback of what fails say whose stream it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"on a stream of gateway {gateway!r}")
        raise
