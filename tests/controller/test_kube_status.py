"""A ModelDeployment's status: what people read, what the next leader goes on with, what may be written less often."""

from __future__ import annotations

import json
from typing import Any

from controller.crd_status import ModelStatus
from controller.kube_status import RESTLESS_FIELDS, Times, dated, document, refused_document, saved_of
from controller.status import Condition, conditions
from tests.controller.cluster_world import ClusterWorld, leader, served, workload
from tests.controller.manifests import EXTERNAL, Json

NOW, BEFORE = "2026-01-02T03:04:05Z", "2026-01-01T00:00:00Z"
TIMES = Times(NOW, BEFORE)
KEY = "default/llama"
CPU = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
}


def running(*, share: int | None = None, metric: Json = EXTERNAL, **offloading: Any) -> ClusterWorld:
    """A model in service; `share`: percent that is forced away."""
    behavior = {} if share is None else {"mode": "Force", "percentage": share}
    offloading = {"metrics": [metric], "remoteBackend": {"host": "remote.example.com:80"}, **offloading}
    world = leader()
    world.give(workload(), *served("llama", offloadingConfig={**offloading, "behavior": behavior}))
    return world


def status_of(world: ClusterWorld, before: Json | None = None) -> Json:
    record = world.engine.records[KEY]
    found = conditions(record, None, world.engine.gateways.connected, world.now)
    return document(record, found, before or {}, None, TIMES)


def test_it_says_how_much_leaves_and_why() -> None:
    status = status_of(running(share=50))
    assert (status["state"], status["share"], status["percentage"]) == ("Overflowing", "50%", 50.0)
    assert (status["reason"], status["offloadingStatus"], status["since"]) == ("Forced", True, BEFORE)
    assert (status["servingPort"], status["remote"], status["workspace"]) == (80, "remote.example.com:80", "default")


def test_a_model_of_which_nothing_was_decided_has_no_time_since_when() -> None:
    world = running()
    world.give(*served("other", model="llama"))
    record = world.engine.records["default/other"]
    assert "since" not in document(record, [], {}, None, TIMES)


def test_nothing_leaving_is_told_as_nothing_and_not_left_out() -> None:
    status = status_of(running())
    assert (status["share"], status["percentage"], status["offloadingStatus"]) == ("0%", 0.0, False)
    assert status["readyReplicas"] == 2


def test_a_metric_is_told_with_its_target() -> None:
    world = running()
    assert status_of(world)["metric"] == "queue_length: unknown"
    world.read(7.5)
    status = status_of(world)
    assert (status["metric"], status["target"]) == ("queue_length: 7.5", "10")
    assert status["currentMetrics"] == [
        {"name": "queue_length", "type": "External", "value": "7.5", "target": "10", "ratio": 0.75}
    ]


def test_a_metric_that_is_not_known_says_why() -> None:
    world = running()
    world.read(None)
    metrics: Any = status_of(world)["currentMetrics"]
    assert metrics[0]["unknown"] == "Down: no answer"
    assert "value" not in metrics[0]


def test_utilization_is_told_in_percent() -> None:
    assert status_of(running(metric=CPU))["target"] == "50%"


def test_large_values_are_written_out() -> None:
    world = running()
    world.read(1_234_567.8)
    assert status_of(world)["metric"] == "queue_length: 1234568"


def test_two_samples_apart_differ_in_the_fields_of_metrics_only() -> None:
    world = running()
    one, other = status_of(world.read(1.0)), status_of(world.read(1.1))
    assert {name for name in one if one[name] != other[name]} <= RESTLESS_FIELDS


def test_the_next_leader_reads_what_was_saved() -> None:
    world = running(share=50)
    status = json.loads(json.dumps(status_of(world)))
    assert saved_of(status) == world.saved[KEY]
    assert saved_of({}) is None


def test_it_is_what_the_schema_says_and_nothing_else() -> None:
    world = running(share=50)
    world.read(7.5)
    status = status_of(world)
    assert set(status) <= {field.alias or name for name, field in ModelStatus.model_fields.items()}
    ModelStatus.model_validate_json(json.dumps(status))


def test_a_condition_keeps_the_time_at_which_its_status_changed() -> None:
    before: Json = {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": BEFORE}]}
    (same,) = dated([Condition("Ready", "True", "Other", "Other words.")], before, NOW)
    (other,) = dated([Condition("Ready", "False", "Other", "Other words.")], before, NOW)
    (new,) = dated([Condition("Accepted", "True", "Accepted", "")], before, NOW)
    assert [each["lastTransitionTime"] for each in (same, other, new)] == [BEFORE, NOW, NOW]


def test_a_status_that_somebody_else_mangled_is_no_trouble() -> None:
    mangled: list[Json] = [{"conditions": None}, {"conditions": "x"}, {"conditions": [1, None]}]
    for before in mangled:
        assert len(dated([Condition("Ready", "True", "R", "m")], before, NOW)) == 1


def test_a_model_that_was_never_usable_has_its_conditions() -> None:
    status = refused_document([Condition("Accepted", "False", "Invalid", "spec.model: is missing")], {}, NOW)
    assert list(status) == ["conditions"]
