"""What manifests come to in a cluster: references, workloads, Services that are taken over, Policies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller import api
from controller.api import Parsed, Policy
from controller.events import Applied, Kind, Removed
from controller.metrics import ScrapeQuery
from controller.objects import Workload
from controller.offload import PPM, State
from tests.controller.cluster_world import ClusterWorld, leader, manifest, slice_of, taken, workload
from tests.controller.manifests import OAUTH, Json, endpoint_slice, model_from, secret, service
from tests.controller.world import KEY, World
from xds import ir

SHADOW = "llama-spillway-pods"


def refers(field: str, namespace: str = "team", **more: Any) -> Applied:
    """The model with a reference into another namespace."""
    made = manifest()
    ref = made["spec"].setdefault(field, {"name": "llama", "targetPort": 80})
    ref |= {"namespace": namespace, **more}
    return Applied(model_from(made))


def with_remote(**remote: Any) -> Applied:
    return Applied(model_from(manifest(remoteBackend={"host": "r.example.com", **remote})))


def addresses(found: World, key: str = KEY) -> list[str]:
    return [endpoint.address for endpoint in found.routes[key].local.endpoints]


# References to other namespaces


def theirs(**config: Any) -> ClusterWorld:
    """A leader, and a Service of another namespace with an endpoint."""
    found = leader(**config).see("a").connect("a")
    return found.give(service(namespace="team"), endpoint_slice("10.9.9.9", namespace="team"))


def test_defect_19_a_service_of_another_namespace_yields_neither_host_nor_endpoint_nor_exposure() -> None:
    found = theirs().give(refers("serviceRef"), workload()).accept("a")
    assert found.routes[KEY].hosts == ("llama",), "the model's own name"
    assert addresses(found) == []
    assert found.exposed == {KEY: None}
    assert found.condition("ResolvedRefs") == (
        "False",
        "RefNotPermitted",
        "spec.serviceRef refers to namespace team, which the settings do not allow (referenceNamespaces).",
    )


def test_a_namespace_that_the_settings_list_may_be_referred_to() -> None:
    found = theirs(referable=frozenset({"team"})).give(refers("serviceRef"), workload()).accept("a")
    assert addresses(found) == ["10.9.9.9"]
    assert "llama.team.svc" in found.routes[KEY].hosts
    assert found.gateways_of() == ["a"]
    assert found.condition("ResolvedRefs")[0] == "True"


def test_outside_a_cluster_references_lead_wherever_they_say() -> None:
    found = World().give(service(namespace="team"), endpoint_slice("10.9.9.9", namespace="team"), refers("serviceRef"))
    assert addresses(found) == ["10.9.9.9"]


def test_a_model_may_not_take_the_name_of_a_service_for_its_own() -> None:
    for name in ("llama.team.svc", "llama.team.svc.cluster.local", "LLAMA.team.SVC"):
        made = manifest()
        made["spec"]["model"] = name
        found = leader().give(model_from(made))
        assert set(found.routes[KEY].hosts) == {
            "llama",
            "llama.default",
            "llama.default.svc",
            "llama.default.svc.cluster.local",
        }


def test_a_workload_of_another_namespace_says_nothing_about_the_model() -> None:
    found = leader().give(service(), refers("modelSourceRef"), Workload("Deployment", "team/llama", desired=0))
    assert found.state() is State.STANDBY
    assert found.condition("ResolvedRefs")[:2] == ("False", "RefNotPermitted")
    assert "spec.modelSourceRef refers to namespace team" in found.condition("ResolvedRefs")[2]


@pytest.mark.parametrize("field", ["metricServiceRef", "serviceRef"])
def test_endpoints_of_another_namespace_are_not_asked_for_metrics(field: str) -> None:
    made = manifest(metrics=[pods_metric()])
    made["spec"].setdefault(field, {"name": "llama"})["namespace"] = "team"
    found = theirs().give(model_from(made))
    assert found.watched == {}
    assert found.condition("MetricsAvailable")[:2] == ("False", "RefNotPermitted")
    assert f"spec.{field} refers to namespace team" in found.condition("ResolvedRefs")[2]
    allowed = theirs(referable=frozenset({"team"})).give(model_from(made))
    assert [query.service for query in allowed.watched] == ["team/llama"]


def pods_metric() -> Json:
    target = {"type": "AverageValue", "averageValue": "5"}
    return {"type": "Pods", "source": "endpoints", "pods": {"metric": {"name": "busy"}, "target": target}}


SECRETS: list[tuple[str, Json]] = [
    ("authConfig.oauthConfig.clientSecretRef", {"authConfig": OAUTH}),
    (
        "authConfig.apiKeyConfig.secretRef",
        {"authConfig": {"type": "apiKey", "apiKeyConfig": {"secretRef": {"name": "remote", "key": "client-secret"}}}},
    ),
    ("tls.caRef", {"scheme": "https", "tls": {"caRef": {"name": "remote", "key": "client-secret"}}}),
]


def into(namespace: str, value: Json) -> Json:
    """The same with every reference to a Secret in this namespace."""
    return {
        key: {**each, "namespace": namespace}
        if key.endswith("Ref")
        else into(namespace, each)
        if isinstance(each, dict)
        else each
        for key, each in value.items()
    }


@pytest.mark.parametrize(("field", "remote"), SECRETS)
def test_a_secret_of_another_namespace_is_not_read_and_its_remote_is_not_used(field: str, remote: Json) -> None:
    their_secret = secret(namespace="team", client_secret="s3cret")
    found = leader().give(their_secret, with_remote(**into("team", remote)))
    assert found.routes[KEY].remotes == ()
    assert (found.clients, found.secrets, found.engine.followed_secrets) == ({}, {}, set())
    assert found.condition("RemoteReady")[1] == "RefNotPermitted"
    status, reason, message = found.condition("ResolvedRefs")
    assert (status, reason) == ("False", "RefNotPermitted")
    assert f"{field} of remote remote refers to namespace team" in message
    allowed = leader(referable=frozenset({"team"})).give(their_secret, with_remote(**into("team", remote)))
    assert allowed.engine.followed_secrets == {"team/remote"}
    assert allowed.routes[KEY].remotes


def test_the_settings_own_remote_may_have_its_secret_where_the_controller_is() -> None:
    auth = {"authConfig": into("spillway", OAUTH)}
    default = model_from(manifest(remoteBackend={"host": "r.example.com", **auth})).spec.offloading_config.remotes[0]
    found = leader(default_remote=default)
    found.give(secret(namespace="spillway", client_secret="s3cret"), model_from(manifest(remoteBackend=None)))
    assert len(found.clients) == 1


# Workloads


@pytest.mark.parametrize("seen", [(), ("service",), ("service", "slice")])
def test_a_model_scaled_to_zero_fails_over_whatever_there_is_of_its_service(seen: tuple[str, ...]) -> None:
    things = {"service": service(), "slice": endpoint_slice("10.0.0.1", ready=False)}
    found = leader().give(*(things[each] for each in seen), model_from(manifest()), workload(desired=0, ready=0))
    assert (found.state(), found.share()) == (State.FAILOVER, PPM)


def test_a_model_that_is_scaled_up_again_comes_back() -> None:
    found = leader().give(service(), model_from(manifest()), workload(desired=0, ready=0)).read(1)
    found.give(workload(desired=1, ready=0))
    assert found.state() is State.FAILOVER
    found.give(workload(desired=1, ready=1), endpoint_slice("10.0.0.1"))
    assert (found.state(), found.share()) == (State.STANDBY, 0)


def test_unknown_is_not_down() -> None:
    for seen in ([], [service()], [workload()], [service(), workload()], [service(), workload(desired=2, ready=1)]):
        found = leader().give(model_from(manifest()), *seen)
        assert found.state() is State.STANDBY, seen


def test_endpoints_that_are_ready_count_whatever_the_workload_says() -> None:
    found = leader().give(service(), endpoint_slice("10.0.0.1"), model_from(manifest()), workload(desired=0, ready=0))
    assert found.state() is State.STANDBY


def test_a_workload_and_a_service_that_are_missing_are_both_named() -> None:
    found = leader().give(model_from(manifest()))
    assert found.condition("ResolvedRefs") == (
        "False",
        "RefNotFound",
        "Service default/llama does not exist; Deployment default/llama does not exist.",
    )
    found.give(service(), endpoint_slice("10.0.0.1"), workload())
    assert found.condition("ResolvedRefs")[0] == "True"
    found.give(Removed(Kind.DEPLOYMENT, KEY))
    assert found.condition("ResolvedRefs")[2] == "Deployment default/llama does not exist."
    assert addresses(found) == ["10.0.0.1"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "containers declare no port"),
        ({"ports": (("", 80),), "selector": "app in (a,b)"}, "selector is not made of equal labels alone"),
    ],
)
def test_a_service_that_is_not_there_and_cannot_be_made_is_to_be_named(changes: Json, why: str) -> None:
    made = manifest()
    del made["spec"]["serviceRef"]
    found = leader().give(model_from(made), replace(workload(), **changes))
    none = f"none can be made for Deployment default/llama, whose {why}: name one in spec.serviceRef."
    missing = f"Service default/llama does not exist; {none}"
    assert found.condition("ResolvedRefs") == ("False", "RefNotFound", missing)
    found.give(service(), endpoint_slice("10.0.0.1"))
    assert found.condition("ResolvedRefs")[0] == "True"


def test_outside_a_cluster_there_are_no_workloads_to_miss() -> None:
    found = World().give(service(), endpoint_slice("10.0.0.1"), model_from(manifest()))
    assert found.condition("ResolvedRefs")[0] == "True"


# Services that are taken over, and those that are made


def test_the_endpoints_of_a_taken_service_are_its_shadows_and_never_ours() -> None:
    found = leader().give(model_from(manifest()), workload(), taken())
    found.give(slice_of("ours", "llama", "10.1.0.1", managed_by="spillway"), slice_of("shadow-1", SHADOW, "10.0.0.1"))
    assert addresses(found) == ["10.0.0.1"]
    found.give(slice_of("shadow-1", SHADOW, "10.0.0.1", "10.0.0.2"))
    assert addresses(found) == ["10.0.0.1", "10.0.0.2"]


OWN, FROM_SHADOW = slice_of("llama-1", "llama", "10.0.0.1"), slice_of("shadow-1", SHADOW, "10.0.0.1")
OURS = slice_of("ours", "llama", "10.1.0.1", managed_by="spillway")
GONE = Removed(Kind.ENDPOINT_SLICE, OWN.key)
SHADOW_GONE = Removed(Kind.ENDPOINT_SLICE, FROM_SHADOW.key)


@pytest.mark.parametrize(
    "seen",
    [
        (FROM_SHADOW, OURS, taken(), GONE),
        (taken(), FROM_SHADOW, OURS, GONE),
        (taken(), GONE, OURS, FROM_SHADOW),
        (GONE, taken(), OURS, FROM_SHADOW),
        (FROM_SHADOW, OURS, taken(), GONE, service(), OWN, SHADOW_GONE),
        (FROM_SHADOW, OURS, taken(), GONE, OWN, service(), SHADOW_GONE),
        (FROM_SHADOW, OURS, taken(), GONE, service(), SHADOW_GONE, OWN),
        (FROM_SHADOW, OURS, taken(), GONE, Removed(Kind.SERVICE, KEY), taken()),
    ],
)
def test_no_order_in_which_a_takeover_is_seen_loses_the_endpoints(seen: tuple[Any, ...]) -> None:
    found = leader().give(service(), OWN, model_from(manifest()), workload()).read(1)
    for each in seen:
        found.give(each)
        assert addresses(found) == ["10.0.0.1"], each
        assert found.state() is State.STANDBY


def test_a_controller_that_starts_in_the_middle_of_giving_back_finds_the_pods() -> None:
    found = leader().give(service(), OURS, FROM_SHADOW, model_from(manifest()), workload())
    assert addresses(found) == ["10.0.0.1"]


def test_without_service_ref_the_service_of_the_models_own_name_is_used() -> None:
    made = manifest(metrics=[pods_metric()])
    del made["spec"]["serviceRef"]
    found = leader().give(service(), endpoint_slice("10.0.0.1"), model_from(made), workload())
    assert addresses(found) == ["10.0.0.1"]
    assert "llama.default.svc" in found.routes[KEY].hosts
    assert found.watched == {
        query: (ir.Endpoint("10.0.0.1", 8000),) for query in found.watched if isinstance(query, ScrapeQuery)
    }
    assert [query.service for query in found.watched] == [KEY]


# Policies


def places(name: str, *names: str, namespace: str = "default") -> Policy:
    return policy(name, namespace, type="location", locations=[{"type": "country", "name": each} for each in names])


def hardware(name: str, *names: str) -> Policy:
    return policy(name, type="flavor", flavors=[{"type": "gpu", "name": each} for each in names])


def policy(name: str, namespace: str = "default", **spec: Any) -> Policy:
    parsed = api.parse_policy(
        {
            "apiVersion": "authorization.beamlit.com/v1alpha1",
            "kind": "Policy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }
    )
    assert isinstance(parsed, Parsed)
    return parsed.model


def remote(name: str, country: str, gpu: str) -> Json:
    declared = {"location": {"country": country}, "flavors": [{"type": "gpu", "name": gpu}]}
    return {"name": name, "host": f"{name}.example.com", **declared}


REMOTES = [remote("paris", "fr", "t4"), remote("lyon", "fr", "h100"), remote("bonn", "de", "t4")]


def governed(*names: str, **ref: Any) -> Applied:
    made = manifest(remoteBackends=REMOTES, behavior={"percentage": 50, "mode": "Force"})
    made["spec"]["policies"] = [{"refType": "localPolicy", "name": name, **ref} for name in names]
    return Applied(model_from(made))


def used(found: World) -> list[str]:
    return [remote.authority.partition(".")[0] for remote in found.routes[KEY].remotes]


def under(*policies: Policy) -> ClusterWorld:
    found = leader().give(service(), endpoint_slice("10.0.0.1"), workload(), *policies)
    return found.give(governed(*(each.metadata.name for each in policies)))


def test_policies_of_one_type_add_up_and_types_restrict_each_other() -> None:
    assert used(under()) == ["paris", "lyon", "bonn"]
    assert used(under(places("france", "fr"))) == ["paris", "lyon"]
    assert used(under(places("france", "fr"), places("germany", "de"))) == ["paris", "lyon", "bonn"]
    assert used(under(places("france", "fr"), hardware("small", "t4"))) == ["paris"]


def test_a_model_whose_policies_leave_no_remote_stays_local_and_says_why() -> None:
    found = under(places("spain", "es")).read(1)
    assert (used(found), found.share()) == ([], 0)
    status, reason, message = found.condition("RemoteReady")
    assert (status, reason) == ("False", "PolicyDenied")
    assert "lyon: location is country fr, and Policy default/spain allows country es" in message


def test_a_policy_that_does_not_exist_leaves_no_remote_until_it_is_there_and_again_when_it_goes() -> None:
    found = under().give(governed("france"))
    assert (used(found), found.share()) == ([], 0)
    assert found.condition("ResolvedRefs") == ("False", "RefNotFound", "Policy default/france does not exist.")
    found.give(places("france", "fr"))
    assert (used(found), found.share()) == (["paris", "lyon"], PPM // 2)
    found.give(places("france", "de"))
    assert used(found) == ["bonn"]
    found.give(Removed(Kind.POLICY, "default/france"))
    assert (used(found), found.share()) == ([], 0)


def test_a_policy_of_another_namespace_is_refused_unless_it_is_listed() -> None:
    their_policy = places("france", "fr", namespace="team")
    found = under().give(their_policy, governed("france", namespace="team"))
    assert used(found) == []
    assert found.condition("ResolvedRefs")[1] == "RefNotPermitted"
    assert "spec.policies refers to namespace team" in found.condition("ResolvedRefs")[2]
    allowed = leader(referable=frozenset({"team"})).give(their_policy, governed("france", namespace="team"))
    assert used(allowed) == ["paris", "lyon"]


def test_what_a_policy_does_not_reach_is_noted() -> None:
    made = manifest()
    made["spec"]["policies"] = [{"refType": "localPolicy", "name": "f"}, {"refType": "remotePolicy", "name": "far"}]
    found = leader().give(places("f", "fr"), model_from(made))
    status, reason, message = found.condition("Accepted")
    assert (status, reason) == ("True", "Accepted")
    assert message.split("; ") == [
        "The manifest is valid",
        "Policy far is known to Beamlit only and is not applied here",
        "remote remote declares no location, so no Policy restricts it by that.",
    ]


def test_metrics_of_a_cluster_are_asked_for_the_workloads_pods() -> None:
    resource = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
    }
    found = leader().give(model_from(manifest(metrics=[resource])))
    assert found.condition("MetricsAvailable")[1] == "NoWorkload"
    found.give(workload())
    assert [query.selector for query in found.watched] == ["app=llama"]
