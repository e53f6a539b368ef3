"""A way to the API server that can be cut while the server goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.cluster.harness.control_plane import ControlPlane


class Relay:
    """Passes bytes to and fro while it is `open`."""

    def __init__(self, host: str, port: int) -> None:
        self.open = True
        self._target = host, port
        self._transfers: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Breaks off all connections; new ones are ended as soon as they come, until `open` is set again."""
        self.open = False
        for transfer in self._transfers:
            transfer.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            writer.transport.abort()
            return
        transfer = asyncio.create_task(self._transfer(reader, writer))
        self._transfers.add(transfer)
        transfer.add_done_callback(self._transfers.discard)

    async def _transfer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                upstream = await asyncio.open_connection(*self._target)
                try:
                    await asyncio.gather(_copy(reader, upstream[1]), _copy(upstream[0], writer))
                finally:
                    upstream[1].transport.abort()
        finally:
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65_536):
        writer.write(chunk)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def relayed(plane: ControlPlane, folder: Path) -> AsyncIterator[tuple[Relay, Path]]:
    """A relay to the API server, and a kubeconfig that goes by it."""
    host, _, port = plane.server.removeprefix("https://").rpartition(":")
    relay = Relay(host, int(port))
    config = json.loads(plane.kubeconfig.read_text())
    async with await asyncio.start_server(relay.serve, "127.0.0.1", 0) as server:
        here = server.sockets[0].getsockname()
        config["clusters"][0]["cluster"] |= {"server": f"https://127.0.0.1:{here[1]}", "tls-server-name": "kubernetes"}
        kubeconfig = folder / "relayed.kubeconfig"
        kubeconfig.write_text(json.dumps(config))
        try:
            yield relay, kubeconfig
        finally:
            relay.cut()
