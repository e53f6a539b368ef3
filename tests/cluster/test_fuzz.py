"""Manifests that nobody would write: whatever the API server lets through, the controller says what came of it, and
goes on.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path as File

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cluster.harness.api import RequestError
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.paper_node import PaperNode
from tests.cluster.manifests import EVERYTHING, Json, changed
from tests.cluster.operator import Operator, operating
from tests.cluster.test_crds import CHANGES

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("crds"), pytest.mark.timeout(300)]

COUNT = 120
ALWAYS = {"Ready", "Accepted", "ResolvedRefs", "Programmed", "MetricsAvailable", "RemoteReady", "Overflowing"}


def strange_manifests() -> list[Json]:
    """Each with one to three fields of any value that Hypothesis thinks of."""
    made: list[Json] = []

    @settings(max_examples=COUNT, database=None, deadline=None, phases=[Phase.generate])
    @given(st.lists(CHANGES, min_size=1, max_size=3))
    def collect(changes: list[tuple[tuple[str | int, ...], object]]) -> None:
        name = f"strange-{len(made)}"
        manifest = deepcopy(EVERYTHING)
        manifest["spec"] |= {"model": name, "serviceRef": {"name": name, "targetPort": 80}}
        manifest = changed(manifest, *changes)
        manifest["metadata"] = {"name": name}
        made.append(manifest)

    collect()
    return made


def applied(operator: Operator, manifests: list[Json]) -> list[str]:
    """The names of those that the API server takes."""
    names = []
    for manifest in manifests:
        try:
            operator.api.create(operator.models, manifest)
        except RequestError:
            continue
        names.append(manifest["metadata"]["name"])
    return names


async def test_each_accepted_manifest_is_programmed_or_says_why_not(
    control_plane: ControlPlane, paper_node: PaperNode, namespace: str, tmp_path: File
) -> None:
    async with operating(control_plane, paper_node, namespace, tmp_path) as operator:
        controller = await operator.start()
        await operator.gateway(controller)
        operator.serve_model(behavior={"mode": "Off"})
        names = applied(operator, strange_manifests())
        assert len(names) > COUNT / 10

        def unsaid() -> list[str]:
            items = operator.api.get(operator.models)["items"]
            return [each["metadata"]["name"] for each in items if not says_enough(each)]

        await operator.until(lambda: not unsaid(), f"{len(names)} models have conditions")
        await operator.until(lambda: operator.condition("Ready")[0] == "True", "an ordinary model is ready")
        assert controller.process.poll() is None


def says_enough(model: Json) -> bool:
    """Whether it is ready, or a condition tells why it is not."""
    conditions = {each["type"]: each for each in model.get("status", {}).get("conditions", ())}
    if conditions.get("Accepted", {}).get("reason") == "Invalid":
        return bool(conditions["Accepted"]["message"])
    explained = all(each["reason"] and each["message"] for each in conditions.values())
    return conditions.keys() >= ALWAYS and explained
