"""Taking a Service over against a model of Kubernetes' controllers and everything that people do meanwhile."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from controller.events import Exposure
from controller.objects import MANAGER, EndpointSlice, GatewayPod
from controller.takeover.contest import Contest
from controller.takeover.plan import Step, is_routine, plan
from controller.takeover.slices import desired_slices
from controller.takeover.world import ServiceView, World, selector_text
from tests.controller.takeover_cluster import (
    BROAD,
    KEY,
    NARROW,
    PORTS,
    SHADOW,
    Cluster,
    ConflictError,
    Pod,
    kept_selector,
)

GATEWAYS = (GatewayPod("gateway-0", ("10.0.1.1",)), GatewayPod("gateway-1", ("10.0.1.2",)))
STEADY = "10.0.0.1"
SERVES = {STEADY, *(address for pod in GATEWAYS for address in pod.addresses)}
MODEL = "ns/model"
EXPOSURE = Exposure(KEY, 80, 20_000, GATEWAYS)


class Stage:
    """A cluster, a planner and whoever else acts. Pod `steady` is always ready, and gateways always serve."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.cluster.pods = {
            "steady": Pod(STEADY, NARROW),
            "other": Pod("10.0.0.2", BROAD, web=8081),
        }
        self.cluster.create(KEY, BROAD)
        self.cluster.sync_all()
        self.exposure: Exposure | None = EXPOSURE
        self.contest = Contest()
        self.intended = BROAD
        self.was_served = True
        self.is_spoilt = False
        self.past: list[World] = []
        self.known: ServiceView | None = None
        self.last = Step()

    def act(self, stop_after: int | None = None, cached: World | None = None) -> bool:
        """Plans once and acts, but for a crash after `stop_after` actions. Returns whether it did anything."""
        seen = cached or self.cluster.seen()
        wanted = {MODEL: self.exposure} if self.exposure else {}
        step = plan(seen, wanted, self.contest, self.cluster.now)
        if cached is not None and not is_routine(step, seen, self.contest):
            return self.act(stop_after)
        self.contest, self.last = step.contest, step
        for action in step.actions[:stop_after]:
            try:
                self.cluster.do(action)
            except ConflictError:
                break
            self.check(f"after {action}")
        return bool(step.actions)

    # What has to hold

    def check(self, when: str) -> None:
        """Callers who were served are served."""
        if KEY not in self.cluster.services:
            return
        served = all(self.cluster.reached(port.name) & SERVES for port in PORTS)
        assert served or not self.was_served or self.is_spoilt, f"nobody serves {when}"
        self.was_served = served

    def settle(self) -> None:
        """Everybody does what is left to do, for a day."""
        for _ in range(60):
            before = self.cluster.changes, dict(self.cluster.slices)
            self.cluster.sync_all()
            self.check("when controllers are done")
            acted = self.act()
            if not acted and before == (self.cluster.changes, self.cluster.slices):
                if self.last.wake_at is None:
                    return
                self.cluster.now = self.last.wake_at
        raise AssertionError("it never ends")

    def is_as_before(self) -> None:
        assert not self.cluster.seen().ours
        assert SHADOW not in self.cluster.services
        service = self.cluster.services.get(KEY)
        if service is not None and (service.selector or not service.kept):
            assert service.selector == self.intended
            assert not service.kept_by_us
            assert service.models is None
            assert MANAGER not in service.writers
            assert contents(self.cluster) == contents(self.alone())

    def alone(self) -> Cluster:
        """As if we had never been there."""
        alone = Cluster(pods=self.cluster.pods)
        alone.create(KEY, self.intended)
        alone.sync_slices(KEY)
        return alone

    def is_ours(self, exposure: Exposure) -> None:
        service = self.cluster.services[KEY]
        assert not service.selector
        assert kept_selector(service) == self.intended == self.cluster.services[SHADOW].selector
        assert service.models == MODEL
        port = next(port for port in PORTS if port.port == exposure.port)
        assert set(self.cluster.of(KEY)) == set(desired_slices(service, self.cluster.of(SHADOW), {port: exposure}))
        assert KEY not in self.cluster.endpoints

    def is_finished(self) -> None:
        service = self.cluster.services.get(KEY)
        exposure = self.exposure
        refused = service is None or service.local_only or exposure is None or exposure.port == 99
        if refused or exposure is None:
            self.is_as_before()
        else:
            self.is_ours(exposure)


def contents(cluster: Cluster) -> set[EndpointSlice]:
    return {replace(each, key="") for each in cluster.of(KEY)}


