"""The control plane and a real Envoy: it boots from us, follows what changes, refuses what is wrong, and comes back."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.backends import Backend, http_backend
from tests.support.binaries import old_envoy_path
from tests.support.envoy import Envoy, bootstrap, running
from tests.xds.plane import Plane, eventually, model, serving
from xds import ir
from xds.events import GatewayConnected, GatewayDisconnected, GatewayRefused, Programmed, Rejected, SecretsDelivered

pytestmark = pytest.mark.integration


@asynccontextmanager
async def gateway(plane: Plane, directory: Path) -> AsyncIterator[Envoy]:
    async with running(directory, bootstrap(plane.port)) as envoy:
        await envoy.live()
        yield envoy


async def ask(envoy: Envoy, host: str) -> tuple[int, str]:
    """The status of a request, and where it was served."""
    address, port = await envoy.listener("front")
    url = f"http://{address}:{port}/"
    async with aiohttp.ClientSession() as session, session.get(url, headers={"host": host}) as answer:
        await answer.read()
        return answer.status, answer.headers.get("x-spillway-destination", "")


async def served(envoy: Envoy, host: str) -> None:
    """Waits for workers to take over what the main thread has acknowledged."""
    async with asyncio.timeout(20):
        while (await ask(envoy, host))[0] != 200:
            await asyncio.sleep(0.01)


def states(plane: Plane) -> set[str]:
    """What the status says of each type."""
    types: Any = [each["types"] for each in plane.server.status()]
    return {f"{each['type']} {each['state']}" for each in itertools.chain(*types)}


def at(backend: Backend) -> int:
    return backend.port


async def test_an_envoy_boots_from_us_and_follows_adds_changes_and_removals(tmp_path: Path) -> None:
    async with http_backend("here") as here, http_backend("there") as there, serving() as plane:
        first = model("first", at(here))
        plane.publish(first)
        async with gateway(plane, tmp_path) as envoy:
            await plane.programmed(first)
            await served(envoy, "first")

            added = model("second", at(here))
            plane.publish(added)
            await plane.programmed(added)
            await served(envoy, "second")

            remote = ir.Remote(ir.Backend("127.0.0.1", at(there)), "there.test")
            changed = replace(added, remotes=(remote,), chains=(ir.Chain("remote-0", ir.PPM),))
            plane.publish(changed)
            await plane.programmed(changed)
            async with asyncio.timeout(20):
                while await ask(envoy, "second") != (200, "remote-0"):
                    await asyncio.sleep(0.01)

            plane.remove(changed)
            async with asyncio.timeout(20):
                while "second" in await envoy.ask("/clusters") or (await ask(envoy, "second"))[0] != 404:
                    await asyncio.sleep(0.01)
            assert (await ask(envoy, "first"))[0] == 200
            assert plane.saw(Rejected) == []


async def test_a_changed_cluster_is_ready_at_once_because_its_endpoints_follow(tmp_path: Path) -> None:
    async with http_backend("here") as here, serving() as plane:
        route = model("m", at(here))
        plane.publish(route)
        async with gateway(plane, tmp_path) as envoy:
            await plane.programmed(route)
            await served(envoy, "m")
            warmed = plane.metrics.pushes.by_label["EDS"]

            plane.publish(replace(route, local=replace(route.local, initial_limit=7, limit=7)))
            await plane.programmed(route)

            assert plane.metrics.pushes.by_label["EDS"] == warmed + 1
            async with asyncio.timeout(10):  # without its endpoints, it warms for 15 s
                while await envoy.statistic("cluster_manager.warming_clusters") != 0:
                    await asyncio.sleep(0.01)
            await served(envoy, "m")


@pytest.mark.parametrize(
    ("wrong", "type_"),
    [
        ({"affinity_header": "a\nb"}, "RDS"),
        ({"remotes": (ir.Remote(ir.Backend("127.0.0.1", 1, headers=(("x-a", "a\nb"),)), "x.test"),)}, "CDS"),
    ],
)
async def test_what_an_envoy_refuses_stops_no_other_model(tmp_path: Path, wrong: dict[str, Any], type_: str) -> None:
    async with http_backend("here") as here, serving() as plane:
        good = model("good", at(here))
        bad = model("bad", at(here))
        plane.publish(good, bad)
        async with gateway(plane, tmp_path) as envoy:
            await plane.programmed(good, bad)
            await served(envoy, "bad")

            new = model("new", at(here))
            plane.publish(replace(bad, **wrong), new)
            rejected = await plane.rejected()
            assert rejected.routes == {bad.name}
            assert "alid" in rejected.message
            await plane.programmed(new)

            await served(envoy, "new")
            assert (await ask(envoy, "bad"))[0] == 200
            refused = plane.metrics.nacks.by_label[type_]
            assert plane.publish(replace(bad, **wrong))[0].route == bad.name
            plane.publish(replace(bad, retry=ir.Retry(0)))
            await plane.programmed(bad)
            assert plane.metrics.nacks.by_label[type_] == refused
            assert plane.saw(Rejected) == []


async def test_refused_endpoints_are_found_among_others_that_came_with_them(tmp_path: Path) -> None:
    async with http_backend("here") as here, serving() as plane:
        models = [model(f"m{number}", at(here)) for number in range(5)]
        plane.publish(*models)
        async with gateway(plane, tmp_path) as envoy:
            await plane.programmed(*models)

            changed = [replace(each, local=ir.Local((ir.Endpoint("127.0.0.1", at(here)),) * 2)) for each in models]
            changed[2] = replace(models[2], local=ir.Local((ir.Endpoint("no-address", 1),)))
            plane.publish(*changed)
            rejected = await plane.rejected()
            assert rejected.routes == {"default/m2"}
            await plane.programmed(*(each for each in changed if each.name != "default/m2"))
            for each in models:
                await served(envoy, each.hosts[0])


async def test_a_live_envoy_gets_nothing_that_it_has_from_a_restarted_controller(tmp_path: Path) -> None:
    async with http_backend("here") as here:
        kept, gone, late = (model(name, at(here)) for name in ("kept", "gone", "late"))
        remote = ir.Remote(ir.Backend("127.0.0.1", at(here), credential=ir.Credential("token")), "there.test")
        kept = replace(kept, remotes=(remote,))
        secret = ir.Secret("token", "abc")
        async with serving() as plane:
            port = plane.port
            plane.publish(kept, gone, secrets=(secret,))
            process = running(tmp_path, bootstrap(port))
            envoy = await process.__aenter__()
            await plane.programmed(kept, gone)
        try:
            async with serving(f"127.0.0.1:{port}") as plane:
                plane.publish(kept, gone, secrets=(secret,))
                await eventually(lambda: bool(plane.saw(SecretsDelivered)))
                await plane.programmed(kept, gone)
                assert sum(plane.metrics.pushes.by_label.values()) == 0
            async with serving(f"127.0.0.1:{port}") as plane:
                plane.publish(kept, late, secrets=(secret,))
                await plane.programmed(kept, late)
                await served(envoy, "late")
                async with asyncio.timeout(20):
                    while "local/default/gone" in await envoy.ask("/clusters"):
                        await asyncio.sleep(0.01)
                assert (await ask(envoy, "kept"))[0] == 200
                assert plane.metrics.nacks.by_label == {}
        finally:
            await process.__aexit__(None, None, None)


async def test_an_envoy_that_wants_the_state_of_the_world_gets_it(tmp_path: Path) -> None:
    async with http_backend("here") as here, serving() as plane:
        kept, gone = model("kept", at(here)), model("gone", at(here))
        plane.publish(kept, gone)
        configuration = bootstrap(plane.port).replace("DELTA_GRPC", "GRPC")
        async with running(tmp_path, configuration) as envoy:
            await envoy.live()
            await plane.programmed(kept, gone)
            await served(envoy, "gone")
            changed = replace(kept, local=replace(kept.local, initial_limit=7, limit=7))
            plane.publish(changed)
            await plane.programmed(changed)
            async with asyncio.timeout(10):
                while await envoy.statistic("cluster_manager.warming_clusters") != 0:
                    await asyncio.sleep(0.01)
            plane.remove(gone)
            async with asyncio.timeout(20):
                while "local/default/gone" in await envoy.ask("/clusters") or (await ask(envoy, "gone"))[0] != 404:
                    await asyncio.sleep(0.01)
            assert await ask(envoy, "kept") == (200, "local")
            assert plane.metrics.nacks.by_label == {}


async def test_an_envoy_that_goes_and_comes_is_told_of(tmp_path: Path) -> None:
    async with serving() as plane:
        async with gateway(plane, tmp_path):
            assert plane.saw(GatewayConnected) == [GatewayConnected("gateway-1", "1.40.0")]
            await eventually(lambda: {"CDS ACK", "LDS ACK", "SRDS ACK", "RTDS ACK"} <= states(plane))
        await eventually(lambda: bool(plane.saw(GatewayDisconnected)))
        assert plane.server.status() == []


async def test_an_envoy_that_is_too_old_is_refused_once_and_told_why(tmp_path: Path) -> None:
    async with serving() as plane, running(tmp_path, bootstrap(plane.port), binary=old_envoy_path()) as envoy:
        await eventually(lambda: "1.40 or newer is needed" in envoy.log)
        assert [event.version for event in plane.saw(GatewayRefused)] == ["1.36.4"]
        assert plane.saw(GatewayConnected) == []
        assert plane.saw(Programmed) == []
