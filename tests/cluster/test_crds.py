"""The custom resources on a real API server: what it accepts, refuses with which words, fills in, shows and merges."""

from __future__ import annotations

import json
from pathlib import Path as File
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from controller import api, crd
from controller.api import Invalid, Parsed
from tests.cluster.harness.api import Api, RequestError
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.manifests import ABSENT, EVERYTHING, Json, Path, changed, paths

EXAMPLES = File(__file__).parents[2] / "examples"
SPEC: Path = ("spec",)
OFFLOADING: Path = (*SPEC, "offloadingConfig")
REMOTE: Path = (*OFFLOADING, "remoteBackends", 0)
OTHER_REMOTE: Path = (*OFFLOADING, "remoteBackends", 1)
METRICS: Path = (*OFFLOADING, "metrics")
OAUTH: Path = (*REMOTE, "authConfig", "oauthConfig")
OAUTH_IN_CLEAR = {"clientId": "c", "clientSecret": "s", "tokenUrl": "https://api.beamlit.dev/v0/oauth/token"}

pytestmark = pytest.mark.usefixtures("crds")


def models(namespace: str) -> str:
    return f"/apis/deployment.beamlit.com/v1alpha1/namespaces/{namespace}/modeldeployments"


def complaints(api_: Api, manifest: Json) -> list[str]:
    """What the API server has against a manifest, nothing if it accepts it."""
    try:
        api_.create(models("default") + "?dryRun=All", manifest)
    except RequestError as refused:
        status = json.loads(str(refused).partition(": ")[2])
        return [cause["message"] for cause in status.get("details", {}).get("causes", ())] or [status["message"]]
    return []


def test_a_manifest_with_every_field_keeps_every_field(control_plane: ControlPlane) -> None:
    stored = control_plane.api.create(models("default") + "?dryRun=All", EVERYTHING)["spec"]
    plain = [path for path in paths(EVERYTHING["spec"]) if not isinstance(at(EVERYTHING["spec"], path), dict | list)]
    assert {path: at(stored, path) for path in plain} == {path: at(EVERYTHING["spec"], path) for path in plain}


def at(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value


# What it fills in, and what it leaves


def test_absent_fields_are_filled_in_as_the_code_does_it(control_plane: ControlPlane) -> None:
    sparse = {
        "model": "llama",
        "modelSourceRef": {"kind": "Deployment", "name": "llama"},
        "serverlessConfig": {},
        "offloadingConfig": {
            "remoteBackends": [{"host": "a", "authConfig": {"oauthConfig": OAUTH_IN_CLEAR}}],
            "behavior": {},
            "retry": {},
        },
    }
    manifest = {**EVERYTHING, "spec": sparse}
    stored = control_plane.api.create(models("default") + "?dryRun=All", manifest)
    spec = stored["spec"]
    assert (spec["enabled"], spec["environment"]) == (True, "production")
    assert spec["serverlessConfig"] == {"minNumReplicas": 0, "maxNumReplicas": 10}
    (remote,) = spec["offloadingConfig"]["remoteBackends"]
    assert (remote["name"], remote["scheme"], remote["weight"], remote["authConfig"]["type"]) == (
        "remote",
        "http",
        1,
        "oauth",
    )
    assert spec["offloadingConfig"]["behavior"]["percentage"] == 100
    assert spec["offloadingConfig"]["retry"] == {"statusCodes": [429]}
    assert "takeover" not in spec
    assert parsed(stored) == parsed(manifest)


def test_defect_16_false_zero_and_empty_lists_are_kept(control_plane: ControlPlane, namespace: str) -> None:
    spec = {
        "model": "llama",
        "enabled": False,
        "modelSourceRef": {"kind": "Deployment", "name": "llama"},
        "offloadingConfig": {
            "behavior": {"percentage": 0, "activationSeconds": 0},
            "retry": {"attempts": 0, "statusCodes": []},
        },
    }
    api_, path = control_plane.api, f"{models(namespace)}/off"
    api_.create(models(namespace), {**EVERYTHING, "metadata": {"name": "off"}, "spec": spec})
    api_.merge(f"{path}/status", {"status": {"state": "Standby", "percentage": 0, "offloadingStatus": False}})
    api_.merge(path, {"metadata": {"annotations": {"touched": "yes"}}})
    stored = api_.get(path)
    assert stored["spec"]["enabled"] is False
    behavior = stored["spec"]["offloadingConfig"]["behavior"]
    assert (behavior["percentage"], behavior["activationSeconds"]) == (0, 0)
    assert stored["spec"]["offloadingConfig"]["retry"] == {"attempts": 0, "statusCodes": []}
    assert stored["status"] == {"state": "Standby", "percentage": 0, "offloadingStatus": False}


def test_null_is_absent(control_plane: ControlPlane) -> None:
    nulls = changed(
        EVERYTHING,
        ((*SPEC, "serviceRef"), None),
        ((*SPEC, "enabled"), None),
        ((*SPEC, "policies"), None),
        ((*OFFLOADING, "remoteBackend"), None),
        ((*OFFLOADING, "behavior"), None),
    )
    stored = control_plane.api.create(models("default") + "?dryRun=All", nulls)
    assert stored["spec"]["enabled"] is True
    assert "serviceRef" not in stored["spec"]
    assert parsed(stored) == parsed(nulls)


def parsed(manifest: Json) -> api.ModelSpec:
    result = api.parse(manifest)
    assert isinstance(result, Parsed), result
    return result.model.spec


# What users have


@pytest.mark.parametrize("example_", sorted(path.parent.name for path in EXAMPLES.glob("*/model.yaml")))
def test_the_examples_are_applied_as_they_are(control_plane: ControlPlane, namespace: str, example_: str) -> None:
    """But for EndpointSlices, which a cluster makes itself."""
    for file in sorted(EXAMPLES.joinpath(example_).glob("*.yaml")):
        documents = [
            each
            for each in yaml.safe_load_all(file.read_text())
            if each.get("kind", "EndpointSlice") != "EndpointSlice"
        ]
        if documents:
            control_plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump_all(documents))
    assert control_plane.api.get(models(namespace))["items"]


