"""What the data-path tests share: one Envoy with our resources, models of their own for each test, and a caller."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import trustme
from yarl import URL

from tests.support.ads import Ads
from tests.support.backends import PROBE, Backend, echo
from tests.support.envoy import Envoy, bootstrap, running
from xds import ir
from xds.snapshot import CLUSTER, SECRET
from xds.translate import (
    Gateway,
    backend_cluster_name,
    backend_resource,
    gateway_resources,
    limit_layer,
    limits_resource,
    route_resources,
    secret_resource,
)

DEADLINE_S = 20.0
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    headers: dict[str, str]

    @property
    def destination(self) -> str:
        return self.headers.get("x-spillway-destination", "")

    @property
    def error(self) -> str:
        """The code in the JSON body of an answer of the gateway's own."""
        return str(json.loads(self.text)["error"]["code"])


@dataclass
class World:
    envoy: Envoy
    ads: Ads
    gateway: Gateway
    session: aiohttp.ClientSession
    host: str
    port: int
    access_log: Path
    system: trustme.CA

    async def serve(self, route: ir.Route, secrets: Iterable[ir.Secret] = ()) -> ir.Route:
        """Publishes a route and waits until requests follow it."""
        self.ads.put(secret_resource(secret) for secret in secrets)
        self.ads.put(backend_resource(remote.backend, self.gateway) for remote in route.remotes)
        cluster, endpoints, *routing = route_resources(route, self.gateway)
        self.ads.put([cluster, endpoints])
        names = [cluster.name, *(backend_cluster_name(remote.backend) for remote in route.remotes)]
        await eventually(lambda: self._has_clusters(names))
        self.ads.put(routing)
        await self.ads.settled()
        await eventually(lambda: self._knows(route.hosts[0]))
        return route

    async def change(self, route: ir.Route, **changes: Any) -> ir.Route:
        """Publishes a route that is served already, with other values."""
        changed = replace(route, **changes)
        self.ads.put(route_resources(changed, self.gateway)[1:])
        await self._taken_over()
        return changed

    async def limit(self, route: ir.Route, limit: int | None) -> None:
        """Moves a route's limit at run time; None takes it back to its initial value."""
        layer = limit_layer(route.name)
        self.ads.put([limits_resource(layer, {} if limit is None else {route.name: limit})])
        await self._taken_over()

    async def secret(self, secret: ir.Secret) -> None:
        self.ads.put([secret_resource(secret)])
        await self._taken_over()

    def forget(self, type_url: str, name: str) -> None:
        assert type_url in (CLUSTER, SECRET)
        self.ads.remove(type_url, name)

    async def ask(
        self,
        route: ir.Route | str,
        method: str = "GET",
        path: str = "/v1/models",
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        host = route if isinstance(route, str) else route.hosts[0]
        url = URL(f"http://{self.host}:{self.port}{path}", encoded=True)
        async with self.session.request(
            method, url, data=BytesIO(data) if data else None, headers={"host": host, **(headers or {})}
        ) as response:
            return Answer(response.status, await response.text(), {k.lower(): v for k, v in response.headers.items()})

    async def ask_many(self, route: ir.Route, count: int, **kwargs: Any) -> list[Answer]:
        """At most 20 at a time."""
        slots = asyncio.Semaphore(20)

        async def one() -> Answer:
            async with slots:
                return await self.ask(route, **kwargs)

        return list(await asyncio.gather(*(one() for _ in range(count))))

    async def raw(self, request: bytes) -> tuple[int, str]:
        """Sends these very bytes on a connection of its own; status and body. The request must ask to close."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(request)
            async with asyncio.timeout(DEADLINE_S):
                answer = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()

    async def logged(self, path: str, model: str | None = None) -> dict[str, Any]:
        """The access log's line for the request with this path, and for this model if several have it."""

        async def find() -> dict[str, Any] | None:
            lines = self.access_log.read_text().splitlines() if self.access_log.exists() else []
            entries = (entry for entry in map(json.loads, lines) if entry["path"] == path)
            return next((entry for entry in entries if model in (None, entry["model"])), None)

        found: dict[str, Any] = await eventually(find)
        return found

    async def _has_clusters(self, names: Sequence[str]) -> bool:
        known = await self.envoy.ask("/clusters")
        assert self.ads.refused == []
        return all(f"{name}::" in known for name in names)

    async def _knows(self, host: str) -> bool:
        answer = await self.ask(host, path=PROBE)
        assert self.ads.refused == []
        return answer.status != 404

    async def _taken_over(self) -> None:
        """Acknowledged by Envoy's main thread; its workers have it a turn of their loops later."""
        await self.ads.settled()
        await asyncio.sleep(0.05)


def remote(backend: Backend, *, authority: str = "", prefix: str = "", **settings: Any) -> ir.Remote:
    """A remote that is this test server, in clear text unless `settings` say otherwise."""
    wanted = replace(ir.Backend(backend.host, backend.port), **settings)
    return ir.Remote(wanted, authority or f"{backend.name}.test", prefix)


def model(
    local: Sequence[Backend], remotes: Sequence[ir.Remote] = (), *, share_ppm: int = 0, **changes: Any
) -> ir.Route:
    """A route with a name of its own. Each chain goes on over the other remotes in order, and ends locally."""
    number = next(_numbers)
    slots = [ir.remote_slot(index) for index in range(len(remotes))]
    chains = [ir.Chain(ir.LOCAL, ir.PPM - share_ppm, tuple(slots))]
    if share_ppm:
        chains.append(ir.Chain(slots[0], share_ppm, (*slots[1:], ir.LOCAL)))
    limit = changes.pop("limit", ir.UNLIMITED)
    protocol = changes.pop("protocol", ir.Protocol.HTTP1)
    endpoints = tuple(ir.Endpoint(each.host, each.port) for each in local)
    route = ir.Route(
        name=f"tests/model-{number}",
        hosts=(f"model-{number}",),
        local=ir.Local(endpoints, protocol, limit, limit),
        remotes=tuple(remotes),
        chains=tuple(chain for chain in chains if chain.weight_ppm),
    )
    return replace(route, **changes)


def dead(backend: Backend) -> Backend:
    """An address where nobody listens: a port of the loopback network that no test uses."""
    return Backend("dead", echo, "127.0.0.66", backend.port)


async def eventually(check: Callable[[], Awaitable[Any]]) -> Any:
    """The first true result of `check`, called again and again."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if result := await check():
                return result
            await asyncio.sleep(0.01)


async def until(holds: Callable[[], bool]) -> None:
    """Waits for a condition of the test's own process."""

    async def check() -> bool:
        return holds()

    await eventually(check)


@asynccontextmanager
async def world(directory: Path, **settings: Any) -> AsyncIterator[World]:
    """An Envoy with our resources and no models yet. `settings`: the Gateway's that a test needs otherwise."""
    directory.mkdir(parents=True, exist_ok=True)
    access_log = directory / "access.log"
    system = trustme.CA()
    system.cert_pem.write_to_path(directory / "system.pem")
    gateway = Gateway(
        port=0,
        access_log_path=str(access_log),
        system_ca_path=str(directory / "system.pem"),
        **settings,
    )
    ads = Ads()
    await ads.start()
    ads.put(gateway_resources(gateway))
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
        running(directory, bootstrap(ads.port), concurrency=2) as envoy,
    ):
        await envoy.live()
        host, port = await envoy.listener("front")
        yield World(envoy, ads, gateway, session, host, port, access_log, system)
        assert ads.refused == []
    await ads.stop()
