"""The bytes that wake the loop, and that none of them is missed."""

import asyncio
import socket
from collections import deque
from typing import Any

import grpc.aio

from xds.grpc_events import taken_together


async def test_all_bytes_are_taken_at_once() -> None:
    loop, events, rounds = asyncio.get_running_loop(), deque[int](), []
    reads, writes = socket.socketpair()
    reads.setblocking(False)

    def handle(name: str) -> None:
        reads.recv(1)
        rounds.append((name, len(events)))
        events.clear()

    with reads, writes:
        with taken_together(loop):
            loop.add_reader(reads, handle, "handled")
        for burst in (1, 100, 3):
            for event in range(burst):
                events.append(event)
                writes.send(b"1")
            await asyncio.sleep(0.01)
        loop.remove_reader(reads)
    assert rounds == [("handled", 1), ("handled", 100), ("handled", 3)]


async def test_other_readers_are_as_they_were() -> None:
    loop = asyncio.get_running_loop()
    reads, writes = socket.socketpair()
    heard: list[bytes] = []
    with reads, writes:
        with taken_together(loop):
            loop.add_reader(reads.fileno(), lambda: heard.append(reads.recv(1)))
        loop.add_reader(writes, heard.append, b"")
        loop.remove_reader(writes)
        writes.send(b"ab")
        while len(heard) < 2:
            await asyncio.sleep(0)
        loop.remove_reader(reads)
    assert heard == [b"a", b"b"]


async def test_grpc_still_registers_a_socket_of_its_own() -> None:
    """If it fails, grpc.aio has become another, and `xds.grpc_events` may have nothing to do any more."""
    loop = asyncio.get_running_loop()
    registered: list[object] = []
    add_reader = loop.add_reader

    def note(source: Any, *args: Any) -> None:
        registered.append(source)
        add_reader(source, *args)

    vars(loop)["add_reader"] = note
    try:
        server = grpc.aio.server()
    finally:
        del vars(loop)["add_reader"]
    await server.stop(None)
    assert [type(each) for each in registered] == [socket.socket]
