"""The name server, asked over UDP."""

import asyncio
import socket

import pytest
from dnslib import QTYPE, RCODE, DNSRecord

from controller.demo.dns import NameServer


async def asked(address: str, data: bytes) -> DNSRecord:
    host, port = address.split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (host, int(port)))
        await loop.sock_sendall(client, data)
        async with asyncio.timeout(20):
            return DNSRecord.parse(await loop.sock_recv(client, 4096))


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "addresses"),
    [
        ("remote.test", "A", RCODE.NOERROR, ["127.0.0.9"]),
        ("Remote.TEST", "A", RCODE.NOERROR, ["127.0.0.9"]),
        ("remote.test", "AAAA", RCODE.NOERROR, []),
        ("other.test", "A", RCODE.NXDOMAIN, []),
    ],
)
async def test_a_name_leads_to_its_address(name: str, kind: str, rcode: int, addresses: list[str]) -> None:
    server = NameServer({"remote.test": "127.0.0.9"})
    try:
        answer = await asked(await server.start(), DNSRecord.question(name, kind).pack())
    finally:
        server.stop()

    assert answer.header.rcode == rcode
    assert [str(record.rdata) for record in answer.rr if record.rtype == QTYPE.A] == addresses


async def test_what_is_no_query_is_ignored_and_the_next_one_is_answered() -> None:
    server = NameServer({"remote.test": "127.0.0.9"})
    try:
        address = await server.start()
        server.datagram_received(b"hello", ("127.0.0.1", 9))
        answer = await asked(address, DNSRecord.question("remote.test").pack())
    finally:
        server.stop()

    assert len(answer.rr) == 1
