"""Taking Services over, and letting models go: what is remembered between one look and the next. What is done to a
Service has its tests in tests/controller/test_takeover_*.py and tests/cluster/test_takeover.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from controller.adapters.kubernetes.client import Cluster
from controller.adapters.kubernetes.takeover import Takeover
from controller.events import RELEASED, Event, Exposed, Exposure
from controller.objects import MANAGED_BY_LABEL, MANAGER, SERVICE_LABEL
from controller.takeover.finalizer import FINALIZER
from controller.takeover.world import MANAGED_BY, MODEL_ANNOTATION, SHADOW_LABEL
from tests.kubernetes.fake_api import FakeApi, status
from tests.kubernetes.tasks import running, until

Json = dict[str, Any]

MODEL, WITNESS = "shop/m", "shop/witness"
SERVICES = "/api/v1/namespaces/shop/services/"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"


def exposure(service: str) -> Exposure:
    return Exposure(f"shop/{service}", 80, 20_000, ())


class Remains:
    """An API server with what a Service `gone` left behind: a slice of ours, and its shadow."""

    def __init__(self, api: FakeApi) -> None:
        self.slices: dict[str, Json] = {
            f"{SLICES}/gone-1": {
                "metadata": {
                    "name": "gone-1",
                    "namespace": "shop",
                    "labels": {SERVICE_LABEL: "gone", MANAGED_BY_LABEL: MANAGER},
                },
                "addressType": "IPv4",
            }
        }
        self.services: dict[str, Json] = {
            f"{SERVICES}gone-spillway-pods": {
                "metadata": {
                    "name": "gone-spillway-pods",
                    "namespace": "shop",
                    "uid": "u",
                    "resourceVersion": "1",
                    "creationTimestamp": "2026-11-21T20:38:24Z",
                    "labels": {MANAGED_BY: MANAGER, SHADOW_LABEL: "gone"},
                    "annotations": {MODEL_ANNOTATION: MODEL},
                },
                "spec": {"clusterIP": "None"},
            }
        }
        api.answer = self.answer

    def answer(self, request: web.Request) -> web.Response:
        if request.method == "DELETE":
            self.slices.pop(request.path, None)
            self.services.pop(request.path, None)
            return web.json_response({})
        if request.path == SLICES:
            of = request.query["labelSelector"]
            items = [each for each in self.slices.values() if each["metadata"]["labels"][SERVICE_LABEL] in of]
            return web.json_response({"items": items})
        found = self.services.get(request.path)
        return web.json_response(found) if found else status(404, "NotFound")


class Told:
    """What was said of models."""

    def __init__(self) -> None:
        self.all: list[Exposed] = []

    def hear(self, event: Event) -> None:
        assert isinstance(event, Exposed)
        self.all.append(event)

    def of(self, model: str) -> list[str]:
        return [each.reason for each in self.all if each.key == model]


@pytest.fixture
def remains(api: FakeApi) -> Remains:
    return Remains(api)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def taking_over(remains: Remains, cluster: Cluster, told: Told) -> Callable[[float], Takeover]:
    """A controller that leads, and sees what `Remains`."""

    def lead(linger_s: float) -> Takeover:
        takeover = Takeover(cluster, told.hear, serves=lambda namespace: namespace == "shop", linger_s=linger_s)
        for service in remains.services.values():
            takeover.see_service(service)
        takeover.resume()
        return takeover

    return lead


async def test_a_model_is_not_let_go_early_because_it_had_nothing_at_another_service(
    taking_over: Callable[[float], Takeover], remains: Remains, told: Told
) -> None:
    takeover = taking_over(3_600.0)
    async with running(takeover.run()):
        takeover.expose(MODEL, exposure("another"))
        await until(lambda: not remains.slices and not remains.services)
        takeover.expose(WITNESS, exposure("third"))
        await until(lambda: told.of(WITNESS) == ["ServiceNotFound"])
        takeover.expose(MODEL, None)
        takeover.expose(WITNESS, None)
        await until(lambda: told.of(WITNESS)[-1] == RELEASED)
    assert RELEASED not in told.of(MODEL)


async def test_that_nothing_is_left_is_said_again_to_an_engine_that_wanted_something_for_a_moment(
    taking_over: Callable[[float], Takeover], told: Told
) -> None:
    takeover = taking_over(0.0)
    takeover.see_model({"metadata": {"name": "witness", "namespace": "shop"}})
    async with running(takeover.run()):
        takeover.expose(WITNESS, None)
        await until(lambda: told.of(WITNESS) == [RELEASED])
        takeover.expose(WITNESS, exposure("another"))
        takeover.expose(WITNESS, None)
        await until(lambda: told.of(WITNESS) == [RELEASED, RELEASED])


async def test_who_leads_anew_does_not_act_on_what_was_said_while_it_might_not(
    taking_over: Callable[[float], Takeover], told: Told
) -> None:
    """An engine whose API server is away goes on deciding. When it says everything once more, that may be long past."""
    takeover = taking_over(0.0)
    takeover.see_model({"metadata": {"name": "m", "namespace": "shop"}})
    async with running(takeover.run()):
        takeover.pause()
        takeover.expose(MODEL, exposure("another"))
        takeover.resume()
        takeover.expose(WITNESS, exposure("third"))
        await until(lambda: told.of(WITNESS) == ["ServiceNotFound"])
    assert told.of(MODEL) == []


async def test_a_service_that_another_controller_gave_back_may_be_ours(
    taking_over: Callable[[float], Takeover], remains: Remains, told: Told
) -> None:
    (shadow,) = remains.services.values()
    shadow["metadata"]["annotations"][MODEL_ANNOTATION] = "elsewhere/m"
    takeover = taking_over(0.0)
    async with running(takeover.run()):
        takeover.expose(MODEL, exposure("gone"))
        takeover.expose(WITNESS, exposure("third"))
        await until(lambda: told.of(WITNESS) == ["ServiceNotFound"])
        assert told.of(MODEL) == []
        remains.services.clear()
        remains.slices.clear()
        takeover.lose_service("shop/gone-spillway-pods")
        await until(lambda: told.of(MODEL) == ["ServiceNotFound"])


async def test_what_comes_true_while_it_may_not_act_is_told_when_it_may(
    taking_over: Callable[[float], Takeover], api: FakeApi, told: Told
) -> None:
    asked, answers, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()
    handle = api.handle

    async def slowly(request: web.Request) -> web.StreamResponse:
        asked.set()
        await answers.wait()
        answered.set()
        return await handle(request)

    takeover = taking_over(0.0)
    takeover.see_model({"metadata": {"name": "witness", "namespace": "shop", "finalizers": [FINALIZER]}})
    api.handle = slowly  # type: ignore[method-assign]
    async with running(takeover.run()):
        takeover.expose(WITNESS, None)
        await asked.wait()
        takeover.pause()
        answers.set()
        await answered.wait()
        await asyncio.sleep(0.05)  # until it has been read; if that takes longer, there is nothing to forget
        takeover.resume()
        told.all.clear()
        takeover.expose(WITNESS, None)
        await until(lambda: told.of(WITNESS) == [RELEASED])


async def test_a_model_is_not_held_by_a_service_whose_namespace_is_gone_and_the_rights_in_it(
    taking_over: Callable[[float], Takeover], remains: Remains, api: FakeApi, told: Told
) -> None:
    takeover = taking_over(0.0)
    async with running(takeover.run()):
        takeover.expose(WITNESS, exposure("third"))
        await until(lambda: told.of(WITNESS) == ["ServiceNotFound"])
        api.answer = lambda request: status(403, "Forbidden", "no")
        takeover.expose(WITNESS, None)
        await until(lambda: told.of(WITNESS)[-1] == RELEASED)


async def test_what_may_not_be_looked_at_is_not_taken_to_be_as_it_was(
    taking_over: Callable[[float], Takeover], remains: Remains, api: FakeApi, told: Told
) -> None:
    api.answer = lambda request: status(403, "Forbidden", "no")
    takeover = taking_over(0.0)
    async with running(takeover.run()):
        takeover.expose(MODEL, None)
        await until(lambda: told.of(MODEL) == ["Forbidden"])
        takeover.expose(MODEL, None)
        takeover.expose(WITNESS, None)
        await until(lambda: told.of(WITNESS) == [RELEASED])
    assert told.of(MODEL) == ["Forbidden"]