def test_what_a_controller_of_beamlits_left_is_applied(control_plane: ControlPlane, namespace: str) -> None:
    """Every field of theirs, with the finalizer and the status that they wrote."""
    reference = {"apiVersion": "v1", "kind": "Service", "fieldPath": "x", "resourceVersion": "7", "uid": "u"}
    manifest = changed(
        EVERYTHING,
        (("metadata", "finalizers"), ["modeldeployment.beamlit.com/finalizer"]),
        ((*SPEC, "takeover"), ABSENT),
        ((*SPEC, "serviceRef"), {**reference, "name": "llama", "targetPort": 80}),
        ((*SPEC, "policies"), [{**reference, "kind": "Policy", "name": "p", "refType": "remotePolicy"}]),
        ((*OFFLOADING, "remoteBackends"), ABSENT),
        ((*OFFLOADING, "remoteBackend"), {"host": "run.beamlit.dev", "authConfig": {"oauthConfig": OAUTH_IN_CLEAR}}),
    )
    api_, path = control_plane.api, f"{models(namespace)}/everything"
    api_.create(models(namespace), manifest)
    status = {
        "offloadingStatus": True,
        "servingPort": 80,
        "metricPort": 80,
        "workspace": "team",
        "createdAtOnBeamlit": "2025-01-01T00:00:00Z",
        "updatedAtOnBeamlit": "2025-01-01T00:00:00Z",
    }
    api_.merge(f"{path}/status", {"status": status})
    stored = api_.get(path)
    assert stored["status"] == status
    assert stored["spec"]["serviceRef"] == {**reference, "name": "llama", "targetPort": 80}
    assert stored["spec"]["policies"] == manifest["spec"]["policies"]
    api_.merge(path, {"metadata": {"finalizers": None}})


def test_policies_are_applied_and_shown(control_plane: ControlPlane, namespace: str) -> None:
    policy = {
        "apiVersion": "authorization.beamlit.com/v1alpha1",
        "kind": "Policy",
        "metadata": {"name": "europe"},
        "spec": {
            "displayName": "EU",
            "type": "location",
            "locations": [{"type": "continent", "name": "eu"}, {"type": "country", "name": "ch"}],
            "flavors": [{"type": "gpu", "name": "t4"}],
        },
    }
    path = f"/apis/authorization.beamlit.com/v1alpha1/namespaces/{namespace}/policies"
    assert control_plane.api.create(path, policy)["spec"] == policy["spec"]
    header, row = control_plane.kubectl("get", "policies", "-n", namespace).splitlines()
    assert header.split() == ["NAME", "TYPE", "DISPLAY", "NAME", "AGE"]
    assert row.split()[:3] == ["europe", "location", "EU"]


# The status


def condition(type_: str, status: str, at_: str = "2026-01-01T00:00:00Z") -> Json:
    return {"type": type_, "status": status, "reason": "Because", "message": "", "lastTransitionTime": at_}


