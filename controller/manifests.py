"""Pure: the text of a manifest file -> the objects in it, each with the place where it stands.

Several documents and Lists in a file are one sequence of objects. Where something cannot be told (broken syntax, an
object without a kind or a name) the contents say so, because half a file must never look like a file from which objects
were deleted. An object that can be told, but is wrong, is there with its problems.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import yaml

from controller import api, kube_yaml, objects
from controller.events import Object
from controller.parsing import Invalid, Parsed, Problem

Parser = Callable[[Mapping[str, Any]], Parsed[Any] | Invalid]
Identity = tuple[str, str]
"""Kind and key."""

_PARSERS: Mapping[tuple[str, str], tuple[str, Parser]] = {
    ("deployment.beamlit.com", "ModelDeployment"): (api.MODEL_API_VERSION, api.parse),
    ("authorization.beamlit.com", "Policy"): (api.POLICY_API_VERSION, api.parse_policy),
    ("", "Service"): ("v1", objects.parse_service),
    ("", "Secret"): ("v1", objects.parse_secret),
    ("discovery.k8s.io", "EndpointSlice"): ("discovery.k8s.io/v1", objects.parse_endpoint_slice),
}
_QUIET = frozenset({("apps", kind) for kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")})
"""What models refer to, and nothing outside a cluster needs."""
_KINDS_OF_GROUPS = {
    "deployment.beamlit.com": ("ModelDeployment", "ToolDeployment"),
    "authorization.beamlit.com": ("Policy",),
}
"""All kinds of the groups whose kinds are known. The predecessor never used ToolDeployment; it is passed over."""

_INDENTING_TAB = re.compile(r" *\t")
_FIELD_PART = re.compile(r"[^.\[\]]+")


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """A place in a file, whose path is relative to the directory. Documents and lines count from 1."""

    file: PurePath
    document: int = 1
    line: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, order=True)
class FileProblem:
    """Something wrong in a file. `name`: '<namespace>/<name>'. Unknown parts are '': then the file as a whole is bad.

    A `warning` keeps nothing from working.
    """

    source: Source
    kind: str
    name: str
    field: str
    reason: str
    warning: bool = False

    def __str__(self) -> str:
        """'file:line: kind namespace/name: field: reason', without the parts that are unknown."""
        parts = (str(self.source), f"{self.kind} {self.name}".strip(), self.field, self.reason)
        return ": ".join(part for part in parts if part)

    def as_json(self) -> dict[str, object]:
        """For the status."""
        place = {"source": str(self.source), "kind": self.kind, "name": self.name, "field": self.field}
        return {**place, "reason": self.reason, "warning": self.warning}


@dataclass(frozen=True, slots=True)
class Manifest:
    """An object, and what became of it."""

    source: Source
    kind: str
    key: str
    result: Parsed[Object] | Invalid
    node: yaml.Node | None = field(default=None, repr=False, compare=False)

    @property
    def identity(self) -> Identity:
        return self.kind, self.key

    @property
    def value(self) -> Object | None:
        """The object if it is good."""
        return self.result.model if isinstance(self.result, Parsed) else None

    @property
    def problems(self) -> tuple[FileProblem, ...]:
        """Everything wrong with the object by itself, and its warnings."""
        if isinstance(self.result, Invalid):
            return tuple(self.problem(each.field, each.reason) for each in self.result.problems)
        return tuple(self.problem(each.field, each.reason, warning=True) for each in self.result.warnings)

    def problem(self, field_: str, reason: str, *, warning: bool = False) -> FileProblem:
        """A problem with a field of this object, at the field's own line as far as that can be told."""
        line = _line_of(self.node, field_) if self.node else self.source.line
        source = Source(self.source.file, self.source.document, line)
        return FileProblem(source, self.kind, self.key, field_, reason, warning)


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is not read here. `what` names it: 'Ingress (networking.k8s.io/v1)'.

    `quiet`: it belongs beside a model, so that nobody needs a note.
    """

    source: Source
    what: str
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds. `problems`: what cannot be told; it may be any object."""

    manifests: tuple[Manifest, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    problems: tuple[FileProblem, ...] = ()


class _UnreadableError(Exception):
    def __init__(self, reason: str, source: Source) -> None:
        super().__init__(reason)
        self.source = source


def read(file: PurePath, text: str) -> Contents:
    """The objects of a YAML file, or of a JSON file if its name ends in .json."""
    manifests: list[Manifest] = []
    skipped: list[Skipped] = []
    problems: list[FileProblem] = []
    try:
        for number, (document, node) in enumerate(_documents(file, text), start=1):
            for obj, at in _objects(document, node):
                source = Source(file, number, at.start_mark.line + 1 if at else 1)
                match _object(obj, source, at):
                    case Manifest() as manifest:
                        manifests.append(manifest)
                    case Skipped() as passed_over:
                        skipped.append(passed_over)
                    case str() as reason:
                        problems.append(FileProblem(source, "", "", "", reason))
    except _UnreadableError as error:
        problems.append(FileProblem(error.source, "", "", "", str(error)))
    return Contents(tuple(manifests), tuple(skipped), tuple(problems))


def _documents(file: PurePath, text: str) -> Iterator[tuple[object, yaml.Node | None]]:
    """Each document's value, and its node, which knows the lines. JSON has no nodes."""
    if file.suffix == ".json":
        try:
            value = json.loads(text)
            if "\\u" in text:
                json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
        except json.JSONDecodeError as error:
            raise _UnreadableError(f"this is no JSON: {error.msg}", Source(file, 1, error.lineno)) from None
        except (RecursionError, ValueError):
            raise _UnreadableError("this is no JSON that can be read", Source(file)) from None
        yield value, None
        return
    number = 1
    try:
        for value, node in kube_yaml.documents(text):
            yield value, node
            number += 1
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise _UnreadableError(_syntax_error(text, error.problem or "", line), Source(file, number, line)) from None
    except (yaml.YAMLError, ValueError, LookupError):  # the latter two: a value that its tag does not fit
        raise _UnreadableError("this is no YAML that can be read", Source(file, number)) from None
    except RecursionError:
        raise _UnreadableError("this is nested too deeply", Source(file, number)) from None


def _syntax_error(text: str, problem: str, line: int) -> str:
    """What is wrong with the YAML, whose parser calls an indenting tab many names."""
    if any(map(_INDENTING_TAB.match, text.split("\n")[line - 1 : line])):
        return f"YAML forbids tabs for indentation: line {line} has a tab; use spaces"
    return f"this is no YAML: line {line}: {problem}"


def _objects(value: object, node: yaml.Node | None) -> Iterator[tuple[object, yaml.Node | None]]:
    """The objects of a document: itself, or the items of a List. Nothing in an empty document."""
    if value is None:
        return
    items = value.get("items", []) if isinstance(value, dict) and value.get("kind") == "List" else None
    if not isinstance(items, list):
        yield value, node
        return
    item_nodes = getattr(_child(node, "items"), "value", None)
    for index, item in enumerate(items):
        yield item, item_nodes[index] if item_nodes else None


def _object(obj: object, source: Source, node: yaml.Node | None) -> Manifest | Skipped | str:
    """What an object is, or why that cannot be told."""
    if not isinstance(obj, dict):
        return "this is no Kubernetes object: it must be a mapping with apiVersion, kind and metadata"
    api_version, kind = obj.get("apiVersion"), obj.get("kind")
    if api_version is None and kind is None and "metadata" not in obj:
        return Skipped(source, "something that is no Kubernetes object (no apiVersion, no kind)")
    if not isinstance(api_version, str) or not api_version:
        return "apiVersion is missing, or no text"
    if not isinstance(kind, str) or not kind:
        return "kind is missing, or no text"
    if kind == "List":
        return "items must be a list of objects, and none of them a List"
    group = api_version.rpartition("/")[0]
    if kind not in (known := _KINDS_OF_GROUPS.get(group, (kind,))):
        return f"kind must be {' or '.join(known)}, not {kind}"
    if (group, kind) not in _PARSERS:
        return Skipped(source, f"{kind} ({api_version})", quiet=(group, kind) in _QUIET)
    metadata = obj.get("metadata")
    key = _key(metadata if isinstance(metadata, dict) else {})
    if key is None:
        return f"{kind}: metadata.name and metadata.namespace must be text (a number needs quotes to be text)"
    wanted_version, parse = _PARSERS[group, kind]
    result = parse(obj)
    if api_version != wanted_version:
        others = result.problems if isinstance(result, Invalid) else ()
        result = Invalid(tuple(dict.fromkeys((Problem("apiVersion", f"must be {wanted_version}"), *others))))
    return Manifest(source, kind, key, result, node)


def _key(metadata: Mapping[str, Any]) -> str | None:
    """'<namespace>/<name>', None if it cannot be told."""
    name, namespace = metadata.get("name"), metadata.get("namespace")
    namespace = "default" if namespace is None else namespace
    known = isinstance(name, str) and isinstance(namespace, str) and name and namespace
    return f"{namespace}/{name}" if known else None


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _line_of(node: yaml.Node, path: str) -> int:
    """The line of the deepest part of the path that is there."""
    line: int = node.start_mark.line
    for part in _FIELD_PART.findall(path):
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line
        else:
            break
    return line + 1
