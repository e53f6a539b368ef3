"""Taking Services over on a real API server, with its real controllers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from controller.adapters.kubernetes import service_access
from controller.adapters.kubernetes import takeover as takeover_module
from controller.adapters.kubernetes.client import ApiError, Cluster
from controller.adapters.kubernetes.takeover import Takeover
from controller.api import MODEL_API_VERSION
from controller.events import RELEASED, Exposure, NewService
from controller.objects import MANAGED_BY_LABEL, MANAGER, SELECTOR_ANNOTATION, GatewayPod, ServicePort, shadow_name
from controller.takeover import contest
from controller.takeover.actions import Action
from controller.takeover.finalizer import FINALIZER
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.paper_node import PaperNode
from tests.cluster.takeover_stage import GATEWAY_PORT, GATEWAYS, SELECTOR, Json, Stage
from tests.kubernetes.tasks import until

pytestmark = pytest.mark.integration

AT_GATEWAYS = {f"{pod.addresses[0]}:{GATEWAY_PORT}" for pod in GATEWAYS}


@pytest.fixture
async def stage(
    control_plane: ControlPlane, cluster: Cluster, paper_node: PaperNode, namespace: str, crds: None
) -> Stage:
    stage = Stage(control_plane, cluster, paper_node, namespace)
    await stage.begin()
    return stage


async def test_it_is_taken_over_and_given_back_exactly_as_it_was(stage: Stage) -> None:
    before = stage.snapshot()
    model = f"{stage.namespace}/m"
    async with stage.callers(), stage.taking_over() as takeover:
        takeover.expose(model, stage.exposure())
        await until(lambda: stage.reason() == "TakenOver")
        assert stage.is_taken()
        assert stage.targets()["http"] == AT_GATEWAYS
        assert stage.targets()["metrics"] == before["targets"]["metrics"]
        takeover.expose(model, None)
        await until(lambda: stage.reason() == RELEASED)
        await until(lambda: stage.snapshot() == before)
    assert stage.gaps == []


async def test_a_service_of_two_address_families_is_taken_over_in_both(stage: Stage) -> None:
    gateways = (GatewayPod("gateway-0", ("10.9.0.1", "fd00:9::1")), GatewayPod("gateway-1", ("fd00:9::2", "10.9.0.2")))
    pods = {"steady": (stage.steady, "fd00:244::1"), "other": (stage.other, "fd00:244::2")}
    for name, addresses in pods.items():
        stage.node.set(stage.namespace, name, addresses=addresses)
    stage.serving = {*pods["steady"], *(address for pod in gateways for address in pod.addresses)}
    stage.families = ("IPv4", "IPv6")
    stage.apply(stage.manifest(ipFamilyPolicy="RequireDualStack"))
    at_pods = {f"{address}:{8080 + number}" for number, pair in enumerate(pods.values()) for address in pair}
    await until(lambda: stage.targets()["http"] == at_pods)
    before = stage.snapshot()
    model = f"{stage.namespace}/m"
    async with stage.callers(), stage.taking_over() as takeover:
        takeover.expose(model, stage.exposure(gateways))
        await until(lambda: stage.reason() == "TakenOver")
        assert stage.is_taken()
        assert stage.targets()["http"] == {f"{a}:{GATEWAY_PORT}" for pod in gateways for a in pod.addresses}
        assert stage.targets()["metrics"] == before["targets"]["metrics"]
        takeover.expose(model, stage.exposure(()))
        await until(lambda: stage.reason() == "NoGateway" and stage.targets() == before["targets"])
        takeover.expose(model, None)
        await until(lambda: stage.reason() == RELEASED)
        await until(lambda: stage.snapshot() == before)
    assert stage.gaps == []


async def test_it_follows_pods_and_gateways_and_writes_only_what_differs(stage: Stage) -> None:
    model = f"{stage.namespace}/m"
    async with stage.callers(), stage.taking_over() as takeover:
        takeover.expose(model, stage.exposure())
        await until(stage.is_taken)
        versions = stage.versions()
        third = stage.run_pod("third")
        await until(lambda: f"{third}:9090" in stage.targets()["metrics"])
        assert stage.targets()["http"] == AT_GATEWAYS
        changed = {name for name, version in stage.versions().items() if versions.get(name) != version}
        assert len(changed) == 1
        takeover.expose(model, stage.exposure(()))
        await until(lambda: stage.reason() == "NoGateway")
        assert stage.targets()["http"] == {f"{stage.steady}:8080", f"{third}:8080", f"{stage.other}:8081"}
        takeover.expose(model, stage.exposure(GATEWAYS[:1]))
        await until(lambda: stage.targets()["http"] == {f"{GATEWAYS[0].addresses[0]}:{GATEWAY_PORT}"})
        stage.node.set(stage.namespace, "other", ready=False)
        await until(lambda: f"{stage.other}:9090" not in stage.targets()["metrics"])
        assert stage.is_taken()
    assert stage.gaps == []


async def test_what_kubernetes_writes_late_is_removed(stage: Stage) -> None:
    model = f"{stage.namespace}/m"
    async with stage.taking_over() as takeover:
        takeover.expose(model, stage.exposure())
        await until(stage.is_taken)
        subsets = [{"addresses": [{"ip": "10.244.9.9"}], "ports": [{"name": "http", "port": 8080}]}]
        stage.plane.api.create(stage.path("endpoints"), {"metadata": {"name": "php"}, "subsets": subsets})
        await until(lambda: stage.endpoints() is None and stage.is_taken())
        assert "10.244.9.9:8080" not in stage.targets()["http"]


@pytest.mark.parametrize("actions", range(8))
async def test_a_controller_that_dies_after_any_action_is_followed_by_one_that_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, actions: int
) -> None:
    before = stage.snapshot()
    async with stage.callers():
        for wanted, done in ((stage.exposure(), "TakenOver"), (None, RELEASED)):
            with monkeypatch.context() as patch:
                patch.setattr(takeover_module, "carry_out", first_only(actions))
                await expose_until(stage, wanted, {"Dead", done})
            await expose_until(stage, wanted, {done})
        await until(lambda: stage.snapshot() == before)
    assert stage.gaps == []


def first_only(count: int) -> Callable[[Cluster, Action], Awaitable[None]]:
    left = iter(range(count))

    async def carry_out(cluster: Cluster, action: Action) -> None:
        if next(left, None) is None:
            raise ApiError(0, "Dead", "no more actions")
        await service_access.carry_out(cluster, action)

    return carry_out


async def expose_until(stage: Stage, wanted: Exposure | None, reasons: set[str]) -> None:
    """A controller's life."""
    async with stage.taking_over() as takeover:
        takeover.expose(f"{stage.namespace}/m", wanted)
        await until(lambda: stage.reason() in reasons)


