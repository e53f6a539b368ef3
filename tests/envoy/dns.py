"""A name server on loopback for tests with a real Envoy."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import cast

from dnslib import AAAA, QTYPE, RCODE, RR, A, DNSRecord

from tests.envoy.world import until

TTL_S = 1


class Dns(asyncio.DatagramProtocol):
    """`zone`: name -> addresses, or the code of a refusal, or None to say nothing."""

    def __init__(self) -> None:
        self.zone: dict[str, list[str] | str | None] = {}
        self.asked: Counter[str] = Counter()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.transport.get_extra_info("sockname")
        return host, port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = DNSRecord.parse(data)
        name = str(query.q.qname).rstrip(".")
        self.asked[name] += 1
        known = self.zone.get(name, "NXDOMAIN")
        if known is None:
            return
        reply = query.reply()
        if isinstance(known, str):
            reply.header.rcode = getattr(RCODE, known)
        else:
            for address in known:
                kind, data_of = (QTYPE.A, A) if ip_address(address).version == 4 else (QTYPE.AAAA, AAAA)
                if kind == query.q.qtype:
                    reply.add_answer(RR(name, kind, rdata=data_of(address), ttl=TTL_S))
        self.transport.sendto(reply.pack(), addr)

    async def asked_again(self, name: str) -> None:
        """Waits for three more rounds of questions (two each): by the third, the first's answer has had its effect."""
        seen = self.asked[name]
        await until(lambda: self.asked[name] >= seen + 6)


@asynccontextmanager
async def name_server() -> AsyncIterator[Dns]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Dns, local_addr=("127.0.0.1", 0))
    try:
        yield protocol
    finally:
        transport.close()
