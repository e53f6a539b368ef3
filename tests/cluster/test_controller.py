"""`spillway controller` beside a real API server: what a user sees of it, and what a restart, another leader or an
outage of the API server does. Real Envoys are the gateways.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.paper_node import PaperNode
from tests.cluster.operator import Operator, operating

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("crds"), pytest.mark.timeout(300)]


@pytest_asyncio.fixture
async def operator(
    control_plane: ControlPlane, paper_node: PaperNode, namespace: str, tmp_path: Path
) -> AsyncIterator[Operator]:
    async with operating(control_plane, paper_node, namespace, tmp_path) as operator:
        yield operator


async def test_a_model_is_taken_over_said_to_be_ready_and_given_back(operator: Operator) -> None:
    operator.serve_model(behavior={"mode": "Off"})
    controller = await operator.start()
    await operator.gateway(controller)

    await operator.until(lambda: operator.condition("ServiceTakenOver")[1] == "TakenOver", "the Service is taken over")
    await operator.until(lambda: operator.condition("Ready")[0] == "True", "the model is ready")

    status = operator.status()
    assert (status["state"], status["share"], status["servingPort"]) == ("Standby", "0%", 80)
    slices = operator.api.get(operator.path("endpointslices", "apis/discovery.k8s.io/v1"))["items"]
    of_service = [s for s in slices if s["metadata"]["labels"]["kubernetes.io/service-name"] == "llama"]
    assert [port["port"] for s in of_service for port in s["ports"]] == [status["gatewayPort"]]
    assert "selector" not in operator.api.get(f"{operator.path('services')}/llama")["spec"]

    operator.api.delete(f"{operator.models}/llama")
    await operator.until(lambda: not operator.api.exists(f"{operator.models}/llama"), "the model is gone")
    service = operator.api.get(f"{operator.path('services')}/llama")
    assert service["spec"]["selector"] == {"app": "llama"}
    assert "annotations" not in service["metadata"]
