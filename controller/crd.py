"""Pure: the CustomResourceDefinitions, made from the types of controller/api.py.

Pydantic's JSON schema becomes a structural one: no references, absent instead of null, and only what the API server
allows. Descriptions are the docstrings of types and attributes. What the types check in code stands in
controller/crd_rules.py as CEL. Only plain values have defaults: a list or an object that is absent stays absent.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from itertools import pairwise
from textwrap import dedent
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from controller.api import MODEL_API_VERSION, POLICY_API_VERSION, ModelDeployment, ModelSpec, Policy, PolicySpec
from controller.crd_rules import EXTRAS
from controller.crd_status import ModelStatus
from controller.parsing import ApiModel

Json = dict[str, Any]

_ITEMS_MAX = 64
_DROPPED = frozenset({"$ref", "title", "propertyNames", "writeOnly"})


def definitions() -> tuple[Json, ...]:
    """All CustomResourceDefinitions, as values for YAML."""
    return (
        _definition(
            api_version=MODEL_API_VERSION,
            names={"kind": "ModelDeployment", "plural": "modeldeployments", "shortNames": ["md"]},
            description=inspect.getdoc(ModelDeployment),
            columns=[
                {"name": "Model", "type": "string", "jsonPath": ".spec.model"},
                {"name": "State", "type": "string", "jsonPath": ".status.state"},
                {"name": "Share", "type": "string", "jsonPath": ".status.share"},
                {"name": "Metric", "type": "string", "jsonPath": ".status.metric"},
                {"name": "Target", "type": "string", "jsonPath": ".status.target"},
                {"name": "Remote", "type": "string", "jsonPath": ".status.remote"},
                {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
                {"name": "Reason", "type": "string", "jsonPath": ".status.reason", "priority": 1},
                {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
            ],
            spec=ModelSpec,
            status=ModelStatus,
        ),
        _definition(
            api_version=POLICY_API_VERSION,
            names={"kind": "Policy", "plural": "policies"},
            description=inspect.getdoc(Policy),
            columns=[
                {"name": "Type", "type": "string", "jsonPath": ".spec.type"},
                {"name": "Display name", "type": "string", "jsonPath": ".spec.displayName"},
                {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
            ],
            spec=PolicySpec,
        ),
    )


def _definition(
    *,
    api_version: str,
    names: Json,
    description: str | None,
    columns: list[Json],
    spec: type[BaseModel],
    status: type[BaseModel] | None = None,
) -> Json:
    group, version_name = api_version.split("/")
    properties: Json = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": structural(spec),
    }
    version = {"name": version_name, "served": True, "storage": True, "additionalPrinterColumns": columns}
    if status is not None:
        properties["status"] = structural(status)
        version["subresources"] = {"status": {}}
    schema = {"description": description, "type": "object", "required": ["spec"], "properties": properties}
    version["schema"] = {"openAPIV3Schema": schema}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{group}"},
        "spec": {
            "group": group,
            "names": {**names, "singular": names["kind"].lower(), "listKind": f"{names['kind']}List"},
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def structural(model: type[BaseModel]) -> Json:
    """A type's schema as a CustomResourceDefinition takes it."""
    generated = model.model_json_schema(by_alias=True, schema_generator=_Generator)
    return _structural(generated, generated.get("$defs", {}))


class _Generator(GenerateJsonSchema):
    """Adds what stands beside the types, while it is known which type is meant."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])  # null is absent

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        properties = made["properties"]
        for cls in reversed(schema["cls"].__mro__):
            if issubclass(cls, ApiModel):
                for name, text in _attribute_docs(cls):
                    properties[name]["description"] = text
                properties |= {name: {"type": "string"} for name in sorted(cls.unread)}
            for name, extra in EXTRAS.get(cls, {}).items():
                (properties[name] if name else made).update(extra)
        return made


def _attribute_docs(cls: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Each attribute that a docstring follows, and that docstring."""
    (definition,) = ast.parse(dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef), "the source of a class is a class"
    for attribute, doc in pairwise(definition.body):
        match attribute, doc:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                if name in cls.model_fields:
                    yield to_camel(name), " ".join(text.split())
            case _:
                pass


def _structural(node: Json, shared: Mapping[str, Json]) -> Json:
    """A schema with what it refers to in place. What stands beside a reference counts more."""
    if reference := node.get("$ref"):
        node = {**shared[reference.rpartition("/")[2]], **node}
    made = {key: value for key, value in node.items() if key not in _DROPPED and key != "$defs"}
    if made.get("type") == "array":
        made = {"maxItems": _ITEMS_MAX, **made, "items": _structural(node["items"], shared)}
    if isinstance(values := node.get("additionalProperties"), dict):
        made = {"maxProperties": _ITEMS_MAX, **made, "additionalProperties": _structural(values, shared)}
    if properties := node.get("properties"):
        made["properties"] = {name: _structural(each, shared) for name, each in properties.items()}
    if "exclusiveMinimum" in made:
        made |= {"minimum": made["exclusiveMinimum"], "exclusiveMinimum": True}
    match made.pop("default", None):
        case None | [] | dict():
            pass
        case float() as number if number.is_integer():
            made["default"] = int(number)
        case plain:
            made["default"] = plain
    return made
