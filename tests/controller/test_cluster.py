"""In which order a controller that starts takes in what it has read."""

from __future__ import annotations

from controller.cluster import oldest_first
from controller.events import Applied, Decided, Elected, Event, Kind, Refused, Removed
from controller.parsing import Problem
from tests.controller.cluster_world import ClusterWorld, manifest, served, workload
from tests.controller.manifests import model_from, service
from tests.controller.world import KEY


def made(name: str, created: str) -> Applied:
    found = manifest(name)
    found["metadata"]["creationTimestamp"] = created
    return Applied(model_from(found))


def started(*loaded: Event) -> ClusterWorld:
    world = ClusterWorld()
    world.give(*oldest_first(loaded))
    return world.lead()


def test_older_models_come_first_and_what_they_refer_to_before_them() -> None:
    young, old, thing = made("a", "2026-02-01T00:00:00Z"), made("b", "2026-01-01T00:00:00Z"), Applied(service())
    word = Decided("default/b", {"gateway_port": 20_000})
    assert oldest_first([young, word, old, thing]) == [thing, word, old, young]


def test_a_model_that_was_deleted_while_the_cluster_was_read_is_gone() -> None:
    world = started(*served("llama"), Applied(workload()), Removed(Kind.MODEL_DEPLOYMENT, KEY))
    assert not world.engine.records
    assert world.exposed == {}


def test_a_model_that_was_made_anew_while_the_cluster_was_read_is_there() -> None:
    world = started(*served("llama"), Removed(Kind.MODEL_DEPLOYMENT, KEY), made("llama", "2026-02-01T00:00:00Z"))
    assert world.engine.records[KEY].wanted.metadata.creation_timestamp == "2026-02-01T00:00:00Z"


def test_a_manifest_that_was_broken_while_the_cluster_was_read_is_told_so() -> None:
    refused = Refused(Kind.MODEL_DEPLOYMENT, KEY, (Problem("spec.model", "is required"),))
    world = started(*served("llama"), refused)
    assert world.condition("Accepted")[:2] == ("False", "Invalid")


def test_what_was_decided_of_a_model_that_is_gone_is_no_start_for_another() -> None:
    forced = {"decision": {"state": "Overflowing", "wanted_ppm": 1_000_000}}
    world = started(*served("llama"), Decided(KEY, forced), Removed(Kind.MODEL_DEPLOYMENT, KEY))
    world.give(Elected(leads=False), *served("llama"), Elected(leads=True))
    assert str(world.state()) == "Standby"
