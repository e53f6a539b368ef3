"""Remotes by name, in a real Envoy against a real DNS server: answers that change, fail, or are late."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import cast

import pytest
import pytest_asyncio
from dnslib import AAAA, QTYPE, RCODE, RR, A, DNSRecord

from tests.envoy.conftest import ipv6_or_skip
from tests.envoy.world import World, eventually, model, remote, until, world
from tests.support.backends import Backend, http_backend
from xds import ir

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

TTL_S = 1


class Dns(asyncio.DatagramProtocol):
    """A name server on loopback. `zone`: name -> addresses, or the code of a refusal, or None to say nothing."""

    def __init__(self) -> None:
        self.zone: dict[str, list[str] | str | None] = {}
        self.asked: Counter[str] = Counter()

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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dns() -> AsyncIterator[Dns]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Dns, local_addr=("127.0.0.1", 0))
    yield protocol
    transport.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, dns: Dns) -> AsyncIterator[World]:
    address, port = dns.transport.get_extra_info("sockname")
    async with world(tmp_path_factory.mktemp("envoy"), dns_resolvers=(ir.Endpoint(address, port),)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def twin(there: Backend) -> AsyncIterator[Backend]:
    """On the same port as `there`, at the next address."""
    async with http_backend("twin", host="127.0.0.2", port=there.port) as backend:
        yield backend


def by_name(here: Backend, there: Backend, name: str) -> ir.Route:
    return model([here], [remote(there, address=name)], share_ppm=ir.PPM)


async def reaches(gateway: World, route: ir.Route, destination: str) -> None:
    async def does() -> bool:
        answer = await gateway.ask(route, "POST", data=b"x")
        assert answer.status == 200
        return answer.destination == destination

    await eventually(does)


async def test_a_changed_record_is_followed(
    gateway: World, dns: Dns, here: Backend, there: Backend, twin: Backend
) -> None:
    dns.zone["moves.test"] = ["127.0.0.1"]
    route = await gateway.serve(by_name(here, there, "moves.test"))
    await reaches(gateway, route, "remote-0")
    assert (there.hits, twin.hits) == (1, 0)

    dns.zone["moves.test"] = ["127.0.0.2"]

    async def moved() -> bool:
        return (await gateway.ask(route)).status == 200 and twin.hits > 0

    await eventually(moved)
    assert here.hits == 0


async def test_a_failing_name_server_takes_nothing_away(
    gateway: World, dns: Dns, here: Backend, there: Backend
) -> None:
    dns.zone["fails.test"] = ["127.0.0.1"]
    route = await gateway.serve(by_name(here, there, "fails.test"))
    await reaches(gateway, route, "remote-0")

    dns.zone["fails.test"] = "SERVFAIL"
    await dns.asked_again("fails.test")

    assert (await gateway.ask(route)).destination == "remote-0"


async def test_a_name_that_is_gone_is_no_destination_until_it_is_back(
    gateway: World, dns: Dns, here: Backend, there: Backend
) -> None:
    dns.zone["goes.test"] = ["127.0.0.1"]
    route = await gateway.serve(by_name(here, there, "goes.test"))
    await reaches(gateway, route, "remote-0")

    dns.zone["goes.test"] = "NXDOMAIN"
    await reaches(gateway, route, "local")
    dns.zone["goes.test"] = ["127.0.0.1"]
    await reaches(gateway, route, "remote-0")


@pytest.mark.parametrize("at_first", ["NXDOMAIN", "SERVFAIL", None])
async def test_a_name_that_is_unknown_at_first_is_used_when_it_appears(
    gateway: World, dns: Dns, here: Backend, there: Backend, at_first: str | None
) -> None:
    name = f"late-{at_first}.test".lower()
    dns.zone[name] = at_first
    route = await gateway.serve(by_name(here, there, name))
    assert (await gateway.ask(route)).destination == "local"

    dns.zone[name] = ["127.0.0.1"]

    await reaches(gateway, route, "remote-0")


async def test_all_addresses_of_a_name_are_used(
    gateway: World, dns: Dns, here: Backend, there: Backend, twin: Backend
) -> None:
    dns.zone["two.test"] = ["127.0.0.1", "127.0.0.2"]
    route = await gateway.serve(by_name(here, there, "two.test"))
    await reaches(gateway, route, "remote-0")

    await gateway.ask_many(route, 40)

    assert there.hits
    assert twin.hits
    assert here.hits == 0


async def test_a_name_with_ipv6_addresses_only_is_reached(gateway: World, dns: Dns, here: Backend) -> None:
    async with http_backend("there", host=ipv6_or_skip()) as there:
        dns.zone["six.test"] = ["::1"]
        route = await gateway.serve(by_name(here, there, "six.test"))
        await reaches(gateway, route, "remote-0")
