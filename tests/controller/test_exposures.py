"""A model's own port on the gateway, and the gateway pods that its callers are led to."""

from __future__ import annotations

from typing import Any

import pytest

from controller import events
from controller.api import Problem, Takeover
from controller.events import Applied, Kind, Removed
from controller.exposures import HOLD_S, Cluster
from controller.objects import ServicePort
from tests.controller.cluster_world import (
    ClusterWorld,
    leader,
    manifest,
    pod,
    served,
    slice_of,
    taken,
    workload,
)
from tests.controller.manifests import endpoint_slice, model_from, service
from tests.controller.world import KEY, World

TWO_PORTS = Cluster(ports=range(20_000, 20_002))


def exposed(*gateways: str, **config: Any) -> ClusterWorld:
    """A leader with the model `llama`, whose port these gateways, all ready, have acknowledged."""
    found = leader(**config).see(*gateways).connect(*gateways)
    found.give(*served("llama"))
    return found.accept(*gateways)


def spec(name: str = "llama", **fields: Any) -> Applied:
    """A change of a model's spec."""
    made = manifest(name)
    made["spec"] |= fields
    return Applied(model_from(made))


def leaving(name: str = "llama") -> Applied:
    made = manifest(name)
    made["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    return Applied(model_from(made))


# Gateways


def test_callers_are_led_to_gateways_that_are_ready_and_listen() -> None:
    found = leader().see("a", pod("b", ready=False), "c").connect("a", "b", "c")
    found.give(*served("llama")).accept("a", "b")
    exposure = found.exposed[KEY]
    assert exposure is not None
    assert (exposure.service, exposure.port, exposure.gateway_port) == (KEY, 80, 20_000)
    assert exposure.gateways == (pod("a"),)
    assert found.routes[KEY].port == 20_000
    found.accept("c")
    assert found.gateways_of() == ["a", "c"]


def test_nothing_is_taken_over_before_a_gateway_listens() -> None:
    found = leader().see("a").connect("a").give(*served("llama"))
    assert found.exposed == {}


def test_a_pod_that_acknowledged_before_it_was_ready_is_used_once_it_is() -> None:
    found = leader().see("a", pod("b", ready=False)).connect("a", "b").give(*served("llama"))
    found.accept("b").see("a", "b").accept("a")
    assert found.gateways_of() == ["a", "b"]


def test_a_pod_that_is_not_ready_gets_no_callers_and_a_stream_that_it_lost_meanwhile_has_to_show_again() -> None:
    found = exposed("a", "b").see("a", pod("b", ready=False))
    assert found.gateways_of() == ["a"]
    found.disconnect("b").see("a", "b")
    assert found.gateways_of() == ["a"], "its Envoy may be a new one"
    found.connect("b").accept("b")
    assert found.gateways_of() == ["a", "b"]


def test_a_pod_that_only_missed_its_probe_comes_back_with_what_it_had() -> None:
    found = exposed("a", "b").see("a", pod("b", ready=False)).see("a", "b")
    assert found.gateways_of() == ["a", "b"]


def test_another_pod_of_the_same_name_has_to_acknowledge_by_itself() -> None:
    found = exposed("a", "b").see("a", pod("b", address="10.1.9.9"))
    assert found.gateways_of() == ["a"]
    found.accept("b")
    assert found.gateways_of() == ["a", "b"]
    found.see("a").see("a", "b")
    assert found.gateways_of() == ["a"], "it was gone in between"


def test_a_gateway_that_loses_its_control_plane_goes_on_listening() -> None:
    found = exposed("a", "b").disconnect("b")
    assert found.gateways_of() == ["a", "b"]


def test_without_any_gateway_callers_are_led_to_the_pods_and_the_service_stays_taken_over() -> None:
    found = exposed("a").see(pod("a", ready=False))
    exposure = found.exposed[KEY]
    assert exposure is not None
    assert exposure.gateways == ()


def test_a_change_of_the_route_keeps_who_listens() -> None:
    found = exposed("a").give(endpoint_slice("10.0.0.7"))
    assert found.engine.records[KEY].programmed == set()
    assert found.gateways_of() == ["a"]


# When nothing is to be led anywhere


@pytest.mark.parametrize("change", [spec(takeover="Manual"), spec(enabled=False), leaving()], ids=["m", "off", "gone"])
def test_a_model_that_is_manual_disabled_or_leaving_gets_its_service_back_and_keeps_its_port_until_then(
    change: Applied,
) -> None:
    found = exposed("a").give(change)
    assert found.exposed[KEY] is None
    assert found.routes[KEY].port == 20_000, "somebody may still connect there"
    found.released()
    assert (found.port_of(), found.routes[KEY].port) == (None, None)


def test_callers_keep_their_gateway_until_the_service_is_theirs_again() -> None:
    found = exposed("a").give(leaving())
    assert KEY in found.routes
    found.released().give(Removed(Kind.MODEL_DEPLOYMENT, KEY))
    assert KEY not in found.routes


def test_a_model_that_is_manual_from_the_start_is_given_back_once_since_it_may_have_been_otherwise_before() -> None:
    found = leader().see("a").give(*served("llama", takeover="Manual"))
    assert found.exposed == {KEY: None}
    found.exposed.clear()
    found.give(endpoint_slice("10.0.0.9")).read(1, times=3)
    assert found.exposed == {}


def test_the_settings_say_it_for_models_that_do_not() -> None:
    manual = Cluster(takeover=Takeover.MANUAL)
    found = exposed("a", cluster=manual)
    assert found.exposed[KEY] is None
    found.give(spec(takeover="Auto")).accept("a")
    assert found.gateways_of() == ["a"]


def test_a_model_that_conflicts_or_was_never_valid_is_given_back() -> None:
    found = exposed("a").give(*served("other", model="llama"))
    assert found.exposed["default/other"] is None
    found.give(events.Refused(Kind.MODEL_DEPLOYMENT, "default/bad", (Problem("spec.model", "is required"),)))
    assert found.exposed["default/bad"] is None
    again = ClusterWorld()
    again.give(events.Refused(Kind.MODEL_DEPLOYMENT, "default/bad", (Problem("spec.model", "is required"),)))
    assert again.exposed == {}
    assert again.lead().exposed == {"default/bad": None}


def test_a_model_whose_newest_manifest_is_refused_keeps_what_it_has() -> None:
    found = exposed("a").give(events.Refused(Kind.MODEL_DEPLOYMENT, KEY, (Problem("spec.model", "is required"),)))
    assert found.gateways_of() == ["a"]


def test_a_model_that_leaves_with_an_edit_that_conflicts_is_given_back_all_the_same() -> None:
    found = exposed("a").give(*served("other")).accept("a")
    conflicting = manifest("other")
    conflicting["spec"]["model"] = "llama"
    found.give(model_from(conflicting))
    assert found.gateways_of("default/other") == ["a"]
    conflicting["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    found.give(model_from(conflicting))
    assert found.exposed["default/other"] is None


def test_a_model_that_is_gone_is_given_back() -> None:
    found = exposed("a").give(Removed(Kind.MODEL_DEPLOYMENT, KEY))
    assert found.exposed[KEY] is None


def test_a_port_is_kept_until_the_service_is_given_back_this_time() -> None:
    found = exposed("a").give(spec(takeover="Manual")).released()
    found.give(spec(takeover="Auto")).accept("a")
    assert found.gateways_of() == ["a"]
    found.give(spec(takeover="Manual"))
    assert found.exposed[KEY] is None
    assert found.port_of() is not None, "it was given back once, but not since"


# Two models on one port of a Service


def test_the_second_model_on_one_port_of_a_service_says_so_and_inherits_it_when_the_first_goes() -> None:
    found = exposed("a").give(spec("other", serviceRef={"name": "llama", "targetPort": 80})).accept("a")
    assert found.exposed["default/other"] is None
    assert found.condition("Accepted", "default/other") == (
        "False",
        "Conflict",
        "default/llama already serves port 80 of Service default/llama.",
    )
    assert found.condition("Accepted")[0] == "True"
    found.give(Removed(Kind.MODEL_DEPLOYMENT, KEY)).accept("a")
    assert found.gateways_of("default/other") == ["a"]
    assert found.condition("Accepted", "default/other")[0] == "True"


def test_the_first_port_by_number_and_by_default_is_the_same_port() -> None:
    found = exposed("a").give(spec("other", serviceRef={"name": "llama"}))
    assert found.condition("Accepted", "default/other")[1] == "Conflict"


def test_models_on_different_ports_of_a_service_do_not_meet() -> None:
    found = exposed("a").give(spec("other", serviceRef={"name": "llama", "targetPort": 81})).accept("a")
    assert found.gateways_of("default/other") == ["a"]
    assert found.port_of("default/other") != found.port_of()


# Ports


def test_a_port_is_handed_out_again_as_late_as_possible() -> None:
    found = leader(cluster=Cluster(ports=range(20_000, 20_003)))
    for name in ("a", "b"):
        found.give(*served(name))
    found.give(Removed(Kind.MODEL_DEPLOYMENT, "default/a")).give(*served("c"), *served("d"))
    assert [found.port_of(f"default/{name}") for name in "bcd"] == [20_001, 20_002, 20_000]


def test_without_a_free_port_a_model_is_served_by_its_host_and_left_alone_until_one_is_free() -> None:
    found = leader(cluster=TWO_PORTS).see("a").connect("a")
    for name in ("a", "b", "c"):
        found.give(*served(name))
    found.accept("a")
    assert (found.port_of("default/c"), found.exposed["default/c"]) == (None, None)
    assert found.routes["default/c"].hosts
    assert found.condition("ServiceTakenOver", "default/c")[:2] == ("False", "NoFreePort")
    found.give(Removed(Kind.MODEL_DEPLOYMENT, "default/a"), spec("c", environment="test")).accept("a")
    assert found.port_of("default/c") == 20_000
    assert found.gateways_of("default/c") == ["a"]


def test_a_port_does_not_change_with_anything_that_happens_to_its_model() -> None:
    found = exposed("a")
    found.give(endpoint_slice("10.0.0.9"), spec(environment="test")).read(50, times=9).read(None, times=90)
    found.give(Removed(Kind.SERVICE, KEY), Removed(Kind.ENDPOINT_SLICE, KEY), service()).see("b").see()
    assert found.port_of() == 20_000


def saved_with(port: object) -> dict[str, object]:
    return {"decision": {"state": "Standby"}, "gateway_port": port}


def test_ports_survive_a_restart_and_those_that_cannot_be_are_made_anew() -> None:
    ports: dict[str, object] = {"a": 20_005, "b": 20_005, "c": 99, "d": "20006", "e": True, "f": 20_007}
    found = ClusterWorld({f"default/{name}": saved_with(port) for name, port in ports.items()})
    for name in ports:
        found.give(*served(name))
    found.lead()
    got = {name: found.port_of(f"default/{name}") for name in ports}
    assert got["f"] == 20_007
    assert 20_005 in (got["a"], got["b"])
    assert len(set(got.values())) == len(ports)
    assert all(port in range(20_000, 30_000) for port in got.values())
    assert {name: found.routes[f"default/{name}"].port for name in ports} == got


def test_the_port_of_a_model_that_is_not_seen_yet_is_not_given_to_another() -> None:
    found = ClusterWorld({KEY: saved_with(20_000)}, cluster=TWO_PORTS)
    found.give(*served("other")).lead()
    assert found.port_of("default/other") == 20_001
    found.give(*served("llama"))
    assert found.port_of() == 20_000


# After a change of leader


def elected(*ready: str) -> ClusterWorld:
    """A controller that has just taken the lead; the model was exposed before."""
    before = exposed("a", "b")
    found = ClusterWorld()
    found.now = before.now
    found.give(*served("llama"), *before.words()).see(*ready)
    found.lead()
    return found


def test_what_stands_is_left_alone_until_all_ready_gateways_have_acknowledged() -> None:
    found = elected("a", "b").connect("a", "b").accept("a")
    assert found.exposed == {}
    found.accept("b")
    assert found.gateways_of() == ["a", "b"]


def test_who_has_not_acknowledged_after_a_while_is_left_out() -> None:
    found = elected("a", "b").connect("a").accept("a").wait(HOLD_S - 0.001)
    assert found.exposed == {}
    assert found.engine.wake_at() is not None
    found.wait(0.001)
    assert found.gateways_of() == ["a"]


def test_who_acknowledged_to_a_follower_need_not_do_it_again_when_that_takes_the_lead() -> None:
    before = exposed("a", "b")
    found = ClusterWorld().see("a", "b").connect("a", "b")
    found.give(*served("llama"), *before.words()).accept("a", "b").lead()
    assert found.gateways_of() == ["a", "b"]


def test_what_stands_is_left_alone_until_the_pods_have_been_seen() -> None:
    before = exposed("a")
    found = ClusterWorld()
    found.give(*served("llama"), *before.words())
    found.lead().wait(10 * HOLD_S)
    assert found.exposed == {}
    found.give(taken(), slice_of("ours", "llama", "10.1.0.1", managed_by="spillway")).see()
    exposure = found.exposed[KEY]
    assert exposure is not None
    assert exposure.gateways == ()


def test_who_takes_the_lead_again_says_once_more_what_is_to_be() -> None:
    found = exposed("a").follow()
    found.exposed.clear()
    found.lead()
    assert found.gateways_of() == ["a"]


# Services that are made


def test_who_led_all_the_time_says_once_more_what_is_to_be() -> None:
    found = exposed("g")
    found.give(events.Refused(Kind.MODEL_DEPLOYMENT, "default/broken", (Problem("spec.model", "is required"),)))
    before, found.exposed = found.exposed, {}
    found.lead()
    assert found.exposed == before
    assert (found.gateways_of(), found.exposed["default/broken"]) == (["g"], None)


def test_a_service_is_made_for_a_model_that_names_none_and_then_taken_over() -> None:
    made = manifest()
    del made["spec"]["serviceRef"]
    found = leader().see("a").connect("a")
    found.give(model_from(made), workload(ports=(("http", 8000), ("", 9090)))).accept("a")
    exposure = found.exposed[KEY]
    assert exposure is not None
    assert exposure.make is not None
    assert (exposure.make.owner_name, exposure.make.owner_uid) == ("llama", "uid-of-default-llama")
    assert exposure.make.selector == {"app": "llama"}
    assert exposure.make.ports == (ServicePort(8000, "http", 8000), ServicePort(9090, "port-9090", 9090))
    found.give(service(port=8000), endpoint_slice("10.0.0.1")).accept("a")
    exposure = found.exposed[KEY]
    assert exposure is not None
    assert (exposure.service, exposure.port, found.gateways_of()) == (KEY, 8000, ["a"])
    assert found.routes[KEY].local.endpoints
    assert "llama.default.svc" in found.routes[KEY].hosts


def test_somebody_elses_service_does_not_become_the_models_because_its_workload_goes() -> None:
    made = manifest()
    del made["spec"]["serviceRef"]
    found = leader().see("a").connect("a").give(model_from(made), *served("llama")[:-1], workload()).accept("a")
    exposure = found.exposed[KEY]
    assert exposure is not None
    assert (exposure.make, exposure.owner_uid) == (None, "uid-of-default-llama")


def test_the_service_is_made_before_any_gateway_listens_since_callers_need_it() -> None:
    made = manifest()
    del made["spec"]["serviceRef"]
    found = leader().see("a").connect("a").give(model_from(made), workload(ports=(("http", 8000),)))
    exposure = found.exposed[KEY]
    assert exposure is not None
    assert exposure.make is not None


def test_outside_a_cluster_nothing_is_exposed_and_no_port_is_given() -> None:
    found = World().give(*served("llama"))
    assert (found.exposed, found.routes[KEY].port) == ({}, None)
