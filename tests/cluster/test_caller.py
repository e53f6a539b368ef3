"""The caller that node tests believe: which requests it counts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.cluster.harness.images import model_server
from tests.kubernetes.tasks import until
from tests.support.ports import free_port


async def test_a_request_from_before_the_first_answer_is_not_counted() -> None:
    """It may hang for as long as it waits, since the kernel keeps what it knew of the connection at its begin."""
    hangs = iter([True])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if next(hangs, False):
            await reader.read()
            hung.set()
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nweb")
        writer.close()

    hung = asyncio.Event()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server, calling(url) as counts_url, aiohttp.ClientSession() as session:

        async def counts() -> dict[str, Any]:
            async with session.get(counts_url) as response:
                return json.loads(await response.text())  # type: ignore[no-any-return]

        await hung.wait()
        so_far = (await counts())["requests"]

        async def go_on() -> bool:
            return bool((await counts())["requests"] > so_far + 5)

        await until(go_on)
        found = await counts()
    assert (found["errors"], found["answers"]) == ({}, {"200 web": found["requests"]})


@asynccontextmanager
async def calling(url: str) -> AsyncIterator[str]:
    """With two workers. Gives where its counts are."""
    port = free_port()
    arguments = ("call", "-rate=5", "-workers=2", f"-listen=127.0.0.1:{port}", url)
    process = await asyncio.create_subprocess_exec(model_server(), *arguments)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        await process.wait()
