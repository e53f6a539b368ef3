"""Pure: YAML as Kubernetes reads it, each document as a value and as nodes, which know their lines.

It is YAML 1.1 without times, which stay text, and a key given twice is an error. libyaml does the parsing. What PyYAML
does to turn nodes into values takes longer than that, so mappings, lists and texts, nearly all there is, take a short
cut here; everything else (numbers, merge keys, binary data, tags) goes PyYAML's way.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_TEXT, _LIST, _MAPPING, _MERGE = f"{_TAG}str", f"{_TAG}seq", f"{_TAG}map", f"{_TAG}merge"

_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (f"{_TAG}timestamp", f"{_TAG}value")]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def documents(text: str) -> Iterator[tuple[Any, yaml.Node]]:
    """Each document's value and node. Raises yaml.YAMLError, RecursionError, or a ValueError or LookupError for a value
    that its tag does not fit.
    """
    loader: Any = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            yield loader.construct_document(node), node
    finally:
        loader.dispose()


@lru_cache(maxsize=4_096)
def _tag_of_plain(value: str) -> str:
    """The tag of a text without quotes."""
    return next((tag for tag, pattern in _RESOLVERS.get(value[:1], ()) if pattern.match(value)), _TEXT)


class _Loader(yaml.CSafeLoader):
    yaml_implicit_resolvers = _RESOLVERS

    # The base class also looks for resolvers by path, which nobody has added, at each node.

    def ascend_resolver(self) -> None:
        pass

    def descend_resolver(self, current_node: yaml.Node, current_index: object) -> None:
        pass

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        if kind is yaml.ScalarNode:
            return _tag_of_plain(value) if implicit[0] else _TEXT
        return _MAPPING if kind is yaml.MappingNode else _LIST

    def construct_document(self, node: yaml.Node) -> Any:
        return self._value(node, {})

    def _value(self, node: yaml.Node, made: dict[int, Any]) -> Any:
        """`made`: what the anchors' nodes came to, by their identity. An alias is the same object again, so a text that
        repeats itself to no end comes to no more than it holds.
        """
        if node.tag == _TEXT and isinstance(node, yaml.ScalarNode):
            return node.value
        if id(node) in made:
            return made[id(node)]
        if node.tag == _MAPPING and isinstance(node, yaml.MappingNode) and self._is_plain(node):
            mapping = made[id(node)] = {}
            for key, item in node.value:
                mapping[self._value(key, made)] = self._value(item, made)
            return mapping
        if node.tag == _LIST and isinstance(node, yaml.SequenceNode):
            items: list[Any] = []
            made[id(node)] = items
            items.extend(self._value(item, made) for item in node.value)
            return items
        return self.construct_object(node, deep=True)

    def _is_plain(self, node: yaml.MappingNode) -> bool:
        """Whether its keys are scalars, each given once; what it merges in is then a part of it."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
        if len(set(names)) < len(names):
            self._refuse_double(node)
        if any(key.tag == _MERGE for key, _ in node.value):
            self.flatten_mapping(node)
        return all(isinstance(key, yaml.ScalarNode) for key, _ in node.value)

    def _refuse_double(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)


_Loader.yaml_constructors = {
    tag: construct for tag, construct in yaml.CSafeLoader.yaml_constructors.items() if tag != f"{_TAG}timestamp"
}