async def test_a_selector_that_is_put_back_is_taken_again_until_it_is_clear_that_it_will_not_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest, "PAUSE_S", 0.01)
    model = f"{stage.namespace}/m"
    before = stage.snapshot()
    async with stage.callers(), stage.taking_over() as takeover:
        takeover.expose(model, stage.exposure())
        for _ in range(contest.ROUNDS_MAX + 1):
            await until(lambda: stage.is_taken() and stage.reason() == "TakenOver")
            stage.told.clear()
            stage.apply(stage.manifest())
            await until(lambda: stage.reason() in ("SelectorPutBack", "Contested"))
            assert "kubectl-client-side-apply" in stage.told[model].message
        await until(lambda: stage.reason() == "Contested")
        await until(lambda: stage.snapshot() == before)

        # The remedy: the manifest names the pods in the annotation, and nobody has to be fought.
        manifest = stage.manifest()
        del manifest["spec"]["selector"]
        manifest["metadata"]["annotations"][SELECTOR_ANNOTATION] = "app=php"
        stage.apply(manifest)
        await until(lambda: stage.is_taken() and stage.reason() == "TakenOver")
        stage.apply(manifest)
        takeover.expose(model, None)
        await until(lambda: stage.reason() == RELEASED)
        service = stage.service()
        assert service["spec"]["selector"] == {"app": "php"}
        assert service["metadata"]["annotations"][SELECTOR_ANNOTATION] == "app=php"
    assert stage.gaps == []


async def test_a_new_selector_is_honoured(stage: Stage) -> None:
    model = f"{stage.namespace}/m"
    address = stage.run_pod("blue", labels={"app": "php", "color": "blue"})
    async with stage.taking_over() as takeover:
        takeover.expose(model, stage.exposure())
        await until(stage.is_taken)
        stage.plane.kubectl(
            "annotate", "service", "php", "-n", stage.namespace, "--overwrite", f"{SELECTOR_ANNOTATION}=color=blue"
        )
        await until(lambda: stage.targets()["metrics"] == {f"{address}:9090"})
        takeover.expose(model, None)
        await until(lambda: stage.reason() == RELEASED)
        assert stage.service()["spec"]["selector"] == {"color": "blue"}


async def test_a_service_that_is_deleted_and_made_again_is_taken_again(stage: Stage) -> None:
    model = f"{stage.namespace}/m"
    async with stage.taking_over() as takeover:
        takeover.expose(model, stage.exposure())
        await until(stage.is_taken)
        stage.plane.api.delete(stage.path("services", "php"))
        await until(lambda: stage.reason() == "ServiceNotFound")
        await until(lambda: not stage.has_shadow() and not stage.slices())
        stage.apply(stage.manifest())
        await until(lambda: stage.reason() == "TakenOver" and stage.is_taken())
        await until(lambda: stage.targets()["http"] == AT_GATEWAYS)


