"""MetricSpec: every type is read exactly, and what is wrong is named with its field."""

from __future__ import annotations

from copy import deepcopy
from fractions import Fraction

import pytest

from controller import api
from controller.api import Invalid
from controller.metric_spec import Source
from tests.controller.manifests import EXTERNAL, Json, model_from, model_manifest

METRIC = "spec.offloadingConfig.metrics[0]"


def problems(manifest: Json) -> dict[str, str]:
    """Field -> reason."""
    result = api.parse(manifest)
    assert isinstance(result, Invalid), result
    return {problem.field: problem.reason for problem in result.problems}


def test_every_type_of_metric_is_read_exactly() -> None:
    identifier = {"name": "m", "selector": {"matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}}
    target = {"type": "AverageValue", "averageValue": "500m"}
    metrics = [
        {"type": "Resource", "resource": {"name": "cpu", "target": target}},
        {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "target": target}},
        {"type": "Pods", "pods": {"metric": identifier, "target": target}},
        {
            "type": "Object",
            "object": {"describedObject": {"kind": "I", "name": "i"}, "metric": identifier, "target": target},
        },
        {"type": "External", "external": {"metric": identifier, "target": {"type": "Value", "value": 2}}},
    ]
    found = model_from(model_manifest(metrics=metrics)).spec.offloading_config.metrics
    assert [metric.type for metric in found] == ["Resource", "ContainerResource", "Pods", "Object", "External"]
    assert found[2].pods is not None
    assert found[2].pods.target.average_value == Fraction(1, 2)
    assert found[4].external is not None
    assert found[4].external.target.value == 2


@pytest.mark.parametrize(
    ("metric", "field", "words"),
    [
        ({}, ".type", "is required"),
        ({"type": "Magic"}, ".type", "'Resource', 'ContainerResource', 'Pods', 'Object' or 'External', not 'Magic'"),
        ({"type": "External"}, "", "type External needs external"),
        ({**EXTERNAL, "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": 1}}}, "",
         "type External takes only external; remove pods"),
        ({"type": "External", "external": {"metric": {"name": "m"}}}, ".external.target", "is required"),
        ({"type": "External", "external": {"metric": {"name": "m"}, "target": {"type": "Value"}}}, ".external.target",
         "type Value needs value"),
        ({"type": "External", "external": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "ten"}}},
         ".external.target.value", "must be a quantity such as 500m"),
        ({"type": "External", "external": {"metric": {"name": "m"}, "target": {"type": "Value", "value": 0}}},
         ".external.target.value", "must be above 0"),
        ({"type": "External",
          "external": {"metric": {"name": "m"}, "target": {"type": "Value", "value": 1, "averageValue": 1}}},
         ".external.target", "type Value takes only value; remove averageValue"),
        ({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "Value", "value": 1}}}, ".pods",
         "target.type must be AverageValue here, not Value"),
        ({**EXTERNAL, "source": "thermometer"}, ".source",
         "must be 'kubernetes', 'prometheus' or 'endpoints', not 'thermometer'"),
        ({"type": "Pods", "source": "prometheus",
          "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": 1}}}, "",
         "type Pods takes source kubernetes or endpoints, not prometheus"),
        ({"type": "Resource", "source": "endpoints",
          "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}, "",
         "type Resource takes source kubernetes, not endpoints"),
    ],
)  # fmt: skip
def test_a_bad_metric_is_named_with_a_reason(metric: Json, field: str, words: str) -> None:
    assert words in problems(model_manifest(metrics=[metric]))[METRIC + field]


def test_defect_13_a_type_of_metric_that_nobody_knows_is_refused_and_crashes_nothing() -> None:
    """And the model keeps what it had: the manifest as a whole is refused."""
    metrics = [EXTERNAL, {"type": "Moonphase", "moonphase": {"target": {"type": "Value", "value": "1"}}}]
    found = problems(model_manifest(metrics=metrics))
    assert list(found) == ["spec.offloadingConfig.metrics[1].type"]
    assert "not 'Moonphase'" in found["spec.offloadingConfig.metrics[1].type"]


@pytest.mark.parametrize("source", [None, *Source])
def test_a_metric_may_name_its_source(source: Source | None) -> None:
    manifest = model_manifest(metrics=[{**EXTERNAL, "source": source and source.value}])
    assert model_from(manifest).spec.offloading_config.metrics[0].source is source


def test_a_target_nested_in_its_metric_is_told_where_to_go() -> None:
    """The predecessor's documentation printed it so."""
    metric = {"name": "m", "target": {"type": "Value", "value": "10"}, "selector": {"matchLabels": None}}
    found = problems(model_manifest(metrics=[{"type": "External", "external": {"metric": metric}}]))
    words = "target stands inside metric; move target one level up, next to metric"
    assert found == {f"{METRIC}.external": words}


@pytest.mark.parametrize("selector", [None, {}, {"matchLabels": None}, {"matchLabels": {}, "matchExpressions": None}])
def test_null_match_labels_are_none(selector: Json | None) -> None:
    metric = deepcopy(EXTERNAL)
    metric["external"]["metric"]["selector"] = selector
    (found,) = model_from(model_manifest(metrics=[metric])).spec.offloading_config.metrics
    assert found.external is not None
    parsed = found.external.metric.selector
    assert parsed is None or not (parsed.match_labels or parsed.match_expressions)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ({"key": "k", "operator": "In"}, "operator In needs values"),
        ({"key": "k", "operator": "Exists", "values": ["v"]}, "operator Exists must not have values"),
    ],
)
def test_a_bad_match_expression_is_named(expression: Json, words: str) -> None:
    metric = deepcopy(EXTERNAL)
    metric["external"]["metric"]["selector"] = {"matchExpressions": [expression]}
    field = f"{METRIC}.external.metric.selector.matchExpressions[0]"
    assert words in problems(model_manifest(metrics=[metric]))[field]
