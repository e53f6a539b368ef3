"""`spillway restore` on a real API server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller import restore as module
from controller.__main__ import main
from controller.adapters.kubernetes.client import Cluster
from controller.adapters.kubernetes.election import Election
from controller.election import Terms
from controller.objects import MANAGED_BY_LABEL, MANAGER
from controller.restore import RestoreError, RestoreOptions, restore
from controller.settings import LeaderElection, Settings
from controller.takeover.finalizer import FINALIZER
from tests.cluster.harness.api import RequestError
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.paper_node import PaperNode
from tests.cluster.takeover_stage import SELECTOR, Stage
from tests.kubernetes.tasks import running, until

pytestmark = pytest.mark.integration


@pytest.fixture
async def stage(
    control_plane: ControlPlane, cluster: Cluster, paper_node: PaperNode, namespace: str, crds: None
) -> Stage:
    stage = Stage(control_plane, cluster, paper_node, namespace)
    await stage.begin()
    return stage


def options(stage: Stage) -> RestoreOptions:
    """This test's namespace only: others are somebody else's."""
    return RestoreOptions(stage.plane.kubeconfig, stage.namespace, Settings(namespaces=stage.namespace))


async def taken(stage: Stage) -> None:
    async with stage.taking_over() as takeover:
        takeover.expose(f"{stage.namespace}/m", stage.exposure())
        await until(stage.is_taken)


async def test_everything_is_as_it_was_without_any_controller(stage: Stage) -> None:
    before, lines = stage.snapshot(), list[str]()
    await taken(stage)
    async with stage.callers():
        assert await restore(options(stage), lines.append)
    assert lines == [f"Service {stage.key}: is as it was"]
    assert stage.snapshot() == before
    assert stage.finalizers() == []
    assert stage.gaps == []
    assert await restore(options(stage), lines.append)
    assert lines[1:] == ["no Service is taken over"]


async def test_the_command_says_what_it_does(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"namespaces: {stage.namespace}\n")
    await taken(stage)
    flags = [
        "--all",
        "--config",
        str(config),
        "--kubeconfig",
        str(stage.plane.kubeconfig),
        "--namespace",
        stage.namespace,
    ]
    assert await asyncio.to_thread(main, ["restore", *flags]) == 0
    assert capsys.readouterr().out == f"Service {stage.key}: is as it was\n"
    assert await asyncio.to_thread(main, ["restore", "--all", "--kubeconfig", str(tmp_path / "none")]) == 1
    assert "there is no kubeconfig" in capsys.readouterr().err


async def test_a_controller_that_runs_stands_back_and_does_not_begin_anew(stage: Stage) -> None:
    before, lines = stage.snapshot(), list[str]()
    model = f"{stage.namespace}/m"
    terms = Terms(duration_s=3, deadline_s=2.0, retry_s=0.2)
    leads: list[bool] = []
    async with stage.callers(), stage.taking_over() as takeover:

        def elected(is_leader: bool) -> None:
            leads.append(is_leader)
            if is_leader:
                takeover.resume()
                takeover.expose(model, stage.exposure())
            else:
                takeover.pause()

        takeover.pause()
        async with running(Election(stage.cluster, stage.namespace, "spillway", "us", elected, terms=terms).run()):
            await until(stage.is_taken)
            assert await restore(options(stage), lines.append)
            assert leads == [True, False]
            assert stage.snapshot() == before
    assert lines == ["us led; it stands back", f"Service {stage.key}: is as it was"]
    lease = stage.plane.api.get(stage.path("leases", "spillway", "coordination.k8s.io/v1"))["spec"]
    assert lease["leaseDurationSeconds"] == module.STAND_BACK_S
    assert lease["leaseTransitions"] == 1
    assert stage.gaps == []


async def test_controllers_that_nobody_named_are_found_by_those_who_may_look(stage: Stage, namespace: str) -> None:
    election = LeaderElection(name=f"election-of-{namespace}")
    settings = Settings(namespaces=namespace, leader_election=election)
    lease = stage.path("leases", election.name, "coordination.k8s.io/v1")
    spec = {"holderIdentity": "us", "leaseDurationSeconds": 15}
    stage.plane.api.create(lease.rpartition("/")[0], {"metadata": {"name": election.name}, "spec": spec})
    lines = list[str]()
    assert await restore(RestoreOptions(stage.plane.kubeconfig, None, settings), lines.append)
    assert lines == ["us led; it stands back", "no Service is taken over"]
    assert stage.plane.api.get(lease)["spec"]["holderIdentity"] == module.HOLDER

    account = stage.plane.service_account_kubeconfig(namespace, "default")
    with pytest.raises(RestoreError, match="forbidden"):
        await restore(RestoreOptions(account, None, settings), lines.append)
    assert lines[-1].startswith("controllers that run may take Services over again")


async def test_what_was_begun_only_is_undone_too(stage: Stage) -> None:
    before = stage.snapshot()
    await taken(stage)
    # As a crash leaves it: nothing in the Service tells of it.
    patch = {"metadata": {"annotations": {"spillway.dev/selector": None, "spillway.dev/model": None}}}
    stage.plane.api.merge(stage.path("services", "php"), {**patch, "spec": {"selector": SELECTOR}})
    assert await restore(options(stage), lambda line: None)
    assert {**stage.snapshot(), "managers": None} == {**before, "managers": None}


async def test_a_slice_of_ours_that_lost_its_service_is_in_nobodys_way(stage: Stage) -> None:
    before, lines = stage.snapshot(), list[str]()
    await taken(stage)
    astray = {"metadata": {"name": "astray", "labels": {MANAGED_BY_LABEL: MANAGER}}, "addressType": "IPv4"}
    stage.plane.api.create(stage.path("endpointslices", group="discovery.k8s.io/v1"), {**astray, "endpoints": []})
    assert await restore(options(stage), lines.append)
    assert lines == [f"Service {stage.key}: is as it was"]
    assert stage.snapshot() == before


async def test_what_is_there_for_models_of_other_namespaces_is_left_alone(stage: Stage) -> None:
    lines = list[str]()
    await taken(stage)
    settings = Settings(namespaces="elsewhere", reference_namespaces=(stage.namespace,))
    assert await restore(replace(options(stage), settings=settings), lines.append)
    assert lines == ["no Service is taken over"]
    assert stage.is_taken()


async def test_what_cannot_be_undone_is_named_and_its_model_kept(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WITHIN_S", 0.5)
    lines = list[str]()
    await taken(stage)
    # A namespace may forbid it, by a quota or a webhook; here a policy of admission does.
    kind = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["services"]}
    name = f"no-change-in-{stage.namespace}"
    group = "/apis/admissionregistration.k8s.io/v1"
    policies, bindings = f"{group}/validatingadmissionpolicies", f"{group}/validatingadmissionpolicybindings"
    match = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": stage.namespace}}}
    spec = {"matchConstraints": {**match, "resourceRules": [kind]}, "validations": [{"expression": "false"}]}
    stage.plane.api.create(policies, {"metadata": {"name": name}, "spec": spec})
    binding = {"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}}
    stage.plane.api.create(bindings, binding)
    try:
        await until(lambda: refuses_a_change(stage))
        assert not await restore(options(stage), lines.append)
    finally:
        for path in (bindings, policies):
            stage.plane.api.delete(f"{path}/{name}")
    assert len(lines) == 1
    assert "denied request" in lines[0]
    assert stage.finalizers() == [FINALIZER]
    assert stage.is_taken()


def refuses_a_change(stage: Stage) -> bool:
    now = datetime.now(UTC).isoformat()
    try:
        stage.plane.api.merge(stage.path("services", "php"), {"metadata": {"annotations": {"now": now}}})
    except RequestError:
        return True
    return False