def applied(control_plane: ControlPlane, path: str, manager: str, status: Json) -> Json:
    """The whole object, after server-side apply of a part of its status."""
    body = {"apiVersion": "deployment.beamlit.com/v1alpha1", "kind": "ModelDeployment", "status": status}
    query = f"?fieldManager={manager}&force=true"
    return control_plane.api.request("PATCH", f"{path}/status{query}", body, "application/apply-patch+yaml")


def test_the_columns_tell_how_a_model_is_doing(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.api.create(models(namespace), EVERYTHING)
    status = {
        "state": "Overflowing",
        "share": "12.5%",
        "metric": "cpu: 73%",
        "target": "50%",
        "remote": "api.example.com:8443",
        "reason": "ThresholdReached",
        "conditions": [condition("Ready", "True"), condition("Overflowing", "True")],
    }
    applied(control_plane, f"{models(namespace)}/everything", "spillway", status)
    header, row = control_plane.kubectl("get", "md", "-n", namespace).splitlines()
    assert header.split() == ["NAME", "MODEL", "STATE", "SHARE", "METRIC", "TARGET", "REMOTE", "READY", "AGE"]
    words = ["everything", "llama", "Overflowing", "12.5%", "cpu:", "73%", "50%", "api.example.com:8443", "True"]
    assert row.split()[:-1] == words
    assert "ThresholdReached" in control_plane.kubectl("get", "md", "-n", namespace, "-o", "wide")


def test_conditions_of_two_writers_stand_beside_each_other(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.api.create(models(namespace), EVERYTHING)
    path = f"{models(namespace)}/everything"
    applied(control_plane, path, "spillway", {"conditions": [condition("Ready", "True")], "state": "Standby"})
    applied(control_plane, path, "other", {"conditions": [condition("Audited", "True")]})
    status = applied(control_plane, path, "spillway", {"conditions": [condition("Ready", "False")]})["status"]
    assert {each["type"]: each["status"] for each in status["conditions"]} == {"Ready": "False", "Audited": "True"}
    assert "state" not in status


def test_a_status_of_every_field_is_kept_and_changes_no_generation(control_plane: ControlPlane, namespace: str) -> None:
    created = control_plane.api.create(models(namespace), EVERYTHING)
    status = {
        "observedGeneration": 1,
        "conditions": [{**condition("Ready", "True"), "observedGeneration": 1}],
        "state": "Standby",
        "share": "0%",
        "percentage": 0,
        "since": "2026-01-01T00:00:00Z",
        "reason": "BelowTarget",
        "message": "All is well.",
        "metric": "cpu: 20%",
        "target": "50%",
        "remote": "api.example.com",
        "currentMetrics": [
            {"name": "cpu", "type": "Resource", "value": "20%", "target": "50%", "ratio": 0.4},
            {"name": "queue", "type": "Pods", "target": "4", "unknown": "no endpoint answers"},
        ],
        "readyReplicas": 0,
        "gatewayPort": 20001,
        "decision": {"state": "Standby", "nested": [{"since_s": 1.5}]},
        "offloadingStatus": False,
        "servingPort": 80,
        "metricPort": 9090,
        "workspace": "team",
    }
    stored = applied(control_plane, f"{models(namespace)}/everything", "spillway", status)
    assert stored["status"] == status
    assert stored["metadata"]["generation"] == created["metadata"]["generation"]


def test_every_field_explains_itself(control_plane: ControlPlane) -> None:
    field = "modeldeployment.spec.offloadingConfig.behavior.bufferSeconds"
    assert "How long local must have been able" in control_plane.kubectl("explain", field)


# The words


def written_rules() -> set[str]:
    """The messages of all rules in the CustomResourceDefinitions."""
    found: set[str] = set()

    def look(value: object) -> None:
        if isinstance(value, dict):
            found.update(rule["message"] for rule in value.get("x-kubernetes-validations", ()))
            for each in value.values():
                look(each)
        elif isinstance(value, list):
            for each in value:
                look(each)

    look(list(crd.definitions()))
    return found


HOST = (*REMOTE, "host")
QUANTITY = (*METRICS, 3, "object", "target", "value")
TOKEN_URL = (*OAUTH, "tokenUrl")
TARGET = (*METRICS, 1, "containerResource", "target")
REQUIREMENT = (*METRICS, 2, "pods", "metric", "selector", "matchExpressions", 0)
WRONG: list[tuple[Path, object, str]] = [
    (
        HOST,
        "https://api.example.com",
        "must not hold a scheme; write the name only, and the scheme in the field scheme",
    ),
    (HOST, "user:secret@api.example.com", "must not hold a user or password; write them in authConfig"),
    (HOST, "api.example.com/v1", "must not hold a path; write the path in pathPrefix"),
    (HOST, "api.example.com ", "must not hold spaces; write host or host:port"),
    (HOST, "2001:db8::1", "an IPv6 address needs brackets; write [address] or [address]:port"),
    (HOST, "api..example.com", "must be a DNS name or an IP address, with or without :port"),
    (HOST, "1.2.3.256", "must be a DNS name or an IP address; this is no IPv4 address"),
    (HOST, "api.example.com:0", "the port after ':' must be a number from 1 to 65535"),
    ((*REMOTE, "pathPrefix"), "/$user", "knows $workspace and $model only"),
    ((*REMOTE, "pathPrefix"), "/v1/../admin", "must be a URL path such as /v1 (no spaces, '?', '#' or '..')"),
    (TOKEN_URL, "issuer.example.com", "must be an http or https URL such as https://issuer.example.com/oauth/token"),
    (
        TOKEN_URL,
        "https://user:secret@issuer.example.com/",
        "must not hold a user or password; write them in clientId and clientSecret",
    ),
    (
        (*REMOTE, "name"),
        "-provider",
        "must be at most 63 letters, digits, '.', '_' and '-', with a letter or digit at both ends",
    ),
    ((*OFFLOADING, "sessionAffinity", "header"), "x session", "must be a header name: letters, digits and '-'"),
    ((*REMOTE, "headersToAdd"), {"x team": "a"}, "names must be header names: letters, digits and '-'"),
    ((*REMOTE, "headersToAdd"), {"x-team": "a\nb"}, "values must not hold line breaks or control characters"),
    (
        (*REMOTE, "headersToAdd"),
        {"Host": "a"},
        "must not set connection, content-length, host, transfer-encoding, upgrade or x-spillway-...",
    ),
    (
        (*OTHER_REMOTE, "authConfig", "apiKeyConfig", "prefix"),
        "Bearer\r\n",
        "must not hold line breaks or control characters",
    ),
    ((*REMOTE, "scheme"), "http", "tls needs scheme: https"),
    ((*REMOTE, "authConfig", "type"), "apiKey", "oauthConfig goes with type oauth, and only with that"),
    ((*OTHER_REMOTE, "authConfig", "type"), "oauth", "apiKeyConfig goes with type apiKey, and only with that"),
    ((*OAUTH, "clientSecret"), "x", "needs exactly one of clientSecret and clientSecretRef"),
    (
        (*OFFLOADING, "remoteBackend"),
        {"host": "api.example.com"},
        "remoteBackend and remoteBackends are both given; keep one of them",
    ),
    (
        QUANTITY,
        "0m",
        "must be a quantity above 0 such as 500m, 2, 0.5 or 1Gi (suffixes: n u m k M G T P E Ki Mi Gi Ti Pi Ei)",
    ),
    *(
        (
            (*METRICS, index, "type"),
            "External" if index < 4 else "Pods",
            f"{member} goes with type {type_}, and only with that",
        )
        for index, (type_, member) in enumerate(
            {
                "Resource": "resource",
                "ContainerResource": "containerResource",
                "Pods": "pods",
                "Object": "object",
                "External": "external",
            }.items()
        )
    ),
    ((*METRICS, 0, "source"), "prometheus", "type Resource has no other source than kubernetes"),
    ((*METRICS, 1, "source"), "prometheus", "type ContainerResource has no other source than kubernetes"),
    ((*METRICS, 2, "source"), "prometheus", "type Pods has no other source than kubernetes and endpoints"),
    ((*METRICS, 3, "source"), "prometheus", "type Object has no other source than kubernetes"),
    ((*TARGET, "type"), "Utilization", "averageValue goes with type AverageValue, and only with that"),
    ((*TARGET, "type"), "Utilization", "averageUtilization goes with type Utilization, and only with that"),
    ((*TARGET, "value"), 1, "value goes with type Value, and only with that"),
    ((*TARGET, "type"), "Value", "target.type must be Utilization or AverageValue here"),
    ((*METRICS, 2, "pods", "target", "type"), "Value", "target.type must be AverageValue here"),
    ((*METRICS, 3, "object", "target", "type"), "Utilization", "target.type must be Value or AverageValue here"),
    ((*REQUIREMENT, "operator"), "Exists", "operators In and NotIn need values, Exists and DoesNotExist take none"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_what_is_wrong_is_refused_in_words(
    control_plane: ControlPlane, path: Path, value: object, message: str
) -> None:
    wrong = changed(EVERYTHING, (path, value))
    assert any(message in words for words in complaints(control_plane.api, wrong))
    assert isinstance(api.parse(wrong), Invalid)


def test_each_rules_words_are_seen_once() -> None:
    assert {message for *_, message in WRONG} == {message.partition("; the gateway")[0] for message in written_rules()}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*OTHER_REMOTE, "name"), "provider", "Duplicate value"),
        ((*OFFLOADING, "remoteBackends"), [{"name": f"r{i}", "host": "a"} for i in range(9)], "must have at most 8"),
        ((*OFFLOADING, "behavior", "percentage"), 101, "should be less than or equal to 100"),
        ((*OFFLOADING, "behavior", "percentage"), -1, "should be greater than or equal to 0"),
        ((*OFFLOADING, "behavior", "staleSeconds"), 0, "should be greater than 0"),
        ((*OFFLOADING, "behavior", "mode"), "Never", 'supported values: "Auto", "Off", "Force", "DryRun"'),
        ((*SPEC, "modelSourceRef", "kind"), "Job", 'supported values: "Deployment"'),
        ((*SPEC, "model"), ABSENT, "Required value"),
        (SPEC, ABSENT, "Required value"),
    ],
)  # fmt: skip
def test_bounds_are_the_schemas(control_plane: ControlPlane, path: Path, value: object, message: str) -> None:
    assert any(message in words for words in complaints(control_plane.api, changed(EVERYTHING, (path, value))))


