"""The controller's own address."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from controller.adapters.admin import AdminServer


class Controller:
    missing = "no gateway is connected"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        Counter("pushes", "Pushes.", registry=self.registry).inc(3)
        self.server = AdminServer(lambda: {"models": [1]}, lambda: self.missing, self.registry)
        self.base = ""


@pytest.fixture
async def controller() -> AsyncIterator[Controller]:
    made = Controller()
    ((host, port),) = await made.server.start([("127.0.0.1", 0)])
    made.base = f"http://{host}:{port}"
    yield made
    await made.server.stop()


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def test_status_is_json(controller: Controller) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{controller.base}/status") as response:
        assert await response.json() == {"models": [1]}


async def test_metrics_are_prometheus_text(controller: Controller) -> None:
    status, text = await get(f"{controller.base}/metrics")
    assert status == 200
    assert "pushes_total 3.0" in text


async def test_health_is_not_readiness(controller: Controller) -> None:
    assert (await get(f"{controller.base}/healthz"))[0] == 200
    assert await get(f"{controller.base}/readyz") == (503, "no gateway is connected\n")
    controller.missing = ""
    assert await get(f"{controller.base}/readyz") == (200, "ok\n")


async def test_nothing_can_be_changed_there(controller: Controller) -> None:
    async with aiohttp.ClientSession() as session, session.post(f"{controller.base}/status") as response:
        assert response.status == 405


async def test_a_busy_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = AdminServer(dict, str, CollectorRegistry())
        with pytest.raises(OSError, match="address already in use"):
            await server.start([taken.getsockname()])
        await server.stop()
