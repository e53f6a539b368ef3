"""Statuses and Events on a real API server, with the real ModelDeployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from controller.adapters.kubernetes import recorder, status_writer
from controller.adapters.kubernetes.client import ApiError, Cluster, path_of
from controller.adapters.kubernetes.recorder import Recorder
from controller.adapters.kubernetes.status_writer import StatusWriter
from controller.api import MODEL_API_VERSION
from controller.events import Announce
from controller.refresh import Pace
from tests.cluster.harness.control_plane import ControlPlane
from tests.kubernetes.tasks import running, until

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("crds")]

Json = dict[str, Any]

CONDITION = {
    "type": "Ready",
    "status": "True",
    "reason": "Ready",
    "message": "All is well.",
    "lastTransitionTime": "2026-11-21T10:00:00Z",
}
STATUS = {
    "observedGeneration": 1,
    "conditions": [CONDITION],
    "state": "Overflowing",
    "share": "12.5%",
    "percentage": 12.5,
    "since": "2026-11-21T10:00:00Z",
    "gatewayPort": 20_000,
    "currentMetrics": [{"name": "cpu", "type": "Resource", "value": "73", "target": "50", "ratio": 1.46}],
    "decision": {"state": "Overflowing", "since_s": 1.5, "nested": {"a": [1, None]}},
}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_writer, "PACE", Pace(first_retry_s=0.05, longest_retry_s=0.2))
    monkeypatch.setattr(status_writer, "EVERY_S", 0.05)
    monkeypatch.setattr(recorder, "PACE", Pace(first_retry_s=0.05, longest_retry_s=0.2))


class Model:
    """A ModelDeployment whose values are all ones that are easily lost."""

    def __init__(self, cluster: Cluster, namespace: str, name: str = "php") -> None:
        self.key = f"{namespace}/{name}"
        self._cluster = cluster
        self._name = name
        self._collection = path_of(MODEL_API_VERSION, "modeldeployments", namespace)
        self.path = f"{self._collection}/{name}"

    async def create(self) -> str:
        """Its uid."""
        remote = {"host": "remote.example.com"}
        spec = {
            "model": "php",
            "enabled": False,
            "modelSourceRef": {"kind": "Deployment", "name": "php"},
            "offloadingConfig": {"remoteBackend": remote, "behavior": {"percentage": 0}},
        }
        body = {
            "apiVersion": MODEL_API_VERSION,
            "kind": "ModelDeployment",
            "metadata": {"name": self._name},
            "spec": spec,
        }
        return str((await self._cluster.create(self._collection, body))["metadata"]["uid"])

    async def get(self) -> Json:
        return await self._cluster.get(self.path)

    async def becomes(self, status: Mapping[str, object]) -> Json:
        """Waits until this is its status; the object."""

        async def holds() -> bool:
            return (await self.get()).get("status") == status

        await until(holds)
        return await self.get()


def writing(cluster: Cluster) -> StatusWriter:
    writer = StatusWriter(cluster)
    writer.resume()
    return writer


async def test_a_status_is_ours_and_the_rest_stays_as_its_user_wrote_it(cluster: Cluster, namespace: str) -> None:
    model = Model(cluster, namespace)
    uid = await model.create()
    before = await model.get()
    writer = writing(cluster)
    async with running(writer.run()):
        writer.put(model.key, uid, STATUS)
        obj = await model.becomes(STATUS)

    assert obj["spec"] == before["spec"]
    assert (obj["spec"]["enabled"], obj["spec"]["offloadingConfig"]["behavior"]["percentage"]) == (False, 0)
    assert obj["metadata"]["generation"] == 1
    ours = [entry for entry in obj["metadata"]["managedFields"] if entry["manager"] == "spillway"]
    assert [(entry["operation"], entry["subresource"]) for entry in ours if "subresource" in entry] == [
        ("Apply", "status")
    ]


async def test_a_field_that_is_not_said_any_more_goes_away(cluster: Cluster, namespace: str) -> None:
    model = Model(cluster, namespace)
    uid = await model.create()
    writer = writing(cluster)
    less = {name: value for name, value in STATUS.items() if name not in ("gatewayPort", "currentMetrics")}
    less["decision"] = {"state": "Standby"}
    async with running(writer.run()):
        writer.put(model.key, uid, STATUS)
        await model.becomes(STATUS)
        writer.put(model.key, uid, less)
        await model.becomes(less)


async def test_an_object_that_was_made_anew_is_written_anew(cluster: Cluster, namespace: str) -> None:
    model = Model(cluster, namespace)
    old = await model.create()
    writer = writing(cluster)
    async with running(writer.run()):
        writer.put(model.key, old, STATUS)
        await model.becomes(STATUS)
        await cluster.delete(model.path)
        new = await model.create()
        writer.put(model.key, new, STATUS)
        await model.becomes(STATUS)


async def test_an_object_that_is_gone_is_not_made(cluster: Cluster, namespace: str) -> None:
    model = Model(cluster, namespace)
    uid = await model.create()
    await cluster.delete(model.path)
    writer = writing(cluster)
    async with running(writer.run()):
        writer.put(model.key, uid, STATUS)
        await writer.flush()

    with pytest.raises(ApiError, match="NotFound"):
        await model.get()


async def test_the_newest_is_written_once_the_server_is_back(
    control_plane: ControlPlane, cluster: Cluster, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(cluster, namespace)
    uid = await model.create()
    writer = writing(cluster)
    async with running(writer.run()):
        control_plane.kill_apiserver()
        writer.put(model.key, uid, {"state": "Standby"})
        await until(lambda: "statuses cannot be written for now" in caplog.text)
        writer.put(model.key, uid, STATUS)
        await control_plane.start_apiserver()
        await model.becomes(STATUS)


async def test_describe_shows_what_happened_and_how_often(
    control_plane: ControlPlane, cluster: Cluster, namespace: str
) -> None:
    model = Model(cluster, namespace)
    uid = await model.create()
    out = Announce(model.key, "ThresholdReached", "cpu is at 80 % of 50 %.")
    back = Announce(model.key, "Returned", "Everything is local again.")
    refused = Announce(model.key, "ProxyRejected", "ü" * 2_000, warning=True)
    events = path_of("v1", "events", namespace)
    recording = Recorder(cluster)

    async def written() -> bool:
        items = (await cluster.get(events, {"fieldSelector": f"involvedObject.uid={uid}"}))["items"]
        return {(each["reason"], each["count"]) for each in items} >= {("Returned", 1), ("ProxyRejected", 1)}

    async with running(recording.run()):
        for what in (out, out, back, out, refused):
            recording.record(uid, what)
        await until(written)

    shown = control_plane.kubectl("-n", namespace, "describe", "modeldeployment", "php")
    lines = [line.split() for line in shown.partition("Events:")[2].splitlines()]
    assert any(line[:2] == ["Normal", "ThresholdReached"] and "(x3" in line for line in lines), shown
    assert any(line[:2] == ["Normal", "Returned"] for line in lines), shown
    assert any(line[:2] == ["Warning", "ProxyRejected"] for line in lines), shown
