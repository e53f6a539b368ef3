"""Which remotes a model's Policies leave it: unions within a type, intersection over types."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import api
from controller.api import ModelDeployment, Parsed, Policy, RemoteBackend
from controller.policies import allowed, notes, policy_keys
from tests.controller.manifests import Json, model_from, model_manifest

FRANCE = {"type": "country", "name": "fr"}
EUROPE = {"type": "continent", "name": "eu"}
PARIS = {"type": "location", "name": "eu-par-1"}
T4 = {"type": "gpu", "name": "t4"}
H100 = {"type": "gpu", "name": "h100"}
X86 = {"type": "cpu", "name": "x86"}


def policy(name: str, namespace: str = "default", **spec: object) -> Policy:
    parsed = api.parse_policy(
        {
            "apiVersion": "authorization.beamlit.com/v1alpha1",
            "kind": "Policy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }
    )
    assert isinstance(parsed, Parsed), parsed
    return parsed.model


def places(name: str, *locations: Json) -> Policy:
    return policy(name, type="location", locations=list(locations))


def hardware(name: str, *flavors: Json) -> Policy:
    return policy(name, type="flavor", flavors=list(flavors))


def model(*names: str, ref_type: str = "localPolicy") -> ModelDeployment:
    manifest = model_manifest()
    manifest["spec"]["policies"] = [{"refType": ref_type, "name": name} for name in names]
    return model_from(manifest)


def remote(**declared: object) -> RemoteBackend:
    return RemoteBackend.model_validate({"name": "far", "host": "far.example.com", **declared})


def judged(remote_: RemoteBackend, *policies: Policy) -> str:
    by_key = {each.key: each for each in policies}
    return allowed(remote_, model(*(each.metadata.name for each in policies)), by_key)


IN_PARIS = remote(location={"name": "eu-par-1", "country": "fr", "continent": "eu"})
WITH_T4 = remote(flavors=[T4])


def test_a_model_without_policies_may_go_everywhere() -> None:
    assert judged(IN_PARIS) == ""
    assert allowed(WITH_T4, model(), {"default/elsewhere": places("elsewhere")}) == ""


@pytest.mark.parametrize("place", [FRANCE, EUROPE, PARIS])
def test_a_place_is_matched_by_the_part_of_the_location_that_its_type_names(place: Json) -> None:
    assert judged(IN_PARIS, places("here", place)) == ""
    moved = {**place, "name": "elsewhere"}
    assert judged(IN_PARIS, places("here", moved)) == (
        "location is location eu-par-1, country fr, continent eu, and Policy default/here allows "
        f"{place['type']} elsewhere"
    )


def test_a_name_of_another_type_is_another_place() -> None:
    assert judged(remote(location={"name": "fr"}), places("france", FRANCE)) != ""


def test_a_remote_that_declares_a_part_of_its_location_is_judged_by_that_part() -> None:
    assert judged(remote(location={"country": "fr"}), places("europe", EUROPE)) == (
        "location is country fr, and Policy default/europe allows continent eu"
    )


def test_policies_of_one_type_add_up() -> None:
    assert judged(IN_PARIS, places("america", {"type": "continent", "name": "na"}), places("france", FRANCE)) == ""
    assert judged(WITH_T4, hardware("fast", H100), hardware("cheap", T4)) == ""


def test_policies_of_two_types_restrict_each_other() -> None:
    both = remote(location={"country": "fr"}, flavors=[T4])
    assert judged(both, places("france", FRANCE), hardware("cheap", T4)) == ""
    assert judged(both, places("france", FRANCE), hardware("fast", H100)) == (
        "flavor is gpu t4, and Policy default/fast allows gpu h100"
    )
    assert judged(both, places("europe", EUROPE), hardware("fast", H100)).count("Policy") == 2


def test_every_flavor_that_a_remote_may_use_must_be_allowed() -> None:
    mixed = remote(flavors=[T4, X86])
    assert judged(mixed, hardware("gpus", T4, H100)) == (
        "flavor is cpu x86, and Policy default/gpus allows gpu h100, gpu t4"
    )
    assert judged(mixed, hardware("gpus", T4, H100), hardware("cpus", X86)) == ""


def test_a_policy_that_lists_nothing_allows_all() -> None:
    assert judged(IN_PARIS, places("anywhere")) == ""
    assert judged(IN_PARIS, places("anywhere"), places("america", {"type": "continent", "name": "na"})) == ""
    assert judged(WITH_T4, places("anywhere"), hardware("fast", H100)) != ""


def test_what_is_not_of_a_policys_type_does_not_count() -> None:
    odd = policy("odd", type="flavor", flavors=[T4], locations=[{"type": "country", "name": "us"}])
    assert judged(remote(location={"country": "fr"}, flavors=[T4]), odd) == ""


@pytest.mark.parametrize("silent", [remote(), remote(location={}), remote(flavors=[])])
def test_a_remote_that_declares_nothing_is_not_restricted_but_named(silent: RemoteBackend) -> None:
    policies = {each.key: each for each in (places("france", FRANCE), hardware("cheap", T4))}
    restricted = model("france", "cheap")
    assert allowed(silent, restricted, policies) == ""
    assert notes([silent, IN_PARIS], restricted, policies) == (
        "remote far declares no location, so no Policy restricts it by that",
        "remote far declares no flavor, so no Policy restricts it by that",
        "remote far declares no flavor, so no Policy restricts it by that",
    )


def test_nothing_is_noted_of_a_type_that_no_policy_restricts() -> None:
    assert notes([remote()], model("france"), {"default/france": places("france", FRANCE)}) == (
        "remote far declares no location, so no Policy restricts it by that",
    )
    assert notes([remote()], model(), {}) == ()


def test_a_policy_that_does_not_exist_leaves_no_remote() -> None:
    assert allowed(remote(), model("gone", "france"), {"default/france": places("france", FRANCE)}) == (
        "Policy default/gone does not exist"
    )


def test_a_policy_of_beamlits_own_is_not_applied_and_noted() -> None:
    beamlits = model("eu-only", ref_type="remotePolicy")
    assert policy_keys(beamlits) == ()
    assert allowed(IN_PARIS, beamlits, {}) == ""
    assert notes([IN_PARIS], beamlits, {}) == ("Policy eu-only is known to Beamlit only and is not applied here",)


def test_policies_are_looked_up_in_the_models_namespace_unless_the_reference_names_another() -> None:
    manifest = model_manifest(namespace="team")
    manifest["spec"]["policies"] = [
        {"refType": "localPolicy", "name": "a"},
        {"refType": "localPolicy", "name": "b", "namespace": "shared"},
        {"refType": "localPolicy", "name": "a", "namespace": "team"},
    ]
    assert policy_keys(model_from(manifest)) == ("team/a", "shared/b")


PLACES = st.lists(st.sampled_from([FRANCE, EUROPE, PARIS, {"type": "country", "name": "us"}]), min_size=1, max_size=3)


@given(st.lists(PLACES, min_size=1, max_size=3), PLACES)
def test_another_policy_of_a_type_never_forbids_what_was_allowed(lists: list[list[Json]], more: list[Json]) -> None:
    policies = [places(f"p{index}", *each) for index, each in enumerate(lists)]
    if judged(IN_PARIS, *policies) == "":
        assert judged(IN_PARIS, *policies, places("more", *more)) == ""


@given(PLACES, st.lists(st.sampled_from([T4, H100, X86]), max_size=3))
def test_the_first_policy_of_another_type_never_allows_what_was_forbidden(where: list[Json], what: list[Json]) -> None:
    both = remote(location={"name": "eu-par-1", "country": "fr", "continent": "eu"}, flavors=[T4])
    if judged(both, places("where", *where)) != "":
        assert judged(both, places("where", *where), hardware("what", *what)) != ""
