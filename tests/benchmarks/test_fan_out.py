"""The benchmark of fan-out goes through every step, and its client speaks as gRPC's own does."""

import shutil

import pytest

from benchmarks import fan_out
from benchmarks.figures import Report
from benchmarks.streams import wire
from benchmarks.streams.process import module, running
from protos.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from xds.snapshot import ROUTE


async def test_it_goes_through_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    report = Report("fan_out", quick=True)
    await fan_out.run(report, quick=True)
    taken = {each.name for each in report.figures}
    assert {"change to last ACK", "server memory a stream", "change to ACK of an observer"} <= taken
    assert [each.median for each in report.figures if each.name == "streams lost"] == [0, 0]
    assert "Go is not installed" in report.notes[0]


@pytest.mark.skipif(not shutil.which("go"), reason="the comparison is with a server in Go, and there is no go")
async def test_the_rival_follows_the_same_orders() -> None:
    await fan_out.build_rival()
    async with fan_out.rival_and_client(models=3) as (server, client):
        fan = await fan_out.fan_out(server, client, streams=5, rounds=2)
    assert len(fan.ms) == 2


async def test_a_client_says_what_it_was_sent_when_it_comes_back() -> None:
    async with running(*module("server", "1500")) as server:
        port = (await server.answer())["port"]
        async with running(*module("client", str(port))) as client:
            await client.ask("open", name="first", count=1, at_once=1, known=False)
            await client.ask("quiet")
            await server.ask("churn", every_s=0.05, observers=1, among="first")
            await client.ask("open", name="back", count=3, at_once=3, known=True)
            assert len((await server.ask("rest"))["seconds"]) > 0
            assert await client.ask("quiet") == {"open": 4, "lost": 0, "why": []}


def test_the_nonce_is_found_at_the_end() -> None:
    response = DeltaDiscoveryResponse(type_url=ROUTE, nonce="1f")
    response.resources.add(name="a", version="*", aliases=["*\x02"])
    assert wire.nonce_of(response.SerializeToString()) == "1f"


def test_an_answer_is_made_once_for_all_that_get_the_same() -> None:
    answers = wire.Answers(ROUTE)
    response = DeltaDiscoveryResponse(type_url=ROUTE, nonce="1f").SerializeToString()
    frame = answers.to(response)
    assert answers.to(bytes(bytearray(response))) is frame
    request = DeltaDiscoveryRequest.FromString(frame[wire.FRAME_HEADER + 5 :])
    assert (request.type_url, request.response_nonce) == (ROUTE, "1f")


def test_the_parts_of_a_first_request_make_a_whole() -> None:
    raw = wire.introduction("gateway-1") + wire.subscription(ROUTE, {"a": "1"})
    request = DeltaDiscoveryRequest.FromString(raw)
    assert (request.node.id, request.type_url, dict(request.initial_resource_versions)) == (
        "gateway-1",
        ROUTE,
        {"a": "1"},
    )
