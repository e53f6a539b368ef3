"""From decoded YAML to values: null is absence, unknown fields are named, and every problem is in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr, ValidationError

from controller.parsing import ApiModel, Bool, Int, Invalid, Parsed, Port, Problem, Seconds, SharedModel, Text, parse_as


class Leaf(ApiModel):
    unread = frozenset({"resourceVersion"})
    pod_count: Int = 1


class Tree(ApiModel):
    name: Text
    color: Literal["red", "green"] = "red"
    ready: Bool = False
    wait: Seconds = 5.0
    weight: Annotated[Int, Field(le=1_000_000)] = 1
    port: Port = 80
    password: SecretStr | None = None
    labels: Mapping[str, str] = Field(default_factory=dict)
    first_leaf: Leaf = Leaf()
    leaves: tuple[Leaf, ...] = ()


def tree(**fields: Any) -> Tree:
    parsed = parse_as(Tree, {"name": "oak", **fields})
    assert isinstance(parsed, Parsed), parsed
    return parsed.model


def problems(obj: object) -> dict[str, str]:
    parsed = parse_as(Tree, obj)
    assert isinstance(parsed, Invalid), parsed
    return {problem.field: problem.reason for problem in parsed.problems}


def warnings(obj: Mapping[str, Any], *, by_name: bool = False) -> list[str]:
    parsed = parse_as(Tree, {"name": "oak", **obj}, by_name=by_name)
    assert isinstance(parsed, Parsed), parsed
    return [str(warning) for warning in parsed.warnings]


def test_null_is_absence_at_every_depth() -> None:
    nulls = dict.fromkeys(("color", "ready", "wait", "port", "password", "labels", "firstLeaf", "leaves"))
    assert tree(**nulls) == tree()
    assert tree(firstLeaf={"podCount": None}, leaves=[{"podCount": None}]).leaves == (Leaf(),)


def test_null_is_no_value_of_a_field_that_is_required() -> None:
    assert problems({"name": None}) == {"name": "is required"}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("name", "", "must not be empty"),
        ("name", 5, "must be text (a number needs quotes to be text), not a number"),
        ("name", ["a"], "must be text (a number needs quotes to be text), not a list"),
        ("color", "blue", "must be 'red' or 'green', not 'blue'"),
        ("color", "x" * 41, "must be 'red' or 'green', not text"),
        ("ready", 1, "must be true or false, not a number"),
        ("ready", "yes", "must be true or false, not text"),
        ("wait", True, "must be a number, not true"),
        ("wait", float("inf"), "must be a finite number"),
        ("wait", 86_401, "must be at most 86400, not 86401"),
        ("weight", 1_000_001, "must be at most 1000000, not 1000001"),
        ("weight", 1.0, "must be a whole number, not a number"),
        ("port", 0, "must be at least 1, not 0"),
        ("labels", [], "must be a mapping of names to values, not a list"),
        ("firstLeaf", "oak", "must be a mapping of names to values, not text"),
        ("leaves", {}, "must be a list, not a mapping"),
    ],
)
def test_a_bad_value_is_told_in_words_that_say_what_to_write(field: str, value: object, reason: str) -> None:
    assert problems({"name": "oak", field: value}) == {field: reason}


@pytest.mark.parametrize("obj", [None, "oak", 5, ["oak"]])
def test_what_is_no_mapping_at_all_is_told_too(obj: object) -> None:
    (reason,) = problems(obj).values()
    assert reason.startswith("must be a mapping of names to values")


def test_a_problem_is_named_by_the_path_that_the_user_wrote() -> None:
    found = problems({"leaves": [{}, {"podCount": "2"}], "labels": {"a": 1, 2: "b"}})
    assert set(found) == {"name", "leaves[1].podCount", "labels.a", "labels[2]"}
    assert str(Problem("leaves[1].podCount", "is bad")) == "leaves[1].podCount: is bad"
    assert str(Problem("", "is bad")) == "is bad"


def test_unknown_fields_are_named_at_every_depth_with_a_guess_and_dropped() -> None:
    found = warnings(
        {"zzz": 1, "colour": "red", "leaves": [{}, {"podcount": 2}], "firstLeaf": {"resourceVersion": "5"}}
    )
    assert found == [
        "zzz: unknown field, ignored",
        "colour: unknown field, ignored; did you mean color?",
        "leaves[1].podcount: unknown field, ignored; did you mean podCount?",
    ]
    assert tree(zzz=1) == tree()


def test_names_of_attributes_are_fields_only_where_the_caller_says_so() -> None:
    assert warnings({"first_leaf": {"pod_count": 2}}) == ["first_leaf: unknown field, ignored; did you mean firstLeaf?"]
    assert warnings({"first_leaf": {"pod_count": 2, "pod_cont": 3}}, by_name=True) == [
        "first_leaf.pod_cont: unknown field, ignored; did you mean pod_count?"
    ]


def test_a_value_that_was_read_is_frozen() -> None:
    with pytest.raises(ValidationError):
        tree().name = "elm"  # type: ignore[misc]


@given(
    st.dictionaries(
        st.sampled_from(["name", "color", "ready", "wait", "port", "labels", "firstLeaf", "leaves", "podCount"])
        | st.integers()
        | st.booleans()
        | st.none(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner),
            max_leaves=8,
        ),
    )
)
def test_whatever_is_given_is_read_or_refused_and_no_problem_shows_a_password(obj: dict[Any, Any]) -> None:
    parsed = parse_as(Tree, {**obj, "password": "hunter2"})
    assert "hunter2" not in repr(parsed)
    assert isinstance(parsed, Parsed) or all(problem.reason for problem in parsed.problems)


class Part(SharedModel):
    weight: Int = 1
    leaf: Leaf = Leaf()


class Whole(ApiModel):
    part: Part


def whole(part: object, *, by_name: bool = False) -> Parsed[Whole]:
    found = parse_as(Whole, {"part": part}, by_name=by_name)
    assert isinstance(found, Parsed)
    return found


def test_parts_that_were_written_alike_are_one_value() -> None:
    first, second = whole({"weight": 2}), whole({"weight": 2})
    assert first.model.part is second.model.part
    assert whole({"weight": 3}).model.part != first.model.part


def test_a_part_with_an_unknown_field_is_warned_of_each_time() -> None:
    for _ in range(2):
        assert [each.field for each in whole({"leaf": {"podCont": 2}}).warnings] == ["part.leaf.podCont"]


def test_a_part_means_the_same_whoever_else_wrote_it() -> None:
    written = {"leaf": {"pod_count": 7}}
    assert whole(written, by_name=True).model.part.leaf.pod_count == 7
    assert whole(written).model.part.leaf.pod_count == 1
    assert isinstance(parse_as(Whole, {"part": {"weight": True}}), Invalid)
    assert whole({"weight": 1}).model.part.weight == 1
    assert isinstance(parse_as(Whole, {"part": {"weight": 1.0}}), Invalid)
