"""Statuses: the newest of each object, once, and only while this controller may write."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from aiohttp import web

from controller.adapters.kubernetes import status_writer
from controller.adapters.kubernetes.client import Cluster
from controller.adapters.kubernetes.status_writer import StatusWriter
from controller.refresh import Pace
from tests.kubernetes.fake_api import FakeApi, status
from tests.kubernetes.tasks import running, until


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_writer, "PACE", Pace(first_retry_s=0.01, longest_retry_s=0.02))
    monkeypatch.setattr(status_writer, "EVERY_S", 0.01)


class Statuses:
    """Takes statuses. `refusal`: what is answered instead. `held`: answers wait for it. `given_up`: requests
    that their client ended meanwhile."""

    def __init__(self, api: FakeApi) -> None:
        self.refusal: tuple[int, str] | None = None
        self.held: asyncio.Event | None = None
        self.begun: list[Any] = []
        self.given_up = 0
        self.written: list[tuple[str, Any]] = []
        api.handle = self.handle  # type: ignore[method-assign]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        name = body["metadata"]["name"]
        self.begun.append(body)
        if self.held:
            try:
                await self.held.wait()
            except asyncio.CancelledError:
                self.given_up += 1
                raise
        if self.refusal:
            return status(*self.refusal)
        self.written.append((name, body["status"]))
        return web.json_response({})

    def of(self, name: str) -> list[Any]:
        return [written for each, written in self.written if each == name]


@pytest.fixture
def statuses(api: FakeApi) -> Statuses:
    return Statuses(api)


@pytest.fixture
def writer(cluster: Cluster) -> StatusWriter:
    writer = StatusWriter(cluster, jitter=lambda: 0.0)
    writer.resume()
    return writer


async def test_a_status_is_applied(api: FakeApi, statuses: Statuses, writer: StatusWriter) -> None:
    async with running(writer.run()):
        writer.put("shop/php", "u-1", {"state": "Standby"})
        await until(lambda: statuses.written)

    assert statuses.begun == [
        {
            "apiVersion": "deployment.beamlit.com/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "php", "namespace": "shop"},
            "status": {"state": "Standby"},
        }
    ]


async def test_only_the_newest_is_written(statuses: Statuses, writer: StatusWriter) -> None:
    for number in range(5):
        writer.put("shop/php", "u-1", {"percentage": number})
    async with running(writer.run()):
        await until(lambda: statuses.written)
        writer.put("shop/end", "u-2", {})
        await until(lambda: statuses.of("end"))

    assert statuses.of("php") == [{"percentage": 4}]


async def test_what_comes_while_one_is_written_is_written_after_it(statuses: Statuses, writer: StatusWriter) -> None:
    statuses.held = asyncio.Event()
    async with running(writer.run()):
        writer.put("shop/php", "u-1", {"percentage": 1})
        await until(lambda: statuses.begun)
        for number in (2, 3):
            writer.put("shop/php", "u-1", {"percentage": number})
        statuses.held.set()
        await until(lambda: len(statuses.written) == 2)

    assert statuses.of("php") == [{"percentage": 1}, {"percentage": 3}]


async def test_what_was_written_is_not_written_again(statuses: Statuses, writer: StatusWriter) -> None:
    async with running(writer.run()):
        writer.put("shop/php", "u-1", {"percentage": 1})
        await until(lambda: statuses.of("php"))
        writer.put("shop/php", "u-1", {"percentage": 1})
        writer.put("shop/end", "u-2", {})
        await until(lambda: statuses.of("end"))
        writer.put("shop/php", "u-3", {"percentage": 1})  # another object of that name
        await until(lambda: len(statuses.of("php")) == 2)

    assert len(statuses.begun) == 3


async def test_the_next_of_an_object_waits_its_turn_and_others_do_not(
    statuses: Statuses, writer: StatusWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_writer, "EVERY_S", 3_600.0)
    async with running(writer.run()):
        writer.put("shop/php", "u-1", {"percentage": 1})
        await until(lambda: statuses.of("php"))
        writer.put("shop/php", "u-1", {"percentage": 2})
        writer.put("shop/end", "u-2", {})
        await until(lambda: statuses.of("end"))
        assert statuses.of("php") == [{"percentage": 1}]

        await writer.flush()

    assert statuses.of("php") == [{"percentage": 1}, {"percentage": 2}]


async def test_a_server_that_is_away_gets_the_newest_once_it_is_back(
    statuses: Statuses, writer: StatusWriter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, status_writer.__name__)
    statuses.refusal = (503, "ServiceUnavailable")
    async with running(writer.run()):
        for name in ("php", "other"):
            writer.put(f"shop/{name}", "u", {"percentage": 1})
        await until(lambda: len(statuses.begun) > 6)
        writer.put("shop/php", "u", {"percentage": 2})
        statuses.refusal = None
        await until(lambda: statuses.of("other") and statuses.of("php")[-1:] == [{"percentage": 2}])

    assert statuses.of("other") == [{"percentage": 1}]
    assert [record.getMessage() for record in caplog.records] == [
        "statuses cannot be written for now: ServiceUnavailable"
    ]


async def test_a_refusal_is_said_once_for_an_object(
    statuses: Statuses, writer: StatusWriter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, status_writer.__name__)
    statuses.refusal = (422, "Invalid")
    async with running(writer.run()):
        writer.put("shop/php", "u", {})
        await until(lambda: len(statuses.begun) > 3)

    assert [record.getMessage() for record in caplog.records] == ["the status of shop/php cannot be written: Invalid"]


async def test_an_object_that_is_gone_is_forgotten(statuses: Statuses, writer: StatusWriter) -> None:
    statuses.refusal = (404, "NotFound")
    async with running(writer.run()):
        writer.put("shop/php", "u", {})
        await until(lambda: statuses.begun)
        await writer.flush()  # has nothing to wait for
        statuses.refusal = None
        writer.put("shop/end", "u-2", {})
        await until(lambda: statuses.of("end"))

    assert len(statuses.begun) == 2


async def test_a_forgotten_object_is_not_written(statuses: Statuses, writer: StatusWriter) -> None:
    writer.put("shop/php", "u", {})
    writer.put("shop/end", "u", {})
    writer.forget("shop/php")
    async with running(writer.run()):
        await until(lambda: statuses.of("end"))

    assert statuses.of("php") == []


async def test_nothing_is_written_before_this_controller_leads(cluster: Cluster, statuses: Statuses) -> None:
    writer = StatusWriter(cluster)
    writer.put("shop/php", "u", {"percentage": 1})
    async with running(writer.run()):
        writer.resume()
        writer.put("shop/end", "u", {})
        await until(lambda: statuses.written)

    assert statuses.of("php") == []


async def test_a_pause_gives_up_what_is_on_its_way_and_what_waits(statuses: Statuses, writer: StatusWriter) -> None:
    statuses.held = asyncio.Event()
    async with running(writer.run()):
        writer.put("shop/php", "u", {"percentage": 1})
        await until(lambda: statuses.begun)
        writer.put("shop/php", "u", {"percentage": 2})
        writer.pause()
        writer.put("shop/php", "u", {"percentage": 3})
        await writer.flush()
        writer.resume()
        await until(lambda: statuses.given_up == 1)
        statuses.held.set()
        writer.put("shop/end", "u", {})
        await until(lambda: statuses.of("end"))

    assert statuses.of("php") == []


async def test_after_a_pause_nothing_is_known_to_be_written(statuses: Statuses, writer: StatusWriter) -> None:
    async with running(writer.run()):
        writer.put("shop/php", "u", {"percentage": 1})
        await until(lambda: statuses.of("php"))
        writer.pause()
        writer.resume()
        writer.put("shop/php", "u", {"percentage": 1})
        await until(lambda: len(statuses.of("php")) == 2)


async def test_a_flush_does_not_wait_for_ever(
    statuses: Statuses, writer: StatusWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(status_writer, "FLUSH_S", 0.05)
    statuses.held = asyncio.Event()
    async with running(writer.run()):
        writer.put("shop/php", "u", {})
        await writer.flush()

    assert "1 statuses could not be written before the end" in caplog.text


async def test_so_many_are_on_their_way_and_no_more(statuses: Statuses, writer: StatusWriter) -> None:
    statuses.held = asyncio.Event()
    async with running(writer.run()):
        for number in range(3 * status_writer.AT_ONCE):
            writer.put(f"shop/m{number}", "u", {})
        await until(lambda: len(statuses.begun) == status_writer.AT_ONCE)
        assert len(statuses.begun) == status_writer.AT_ONCE
        statuses.held.set()
        await until(lambda: len(statuses.written) == 3 * status_writer.AT_ONCE)
