"""The election's requests when the server is slow, refuses, or hangs. A real one is in tests/cluster."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from aiohttp import web

from controller.adapters.kubernetes import election
from controller.adapters.kubernetes.client import Cluster
from controller.adapters.kubernetes.election import Election
from controller.election import Terms
from tests.kubernetes.fake_api import FakeApi, status
from tests.kubernetes.tasks import running, until

TERMS = Terms(duration_s=2, deadline_s=0.5, retry_s=0.05)


class Leases:
    """Keeps one Lease.

    `hangs`: its server takes requests and does not answer. `mute`: it carries out the next write, and does not answer.
    """

    def __init__(self, api: FakeApi, spec: dict[str, Any] | None = None) -> None:
        self.spec = spec
        self.version = 1
        self.hangs = False
        self.mute = False
        self.writes: list[dict[str, Any]] = []
        self._api = api
        api.handle = self.handle  # type: ignore[method-assign]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        if self.hangs:
            await asyncio.Event().wait()
        if (answer := self._api.answer(request)) is not None:
            return answer
        if request.method == "GET" and self.spec is None:
            return status(404, "NotFound")
        if request.method != "GET":
            given = json.loads(body)
            if given["metadata"].get("resourceVersion", str(self.version)) != str(self.version):
                return status(409, "Conflict")
            self.version += 1
            self.spec = given["spec"]
            self.writes.append(given["spec"])
            if self.mute:
                self.mute = False
                await asyncio.Event().wait()
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "spec": self.spec})


class Told:
    def __init__(self) -> None:
        self.all: list[bool] = []

    def contender(self, cluster: Cluster) -> Election:
        return Election(cluster, "shop", "leader", "me", self.all.append, terms=TERMS, jitter=lambda: 0.0)


async def test_a_lease_is_made_renewed_and_given_back(api: FakeApi, cluster: Cluster) -> None:
    leases, told = Leases(api), Told()
    contender = told.contender(cluster)
    async with running(contender.run()):
        await until(lambda: len(leases.writes) == 3)
        assert (contender.leads, contender.holder) == (True, "me")

    assert told.all == [True, False]
    first, second, *_, last = leases.writes
    assert (first["holderIdentity"], first["leaseDurationSeconds"], first["leaseTransitions"]) == ("me", 2, 0)
    assert (second["acquireTime"], second["renewTime"] > first["renewTime"]) == (first["acquireTime"], True)
    assert (last["holderIdentity"], last["leaseDurationSeconds"]) == (None, 1)


async def test_a_renewal_that_is_under_way_at_the_end_does_not_keep_the_lease(api: FakeApi, cluster: Cluster) -> None:
    leases, told = Leases(api), Told()
    async with running(told.contender(cluster).run()):
        await until(lambda: leases.writes)
        leases.mute, before = True, len(leases.writes)
        await until(lambda: len(leases.writes) > before and not leases.mute)

    assert leases.writes[-1]["holderIdentity"] is None


async def test_a_lease_that_somebody_else_has_by_the_end_stays_theirs(api: FakeApi, cluster: Cluster) -> None:
    leases, told = Leases(api), Told()
    async with running(told.contender(cluster).run()):
        await until(lambda: told.all == [True])
        leases.spec, leases.version = {"holderIdentity": "other", "leaseDurationSeconds": 2}, 1_000

    assert leases.spec is not None
    assert leases.spec["holderIdentity"] == "other"


async def test_who_hears_nothing_stops_leading_and_goes_on_when_it_can(api: FakeApi, cluster: Cluster) -> None:
    leases, told = Leases(api), Told()
    async with running(told.contender(cluster).run()):
        await until(lambda: told.all == [True])
        leases.hangs = True
        await until(lambda: told.all == [True, False])
        leases.hangs = False
        await until(lambda: told.all == [True, False, True])


async def test_after_an_outage_the_holder_has_its_time_to_renew(api: FakeApi, cluster: Cluster) -> None:
    Leases(api, {"holderIdentity": "other", "leaseDurationSeconds": 2})
    told = Told()
    answers = [None, *(status(503, "ServiceUnavailable") for _ in range(45))]
    looks = 0

    def out_for_long(request: web.Request) -> web.Response | None:
        nonlocal looks
        looks += request.method == "GET"
        return answers.pop(0) if answers else None

    api.answer = out_for_long
    async with running(told.contender(cluster).run()):
        await until(lambda: not answers)
        before = looks
        await until(lambda: told.all == [True])

    assert looks > before + 1


async def test_a_refusal_is_said_once(api: FakeApi, cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, election.__name__)
    leases, told = Leases(api), Told()
    refusals = 0

    def refuse(request: web.Request) -> web.Response:
        nonlocal refusals
        refusals += 1
        return status(403, "Forbidden", "leases are not for you")

    api.answer = refuse
    async with running(told.contender(cluster).run()):
        await until(lambda: refusals > 3)
        assert told.all == []
        api.answer = lambda request: None
        await until(lambda: told.all == [True])

    assert [record.getMessage().partition(" cannot be held: ") for record in caplog.records] == [
        (
            "the lease /apis/coordination.k8s.io/v1/namespaces/shop/leases/leader",
            " cannot be held: ",
            "Forbidden: leases are not for you",
        )
    ]
    assert leases.writes


async def test_who_was_not_fast_enough_says_nothing(
    api: FakeApi, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    Leases(api, {"holderIdentity": None, "leaseDurationSeconds": 1})
    conflicts = iter([status(409, "Conflict")])
    api.answer = lambda request: next(conflicts, None) if request.method == "PATCH" else None
    told = Told()
    async with running(told.contender(cluster).run()):
        await until(lambda: told.all == [True])

    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_stopping_does_not_wait_for_a_server_that_hangs(
    api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(election, "RELEASE_S", 0.05)
    leases, told = Leases(api), Told()
    async with running(told.contender(cluster).run()):
        await until(lambda: told.all == [True])
        leases.hangs = True

    assert told.all == [True, False]
    assert "has to run out" in caplog.text


@pytest.mark.parametrize("spec", [{}, {"holderIdentity": "", "renewTime": None}])
async def test_a_lease_of_nobody_is_taken(api: FakeApi, cluster: Cluster, spec: dict[str, Any]) -> None:
    leases, told = Leases(api, spec), Told()
    async with running(told.contender(cluster).run()):
        await until(lambda: told.all == [True])

    assert leases.writes[0]["leaseTransitions"] == 1
