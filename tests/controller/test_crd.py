"""The CustomResourceDefinitions: structural, complete, described, and the same as the files of the chart.

What the API server makes of them is tested in tests/cluster/test_crds.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from controller import api, crd
from controller.crd_rules import EXTRAS
from controller.crd_status import ModelStatus
from controller.metric_spec import Quantity
from controller.parsing import ApiModel, Parsed, Seconds, Text
from helm import generate
from tests.controller.manifests import Json, model_manifest

DEFINITIONS = {each["spec"]["names"]["kind"]: each for each in crd.definitions()}
CONTRACT = """
model enabled modelSourceRef serviceRef serviceRef.targetPort metricServiceRef metricServiceRef.targetPort environment
policies policies.refType policies.name serverlessConfig.minNumReplicas serverlessConfig.maxNumReplicas
serverlessConfig.metric serverlessConfig.target serverlessConfig.scaleUpMinimum serverlessConfig.scaleDownDelay
serverlessConfig.stableWindow serverlessConfig.lastPodRetentionPeriod offloadingConfig.remoteBackend.host
offloadingConfig.remoteBackend.scheme offloadingConfig.remoteBackend.pathPrefix
offloadingConfig.remoteBackend.headersToAdd offloadingConfig.remoteBackend.authConfig.type
offloadingConfig.remoteBackend.authConfig.oauthConfig.clientId
offloadingConfig.remoteBackend.authConfig.oauthConfig.clientSecret
offloadingConfig.remoteBackend.authConfig.oauthConfig.tokenUrl offloadingConfig.behavior.percentage
offloadingConfig.metrics.resource offloadingConfig.metrics.containerResource offloadingConfig.metrics.pods
offloadingConfig.metrics.object.describedObject.apiVersion
offloadingConfig.metrics.external.metric.selector.matchExpressions.values
"""
STATUS = """
observedGeneration conditions.lastTransitionTime state share percentage since reason message metric target remote
currentMetrics.ratio readyReplicas gatewayPort decision
offloadingStatus servingPort metricPort workspace createdAtOnBeamlit updatedAtOnBeamlit
"""


def properties(kind: str) -> Json:
    (version,) = DEFINITIONS[kind]["spec"]["versions"]
    found: Json = version["schema"]["openAPIV3Schema"]["properties"]
    return found


def schemas(node: Json, at: str = "") -> Iterator[tuple[str, Json]]:
    """A schema and all below it, with their places; a list's items and a map's values have their own."""
    yield at, node
    for name, each in node.get("properties", {}).items():
        yield from schemas(each, f"{at}.{name}".lstrip("."))
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from schemas(node[key], at)


ALL = [
    (f"{kind} {at}", node)
    for kind in DEFINITIONS
    for part, schema in properties(kind).items()
    for at, node in schemas(schema, part)
]


@pytest.mark.parametrize("node", [node for _, node in ALL], ids=[at for at, _ in ALL])
def test_each_schema_is_structural(node: Json) -> None:
    number_or_text = node.get("x-kubernetes-int-or-string", False)
    assert ("type" in node) != number_or_text
    assert number_or_text or not {"anyOf", "allOf", "oneOf", "not"} & node.keys()
    assert not {"$ref", "$defs", "title", "const", "propertyNames", "nullable"} & node.keys()
    assert node.get("exclusiveMinimum", True) is True
    assert node.get("default", 0) not in (None, [], {})
    assert ("items" in node) == (node.get("type") == "array")


@pytest.mark.parametrize(("part", "fields"), [("spec", CONTRACT), ("status", STATUS)])
def test_every_field_that_is_promised_is_there(part: str, fields: str) -> None:
    assert set(fields.split()) <= {at for at, _ in schemas(properties("ModelDeployment")[part])}


@pytest.mark.parametrize("reference", ["modelSourceRef", "serviceRef", "metricServiceRef", "policies"])
def test_a_reference_takes_all_fields_of_an_object_reference(reference: str) -> None:
    spec = {at for at, _ in schemas(properties("ModelDeployment")["spec"])}
    wanted = ("apiVersion", "kind", "name", "namespace", "fieldPath", "resourceVersion", "uid")
    assert {f"{reference}.{field}" for field in wanted} <= spec


def test_a_default_is_what_the_code_takes_for_an_absent_field() -> None:
    """Through all fields that have one: with the default written down, a manifest means the same as without."""
    manifest = model_manifest(remoteBackends=[{"host": "a"}], behavior={}, retry={}, remoteBackend=None)
    filled = model_manifest(remoteBackends=[{"host": "a"}], behavior={}, retry={}, remoteBackend=None)
    count = fill_in(filled["spec"], properties("ModelDeployment")["spec"])
    assert count > 15
    plain, with_defaults = api.parse(manifest), api.parse(filled)
    assert isinstance(plain, Parsed)
    assert isinstance(with_defaults, Parsed)
    assert with_defaults.model.spec == plain.model.spec


def fill_in(value: Any, schema: Json) -> int:
    """Does what the API server does with defaults; returns how many there were."""
    count = 0
    if isinstance(value, dict):
        for name, each in schema.get("properties", {}).items():
            if name not in value and "default" in each:
                value[name], count = each["default"], count + 1
            elif name in value:
                count += fill_in(value[name], each)
    elif isinstance(value, list):
        count += sum(fill_in(each, schema["items"]) for each in value)
    return count


def test_every_object_is_described() -> None:
    objects = [(at, node) for at, node in ALL if " spec" in at and node.get("type") == "object"]
    assert [at for at, node in objects if "description" not in node and not at.endswith(".matchLabels")] == []


def test_lists_and_maps_are_bounded_so_that_rules_on_what_they_hold_are_cheap() -> None:
    for at, node in ALL:
        assert node.get("type") != "array" or node["maxItems"] <= 64, at
        assert "additionalProperties" not in node or node["maxProperties"] <= 64, at


def test_lists_of_named_things_are_merged_by_name() -> None:
    spec, status = (properties("ModelDeployment")[part] for part in ("spec", "status"))
    remotes = spec["properties"]["offloadingConfig"]["properties"]["remoteBackends"]
    assert (remotes["x-kubernetes-list-type"], remotes["x-kubernetes-list-map-keys"]) == ("map", ["name"])
    conditions = status["properties"]["conditions"]
    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])


def test_only_a_model_has_a_status_of_its_own() -> None:
    versions = {kind: each["spec"]["versions"][0] for kind, each in DEFINITIONS.items()}
    assert versions["ModelDeployment"]["subresources"] == {"status": {}}
    assert "subresources" not in versions["Policy"]
    assert properties("ModelDeployment")["status"] == crd.structural(ModelStatus)


def test_every_further_key_belongs_to_a_field() -> None:
    unknown = [
        (model.__name__, name)
        for model, fields in EXTRAS.items()
        for name in fields
        if name and name not in crd.structural(model)["properties"]
    ]
    assert unknown == []


# From types to schemas


class Part(ApiModel):
    """A part."""

    unread = frozenset({"elsewhere"})
    size_mb: Annotated[int, Field(gt=0)] = 3
    """How big.

    In two lines.
    """


class Whole(ApiModel):
    kind: Literal["A", "B"] = "A"
    seconds: Seconds = 5.0
    half_s: float = 0.5
    parts: tuple[Part, ...] = ()
    other: Part | None = None
    """Another part."""
    amount: Quantity | None = None
    names: dict[str, Text] = Field(default_factory=dict)


def test_a_schema_is_made_of_types_and_docstrings() -> None:
    part = {
        "type": "object",
        "description": "A part.",
        "properties": {
            "sizeMb": {
                "type": "integer",
                "minimum": 0,
                "exclusiveMinimum": True,
                "default": 3,
                "description": "How big. In two lines.",
            },
            "elsewhere": {"type": "string"},
        },
    }
    assert crd.structural(Whole) == {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["A", "B"], "default": "A"},
            "seconds": {"type": "number", "minimum": 0, "maximum": 86_400, "default": 5},
            "halfS": {"type": "number", "default": 0.5},
            "parts": {"type": "array", "maxItems": 64, "items": part},
            "other": {**part, "description": "Another part."},
            "amount": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
            "names": {
                "type": "object",
                "maxProperties": 64,
                "additionalProperties": {"type": "string", "minLength": 1},
            },
        },
    }


# The files of the chart


def test_the_files_are_what_the_types_give() -> None:
    assert generate.differences(generate.render()) == []


def test_a_file_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "CHART", tmp_path)
    wanted = generate.render()
    first, *others = sorted(path for path in wanted if path.parent.name == "crds")
    first.parent.mkdir()
    first.write_text("old")
    stale = first.with_name("stale.yaml")
    stale.write_text("left over")
    assert set(generate.differences(wanted)) == {first, stale, *others, tmp_path / "files/bootstrap.yaml"}
