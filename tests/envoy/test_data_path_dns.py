"""Remotes by name, in a real Envoy against a real DNS server: answers that change, fail, or are late."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.envoy.conftest import ipv6_or_skip
from tests.envoy.dns import Dns, name_server
from tests.envoy.world import World, eventually, model, remote, world
from tests.support.backends import Backend, http_backend
from xds import ir

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dns() -> AsyncIterator[Dns]:
    async with name_server() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, dns: Dns) -> AsyncIterator[World]:
    async with world(tmp_path_factory.mktemp("envoy"), dns_resolvers=(ir.Endpoint(*dns.address),)) as running:
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
