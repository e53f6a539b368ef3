"""Remotes that do not work, and one that does: callers are answered all the same. And gateways started elsewhere."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme

from tests.integration.objects import Json, endpoint_slice, model, remote, secret, service
from tests.integration.test_faults import undisturbed
from tests.support import envoy
from tests.support.backends import Backend, hold, http_backend, status
from tests.support.binaries import old_envoy_path
from tests.support.outside import refusing_port
from tests.support.stack import Stack, eventually, running

pytestmark = pytest.mark.integration

HALF: Json = {"mode": "Force", "percentage": 50}
ALL: Json = {"mode": "Force", "percentage": 100}
NAME = "models.test"


def manifests(local: Backend, far: Json, *more: Json, **offloading: object) -> dict[str, list[Json]]:
    spec: Json = {"remoteBackend": far, "behavior": HALF, **offloading}
    return {"a.yaml": [service(), endpoint_slice(local), model(**spec), *more]}


def behind_tls(backend: Backend) -> Json:
    """A remote by address whose certificate must be for NAME, by the authority in the Secret `authority`."""
    tls = {"sni": NAME, "caRef": {"name": "authority", "key": "ca.crt"}}
    return remote(backend, scheme="https", tls=tls)


def authority_secret(authority: trustme.CA) -> Json:
    found = secret("authority")
    found["stringData"]["ca.crt"] = authority.cert_pem.bytes().decode()
    return found


def server_tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


async def asked(backend: Backend, times: int) -> None:
    async def often_enough() -> bool:
        return backend.hits >= times

    await eventually(often_enough, f"{backend.name} is asked {times} times")


async def logged(stack: Stack, destination: str, failed: str = "") -> Json:
    """Waits for an access log line of a request that this destination answered, after `failed` did not.

    Envoy keeps lines for a while, unless there are many, and writes them when it ends.
    """
    found: list[Json] = []

    async def written() -> bool:
        found[:] = [
            line
            for line in stack.access_log
            if line["destination"] == destination and (not failed or failed in (line["errors"] or {}))
        ]
        return bool(found)

    await eventually(written, f"a line of {destination} in the access log")
    return found[0]


async def fails(stack: Stack) -> tuple[Json, Json]:
    """Waits until the remote has no share because it fails, as the status and the log say.

    The condition, and the access log's line of a request that was answered from local instead.
    """
    found = await stack.until(lambda m: m["share_ppm"] == 0 and not m["remotes"][0]["ready"])
    assert found["wanted_ppm"] == 500_000
    condition = await stack.condition("RemoteReady")
    assert (condition["status"], condition["reason"]) == ("False", "NotReady")
    assert "requests to it failed" in condition["message"]
    assert "RemoteUnhealthy" in stack.log
    line = await logged(stack, "local", failed="remote-0")
    assert (line["status"], line["attempts"]) == (200, 2)
    return condition, line


async def test_a_remote_that_refuses_is_made_up_for_and_gets_no_share(tmp_path: Path) -> None:
    async with http_backend("local") as local:
        with refusing_port() as port:
            async with running(tmp_path, manifests(local, {"host": f"127.0.0.1:{port}"})) as stack:
                async with undisturbed(stack):
                    _, line = await fails(stack)
                assert "Connection_refused" in line["errors"]["remote-0"]


async def test_a_remote_with_a_certificate_of_another_name_is_never_talked_to(tmp_path: Path) -> None:
    authority = trustme.CA()
    async with (
        http_backend("local") as local,
        http_backend("impostor", tls=server_tls(authority, "other.test")) as far,
        running(tmp_path, manifests(local, behind_tls(far), authority_secret(authority))) as stack,
    ):
        async with undisturbed(stack):
            _, line = await fails(stack)
        assert "CERTIFICATE_VERIFY_FAILED" in line["errors"]["remote-0"]
        assert far.hits == 0


async def test_a_remote_behind_tls_is_trusted_by_its_own_authority(tmp_path: Path) -> None:
    authority = trustme.CA()
    async with (
        http_backend("local") as local,
        http_backend("remote", tls=server_tls(authority, NAME)) as far,
        running(tmp_path, manifests(local, behind_tls(far), authority_secret(authority))) as stack,
    ):
        async with undisturbed(stack):
            await asked(far, 20)
        assert (await stack.condition("RemoteReady"))["status"] == "True"
        await stack.stop()
        line = await logged(stack, "remote-0")
        assert (line["status"], line["attempts"], line["errors"]) == (200, 1, None)


async def test_a_remote_that_is_overloaded_sends_the_request_elsewhere_and_keeps_its_share(tmp_path: Path) -> None:
    async with (
        http_backend("local") as local,
        http_backend("remote", status(429, retry_after="1")) as far,
        running(tmp_path, manifests(local, remote(far))) as stack,
    ):
        async with undisturbed(stack):
            await asked(far, 20)
        assert (await stack.model())["share_ppm"] == 500_000
        assert (await stack.condition("RemoteReady"))["status"] == "True"
        await stack.stop()
        line = await logged(stack, "local", failed="remote-0")
        assert (line["status"], line["attempts"]) == (200, 2)
        assert "429" in line["errors"]["remote-0"]


async def test_a_remote_that_answers_503_is_made_up_for_where_that_is_asked_for_and_gets_no_share(
    tmp_path: Path,
) -> None:
    async with (
        http_backend("local") as local,
        http_backend("remote", status(503)) as far,
        running(tmp_path, manifests(local, remote(far), retry={"statusCodes": [429, 503]})) as stack,
        undisturbed(stack),
    ):
        _, line = await fails(stack)
        assert "503" in line["errors"]["remote-0"]


async def test_a_remote_that_hangs_holds_one_caller_whose_slot_is_free_when_it_gives_up(tmp_path: Path) -> None:
    async with http_backend("local") as local, http_backend("remote", hold) as far:
        files = manifests(local, remote(far, maxConcurrentRequests=1), behavior=ALL)
        async with running(tmp_path, files) as stack:
            await stack.until_programmed()
            for number in (1, 2):
                caller = asyncio.create_task(stack.ask("llama", method="POST", data=b"{}"))

                async def arrived(number: int = number) -> bool:
                    return (far.hits, far.in_flight) == (number, 1)

                await eventually(arrived, f"the remote has request {number}")
                async with undisturbed(stack):
                    pass
                caller.cancel()
                await asyncio.gather(caller, return_exceptions=True)

                async def left() -> bool:
                    return far.in_flight == 0

                await eventually(left, "the remote's slot is free")
            assert (await stack.condition("RemoteReady"))["status"] == "True"
            await stack.stop()
            assert "UO" in (await logged(stack, "local", failed="remote-0"))["errors"]["remote-0"]
            given_up = await logged(stack, "remote-0")
            assert (given_up["status"], given_up["flags"]) == (0, "DC")


# Gateways started elsewhere


@asynccontextmanager
async def without_envoy(
    directory: Path, files: Mapping[str, Sequence[Json]]
) -> AsyncIterator[tuple[Stack, envoy.Envoy]]:
    """A controller that starts no Envoy, and one that is started by itself and serves."""
    async with running(directory, files, arguments=["--no-envoy"]) as stack:
        assert "envoy_admin" not in stack.addresses
        assert (await stack.condition("Programmed"))["reason"] == "NoGateway"
        assert await readiness(stack) == (503, "no gateway is connected\n")
        configuration = envoy.bootstrap(xds_port(stack))
        async with envoy.running(directory / "gateway", configuration) as gateway:
            host, port = await gateway.listener("front")
            stack.addresses["listen"] = f"{host}:{port}"
            await stack.until_programmed()
            yield stack, gateway


def xds_port(stack: Stack) -> int:
    return int(stack.addresses["xds"].rpartition(":")[2])


async def readiness(stack: Stack) -> tuple[int, str]:
    url = f"http://{stack.addresses['admin']}/readyz"
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        return reply.status, await reply.text()


async def test_without_an_envoy_of_its_own_it_programs_one_that_is_started_elsewhere(tmp_path: Path) -> None:
    async with http_backend("local") as local, http_backend("remote") as far:
        files = manifests(local, remote(far), behavior={"mode": "Off"})
        async with without_envoy(tmp_path, files) as (stack, _), undisturbed(stack):
            assert (await stack.ask("llama")).destination == "local"
            (gateway,) = (await stack.status())["gateways"]
            assert (gateway["gateway"], gateway["version"]) == ("gateway-1", "1.40.0")
            assert await readiness(stack) == (200, "ok\n")

            stack.write("a.yaml", *manifests(local, remote(far), behavior=ALL)["a.yaml"])

            async def moved() -> bool:
                return (await stack.ask("llama")).destination == "remote-0"

            await eventually(moved, "the share moves")
            assert await stack.stop() == 0
            assert (await stack.ask("llama")).destination == "remote-0"


async def test_an_envoy_that_is_too_old_is_refused_in_words_and_the_others_go_on(tmp_path: Path) -> None:
    async with (
        http_backend("local") as local,
        http_backend("remote") as far,
        without_envoy(tmp_path, manifests(local, remote(far))) as (stack, _),
        undisturbed(stack),
    ):
        configuration = envoy.bootstrap(xds_port(stack), node_id="gateway-old")
        async with envoy.running(tmp_path / "old", configuration, binary=old_envoy_path()) as old:

            async def told() -> bool:
                return "1.40 or newer is needed" in old.log

            await eventually(told, "its stream says why")
            assert "gateway gateway-old is Envoy 1.36.4: 1.40 or newer is needed" in stack.log
            assert (await stack.condition("Programmed"))["status"] == "True"
            assert (await old.ask("/listeners")).strip() == ""
