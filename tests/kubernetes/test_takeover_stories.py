"""Whoever takes a Service over for two models, in any order of what users, Kubernetes, the network and the election do:
callers are served all the time, no model waits for ever to be let go, and nothing is remembered that is over.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any, cast

import pytest

from controller.adapters.kubernetes import takeover as module
from controller.adapters.kubernetes.client import ApiError
from controller.adapters.kubernetes.client import Cluster as Client
from controller.adapters.kubernetes.takeover import Takeover
from controller.events import RELEASED, Event, Exposed, Exposure
from controller.objects import EndpointSlice, GatewayPod
from controller.takeover import watched
from controller.takeover.actions import Action
from controller.takeover.finalizer import FINALIZER
from controller.takeover.slices import desired_slices
from controller.takeover.world import ServiceView, World
from tests.controller.takeover_cluster import BROAD, KEY, NARROW, PORTS, SHADOW, Cluster, ConflictError, Pod
from tests.kubernetes.tasks import running
from tests.kubernetes.virtual_loop import VirtualLoop

GATEWAYS = (GatewayPod("gateway-0", ("10.0.1.1",)), GatewayPod("gateway-1", ("10.0.1.2",)))
SERVES = {"10.0.0.1", "10.0.1.1", "10.0.1.2"}
PORT_OF = {"ns/m": 80, "ns/n": 9090}
STORIES = 60


class Story:
    """`models`: whether each is held and is leaving. `wanted`: by an engine, and `exposed`: what it was told."""

    def __init__(self, chance: random.Random, patch: pytest.MonkeyPatch) -> None:
        self.chance = chance
        self.cluster = Cluster()
        self.cluster.pods = {"steady": Pod("10.0.0.1", NARROW), "other": Pod("10.0.0.2", BROAD, web=8081)}
        self.cluster.create(KEY, BROAD)
        self.models: dict[str, tuple[bool, bool]] = dict.fromkeys(PORT_OF, (False, False))
        self.wanted: dict[str, Exposure | None] = {}
        self.exposed: dict[str, Exposed] = {}
        self.failing = 0.0
        self.leads = self.was_served = True
        self.seen_services: dict[str, ServiceView] = {}
        self.seen_slices: dict[str, EndpointSlice] = {}
        self.seen_endpoints = False
        self.seen_models: dict[str, tuple[bool, bool]] = {}
        for name in ("read_world", "carry_out", "hold_model"):
            patch.setattr(module, name, getattr(self, name))
        patch.setattr(random, "random", chance.random)
        patch.setattr(watched, "view_of", lambda view: view)  # the model of a cluster has them read already
        self.takeover = Takeover(cast(Client, None), self.hear, clock=self.now)

    def now(self) -> float:
        self.cluster.now = 1_000_000.0 + asyncio.get_running_loop().time()
        return self.cluster.now

    def hear(self, event: Event) -> None:
        assert isinstance(event, Exposed)
        self.exposed[event.key] = event

    def check(self) -> None:
        served = KEY in self.cluster.services and all(self.cluster.reached(port.name) & SERVES for port in PORTS)
        assert served or not self.was_served or KEY not in self.cluster.services, "nobody serves"
        self.was_served = served

    # The API server

    async def _answer(self) -> None:
        """Late, or not at all."""
        await asyncio.sleep(self.chance.choice([0, 0.01, 0.2]))
        self.now()
        if self.chance.random() < self.failing:
            raise ApiError(self.chance.choice([0, 403, 409, 429, 500]), "Failing", "")

    async def read_world(self, client: Client, key: str) -> World:
        await self._answer()
        return self.cluster.seen()

    async def carry_out(self, client: Client, action: Action) -> None:
        await self._answer()
        try:
            self.cluster.do(action)
        except ConflictError:
            raise ApiError(409, "Conflict", "") from None
        self.check()
        await self._answer()

    async def hold_model(self, client: Client, key: str, *, hold: bool) -> None:
        await self._answer()
        if key in self.models:
            is_held, is_leaving = self.models[key]
            self.models[key] = hold and (is_held or not is_leaving), is_leaving
            if is_leaving and not hold:
                del self.models[key]
        await self._answer()

    def watches_catch_up(self) -> None:
        services, slices, models = self.cluster.services, self.cluster.slices, self.models
        for view in services.values():
            if self.seen_services.get(view.key) != view:
                self.takeover.see_service(cast(Any, view))
        for key in self.seen_services.keys() - services:
            self.takeover.lose_service(key)
        for each in slices.values():
            if each.key not in self.seen_slices or self.seen_slices[each.key].version != each.version:
                self.takeover.see_slice(each)
        known = self.takeover._watched.world(KEY)
        # Also one that came and went in between: watches leave nothing out.
        for key in {each.key for each in (*known.slices, *known.shadow_slices)} - slices.keys():
            self.takeover.lose_slice(key)
        if KEY in self.cluster.endpoints:
            self.takeover.see_endpoints(KEY)
        elif self.seen_endpoints:
            self.takeover.lose_endpoints(KEY)
        for key in models:
            if self.seen_models.get(key) != models[key]:
                self._show_model(key, *models[key])
        for key in self.seen_models.keys() - models:
            self.takeover.lose_model(key)
            self.want(key, None)
            del self.wanted[key]
            self.exposed.pop(key, None)
        self.seen_services, self.seen_slices, self.seen_models = dict(services), dict(slices), dict(models)
        self.seen_endpoints = KEY in self.cluster.endpoints

    def _show_model(self, key: str, is_held: bool, is_leaving: bool) -> None:
        metadata: dict[str, Any] = {"namespace": "ns", "name": key.removeprefix("ns/")}
        metadata |= {"finalizers": [FINALIZER] if is_held else [], "deletionTimestamp": "now" if is_leaving else None}
        self.takeover.see_model({"metadata": metadata})
        if is_leaving:
            self.want(key, None)

    def controllers_work(self) -> None:
        self.now()
        self.cluster.sync_all()
        self.check()

    # The engine

    def want(self, model: str, exposure: Exposure | None) -> None:
        if exposure and (told := self.exposed.get(model)) and told.reason == RELEASED:
            del self.exposed[model]
        self.wanted[model] = exposure
        self.takeover.expose(model, exposure)

    def say_everything(self) -> None:
        for model, exposure in list(self.wanted.items()):
            self.want(model, exposure)

    # What happens

    def another_leads(self) -> None:
        if self.leads:
            self.takeover.pause()
        else:
            self.lead()
        self.leads = not self.leads

    def lead(self) -> None:
        self.takeover.resume()
        self.exposed.clear()
        self.say_everything()

    def user_changes_a_model(self) -> None:
        model = self.chance.choice(list(PORT_OF))
        if self.models.get(model, (True, True))[1]:
            return
        gateways = self.chance.choice([GATEWAYS, GATEWAYS[:1], ()])
        self.want(model, self.chance.choice([None, Exposure(KEY, PORT_OF[model], 20_000, gateways)]))

    def user_deletes_or_makes_a_model(self) -> None:
        model = self.chance.choice(list(PORT_OF))
        if model not in self.models:
            if model not in self.seen_models:
                self.models[model] = (False, False)
        elif self.models[model][0]:
            self.models[model] = (True, True)
        else:
            del self.models[model]

    def user_deletes_or_makes_the_service(self) -> None:
        if KEY in self.cluster.services:
            self.cluster.delete_service()
        else:
            self.cluster.create(KEY, BROAD)
        self.was_served = False

    def user_applies_the_service(self) -> None:
        if KEY in self.cluster.services:
            self.cluster.set_selector(BROAD, "argocd-controller")

    def user_deletes_the_shadow(self) -> None:
        self.cluster.delete_shadow()

    def a_pod_changes(self) -> None:
        pod = self.cluster.pods["other"]
        self.cluster.pods["other"] = replace(pod, ready=not pod.ready)

    def requests_fail(self) -> None:
        self.failing = self.chance.choice([0.0, 0.2, 1.0])

    def step(self) -> None:
        self.now()
        self.chance.choice(HAPPENINGS)(self)
        self.check()

    # How it ends

    async def settle(self) -> None:
        self.failing = 0.0
        if not self.leads:
            self.lead()
        self.say_everything()
        for _ in range(400):
            await asyncio.sleep(1.0)
            self.controllers_work()
            self.watches_catch_up()

    def is_finished(self) -> None:
        wanted = {model: exposure for model, exposure in self.wanted.items() if exposure}
        for model, (is_held, is_leaving) in self.models.items():
            assert not is_leaving, f"{model} waits for ever"
            if model in self.wanted and model not in wanted:
                assert (self.exposed[model].reason, is_held) == (RELEASED, False)
        service, seen = self.cluster.services.get(KEY), self.cluster.seen()
        if service is None or not wanted or any(self.exposed[model].reason == "Contested" for model in wanted):
            assert not seen.is_touched
            assert service is None or service.selector == BROAD
        else:
            assert not service.selector
            assert service.models == ",".join(sorted(wanted))
            assert all(self.models[model][0] for model in wanted)
            taken = {port: each for port in PORTS for each in wanted.values() if each.port == port.port}
            assert set(self.cluster.of(KEY)) == set(desired_slices(service, self.cluster.of(SHADOW), taken))
        assert set(self.takeover._sites) == ({KEY} if wanted else set())
        assert set(self.takeover._sites_of) == set(wanted)
        assert set(self.takeover._told) | set(self.takeover._said) <= set(self.models)
        assert not self.takeover._failures


HAPPENINGS = (
    Story.another_leads,
    Story.user_changes_a_model,
    Story.user_deletes_or_makes_a_model,
    Story.user_deletes_or_makes_the_service,
    Story.user_applies_the_service,
    Story.user_deletes_the_shadow,
    Story.a_pod_changes,
    Story.requests_fail,
    Story.controllers_work,
    Story.watches_catch_up,
)


async def tell(chance: random.Random, patch: pytest.MonkeyPatch) -> None:
    story = Story(chance, patch)
    story.controllers_work()
    story.watches_catch_up()
    async with running(story.takeover.run()) as working:
        story.takeover.resume()
        for model, port in PORT_OF.items():
            story.want(model, Exposure(KEY, port, 20_000, GATEWAYS))
        for _ in range(chance.randrange(80)):
            story.step()
            await asyncio.sleep(chance.choice([0, 0.05, 0.5, 3, 10]))
            if chance.random() < 0.7:
                story.watches_catch_up()
            if chance.random() < 0.6:
                story.controllers_work()
        await story.settle()
        assert not working.done()
        story.is_finished()


@pytest.mark.parametrize("seed", range(STORIES))
def test_however_it_goes_on_it_ends_well(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(tell(random.Random(seed), monkeypatch))