class Story(Stage):
    """What may happen, in any order."""

    # The planner, and what becomes of it

    def step(self) -> None:
        self.act()

    def steps(self) -> None:
        while self.act():
            pass

    def all_is_done(self) -> None:
        self.settle()

    def crash(self) -> None:
        self.act(stop_after=1)
        self.contest = Contest()

    def look(self) -> None:
        """A cache is filled."""
        self.past.append(self.cluster.seen())
        self.known = self.cluster.services.get(KEY)

    def step_on_old_news(self) -> None:
        if self.past:
            self.act(cached=self.past.pop(0))

    # Kubernetes

    def sync_slices(self) -> None:
        self.cluster.sync_slices(KEY)

    def sync_shadow(self) -> None:
        self.cluster.sync_slices(SHADOW)

    def sync_slices_a_bit(self) -> None:
        self.cluster.sync_slices(KEY, changes_max=1)

    def sync_shadow_a_bit(self) -> None:
        self.cluster.sync_slices(SHADOW, changes_max=1)

    def sync_late(self) -> None:
        """Controllers that believe what was true a while ago write once more."""
        if self.known is not None and KEY in self.cluster.services and self.known.uid == self.cluster.services[KEY].uid:
            self.cluster.sync_slices(KEY, self.known)
            self.cluster.sync_endpoints(self.known)

    def sync_endpoints(self) -> None:
        self.cluster.sync_endpoints()

    def sync_mirror(self) -> None:
        self.cluster.sync_mirror()

    def collect_garbage(self) -> None:
        self.cluster.collect_garbage()

    def collect_some_garbage(self) -> None:
        self.cluster.collect_garbage(deletes_max=1)

    def time_passes(self) -> None:
        """In seconds controllers have done what there is to do for a shadow."""
        self.cluster.collect_garbage()
        self.cluster.sync_slices(SHADOW)
        self.cluster.now += 7

    def pod_changes(self) -> None:
        pod = self.cluster.pods["other"]
        self.cluster.pods["other"] = replace(pod, ready=not pod.ready)

    def pod_comes_or_goes(self) -> None:
        if not self.cluster.pods.pop("third", None):
            self.cluster.pods["third"] = Pod("10.0.0.3", BROAD)

    # What is wanted

    def gateways_change(self) -> None:
        if self.exposure:
            choices = [GATEWAYS, GATEWAYS[:1], ()]
            now = choices[(choices.index(self.exposure.gateways) + 1) % 3]
            self.exposure = replace(self.exposure, gateways=now)

    def no_gateway(self) -> None:
        if self.exposure:
            self.exposure = replace(self.exposure, gateways=())

    def toggle(self) -> None:
        self.exposure = None if self.exposure else EXPOSURE

    def another_port(self) -> None:
        if self.exposure:
            self.exposure = replace(self.exposure, port={80: 9090, 9090: 99, 99: 80}[self.exposure.port or 80])

    # People and their tools

    def apply_manifest(self) -> None:
        """What kubectl apply, Helm, Argo CD and Flux do: the selector is as in the manifest, annotations stay."""
        if KEY in self.cluster.services:
            self.cluster.set_selector(self.intended, "argocd-controller")

    def apply_other_selector(self) -> None:
        if KEY in self.cluster.services:
            self.intended = NARROW if self.intended == BROAD else BROAD
            self.cluster.set_selector(self.intended, "kubectl")

    def replace_manifest(self) -> None:
        if KEY in self.cluster.services:
            self.cluster.edit(
                selector=self.intended, writers=frozenset({"kubectl"}), kept=None, kept_by_us=False, models=None
            )

    def edit_annotation(self) -> None:
        service = self.cluster.services.get(KEY)
        if service is not None and not service.selector and service.kept is not None:
            self.intended = NARROW
            self.cluster.edit(kept=selector_text(NARROW), kept_by_us=False)

    def declare(self) -> None:
        """The manifest has the annotation in place of the selector."""
        if KEY in self.cluster.services:
            self.cluster.edit(
                selector={}, writers=frozenset(), kept=selector_text(self.intended), kept_by_us=False, annotated=True
            )

    def strip_annotations(self) -> None:
        """But never the last place that knows the selector."""
        service, shadow = self.cluster.services.get(KEY), self.cluster.services.get(SHADOW)
        if service is None:
            return
        known = shadow is not None and shadow.owners == {service.uid} and shadow.selector == self.intended
        if service.selector or known:
            self.cluster.edit(kept=None, kept_by_us=False, models=None, annotated=False)

    def delete_shadow(self) -> None:
        service = self.cluster.services.get(KEY)
        if service is not None and (service.selector or kept_selector(service) == self.intended):
            self.cluster.delete_shadow()

    def spoil_shadow(self) -> None:
        """Whoever edits it sends callers elsewhere: what they reach is not our doing from then on."""
        service = self.cluster.services.get(KEY)
        if SHADOW in self.cluster.services and service is not None and (service.selector or service.kept):
            self.cluster.edit(SHADOW, selector={"app": "php", "spoilt": "yes"})
            self.is_spoilt = True

    def change_policy(self) -> None:
        if KEY in self.cluster.services:
            local_only = self.cluster.services[KEY].local_only
            self.cluster.edit(local_only="" if local_only else "internalTrafficPolicy")

    def delete_or_create(self) -> None:
        if KEY in self.cluster.services:
            self.cluster.delete_service()
        else:
            self.cluster.create(KEY, self.intended)
            self.was_served = False


EVENTS = sorted(name for name in vars(Story) if not name.startswith("_"))


def play(events: list[str]) -> Story:
    story = Story()
    for event in events:
        getattr(story, event)()
        story.check(f"after {event}")
    story.settle()
    return story


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(EVENTS), max_size=40))
@example(["all_is_done", "no_gateway", "all_is_done", "delete_shadow", "step", "sync_shadow_a_bit", "steps"])
@example(["declare", "step", "sync_shadow_a_bit", "steps"])
@example(["all_is_done", "delete_shadow", "steps", "sync_shadow", "collect_some_garbage", "no_gateway", "steps"])
@example(["all_is_done", "delete_shadow", "toggle", "steps", "sync_slices_a_bit", "steps"])
@example(["all_is_done", "delete_shadow", "step", "sync_shadow_a_bit", "toggle", "step", "sync_slices_a_bit", "steps"])
def test_whatever_happens_callers_are_served_and_in_the_end_it_is_ours_or_as_before(events: list[str]) -> None:
    play(events).is_finished()
