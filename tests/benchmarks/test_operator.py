"""The benchmark of a full cluster: it goes through all its steps, and knows a change when a gateway is told of it."""

import asyncio
from typing import Any, cast

import pytest

from benchmarks import operator
from benchmarks.figures import Report
from benchmarks.operator import Gateway
from benchmarks.scale.cluster import Change, at_rate
from protos.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from tests.cluster.harness.programs import program
from xds import ir
from xds.translate.endpoint import load_assignment


def change(path: str, address: str, *, present: bool = True) -> Change:
    return Change(path, [], "local/a", address, present)


def told(*addresses: str) -> ClusterLoadAssignment:
    return load_assignment("local/a", [ir.Endpoint(each, 80) for each in addresses])


@pytest.fixture(name="gateway")
def _gateway() -> Gateway:
    return Gateway(cast("Any", None))


async def test_a_change_is_there_with_its_address_or_without_it(gateway: Gateway) -> None:
    came, went = gateway.expect(change("s", "10.0.0.1")), gateway.expect(change("t", "10.0.0.2", present=False))
    gateway.compare(told("10.0.0.2"))
    assert not came.done()
    assert not went.done()
    gateway.compare(told("10.0.0.1", "10.0.0.2"))
    assert came.done()
    assert not went.done()
    gateway.compare(told())
    assert went.done()


async def test_a_change_that_another_of_its_slice_has_overtaken_is_over_with_it(gateway: Gateway) -> None:
    first, other = gateway.expect(change("s", "10.0.0.1")), gateway.expect(change("t", "10.0.0.9"))
    second = gateway.expect(change("s", "10.0.0.2"))
    gateway.compare(told("10.0.0.2"))
    assert first.done()
    assert second.done()
    assert not other.done()


async def test_numbers_come_at_a_rate_and_none_is_left_out() -> None:
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    assert [number async for number in at_rate(1000, 20)] == list(range(20))
    assert loop.time() - started_s >= 0.019


@pytest.mark.integration
@pytest.mark.timeout(300)
async def test_it_goes_through_all_steps() -> None:
    for name in ("kube-apiserver", "kube-controller-manager"):
        program(name)
    report = Report("operator", quick=True)
    await operator.run(report, quick=True)
    assert {figure.name for figure in report.figures} >= {"CPU", "time to the gateway", "memory at its peak"}
    assert report.notes == []
