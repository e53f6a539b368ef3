"""What a real Envoy counts as failed, as succeeded, and as neither: the table in controller.health."""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
import trustme

from tests.support.backends import Backend, events, hold, http_backend, reset, status
from tests.support.envoy import Envoy, bootstrap, running
from tests.xds.plane import Plane, eventually, model, serving
from xds import ir
from xds.events import LoadReported
from xds.translate import backend_cluster_name

pytestmark = pytest.mark.integration

SUCCEEDED = [200, 302, 400, 401, 404, 429]
FAILED = [500, 502, 503, 504]


class Caller:
    """Sends requests for each backend, straight to it, and counts what is reported of it."""

    def __init__(self, plane: Plane, envoy: Envoy, backends: dict[str, ir.Backend]) -> None:
        self._plane = plane
        self._envoy = envoy
        self._names = {backend_cluster_name(backend): name for name, backend in backends.items()}

    async def ask(self, name: str, times: int = 3) -> list[int | None]:
        """All at once; None for one that had no answer in a while and was given up."""
        address, port = await self._envoy.listener("front")

        async def one(session: aiohttp.ClientSession) -> int | None:
            with suppress(TimeoutError):
                async with session.get(f"http://{address}:{port}/", headers={"host": name}) as answer:
                    await answer.read()
                    return answer.status
            return None

        timeout = aiohttp.ClientTimeout(total=20 if name not in ("held", "full", "streamed") else 1)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            return await asyncio.gather(*(one(session) for _ in range(times)))

    async def served(self, names: Iterable[str]) -> None:
        """Waits for workers to take over what the main thread has acknowledged: until then a model is not found."""
        async with asyncio.timeout(20):
            for name in names:
                while await self.ask(name, 1) == [404]:
                    await asyncio.sleep(0.01)

    def counted(self) -> dict[str, tuple[int, int]]:
        """What each came to so far: succeeded, failed."""
        succeeded, failed = Counter[str](), Counter[str]()
        for report in self._plane.saw(LoadReported):
            for load in report.backends:
                succeeded[self._names[load.cluster]] += load.succeeded
                failed[self._names[load.cluster]] += load.failed
        return {name: (succeeded[name], failed[name]) for name in {*succeeded, *failed}}


def at(backend: Backend, **settings: object) -> ir.Backend:
    return ir.Backend(backend.host, backend.port, **settings)  # type: ignore[arg-type]


async def destinations(stack: AsyncExitStack) -> dict[str, ir.Backend]:
    """One for each way that a request may end."""
    found = {"refused": ir.Backend("127.0.0.66", 1), "unresolved": ir.Backend("nobody.invalid", 80)}
    for code in (*SUCCEEDED, *FAILED):
        found[f"answers-{code}"] = at(await stack.enter_async_context(http_backend(str(code), status(code))))
    found["cut"] = at(await stack.enter_async_context(http_backend("cut", reset)))
    for name, limit in (("held", ir.UNLIMITED), ("full", 1)):
        found[name] = at(await stack.enter_async_context(http_backend(name, hold)), limit=limit)
    found["streamed"] = at(await stack.enter_async_context(http_backend("streamed", events)))
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("somebody-else.test").configure_cert(context)
    pem = authority.cert_pem.bytes().decode()
    elsewhere = await stack.enter_async_context(http_backend("certificate", tls=context))
    found["certificate"] = at(elsewhere, tls=ir.Tls("wanted.test", "wanted.test", pem))
    plain = await stack.enter_async_context(http_backend("credential"))
    found["credential"] = at(plain, credential=ir.Credential("nobody-has-it"))
    return found


@asynccontextmanager
async def caller(directory: Path) -> AsyncIterator[Caller]:
    """An Envoy with a model for each destination, which goes there and nowhere else."""
    async with AsyncExitStack() as stack:
        backends = await destinations(stack)
        plane = await stack.enter_async_context(serving())
        routes = [
            model(name, remotes=(ir.Remote(backend, "x.test"),), chains=(ir.Chain("remote-0", ir.PPM),))
            for name, backend in backends.items()
        ]
        plane.publish(*routes)
        envoy = await stack.enter_async_context(running(directory, bootstrap(plane.port)))
        await envoy.live()
        await plane.programmed(*routes)
        found = Caller(plane, envoy, backends)
        await found.served([f"answers-{code}" for code in (*SUCCEEDED, *FAILED) if code != 404])
        yield found


async def test_what_counts_as_failed_as_succeeded_and_as_neither(tmp_path: Path) -> None:
    async with caller(tmp_path) as found:
        for name in ("refused", "unresolved", "cut", "held", "full", "streamed", "certificate", "credential"):
            await found.ask(name)
        for code in (*SUCCEEDED, *FAILED):
            assert await found.ask(f"answers-{code}") == [code] * 3
        last = f"answers-{FAILED[-1]}"  # when all of it is reported, so is what came before
        await eventually(lambda: found.counted().get(last) == (0, 4))
        counted = found.counted()

    only_failed = {name for name, (succeeded, failed) in counted.items() if failed and not succeeded}
    only_succeeded = {name for name, (succeeded, failed) in counted.items() if succeeded and not failed}
    assert only_failed == {"refused", "cut", "certificate", *(f"answers-{code}" for code in FAILED)}
    assert only_succeeded == {"streamed", *(f"answers-{code}" for code in SUCCEEDED)}
    assert counted.keys() == only_failed | only_succeeded
