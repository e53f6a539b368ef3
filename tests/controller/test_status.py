"""Conditions: what people are told about a model."""

from __future__ import annotations

from typing import Any

import pytest

from controller import events
from controller.api import Problem
from controller.events import RELEASED, Applied, Exposed, Kind, Refused
from controller.status import Condition, conditions, details, refused_conditions, report
from tests.controller.cluster_world import ClusterWorld, leader, manifest, served, workload
from tests.controller.manifests import OAUTH, Json, model, model_from, secret
from tests.controller.world import KEY, World
from xds import events as gateway_events

REFUSED = Refused(Kind.MODEL_DEPLOYMENT, KEY, (Problem("spec.model", "is required"),))


def shown(found: World, key: str = KEY, refused: Refused | None = None) -> dict[str, Condition]:
    connected = found.engine.gateways.connected
    return {each.type: each for each in conditions(found.engine.records[key], refused, connected, found.now)}


def programmed(**config: Any) -> ClusterWorld:
    return leader(**config).see("a").connect("a").give(*served("llama"), workload()).accept("a")


def test_all_types_are_there_in_one_order_and_the_last_one_once_a_service_is_concerned() -> None:
    found = programmed()
    types = ["Ready", "Accepted", "ResolvedRefs", "Programmed", "MetricsAvailable", "RemoteReady", "Overflowing"]
    assert list(shown(found)) == types
    found.give(Exposed(KEY, "True", "TakenOver", "Callers of Service default/llama reach the gateway."))
    assert list(shown(found)) == [*types, "ServiceTakenOver"]
    taken = shown(found)["ServiceTakenOver"]
    assert (taken.status, taken.reason) == ("True", "TakenOver")
    assert taken.message == "Callers of Service default/llama reach the gateway."


def test_a_model_is_ready_when_it_is_accepted_and_programmed_whatever_its_metrics_and_remotes() -> None:
    ready = shown(programmed())["Ready"]
    assert (ready.status, ready.reason) == ("True", "Ready")
    assert shown(programmed())["MetricsAvailable"].status == "False"


def test_one_that_is_not_ready_says_the_first_obstacle_in_its_own_words() -> None:
    found = programmed().connect("b")
    assert shown(found)["Ready"] == Condition("Ready", "False", "Pending", "Waiting for b.", 0)
    found.give(gateway_events.Rejected("b", "type", frozenset({"x"}), frozenset({KEY}), "no such thing"))
    assert shown(found)["Ready"] == Condition("Ready", "False", "ProxyRejected", "b: no such thing.", 0)
    refused = shown(found, refused=REFUSED)["Ready"]
    assert (refused.status, refused.reason) == ("False", "Invalid")
    nowhere = shown(leader().give(*served("llama")))["Ready"]
    assert (nowhere.status, nowhere.reason) == ("Unknown", "NoGateway")


def test_one_whose_callers_are_not_led_to_the_gateway_is_ready_only_if_nobody_wanted_that() -> None:
    found = programmed()
    for reason, is_ready in (("Contested", False), ("TakenOver", True), (RELEASED, True)):
        found.give(Exposed(KEY, str(reason == "TakenOver"), reason, "Words."))
        ready = shown(found)["Ready"]
        assert (ready.status == "True") == is_ready
        assert is_ready or (ready.reason, ready.message) == ("Contested", "Words.")


def test_one_that_may_not_have_its_service_is_not_ready() -> None:
    found = programmed().give(*served("llama", serviceRef={"name": "llama", "namespace": "team"}))
    found.give(Exposed(KEY, "False", RELEASED, "Nothing of this model is at any Service.")).accept("a")
    ready = shown(found)["Ready"]
    assert (ready.status, ready.reason) == ("False", "RefNotPermitted")
    assert "spec.serviceRef refers to namespace team" in ready.message


def test_an_object_that_was_never_good_is_not_ready_for_the_same_reason() -> None:
    ready, accepted = refused_conditions(REFUSED)
    assert (accepted.type, accepted.status, accepted.reason) == ("Accepted", "False", "Invalid")
    assert accepted.message == "spec.model: is required."
    assert ready == Condition("Ready", "False", "Invalid", "spec.model: is required.")


