"""Manifest files: every object with its place; a file that is not understood is refused as a whole, in clear words."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import ModelDeployment, Policy
from controller.manifests import Contents, FileProblem, Source, read
from controller.objects import EndpointSlice, Secret, Service
from controller.parsing import Invalid

Json = dict[str, Any]
FILE = PurePath("llama.yaml")

FOUR = """\
# A comment, and an empty document.
---
---
apiVersion: v1
kind: Service
metadata: {name: llama}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Secret
  metadata: {name: keys, namespace: other}
  stringData: {a: b}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: llama-1, labels: {kubernetes.io/service-name: llama}}
  addressType: IPv4
---
apiVersion: deployment.beamlit.com/v1alpha1
kind: ModelDeployment
metadata: {name: llama}
spec:
  model: llama
  modelSourceRef: {kind: Deployment, name: llama}
"""


def contents(text: str, file: PurePath = FILE) -> Contents:
    found = read(file, text)
    assert found.problems == ()
    return found


def problem(text: str, file: PurePath = FILE) -> FileProblem:
    (found,) = read(file, text).problems
    return found


def service(**changes: Any) -> Json:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "llama"}, **changes}


# What is found, and where


def test_several_documents_and_a_list_are_one_sequence_of_objects_each_with_its_place() -> None:
    found = contents(FOUR).manifests
    assert [(type(each.value), each.key, each.source.document, each.source.line) for each in found] == [
        (Service, "default/llama", 2, 4),
        (Secret, "other/keys", 3, 12),
        (EndpointSlice, "default/llama-1", 3, 16),
        (ModelDeployment, "default/llama", 4, 21),
    ]
    assert all(each.problems == () for each in found)


def test_a_json_file_holds_one_object_or_a_list() -> None:
    file = PurePath("llama.json")
    assert isinstance(contents(json.dumps(service()), file).manifests[0].value, Service)
    both = {"apiVersion": "v1", "kind": "List", "items": [service(), service(metadata={"name": "b"})]}
    assert [each.key for each in contents(json.dumps(both, indent="\t"), file).manifests] == [
        "default/llama",
        "default/b",
    ]


def test_json_in_a_yaml_file_is_yaml() -> None:
    assert contents(json.dumps(service(), indent="\t")).manifests[0].key == "default/llama"


def test_a_policy_is_read_too() -> None:
    text = (
        "{apiVersion: authorization.beamlit.com/v1alpha1, kind: Policy, metadata: {name: eu}, spec: {type: location}}"
    )
    assert isinstance(contents(text).manifests[0].value, Policy)


@pytest.mark.parametrize("text", ["", "\n", "---\n", "# nothing\n", "---\n---\n", "null\n", "{kind: List, items: []}"])
def test_a_text_without_objects_is_empty(text: str) -> None:
    assert contents(text) == Contents()


def test_times_stay_text_as_kubernetes_reads_them() -> None:
    text = FOUR.replace(
        "metadata: {name: llama}\nspec:\n", "metadata: {name: llama, creationTimestamp: 2024-01-01}\nspec:\n"
    )
    model = contents(text).manifests[-1].value
    assert isinstance(model, ModelDeployment)
    assert model.metadata.creation_timestamp == "2024-01-01"


# What is passed over


@pytest.mark.parametrize(
    ("api_version", "kind", "what"),
    [
        ("v1", "ConfigMap", "ConfigMap (v1)"),
        ("networking.k8s.io/v1", "Ingress", "Ingress (networking.k8s.io/v1)"),
        ("serving.knative.dev/v1", "Service", "Service (serving.knative.dev/v1)"),
        ("example.com/v1", "ModelDeployment", "ModelDeployment (example.com/v1)"),
        ("deployment.beamlit.com/v1alpha1", "ToolDeployment", "ToolDeployment (deployment.beamlit.com/v1alpha1)"),
    ],
)
def test_other_kinds_are_passed_over_with_their_names(api_version: str, kind: str, what: str) -> None:
    found = contents(f"a: &a {{}}\n---\napiVersion: {api_version}\nkind: {kind}\n")
    assert [(each.what, each.quiet) for each in found.skipped][1:] == [(what, False)]
    assert found.skipped[1].source == Source(FILE, 2, 3)


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"])
def test_the_workload_of_a_model_is_passed_over_in_silence(kind: str) -> None:
    assert contents(f"{{apiVersion: apps/v1, kind: {kind}}}").skipped[0].quiet


def test_what_is_no_kubernetes_object_such_as_a_config_file_is_passed_over() -> None:
    found = contents("metricInformer: {type: endpoints}\n")
    assert "no Kubernetes object" in found.skipped[0].what


# What cannot be told


def test_tabs_are_named_with_their_line_and_what_to_do() -> None:
    found = problem("apiVersion: v1\nkind: Service\nmetadata:\n\tname: x\n")
    assert str(found) == "llama.yaml:4: YAML forbids tabs for indentation: line 4 has a tab; use spaces"


@pytest.mark.parametrize(
    "text",
    ["a:\n  b: 1\n\tc: 2\n", "a:\n  - b: 1\n  \tc: 2\n", "a:\n\t- b\n", "\ta: 1\n", "a: |\n  x\n\ty\nb: 1\n"],
)
def test_tabs_are_named_wherever_they_indent(text: str) -> None:
    assert "tab" in problem(text).reason


def test_a_tab_that_does_no_harm_is_not_blamed_for_another_mistake() -> None:
    assert "tab" not in problem('a: "x\n  \ty"\n---\nb: 1\nc: 2\nd: 3\ne: @x\n').reason


def test_yaml_that_is_broken_is_named_with_its_line() -> None:
    found = problem("a: b\n---\na: [unclosed\n")
    assert (found.source.line, found.kind, found.name) == (4, "", "")
    assert "no YAML: line" in found.reason


def test_json_that_is_broken_is_named_with_its_line() -> None:
    assert problem('{\n  "a": 1,\n}', PurePath("x.json")).source.line in (2, 3)


def test_half_a_surrogate_pair_is_no_text() -> None:
    assert "no JSON" in problem(r'{"apiVersion": "v1", "kind": "\ud800"}', PurePath("x.json")).reason


def test_a_key_that_is_given_twice_is_named() -> None:
    found = problem("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nkind: Secret\n")
    assert str(found) == "llama.yaml:4: this is no YAML: line 4: kind is given twice"


def test_a_merged_key_may_be_overridden() -> None:
    text = "apiVersion: v1\nkind: Service\nmetadata: &m {name: a}\nspec: {<<: *m, name: b, ports: [{port: 1}]}\n"
    assert contents(text).manifests[0].key == "default/a"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "must be a mapping with apiVersion, kind and metadata"),
        ("just text\n", "must be a mapping"),
        ("kind: Service\nmetadata: {name: a}\n", "apiVersion is missing"),
        ("apiVersion: v1\nmetadata: {name: a}\n", "kind is missing"),
        ("apiVersion: 1\nkind: Service\n", "apiVersion is missing, or no text"),
        ("apiVersion: v1\nkind: Service\n", "Service: metadata.name"),
        ("apiVersion: v1\nkind: Service\nmetadata: [a]\n", "Service: metadata.name"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: 5}\n", "a number needs quotes"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: 5}\n", "metadata.namespace must be text"),
        ("apiVersion: v1\nkind: List\nitems: {}\n", "items must be a list"),
        ("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List}]\n", "none of them a List"),
        ("apiVersion: v1\nkind: List\nitems: &i\n- {apiVersion: v1, kind: List, items: *i}\n", "none of them a List"),
        ("apiVersion: deployment.beamlit.com/v1alpha1\nkind: ModelDeploymnt\n", "kind must be ModelDeployment"),
        ("a: !!bool x\n", "no YAML"),
        ("a: !!int ''\n", "no YAML"),
        ("a: !mine x\n", "no YAML"),
        ("? {a: b}\n: c\n", "no YAML"),
        ("a: *nowhere\n", "no YAML"),
        ("a: \x00\n", "no YAML"),
        ("[" * 5_000, "no YAML"),
    ],
)
def test_what_cannot_be_told_is_a_problem_so_that_it_never_looks_like_a_deletion(text: str, words: str) -> None:
    assert words in problem(FOUR + "---\n" + text).reason


def test_all_that_cannot_be_told_is_said_at_once_beside_what_can() -> None:
    found = read(FILE, "kind: Service\n---\napiVersion: v1\n---\n" + FOUR + "\n---\na: [\n")
    assert [each.source.line for each in found.problems] == [1, 3, 34]
    assert len(found.manifests) == 4


def test_defect_19_broken_syntax_is_told_without_the_text_around_it() -> None:
    text = "apiVersion: v1\nkind: Secret\nstringData:\n  password: s3cret: [\n"
    assert "s3cret" not in str(problem(text))
    assert "99" not in str(problem("stringData: {pin: !!int 99x}"))


# What is wrong with an object


def test_a_wrong_field_is_told_with_the_objects_name_and_the_fields_own_line() -> None:
    text = FOUR + "  offloadingConfig:\n    behavior:\n      percentage: 101\n"
    model = contents(text).manifests[-1]
    assert isinstance(model.result, Invalid)
    (found,) = model.problems
    assert str(found) == (
        "llama.yaml:29: ModelDeployment default/llama: spec.offloadingConfig.behavior.percentage: "
        "must be at most 100, not 101"
    )
    assert found.as_json() == {
        "source": "llama.yaml:29",
        "kind": "ModelDeployment",
        "name": "default/llama",
        "field": "spec.offloadingConfig.behavior.percentage",
        "reason": "must be at most 100, not 101",
        "warning": False,
    }


def test_a_field_that_is_missing_is_told_at_the_line_where_it_belongs() -> None:
    model = contents(FOUR.replace("  model: llama\n", "")).manifests[-1]
    assert [(each.field, each.source.line) for each in model.problems] == [("spec.model", 24)]


def test_an_unknown_field_is_a_warning_and_the_object_is_good() -> None:
    model = contents(FOUR + "  offloadingConfg: {}\n").manifests[-1]
    assert isinstance(model.value, ModelDeployment)
    (warning,) = model.problems
    assert (warning.warning, warning.source.line) == (True, 27)
    assert "did you mean offloadingConfig?" in warning.reason


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [
        ("v2", "Service"),
        ("discovery.k8s.io/v1beta1", "EndpointSlice"),
        ("deployment.beamlit.com/v1", "ModelDeployment"),
        ("authorization.beamlit.com/v1", "Policy"),
    ],
)
def test_another_version_of_a_known_kind_is_wrong_rather_than_unknown(api_version: str, kind: str) -> None:
    (found,) = contents(f"{{apiVersion: {api_version}, kind: {kind}, metadata: {{name: a}}}}").manifests
    assert found.problems[0].field == "apiVersion"
    assert "must be" in found.problems[0].reason


# Anything at all


@given(st.text(alphabet="abk:-[]{}&*!?|>#'\"%@, \n\t0.\\", max_size=60))
def test_whatever_a_file_holds_is_read_or_refused_and_never_raises(text: str) -> None:
    for file in (FILE, PurePath("x.json")):
        assert all(found.reason for found in read(file, text).problems)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.fixed_dictionaries(
                {},
                optional={
                    "apiVersion": st.sampled_from(["v1", "deployment.beamlit.com/v1alpha1"]) | inner,
                    "kind": st.sampled_from(["List", "Service", "Secret", "ModelDeployment"]) | inner,
                    "metadata": st.fixed_dictionaries({"name": inner | st.just("a")}) | inner,
                    "items": inner,
                    "spec": inner,
                },
            )
        ),
        max_leaves=20,
    )
)
def test_whatever_json_says_is_read_or_refused_with_words(value: object) -> None:
    found = read(PurePath("x.json"), json.dumps(value))
    assert all(each.reason for each in found.problems)
    assert all(each.value is not None or each.problems for each in found.manifests)
