"""Shell: the controller's own HTTP address: /status (JSON), /metrics (Prometheus), /healthz and /readyz. Read only, and
without secrets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

Status = Callable[[], dict[str, object]]
Ready = Callable[[], str]


STATUS, METRICS, HEALTH, READINESS = "/status", "/metrics", "/healthz", "/readyz"


class AdminServer:
    """Serves what `status` returns. `ready` returns what is still missing, empty when traffic can be served. `paths`:
    what is served at all.
    """

    def __init__(
        self,
        status: Status,
        ready: Ready,
        registry: CollectorRegistry,
        paths: Collection[str] = (STATUS, METRICS, HEALTH, READINESS),
    ) -> None:
        self._status = status
        self._ready = ready
        self._registry = registry
        app = web.Application()
        answers = {
            STATUS: self._get_status,
            METRICS: self._get_metrics,
            HEALTH: self._get_healthz,
            READINESS: self._get_readyz,
        }
        for path in paths:
            app.router.add_get(path, answers[path])
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def start(self, addresses: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """Listens on all addresses and returns them with the ports bound. Raises OSError if one is busy."""
        await self._runner.setup()
        for host, port in addresses:
            site = web.TCPSite(self._runner, host, port, reuse_address=True)
            await site.start()
        return [(address[0], address[1]) for address in self._runner.addresses]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _get_status(self, _: web.Request) -> web.Response:
        return web.json_response(self._status(), dumps=lambda value: json.dumps(value, indent=2) + "\n")

    async def _get_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _get_healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _get_readyz(self, _: web.Request) -> web.Response:
        missing = self._ready()
        return web.Response(text=f"{missing or 'ok'}\n", status=503 if missing else 200)