async def test_a_model_stays_until_its_service_is_as_it_was(stage: Stage) -> None:
    before = stage.snapshot()
    model = f"{stage.namespace}/m"
    async with stage.callers(), stage.taking_over() as takeover:
        takeover.expose(model, stage.exposure())
        await until(stage.is_taken)
        assert stage.finalizers() == [FINALIZER]
        stage.plane.api.delete(stage.model_path())
        await until(lambda: not stage.plane.api.exists(stage.model_path()))
        assert stage.snapshot() == before
    assert stage.gaps == []


async def test_a_model_that_went_while_nobody_looked_leaves_nothing_behind(stage: Stage) -> None:
    before = stage.snapshot()
    async with stage.taking_over() as takeover:
        takeover.expose(f"{stage.namespace}/m", stage.exposure())
        await until(stage.is_taken)
    stage.plane.api.merge(stage.model_path(), {"metadata": {"finalizers": None}})
    stage.plane.api.delete(stage.model_path())
    async with stage.callers(), stage.taking_over():
        await until(lambda: stage.snapshot() == before)
    assert stage.gaps == []


async def test_a_model_is_not_let_go_while_callers_may_still_be_led_to_its_port(stage: Stage) -> None:
    before = stage.snapshot()
    async with stage.taking_over(linger_s=3_600) as takeover:
        takeover.expose(f"{stage.namespace}/m", stage.exposure())
        await until(stage.is_taken)
        takeover.expose(f"{stage.namespace}/m", None)
        await until(lambda: stage.snapshot() == before)
        stage.plane.api.delete(stage.model_path())
        takeover.expose(f"{stage.namespace}/witness", None)
        await until(lambda: stage.reason("witness") == RELEASED)
        assert stage.reason() == "Restoring"
        assert stage.finalizers() == [FINALIZER]


async def test_a_new_leader_leaves_alone_what_it_has_not_yet_been_told_about(stage: Stage) -> None:
    async with stage.taking_over() as takeover:
        takeover.expose(f"{stage.namespace}/m", stage.exposure())
        await until(stage.is_taken)
    stage.told.clear()
    async with stage.taking_over() as takeover:
        stage.plane.api.create(stage.path("modeldeployments", group=MODEL_API_VERSION), stage.model_body("witness"))
        takeover.expose(f"{stage.namespace}/witness", None)
        await until(lambda: stage.reason("witness") == RELEASED)
        assert stage.is_taken()
        assert stage.reason() == ""


async def test_a_model_that_cannot_be_used_holds_nothing_for_ever(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stage.snapshot()
    async with stage.taking_over() as takeover:
        takeover.expose(f"{stage.namespace}/m", stage.exposure())
        await until(stage.is_taken)
    monkeypatch.setattr(takeover_module, "OPEN_S", 0.2)
    async with stage.callers(), stage.taking_over():
        await until(lambda: stage.reason() == RELEASED)
        assert stage.snapshot() == before
        assert stage.finalizers() == []
    assert stage.gaps == []


async def test_what_a_controller_of_other_namespaces_took_over_is_left_to_it(stage: Stage) -> None:
    async with stage.taking_over() as takeover:
        takeover.expose(f"{stage.namespace}/m", stage.exposure())
        await until(stage.is_taken)
    stage.plane.api.merge(stage.model_path(), {"metadata": {"finalizers": None}})
    stage.plane.api.delete(stage.model_path())
    async with stage.taking_over(serves=lambda namespace: namespace == "elsewhere") as takeover:
        takeover.expose("elsewhere/witness", stage.exposure(service=f"{stage.namespace}/nothing"))
        await until(lambda: "elsewhere/witness" in stage.told)
        assert stage.is_taken()


@pytest.mark.parametrize("gone", ["service", "nothing"])
async def test_defect_15_a_model_of_beamlit_that_is_deleted_does_not_get_stuck(stage: Stage, gone: str) -> None:
    stage.plane.api.merge(stage.model_path(), {"metadata": {"finalizers": [FINALIZER]}})
    if gone == "service":
        stage.plane.api.delete(stage.path("services", "php"))
    stage.plane.api.delete(stage.model_path())
    async with stage.taking_over():
        await until(lambda: not stage.plane.api.exists(stage.model_path()))


async def test_a_service_is_made_for_a_model_that_names_none_and_goes_with_it(stage: Stage) -> None:
    model = f"{stage.namespace}/m"
    uid = stage.plane.api.get(stage.model_path())["metadata"]["uid"]
    new = NewService("m", uid, SELECTOR, (ServicePort(80, "http", "web"),))
    async with stage.taking_over() as takeover:
        takeover.expose(model, stage.exposure(service=model, make=new, owner_uid=uid))
        await until(lambda: stage.reason() == "TakenOver")
        assert "selector" not in stage.service("m")["spec"]
        stage.plane.api.delete(stage.model_path())
        await until(lambda: not stage.plane.api.exists(stage.path("services", "m")))


async def test_a_service_of_somebody_else_is_never_used_in_its_place(stage: Stage) -> None:
    before = stage.snapshot()
    new = NewService("m", "another-uid", SELECTOR, (ServicePort(80, "http", "web"),))
    async with stage.taking_over() as takeover:
        takeover.expose(f"{stage.namespace}/m", stage.exposure(make=new, owner_uid="another-uid"))
        await until(lambda: stage.reason() == "ServiceExists")
    assert stage.snapshot() == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"clusterIP": "None"}, "Headless"),
        ({"internalTrafficPolicy": "Local"}, "TrafficPolicyLocal"),
        ({"type": "NodePort", "externalTrafficPolicy": "Local"}, "TrafficPolicyLocal"),
        ({"type": "ExternalName", "externalName": "example.com", "selector": None}, "ExternalName"),
        ({"selector": None}, "NoSelector"),
        ({"ports": [{"name": "http", "port": 80, "appProtocol": "https"}]}, "ProtocolNotSupported"),
        ({"ports": [{"name": "http", "port": 81}]}, "PortNotFound"),
    ],
)
async def test_a_service_that_cannot_be_taken_over_is_left_alone_and_says_why(
    stage: Stage, changes: Json, reason: str
) -> None:
    stage.plane.api.delete(stage.path("services", "php"))
    stage.plane.api.create(stage.path("services"), stage.manifest(**changes))
    version = stage.service()["metadata"]["resourceVersion"]
    async with stage.taking_over() as takeover:
        takeover.expose(f"{stage.namespace}/m", stage.exposure())
        await until(lambda: stage.reason() == reason)
    assert stage.service()["metadata"]["resourceVersion"] == version
    assert not stage.has_shadow()


