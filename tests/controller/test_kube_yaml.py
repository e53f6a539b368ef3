"""YAML is read as PyYAML's safe loader reads it, but for what Kubernetes does otherwise; what is wrong, like there."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller.kube_yaml import documents

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.text() | st.integers()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=20)


def values(text: str) -> list[Any]:
    return [value for value, _ in documents(text)]


@given(st.lists(VALUES, min_size=1, max_size=3), st.booleans())
def test_what_was_dumped_is_read_again(dumped: list[Any], flow: bool) -> None:
    text = yaml.safe_dump_all(dumped, default_flow_style=flow)
    assert values(text) == dumped == list(yaml.safe_load_all(text))


@pytest.mark.parametrize(
    "text",
    [
        "a: yes\nb: 0o17\nc: 017\nd: 1_000\ne: 1:30\nf: .inf\ng: ~\nh:\n",
        "a: 'yes'\nb: \"1\"\nc: !!str 1\nd: !!int '7'\ne: !!binary aGk=\nf: !!set {x, y}\n",
        "base: &base {x: 1, y: 2}\none: {<<: *base, y: 3}\ntwo: {<<: [*base, {z: 4}]}\n",
        "a: &a [1, 2]\nb: *a\nc: {d: *a}\n",
        "1: one\ntrue: yes\n~: none\n",
        "- |\n  text\n  more\n- >\n  folded\n  text\n",
        "",
        "---\n---\na: 1\n...\n",
    ],
)
def test_the_corners_of_yaml_are_as_the_safe_loader_has_them(text: str) -> None:
    assert values(text) == list(yaml.load_all(text, yaml.CSafeLoader))


def test_times_stay_text_and_so_does_a_lone_equals_sign() -> None:
    assert values("a: 2026-01-01T00:00:00Z\nb: 2026-01-01\nc: =\n") == [
        {"a": "2026-01-01T00:00:00Z", "b": "2026-01-01", "c": "="}
    ]


def test_what_repeats_itself_by_aliases_is_one_object() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
    (value,) = values("\n".join(lines))
    assert value["a29"][0] is value["a29"][8] is value["a28"]


def test_what_holds_itself_is_read() -> None:
    (value,) = values("a: &a {b: *a}\n")
    assert value["a"]["b"] is value["a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "a is given twice"),
        ("x: {'1': a, 1: b}\n", "1 is given twice"),
        ("? [a, b]\n: c\n", "found unhashable key"),
        ("a: !unheard-of x\n", "could not determine a constructor"),
        ("a: {<<: 7}\n", "expected a mapping or list of mappings for merging"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, words: str) -> None:
    with pytest.raises(yaml.MarkedYAMLError, match=words) as error:
        values(text)
    assert error.value.problem_mark is not None


def test_a_node_knows_where_it_stands() -> None:
    (_, node), (_, second) = documents("a: 1\n---\n\nb:\n  c: 2\n")
    assert (node.start_mark.line, second.start_mark.line) == (0, 3)
    assert isinstance(second.value[0][1], yaml.MappingNode)


def test_the_values_are_plain_ones() -> None:
    (value,) = values("a: {b: [1, text]}\n")
    assert isinstance(value, Mapping)
    assert type(value["a"]["b"]) is list
