"""A gateway as it is in a pod: the bootstrap with its lines for clusters, on loopback. It finds its controller by name,
shows a certificate, moves to another replica without being told anything anew, and goes when its callers have left.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from string import Template

import aiohttp
import pytest
import pytest_asyncio
import trustme
import yaml

from tests.envoy.dns import name_server
from tests.envoy.test_own_ports import own
from tests.support.backends import Backend, events
from tests.support.envoy import TEMPLATE, Envoy, running
from tests.support.ports import free_port
from tests.xds.plane import Plane, eventually, serving
from xds import ir
from xds.events import GatewayConnected, SecretsDelivered
from xds.server import ServerTls
from xds.translate import Gateway

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ADDRESS = "127.0.0.72"
NAME = "spillway.test"
KEY = "b3JhY2xl"
REPLICAS = ("127.0.0.73", "127.0.0.74")


class Cluster:
    """Replicas of a controller behind one name, and what is needed to be a gateway of theirs."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.xds_port = free_port(REPLICAS[0])
        self.pod_port = free_port(ADDRESS)
        self.settings = Gateway(ADDRESS, 0, access_log_path=str(directory / "access.log"))
        self._stack = stack
        authority = trustme.CA()
        controller, gateway = authority.issue_cert(NAME), authority.issue_cert("gateway")
        authority.cert_pem.write_to_path(directory / "ca.crt")
        for name, each in (("controller", controller), ("tls", gateway)):
            each.private_key_pem.write_to_path(directory / f"{name}.key")
            for number, blob in enumerate(each.cert_chain_pems):
                blob.write_to_path(directory / f"{name}.crt", append=number > 0)

    @asynccontextmanager
    async def replica(self, address: str) -> AsyncIterator[Plane]:
        tls = ServerTls(self.directory / "controller.crt", self.directory / "controller.key", self.directory / "ca.crt")
        async with serving(f"{address}:{self.xds_port}", tls, self.settings) as plane:
            yield plane

    async def gateway(self, *addresses: str, variant: str = "DELTA_GRPC") -> Envoy:
        """One whose name server knows these replicas."""
        dns = await self._stack.enter_async_context(name_server())
        dns.zone[NAME] = list(addresses)
        text = TEMPLATE.read_text().replace("#+ ", "")
        text = text.replace("/etc/spillway", str(self.directory)).replace("9902", str(self.pod_port))
        text = text.replace("DELTA_GRPC", variant)
        text = text.replace("address: 127.0.0.1", f"address: {ADDRESS}").replace("0.0.0.0", ADDRESS)
        configuration = yaml.safe_load(
            Template(text).substitute(
                node_id="",
                node_cluster="",
                xds_host=NAME,
                xds_port=self.xds_port,
                admin_host="127.0.0.1",
                admin_port=free_port("127.0.0.1"),
            )
        )
        host, port = dns.address
        configuration["typed_dns_resolver_config"] = {
            "name": "cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [{"socket_address": {"address": host, "port_value": port}}],
            },
        }
        options = ("--service-node", "pod-1", "--service-cluster", "spillway", "--drain-strategy", "immediate")
        return await self._stack.enter_async_context(running(self.directory, yaml.safe_dump(configuration), *options))

    async def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        """What others in the cluster may ask."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://{ADDRESS}:{self.pod_port}{path}") as answer,
        ):
            return answer.status, await answer.text()


@pytest_asyncio.fixture(name="cluster", loop_scope="module")
async def _cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setenv("DRAIN_KEY", KEY)
    async with AsyncExitStack() as stack:
        yield Cluster(tmp_path, stack)


def models(here: Backend) -> tuple[ir.Route, ...]:
    """Everything that a model may have: a host, a port, a limit, remotes with and without a secret."""
    remotes = (
        ir.Remote(ir.Backend("127.0.0.1", here.port, credential=ir.Credential("token")), "there.test", "/a"),
        ir.Remote(ir.Backend("127.0.0.1", here.port), "elsewhere.test"),
    )
    return tuple(
        own(f"m{number}", here, hosts=(f"m{number}",), remotes=remotes[: number % 3], port=free_port(ADDRESS))
        for number in range(6)
    )


async def test_it_is_ready_when_it_has_been_told_what_to_serve(cluster: Cluster, here: Backend) -> None:
    envoy = await cluster.gateway(REPLICAS[0])
    await eventually(lambda: "xds" in envoy.log)  # it has tried, and nobody answered
    assert (await envoy.ask("/ready")).strip() == "PRE_INITIALIZING"
    with pytest.raises(aiohttp.ClientConnectorError):
        await cluster.ask("/stats/prometheus")

    async with cluster.replica(REPLICAS[0]) as plane:
        route = own("m", here, port=free_port(ADDRESS))
        plane.publish(route)
        await envoy.live()
        assert plane.saw(GatewayConnected) == [GatewayConnected("pod-1", "1.40.0")]
        async with aiohttp.ClientSession() as session, session.get(f"http://{ADDRESS}:{route.port}/") as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("variant", "told"),
    [("DELTA_GRPC", set()), ("GRPC", {"EDS", "RDS", "SDS", "RTDS"})],  # of these a state does not say what it was
)
async def test_a_gateway_that_moves_to_another_replica_is_told_nothing_that_it_says_it_has(
    cluster: Cluster, here: Backend, variant: str, told: set[str]
) -> None:
    """Each replica heard of everything in an order of its own, and of one thing more or less on the way."""
    routes, secret = models(here), ir.Secret("token", "abc")
    async with AsyncExitStack() as first, cluster.replica(REPLICAS[1]) as second:
        plane = await first.enter_async_context(cluster.replica(REPLICAS[0]))
        plane.publish(*routes, secrets=(secret,))
        passing = own("passing", here, port=free_port(ADDRESS))
        second.publish(passing, *(replace(route, port=None) for route in reversed(routes[3:])))
        second.publish(*routes[:2], secrets=(secret,))
        second.publish(*reversed(routes))
        second.remove(passing)

        envoy = await cluster.gateway(*REPLICAS, variant=variant)
        await envoy.live()
        one, other = (plane, second) if plane.saw(GatewayConnected) else (second, plane)
        await one.programmed(*routes)
        before = await built(envoy)

        await one.server.stop()
        await eventually(lambda: bool(other.saw(SecretsDelivered)))
        await other.programmed(*routes)

        assert other.metrics.pushes.by_label.keys() <= told
        assert await built(envoy) == before


async def test_only_a_secret_of_its_own_making_comes_anew_from_another_replica(cluster: Cluster, here: Backend) -> None:
    routes = models(here)
    async with AsyncExitStack() as first, cluster.replica(REPLICAS[1]) as second:
        plane = await first.enter_async_context(cluster.replica(REPLICAS[0]))
        for each in (plane, second):
            each.publish(*routes, secrets=(ir.Secret("token", f"of {id(each)}"),))
        envoy = await cluster.gateway(*REPLICAS)
        await envoy.live()
        one, other = (plane, second) if plane.saw(GatewayConnected) else (second, plane)
        await one.programmed(*routes)

        await one.server.stop()
        await eventually(lambda: bool(other.saw(SecretsDelivered)))

        assert dict(other.metrics.pushes.by_label) == {"SDS": 1}


async def built(envoy: Envoy) -> dict[str, str]:
    """How many clusters and listeners it has made, changed and dropped so far."""
    lines = (await envoy.ask("/stats?filter=^(cluster_manager.cluster_|listener_manager.listener_)")).splitlines()
    return dict(itertools.starmap(lambda name, _, value: (name, value), (line.partition(": ") for line in lines)))


async def test_it_serves_and_asks_callers_to_leave_until_they_have(cluster: Cluster, here: Backend) -> None:
    async with cluster.replica(REPLICAS[0]) as plane:
        envoy = await cluster.gateway(REPLICAS[0])
        route = own("m", here, port=free_port(ADDRESS))
        plane.publish(route)
        await plane.programmed(route)
        await envoy.live()
        url = f"http://{ADDRESS}:{route.port}/"
        async with aiohttp.ClientSession() as streaming, aiohttp.ClientSession() as kept:
            async with kept.get(url) as answer:
                assert "connection" not in answer.headers
            here.behave = events
            stream = await streaming.get(url)
            await stream.content.readuntil(b"\n\n")

            drained = asyncio.ensure_future(cluster.ask(f"/drain/{KEY}/60"))
            async with asyncio.timeout(20):
                while (await envoy.ask("/ready")).strip() != "DRAINING":
                    await asyncio.sleep(0.01)
            here.gate.set()
            for _ in range(2):  # on the connection that was there, and on a new one
                async with kept.get(url) as answer:
                    assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert not drained.done()
            assert await stream.content.read() == b"data: [DONE]\n\n"
            stream.close()

            assert await asyncio.wait_for(drained, 50) == (200, "")
            async with kept.get(url) as answer:
                assert answer.status == 200, "it serves until it is stopped"


async def test_it_waits_for_callers_that_stay_for_so_long_only(cluster: Cluster, here: Backend) -> None:
    here.behave = events
    async with cluster.replica(REPLICAS[0]) as plane:
        envoy = await cluster.gateway(REPLICAS[0])
        route = own("m", here, port=free_port(ADDRESS))
        plane.publish(route)
        await plane.programmed(route)
        await envoy.live()
        async with aiohttp.ClientSession() as session, session.get(f"http://{ADDRESS}:{route.port}/") as stream:
            await stream.content.readuntil(b"\n\n")
            assert await cluster.ask(f"/drain/{KEY}/1") == (200, "")
            here.gate.set()
            assert await stream.content.read() == b"data: [DONE]\n\n"


async def test_others_can_ask_for_statistics_and_for_nothing_that_is_the_admins(cluster: Cluster) -> None:
    async with cluster.replica(REPLICAS[0]):
        envoy = await cluster.gateway(REPLICAS[0])
        await envoy.live()
        status, text = await cluster.ask("/stats/prometheus")
        assert status == 200
        assert "envoy_http_downstream_cx_active" in text
        for path in ("/", "/config_dump", "/ready", "/quitquitquit", "/stats", "/stats/prometheus/../../config_dump"):
            assert (await cluster.ask(path))[0] == 404, path
        for method in ("POST", "PUT", "DELETE"):
            assert (await cluster.ask("/stats/prometheus", method))[0] == 404
        assert (await envoy.ask("/ready")).strip() == "LIVE"


@pytest.mark.parametrize("environment", [KEY, ""])
async def test_who_does_not_know_its_key_cannot_drain_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    monkeypatch.setenv("DRAIN_KEY", environment)
    async with cluster.replica(REPLICAS[0]):
        envoy = await cluster.gateway(REPLICAS[0])
        await envoy.live()
        for path in ("", "5", "/5", f"{KEY}", f"{KEY}/", f"{KEY}/soon", f"{KEY[:-1]}/5", f"{KEY}x/5", f"x/../{KEY}x/5"):
            assert (await cluster.ask(f"/drain/{path}"))[0] in (403, 404), path
        assert (await envoy.ask("/ready")).strip() == "LIVE"
