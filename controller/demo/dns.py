"""Shell: a real DNS server for the few names that a demo or a test needs, on a free UDP port of the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from dnslib import QTYPE, RCODE, RR, A, DNSError, DNSRecord

TTL_S = 5


class NameServer(asyncio.DatagramProtocol):
    """Answers A queries for `addresses`, names in lower case without a dot at the end. Other names do not exist."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self) -> str:
        """Listens, and returns 'host:port'."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        host, port = self._transport.get_extra_info("sockname")
        return f"{host}:{port}"

    def stop(self) -> None:
        if self._transport:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            query = DNSRecord.parse(data)
        except DNSError:
            return
        if self._transport and query.questions:
            self._transport.sendto(self.answer(query).pack(), addr)

    def answer(self, query: DNSRecord) -> DNSRecord:
        """A name that exists but has no address of the asked kind gets an empty answer, not an error."""
        reply = query.reply()
        address = self._addresses.get(str(query.q.qname).rstrip(".").lower())
        if address is None:
            reply.header.rcode = RCODE.NXDOMAIN
        elif query.q.qtype == QTYPE.A:
            reply.add_answer(RR(query.q.qname, QTYPE.A, ttl=TTL_S, rdata=A(address)))
        return reply