async def test_a_service_that_becomes_impossible_is_given_back(stage: Stage) -> None:
    async with stage.callers(), stage.taking_over() as takeover:
        takeover.expose(f"{stage.namespace}/m", stage.exposure())
        await until(stage.is_taken)
        stage.plane.api.merge(stage.path("services", "php"), {"spec": {"internalTrafficPolicy": "Local"}})
        await until(lambda: stage.reason() == "TrafficPolicyLocal" and not stage.has_shadow())
        assert stage.service()["spec"]["selector"] == SELECTOR
    assert stage.gaps == []


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_it_ends_as_ours_and_as_it_was_and_callers_are_served(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(contest, "PAUSE_S", 0.01)
    before = stage.snapshot()
    chance = random.Random(seed)
    async with stage.callers(), stage.taking_over() as takeover:
        walk = Walk(stage, takeover)
        for _ in range(15):
            walk.step(chance)
            # Long enough for some of what follows from it, not for all.
            await asyncio.sleep(chance.random() / 5)
        walk.want(stage.exposure())
        await until(lambda: stage.is_taken() and stage.targets()["http"] == AT_GATEWAYS)
        walk.want(None)
        await until(lambda: stage.reason() == RELEASED)
        stage.node.set(stage.namespace, "other")
        await until(lambda: stage.snapshot() == before)
    assert stage.gaps == []


class Walk:
    """What people and tools may do, one at a time."""

    def __init__(self, stage: Stage, takeover: Takeover) -> None:
        self.stage, self.takeover = stage, takeover
        self.wanted: Exposure | None = None

    def step(self, chance: random.Random) -> None:
        events: list[Callable[[], object]] = [
            lambda: self.want(self.stage.exposure(chance.choice([GATEWAYS, GATEWAYS[1:], ()]))),
            lambda: self.want(None),
            lambda: self.stage.apply(self.stage.manifest()),
            lambda: self.stage.node.set(self.stage.namespace, "other", ready=chance.random() < 0.5),
            self.another_leads,
            lambda: self.stage.plane.api.delete(self.stage.path("services", shadow_name("php"))),
            self.delete_a_slice_of_ours,
        ]
        chance.choice(events)()

    def want(self, exposure: Exposure | None) -> None:
        self.wanted = exposure
        self.takeover.expose(f"{self.stage.namespace}/m", exposure)

    def another_leads(self) -> None:
        self.takeover.pause()
        self.takeover.resume()
        self.want(self.wanted)

    def delete_a_slice_of_ours(self) -> None:
        for each in self.stage.slices()[:1]:
            if each["metadata"]["labels"][MANAGED_BY_LABEL] == MANAGER:
                self.stage.delete_slice(each["metadata"]["name"])
