"""What a cluster says, as events."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from controller.adapters.kubernetes import bursts
from controller.adapters.kubernetes.client import Cluster
from controller.adapters.kubernetes.source import Source, Where
from controller.events import Applied, Decided, Event, Kind, Removed
from controller.objects import SERVICE_LABEL, EndpointSlice
from tests.kubernetes.fake_api import FakeApi, status
from tests.kubernetes.tasks import running, until


class Nobody:
    """Who is shown everything, and looks at nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *shown: None


def of_all_services(request: web.Request) -> bool:
    return request.path.endswith("/endpointslices") and "labelSelector" not in request.query


async def test_a_slice_that_is_taken_from_its_service_is_gone(api: FakeApi, cluster: Cluster) -> None:
    api.answer = lambda request: None if of_all_services(request) else status(403, "Forbidden")
    told: list[Event] = []
    source = Source(cluster, Where(("shop",), frozenset(), ("shop", "gateway")), told.append, Nobody())
    content: dict[str, Any] = {
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}],
        "ports": [{"port": 80}],
    }
    api.put("php-x", **content)
    api.objects["shop/php-x"]["metadata"]["labels"] = {SERVICE_LABEL: "php"}

    async with running(source.run()):
        await until(lambda: told)
        assert isinstance(told[0], Applied)
        assert isinstance(told[0].object, EndpointSlice)
        api.put("php-x", **content)
        await until(lambda: len(told) > 1)

    assert told[1:] == [Removed(Kind.ENDPOINT_SLICE, "shop/php-x")]


async def test_who_is_synced_has_been_told_of_all_slices(
    api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a controller that starts would publish models without a part of their endpoints."""
    monkeypatch.setattr(bursts, "GAP_S", 3600.0)

    def answer(request: web.Request) -> web.Response | None:
        if of_all_services(request):
            return None
        nothing = {"metadata": {"resourceVersion": "1"}, "items": None}
        return status(403, "Forbidden") if "watch" in request.query else web.json_response(nothing)

    api.answer = answer
    names = {"php-x", "php-y", "php-z"}
    for name in names:
        api.put(name, addressType="IPv4")
        api.objects[f"shop/{name}"]["metadata"]["labels"] = {SERVICE_LABEL: "php"}
    told: list[Event] = []
    source = Source(cluster, Where(("shop",), frozenset(), ("shop", "gateway")), told.append, Nobody())

    async with running(source.run()):
        await source.synced()
        assert {each.object.key for each in told if isinstance(each, Applied)} == {f"shop/{name}" for name in names}


async def test_a_decision_that_somebody_takes_out_of_a_status_is_missed(api: FakeApi, cluster: Cluster) -> None:
    """Else who leads would not write it again, and the next leader would not know it."""
    api.answer = lambda request: None if request.path.endswith("/modeldeployments") else status(403, "Forbidden")
    told: list[Event] = []
    source = Source(cluster, Where(("shop",), frozenset(), ("shop", "gateway")), told.append, Nobody())

    def model(version: int, **fields: Any) -> dict[str, Any]:
        metadata = {"name": "m", "namespace": "shop", "uid": "u", "generation": 1, "resourceVersion": str(version)}
        return {"metadata": metadata, **fields}

    def decided() -> list[Event]:
        return [event for event in told if isinstance(event, Decided)]

    async with running(source.run()):
        await until(lambda: api.watches)
        api.send("ADDED", model(201))
        api.send("MODIFIED", model(202, status={"decision": {"gateway_port": 20_000}}))
        api.send("MODIFIED", model(203, status={"decision": {"gateway_port": 20_000}, "state": "Standby"}))
        api.send("MODIFIED", model(204, status={"state": "Standby"}))
        await until(lambda: len(decided()) == 2)

    assert decided() == [Decided("shop/m", {"gateway_port": 20_000}), Decided("shop/m", {})]
