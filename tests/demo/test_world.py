"""The simulated world as the controller and Envoy meet it: a name, a certificate, a token, a prefix."""

import json
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from controller.demo import manifests
from controller.demo.children import Children
from controller.demo.scenario import MODEL
from controller.demo.workload import Timing

ROOT = Path(__file__).parents[2]
FAST = asdict(Timing(0.0, 0.0, 0.001))
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
SECRET = "only-for-this-test"


class Loopback(AbstractResolver):
    """Every name leads to 127.0.0.1."""

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        return


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[manifests.World]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    async with Children(tmp_path) as children:
        process = await children.start("world", "controller.demo.world", talks=True)
        assert process.stdin is not None
        assert process.stdout is not None
        settings = {"slots": 2, "local": FAST, "remote": FAST, "client_secret": SECRET}
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        line = await process.stdout.readline()
        assert line, children.last_words("world")
        yield manifests.World(**json.loads(line))


async def test_the_remote_is_reached_by_name_with_its_certificate_and_a_token_of_the_issuer(
    world: manifests.World,
) -> None:
    prefix = manifests.remote_path_prefix()
    url = f"https://{manifests.REMOTE_NAME}:{world.remote_port}{prefix}/v1/chat/completions"
    asked = {"grant_type": "client_credentials", "scope": manifests.SCOPE}
    login = {"client_id": manifests.CLIENT_ID, "client_secret": SECRET}

    async with aiohttp.ClientSession() as client, client.post(world.token_url, data={**asked, **login}) as granted:
        token = (await granted.json())["access_token"]
    trusting = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=world.ca_pem), resolver=Loopback())
    async with aiohttp.ClientSession(connector=trusting) as client:
        async with client.post(url, json=CHAT) as stranger:
            assert stranger.status == 401
        async with client.post(url, json=CHAT, headers={"Authorization": f"Bearer {token}"}) as friend:
            assert friend.status == 200
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=Loopback())) as client:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await client.post(url, json=CHAT)


async def test_local_is_plain_and_open(world: manifests.World) -> None:
    async with aiohttp.ClientSession() as client:
        async with client.post(f"http://127.0.0.1:{world.local_port}/v1/chat/completions", json=CHAT) as answer:
            assert answer.status == 200
        async with client.get(f"http://127.0.0.1:{world.local_port}/metrics") as shown:
            assert f'{manifests.METRIC}{{model_name="{MODEL}"}} 0.0' in await shown.text()


async def test_the_world_ends_with_its_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    async with Children(tmp_path) as children:
        process = await children.start("world", "controller.demo.world", talks=True)
        assert process.stdin is not None
        assert process.stdout is not None
        settings = {"slots": 1, "local": FAST, "remote": FAST, "client_secret": SECRET}
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        await process.stdout.readline()
        process.stdin.close()

        assert await process.wait() == 0, children.last_words("world")