def test_all_conditions_name_the_newest_generation() -> None:
    newest = manifest()
    newest["metadata"]["generation"] = 7
    found = leader().give(model_from(newest))
    assert {each.observedGeneration for each in shown(found).values()} == {7}


def test_what_a_terminal_shows_has_no_summary() -> None:
    found = World().give(*served("llama"))
    record = found.engine.records[KEY]
    (told,) = report(found.engine.records, [], found.engine.vault, [], found.now)
    listed: Any = told["conditions"]
    assert [each["type"] for each in listed] == [each.type for each in details(record, None, [], found.now)]
    assert listed[0]["type"] == "Accepted"


def test_of_many_gateways_that_are_waited_for_a_few_are_named() -> None:
    found = programmed()
    for name in "bcdefgh":
        found.connect(name)
    assert shown(found)["Programmed"].message == "Waiting for b, c, d, e, f and 2 more."


# Secrets in clear

INLINE: Json = {
    "type": "oauth",
    "oauthConfig": {"clientId": "c", "clientSecret": "s3cret", "tokenUrl": "https://issuer.example.com/token"},
}


def test_a_secret_in_clear_is_accepted_with_a_word_on_where_it_belongs() -> None:
    remote = {"host": "r.example.com", "authConfig": INLINE, "headersToAdd": {"X-Api-Key": "k-123", "X-Team": "a"}}
    found = leader().give(*served("llama"), model_from(manifest(remoteBackend=remote)))
    accepted = shown(found)["Accepted"]
    assert (accepted.status, accepted.reason) == ("True", "InlineSecret")
    assert accepted.message.split("; ", 1)[0] == "The manifest is valid"
    for words in (
        "headersToAdd[X-Api-Key] of remote remote is in clear for all who may read this object",
        "use authConfig.apiKeyConfig",
        "authConfig.oauthConfig.clientSecret of remote remote is in clear for all who may read this object",
        "use authConfig.oauthConfig.clientSecretRef",
    ):
        assert words in accepted.message
    assert not any(hidden in accepted.message for hidden in ("s3cret", "k-123", "X-Team"))


def test_a_secret_by_reference_needs_no_word() -> None:
    remote = {"host": "r.example.com", "authConfig": OAUTH}
    found = leader().give(secret(client_secret="s3cret"), model_from(manifest(remoteBackend=remote)))
    assert shown(found)["Accepted"].reason == "Accepted"


def test_outside_a_cluster_a_secret_in_a_file_is_the_files_business() -> None:
    found = World().give(model(remoteBackend={"host": "r.example.com", "authConfig": INLINE}))
    assert shown(found)["Accepted"] == Condition("Accepted", "True", "Accepted", "The manifest is valid.", 0)


# Conflicts


def test_a_host_that_another_model_has_is_named_with_who_has_it() -> None:
    found = leader().give(*served("llama"), *served("other", model="llama", environment="test"))
    accepted = shown(found, "default/other")["Accepted"]
    assert (accepted.status, accepted.reason) == ("True", "Accepted")
    assert accepted.message == "The manifest is valid, but others have some of its Hosts: llama (default/llama)."


def test_two_models_of_one_service_live_side_by_side_outside_a_cluster() -> None:
    both = [Applied(model()), *served("other", serviceRef={"name": "llama", "targetPort": 80})]
    found = World().give(*both)
    assert shown(found, "default/other")["Accepted"].status == "True"
    assert "other" in found.routes["default/other"].hosts


@pytest.mark.parametrize("reason", ["Contested", events.RELEASED])
def test_what_becomes_of_a_service_is_told_in_the_words_of_who_did_it(reason: str) -> None:
    found = programmed().give(Exposed(KEY, "False", reason, "Argo CD puts the selector back."))
    told = shown(found)["ServiceTakenOver"]
    assert (told.status, told.reason, told.message) == ("False", reason, "Argo CD puts the selector back.")
