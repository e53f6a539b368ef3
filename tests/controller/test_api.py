"""The custom resources: what users of the predecessor wrote works, and what is wrong is named with its field."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import api
from controller.api import Invalid, ModelDeployment, Parsed
from controller.offload import Mode, OnUnavailable, Scope, Strategy
from tests.controller.manifests import EXTERNAL, OAUTH, Json, model_from, model_manifest
from xds import ir

TUTORIAL: Json = {
    "apiVersion": "deployment.beamlit.com/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "my-model"},
    "spec": {
        "model": "my-model",
        "environment": "production",
        "modelSourceRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "php-apache", "namespace": "default"},
        "serviceRef": {"name": "php-apache", "namespace": "default", "targetPort": 80},
        "offloadingConfig": {
            "remoteBackend": {"host": "my-model-on-another-cluster:80", "scheme": "http"},
            "behavior": {"percentage": 50},
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
                }
            ],
        },
    },
}
BEHAVIOR = "spec.offloadingConfig.behavior"
METRIC = "spec.offloadingConfig.metrics[0]"


def with_spec(**changes: Any) -> Json:
    """A valid manifest with other fields in its spec; None takes one out."""
    manifest = deepcopy(model_manifest())
    for name, value in changes.items():
        manifest["spec"][name] = value
        if value is None:
            del manifest["spec"][name]
    return manifest


def problems(manifest: Json) -> dict[str, str]:
    """Field -> reason."""
    result = api.parse(manifest)
    assert isinstance(result, Invalid), result
    return {problem.field: problem.reason for problem in result.problems}


def warnings(manifest: Json) -> dict[str, str]:
    result = api.parse(manifest)
    assert isinstance(result, Parsed), result
    return {warning.field: warning.reason for warning in result.warnings}


# What works


def test_the_tutorials_manifest_works_without_a_warning() -> None:
    result = api.parse(TUTORIAL)
    assert isinstance(result, Parsed)
    assert result.warnings == ()
    model = result.model
    assert model.key == "default/my-model"
    assert model.spec.service_ref is not None
    assert model.spec.service_ref.target_port == 80
    (remote,) = model.spec.offloading_config.remotes
    assert (remote.name, remote.address, remote.port) == ("remote", "my-model-on-another-cluster", 80)
    assert model.spec.offloading_config.behavior.percentage == 50
    (metric,) = model.spec.offloading_config.metrics
    assert metric.resource is not None
    assert metric.resource.target.average_utilization == 50


def test_absent_fields_have_the_predecessors_defaults() -> None:
    spec = model_from(with_spec(offloadingConfig=None)).spec
    assert (spec.enabled, spec.environment, spec.policies, spec.serverless_config) == (True, "production", (), None)
    assert spec.offloading_config.remotes == ()
    assert spec.offloading_config.metrics == ()
    behavior = spec.offloading_config.behavior
    assert (behavior.percentage, behavior.strategy, behavior.mode) == (100, Strategy.FIXED, Mode.AUTO)
    assert (behavior.activation_seconds, behavior.buffer_seconds, behavior.stale_seconds) == (5, 60, 60)
    assert (behavior.max_step_percentage, behavior.interval_seconds) == (25, 5)
    assert (behavior.metric_scope, behavior.on_metrics_unavailable) == (Scope.LOCAL, OnUnavailable.HOLD)
    assert spec.offloading_config.retry.attempts is None
    assert spec.offloading_config.retry.status_codes == (429,)


def test_defect_16_enabled_false_and_percentage_zero_are_values() -> None:
    spec = model_from(with_spec(enabled=False, offloadingConfig={"behavior": {"percentage": 0}})).spec
    assert spec.enabled is False
    assert spec.offloading_config.behavior.percentage == 0


def test_defect_18_what_is_absent_or_null_crashes_nothing() -> None:
    nothing: tuple[Json | None, ...] = (None, {})
    for absent in nothing:
        manifest = model_manifest()
        manifest["spec"] |= {"serviceRef": None, "metricServiceRef": None, "policies": None, "serverlessConfig": None}
        manifest["spec"]["offloadingConfig"] = absent
        spec = model_from(manifest).spec
        assert spec.service_ref is None
        assert spec.offloading_config.remotes == ()
    nulls = {"remoteBackend": None, "metrics": None, "behavior": None, "localLimit": None, "retry": None}
    assert model_from(with_spec(offloadingConfig=nulls)).spec.offloading_config.behavior.percentage == 100


def test_every_field_of_the_predecessor_is_known() -> None:
    manifest = with_spec(
        enabled=True,
        metricServiceRef={"kind": "Service", "apiVersion": "v1", "name": "m", "namespace": "n", "targetPort": 9090},
        policies=[
            {"refType": "remotePolicy", "name": "p"},
            {"refType": "localPolicy", "name": "q", "namespace": "n", "kind": "Policy", "uid": "u"},
        ],
        serverlessConfig={
            "minNumReplicas": 0,
            "maxNumReplicas": 3,
            "metric": "rps",
            "target": "10",
            "scaleUpMinimum": 2,
            "scaleDownDelay": "1m",
            "stableWindow": "1m",
            "lastPodRetentionPeriod": "1m",
        },
    )
    manifest["metadata"] |= {"finalizers": ["modeldeployment.beamlit.com/finalizer"], "resourceVersion": "5"}
    manifest["status"] = {"offloadingStatus": True, "servingPort": 80}
    offloading = manifest["spec"]["offloadingConfig"]
    offloading["remoteBackend"] |= {"pathPrefix": "/$workspace/$model", "headersToAdd": {"X-A": "b"}, "scheme": "https"}
    offloading["remoteBackend"]["authConfig"] = deepcopy(OAUTH)
    oauth = offloading["remoteBackend"]["authConfig"]["oauthConfig"]
    del oauth["clientSecretRef"]
    oauth["clientSecret"] = "hunter2"
    assert warnings(manifest) == {}


def test_our_own_fields_are_read() -> None:
    offloading = model_from(
        model_manifest(
            remoteBackends=[
                {"name": "a", "host": "a.example.com", "scheme": "https", "weight": 0, "tls": {"sni": "b"}},
                {
                    "name": "b",
                    "host": "[::1]:81",
                    "priority": 1,
                    "maxConcurrentRequests": 5,
                    "location": {"country": "fr"},
                },
            ],
            behavior={
                "strategy": "Proportional",
                "activationSeconds": 0,
                "bufferSeconds": 0.5,
                "maxStepPercentage": 10,
                "intervalSeconds": 1,
                "metricScope": "Total",
                "staleSeconds": 10,
                "onMetricsUnavailable": "Remote",
                "mode": "DryRun",
            },
            localLimit={"maxConcurrentRequestsPerReplica": 8},
            sessionAffinity={"header": "X-Session"},
            retry={"attempts": 0, "statusCodes": [429, 503]},
        )
    ).spec.offloading_config
    assert [remote.name for remote in offloading.remotes] == ["a", "b"]
    assert (offloading.remotes[0].weight, offloading.remotes[1].max_concurrent_requests) == (0, 5)
    assert offloading.behavior.mode is Mode.DRY_RUN
    assert offloading.behavior.activation_seconds == 0
    assert offloading.local_limit is not None
    assert offloading.local_limit.max_concurrent_requests_per_replica == 8
    assert offloading.session_affinity is not None
    assert offloading.session_affinity.header == "X-Session"
    assert (offloading.retry.attempts, offloading.retry.status_codes) == (0, (429, 503))


def test_equal_manifests_are_equal_models_whatever_they_say_beyond_the_schema() -> None:
    noisy = deepcopy(TUTORIAL)
    noisy["spec"]["later"] = 1
    assert model_from(noisy) == model_from(TUTORIAL)


# What is wrong


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"model": None}, "spec.model", "is required"),
        ({"model": ""}, "spec.model", "must not be empty"),
        ({"model": 5}, "spec.model", "must be text (a number needs quotes to be text), not a number"),
        ({"enabled": "false"}, "spec.enabled", "must be true or false, not text"),
        ({"modelSourceRef": None}, "spec.modelSourceRef", "is required"),
        ({"modelSourceRef": {"kind": "Pod", "name": "x"}}, "spec.modelSourceRef.kind", "not 'Pod'"),
        ({"serviceRef": {"targetPort": 80}}, "spec.serviceRef.name", "is required"),
        ({"serviceRef": {"name": "x", "targetPort": "http"}}, "spec.serviceRef.targetPort", "a whole number, not text"),
        ({"serviceRef": {"name": "x", "targetPort": 70000}}, "spec.serviceRef.targetPort", "at most 65535, not 70000"),
        ({"serviceRef": "llama"}, "spec.serviceRef", "must be a mapping of names to values, not text"),
        ({"policies": {"name": "p"}}, "spec.policies", "must be a list, not a mapping"),
        ({"policies": [{"refType": "x", "name": "p"}]}, "spec.policies[0].refType", "'remotePolicy' or 'localPolicy'"),
        ({"serverlessConfig": {"scaleUpMinimum": 1}}, "spec.serverlessConfig.scaleUpMinimum", "at least 2, not 1"),
    ],
)
def test_a_bad_field_is_named_with_a_reason(changes: Json, field: str, words: str) -> None:
    assert words in problems(with_spec(**changes))[field]


@pytest.mark.parametrize(
    ("behavior", "field", "words"),
    [
        ({"percentage": 101}, "percentage", "must be at most 100, not 101"),
        ({"percentage": -1}, "percentage", "must be at least 0, not -1"),
        ({"percentage": "50"}, "percentage", "must be a whole number, not text"),
        ({"percentage": 12.5}, "percentage", "must be a whole number, not a number"),
        ({"percentage": True}, "percentage", "must be a whole number, not true"),
        ({"strategy": "fixed"}, "strategy", "must be 'Fixed' or 'Proportional', not 'fixed'"),
        ({"mode": "Manual"}, "mode", "must be 'Auto', 'Off', 'Force' or 'DryRun', not 'Manual'"),
        ({"bufferSeconds": "60s"}, "bufferSeconds", "must be a number, not text"),
        ({"bufferSeconds": -1}, "bufferSeconds", "must be at least 0, not -1"),
        ({"bufferSeconds": float("nan")}, "bufferSeconds", "must be a finite number"),
        ({"staleSeconds": 0}, "staleSeconds", "must be above 0, not 0"),
        ({"maxStepPercentage": 0}, "maxStepPercentage", "must be at least 1, not 0"),
        ({"metricScope": 1}, "metricScope", "must be 'Local' or 'Total', not a number"),
    ],
)
def test_a_bad_behavior_is_named_with_a_reason(behavior: Json, field: str, words: str) -> None:
    assert words in problems(model_manifest(behavior=behavior))[f"{BEHAVIOR}.{field}"]


def test_remotes_need_one_way_to_be_given_and_names_of_their_own() -> None:
    field = "spec.offloadingConfig"
    both = with_spec(offloadingConfig={"remoteBackend": {"host": "a"}, "remoteBackends": [{"host": "b"}]})
    assert "both given" in problems(both)[field]
    twins = model_manifest(remoteBackends=[{"host": "a"}, {"host": "b"}])
    assert "remote is there twice" in problems(twins)[field]
    many = model_manifest(remoteBackends=[{"name": f"r{i}", "host": "a"} for i in range(ir.MAX_REMOTES + 1)])
    assert f"at most {ir.MAX_REMOTES}" in problems(many)[field]


def test_all_problems_are_given_at_once() -> None:
    manifest = model_manifest(behavior={"percentage": 101, "mode": "x"}, metrics=[{"type": "Magic"}], retry={"x": 1})
    del manifest["spec"]["model"]
    manifest["metadata"]["name"] = "Not_A_Name"
    assert set(problems(manifest)) == {
        "metadata.name",
        "spec.model",
        f"{BEHAVIOR}.percentage",
        f"{BEHAVIOR}.mode",
        f"{METRIC}.type",
    }


@pytest.mark.parametrize("version", ["deployment.beamlit.com/v1", "v1", None, 1])
def test_another_version_is_refused(version: object) -> None:
    manifest = model_manifest() | {"apiVersion": version}
    assert problems(manifest)["apiVersion"] == "must be deployment.beamlit.com/v1alpha1"


# What is unknown


def test_unknown_fields_are_named_with_a_guess_and_do_no_harm() -> None:
    manifest = model_manifest(
        behaviour={"percentage": 1}, metrics=[{**EXTERNAL, "external": EXTERNAL["external"] | {"x": 1}}]
    )
    manifest["metadata"]["anotations"] = {}
    manifest["kin"] = 1
    assert warnings(manifest) == {
        "kin": "unknown field, ignored; did you mean kind?",
        "metadata.anotations": "unknown field, ignored; did you mean annotations?",
        "spec.offloadingConfig.behaviour": "unknown field, ignored; did you mean behavior?",
        f"{METRIC}.external.x": "unknown field, ignored",
    }  # fmt: skip


def test_snake_case_is_unknown_in_a_manifest() -> None:
    assert warnings(with_spec(service_ref={"name": "x"})) == {
        "spec.service_ref": "unknown field, ignored; did you mean serviceRef?"
    }


# Policies


def test_a_policy_is_read() -> None:
    manifest: Json = {
        "apiVersion": "authorization.beamlit.com/v1alpha1",
        "kind": "Policy",
        "metadata": {"name": "eu"},
        "spec": {"displayName": "EU", "type": "location", "locations": [{"type": "continent", "name": "europe"}]},
    }
    result = api.parse_policy(manifest)
    assert isinstance(result, Parsed)
    assert result.warnings == ()
    assert result.model.spec.locations[0].name == "europe"
    manifest["spec"]["type"] = "colour"
    assert isinstance(api.parse_policy(manifest), Invalid)


# Anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


def places(value: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, below in inner for place in places(below, (*at, key)))]


FULL = model_manifest(
    remoteBackends=[{"name": "a", "host": "a:1", "scheme": "https", "authConfig": OAUTH, "headersToAdd": {"a": "b"}}],
    behavior={"percentage": 5, "mode": "Auto", "bufferSeconds": 3},
    localLimit={"maxConcurrentRequestsPerReplica": 2},
    retry={"attempts": 1, "statusCodes": [429]},
)


@given(st.sampled_from(places(FULL)[1:]), JSON)
def test_a_manifest_with_anything_anywhere_parses_or_gives_problems_with_fields(
    place: tuple[Any, ...], junk: Any
) -> None:
    manifest = deepcopy(FULL)
    target: Any = manifest
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = junk
    match api.parse(manifest):
        case Parsed(model=model):
            assert isinstance(model, ModelDeployment)
            assert model.spec.offloading_config is not None
        case Invalid(problems=found):
            assert found
            assert all(problem.field and problem.reason for problem in found), json.dumps(manifest, default=str)


@given(st.dictionaries(st.sampled_from(["apiVersion", "kind", "metadata", "spec", "x"]), JSON))
def test_no_mapping_raises(manifest: Json) -> None:
    assert isinstance(api.parse(manifest), Parsed | Invalid)
    assert isinstance(api.parse_policy(manifest), Parsed | Invalid)