# The schema and the code agree

ONLY_THE_CODE_SEES = {
    "the part in brackets must be an IPv6 address",
    "headersToAdd names a header twice; upper and lower case are the same",
    "is too large",
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
HOSTS = st.from_regex(
    r"(https?://)?(u@)?(\[[0-9a-f:.%]{0,12}\]|[a-z0-9._-]{0,12})(:[0-9]{0,6}){0,2}(/x)?", fullmatch=True
)
URLS = st.from_regex(
    r"(https?|HTTP|ftp|)(:|)//(u(:p)?@)?(\[::1?\]|[a-z0-9.]{0,8})(:[0-9]{0,5})?(/[a-z?#]{0,4})?#?", fullmatch=True
)
PREFIXES = st.from_regex(r"(/|\.\.|\$workspace|\$model|\$x|[a-z%?# ]){0,5}", fullmatch=True)
QUANTITIES = st.from_regex(r"[+-]?[0-9.]{0,4}([a-zA-Z]{0,2}|[eE][+-]?[0-9]{0,3})", fullmatch=True)
HEADERS = st.dictionaries(
    st.sampled_from(["x-a", "X-A", "host", "Upgrade", "x-spillway-slot", "a b", ""]) | TEXT, TEXT, max_size=3
)
ANYTHING = st.one_of(
    *(TEXT, HOSTS, URLS, PREFIXES, QUANTITIES, HEADERS),
    st.sampled_from([ABSENT, None, True, False, [], {}, [None], [""], {"a": 1}, "", "Value", "Pods", "oauth", "https"]),
    st.integers(-2, 70_000),
)
CHANGES = st.one_of(
    st.tuples(st.sampled_from(list(paths(EVERYTHING["spec"], SPEC))), ANYTHING),
    st.tuples(st.just(HOST), HOSTS),
    st.tuples(st.just(TOKEN_URL), URLS),
    st.tuples(st.just((*REMOTE, "pathPrefix")), PREFIXES),
    st.tuples(st.just((*REMOTE, "headersToAdd")), HEADERS),
    st.tuples(st.just(QUANTITY), QUANTITIES),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHANGES, min_size=1, max_size=2))
@example([((*REMOTE, "host"), "[::g]")])
@example([((*REMOTE, "headersToAdd"), {"x-a": "1", "X-A": "2"})])
@example([(QUANTITY, "1e400")])
def test_the_api_server_refuses_what_the_code_refuses_and_nothing_else(
    control_plane: ControlPlane, changes: list[tuple[Path, object]]
) -> None:
    manifest = changed(EVERYTHING, *changes)
    refused = complaints(control_plane.api, manifest)
    parsed = api.parse(manifest)
    if not isinstance(parsed, Invalid):
        assert refused == []
    elif not refused:
        assert {problem.reason for problem in parsed.problems} <= ONLY_THE_CODE_SEES
