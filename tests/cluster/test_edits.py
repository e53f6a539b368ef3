"""What users edit and delete while a model's Service is taken over, beside a real API server."""

from __future__ import annotations

import pytest

from controller.adapters.kubernetes.client import Cluster
from controller.objects import MANAGED_BY_LABEL, MANAGER
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.paper_node import PaperNode
from tests.cluster.operator import Json, Operator
from tests.cluster.takeover_stage import Stage
from tests.kubernetes.tasks import until

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("crds"), pytest.mark.timeout(300)]

LABELS = {"app": "llama"}


def ports_of(operator: Operator, service: str) -> dict[int, set[int]]:
    """Where callers of the ports of a Service are sent, by the port that is theirs; {} while it is not taken over."""
    path = f"{operator.path('services')}/{service}"
    spec = operator.api.get(path)["spec"]
    names = {port["name"]: port["port"] for port in spec["ports"]}
    slices = operator.service_slices(service)
    if "selector" in spec or {each["metadata"]["labels"][MANAGED_BY_LABEL] for each in slices} != {MANAGER}:
        return {}
    found: dict[int, set[int]] = {number: set() for number in names.values()}
    for each in slices:
        for port in each["ports"] or ():
            found[names[port["name"]]].add(port["port"])
    return found


def is_untouched(operator: Operator, service: str) -> bool:
    obj: Json = operator.api.get(f"{operator.path('services')}/{service}")
    managers = {each["metadata"]["labels"][MANAGED_BY_LABEL] for each in operator.service_slices(service)}
    writers = {entry["manager"] for entry in obj["metadata"]["managedFields"]}
    return (
        obj["spec"].get("selector") == LABELS
        and "annotations" not in obj["metadata"]
        and MANAGER not in managers | writers
        and not operator.api.exists(f"{operator.path('services')}/{service}-spillway-pods")
    )


async def test_a_model_that_names_another_port_and_then_another_service(operator: Operator) -> None:
    two = [{"name": "http", "port": 80, "targetPort": 8000}, {"name": "other", "port": 81, "targetPort": 8001}]
    operator.create("services", "first", spec={"selector": LABELS, "ports": two})
    operator.create("services", "second", spec={"selector": LABELS, "ports": two})
    operator.serve_model()
    operator.edit_model(serviceRef={"name": "first", "targetPort": 80})
    await operator.gateway(await operator.start())
    await operator.until(lambda: ports_of(operator, "first").get(81) == {8001}, "the first Service is taken over")
    port = operator.status()["gatewayPort"]
    assert ports_of(operator, "first") == {80: {port}, 81: {8001}}

    operator.edit_model(serviceRef={"name": "first", "targetPort": 81})
    await operator.until(
        lambda: ports_of(operator, "first") == {80: {8000}, 81: {port}}, "its other port leads to the gateway"
    )

    operator.edit_model(serviceRef={"name": "second", "targetPort": 80})
    await operator.until(lambda: ports_of(operator, "second") == {80: {port}, 81: {8001}}, "the second is taken over")
    await operator.until(lambda: is_untouched(operator, "first"), "the first is as it was")
    assert operator.status()["gatewayPort"] == port

    operator.edit_model(takeover="Manual")
    await operator.until(lambda: is_untouched(operator, "second"), "the second is as it was")


async def test_a_namespace_that_is_deleted_is_held_up_by_nothing(
    control_plane: ControlPlane, cluster: Cluster, paper_node: PaperNode, namespace: str
) -> None:
    stage = Stage(control_plane, cluster, paper_node, namespace)
    await stage.begin()
    async with stage.taking_over() as takeover:
        takeover.expose(f"{namespace}/m", stage.exposure())
        await until(stage.is_taken)
        assert stage.finalizers()

        control_plane.api.delete(f"/api/v1/namespaces/{namespace}")
        control_plane.api.delete(f"/api/v1/namespaces/{namespace}/pods", grace_s=0)  # all else waits for them
        await until(lambda: not control_plane.api.exists(stage.model_path()))
        await until(lambda: not control_plane.api.exists(stage.path("services", "php")))
