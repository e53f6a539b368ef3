"""Label selectors as PromQL and as a test on labels."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import LabelSelector
from controller.selector import Matcher, api_selector, is_metric_name, matchers_of, promql, quoted

LABEL_NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text('\\"\n{}|.*a', max_size=6)


def selector(**fields: object) -> LabelSelector:
    return LabelSelector.model_validate(fields)


def unquote(text: str) -> str:
    """PromQL's reading of a string in double quotes, as far as we write any."""
    assert text[0] == text[-1] == '"'
    assert "\n" not in text
    assert re.fullmatch(r'(?:[^"\\]|\\["\\n])*', text[1:-1], re.DOTALL)
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text[1:-1])


@pytest.mark.parametrize(
    ("matchers", "expected"),
    [
        ((), "m"),
        ([Matcher("a", ("1",))], 'm{a="1"}'),
        ([Matcher("a", ("1",)), Matcher("b", ("2",))], 'm{a="1",b="2"}'),
        ([Matcher("a", ("1",), negated=True)], 'm{a!="1"}'),
        ([Matcher("a", ("1", "2.5"))], r'm{a=~"1|2\\.5"}'),
        ([Matcher("a", ("1", "2"), negated=True)], 'm{a!~"1|2"}'),
        ([Matcher("app.kubernetes.io/name", ("x",))], 'm{"app.kubernetes.io/name"="x"}'),
        ([Matcher("größe", ("x",))], 'm{"größe"="x"}'),
    ],
)
def test_matchers_become_one_promql_selector(matchers: list[Matcher], expected: str) -> None:
    assert promql("m", matchers) == expected


def test_defect_14_two_labels_share_one_pair_of_braces_and_quotes_are_escaped() -> None:
    both = matchers_of(selector(match_labels={"b": 'say "hi"', "a": "1"}))
    assert promql("m", both) == r'm{a="1",b="say \"hi\""}'


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("vllm:num_requests_running", 'vllm:num_requests_running{a="1"}'),
        ("http.server.requests", '{"http.server.requests",a="1"}'),
        ("größe", '{"größe",a="1"}'),
    ],
)
def test_a_metric_name_outside_the_classic_alphabet_is_quoted(metric: str, expected: str) -> None:
    assert promql(metric, [Matcher("a", ("1",))]) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((name, True) for name in ("up", "vllm:num_requests_running", ":x", "_", "a.b", "größe", "m2")),
        *(
            (name, False)
            for name in ("", "2m", "a b", "a-b", "a/b", "sum(a)", 'a{b="c"}', '{"a.b"}', "a[5m]", " up", "1")
        ),
    ],
)
def test_a_metric_name_is_told_from_an_expression(text: str, expected: bool) -> None:
    assert is_metric_name(text) is expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ({"key": "a", "operator": "In", "values": ["2", "1", "2"]}, Matcher("a", ("1", "2"))),
        ({"key": "a", "operator": "NotIn", "values": ["1"]}, Matcher("a", ("1",), negated=True)),
        ({"key": "a", "operator": "Exists"}, Matcher("a", ("",), negated=True)),
        ({"key": "a", "operator": "DoesNotExist"}, Matcher("a", ("",))),
    ],
)
def test_each_operator_has_its_matcher(expression: dict[str, object], expected: Matcher) -> None:
    assert matchers_of(selector(match_expressions=[expression])) == (expected,)


@pytest.mark.parametrize(
    ("matcher", "labels", "expected"),
    [
        (Matcher("a", ("1", "2")), {"a": "2"}, True),
        (Matcher("a", ("1",)), {"a": "2"}, False),
        (Matcher("a", ("1",)), {}, False),
        (Matcher("a", ("1",), negated=True), {}, True),
        (Matcher("a", ("",)), {}, True),
        (Matcher("a", ("",), negated=True), {}, False),
        (Matcher("a", ("",), negated=True), {"a": "x"}, True),
    ],
)
def test_a_label_that_is_not_there_equals_the_empty_string(
    matcher: Matcher, labels: dict[str, str], expected: bool
) -> None:
    assert matcher.matches(labels) is expected


def test_the_order_in_which_labels_are_written_makes_no_difference() -> None:
    requirement = {"key": "c", "operator": "Exists"}
    one = selector(match_labels={"a": "1", "b": "2"}, match_expressions=[requirement, requirement])
    other = selector(match_labels={"b": "2", "a": "1"}, match_expressions=[requirement])

    assert matchers_of(one) == matchers_of(other)


def test_no_selector_matches_everything() -> None:
    assert matchers_of(None) == matchers_of(selector()) == ()


@given(VALUES)
def test_any_text_survives_quoting(value: str) -> None:
    assert unquote(quoted(value)) == value


@given(LABEL_NAMES, st.lists(VALUES, min_size=2, max_size=4, unique=True), VALUES)
def test_several_values_are_a_regex_that_matches_just_them(name: str, values: list[str], other: str) -> None:
    written = promql("m", [Matcher(name, tuple(sorted(values)))])
    prefix = f"m{{{name}=~"
    assert written.startswith(prefix)
    regex = re.compile(unquote(written[len(prefix) : -1]), re.DOTALL)

    assert all(regex.fullmatch(value) for value in values)
    assert bool(regex.fullmatch(other)) is (other in values)


@given(st.dictionaries(LABEL_NAMES, VALUES, max_size=4), st.dictionaries(LABEL_NAMES, VALUES, max_size=4))
def test_match_labels_match_as_kubernetes_says(wanted: dict[str, str], labels: dict[str, str]) -> None:
    matchers = matchers_of(selector(match_labels=wanted))
    expected = all(labels.get(name, "") == value for name, value in wanted.items())

    assert all(matcher.matches(labels) for matcher in matchers) is expected


# The API's text form


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ""),
        ({"match_labels": {"b": "2", "a": "1", "example.com/c_d": ""}}, "a=1,b=2,example.com/c_d="),
        ({"match_expressions": [{"key": "k", "operator": "In", "values": ["y", "x", "y"]}]}, "k in (x,y)"),
        ({"match_expressions": [{"key": "k", "operator": "NotIn", "values": ["x"]}]}, "k notin (x)"),
        ({"match_expressions": [{"key": "k", "operator": "Exists"}]}, "k"),
        ({"match_expressions": [{"key": "k", "operator": "DoesNotExist"}]}, "!k"),
        (
            {"match_labels": {"z": "1"}, "match_expressions": [{"key": "k", "operator": "Exists"}]},
            "k,z=1",
        ),
    ],
)
def test_a_selector_has_one_text_for_the_api(fields: dict[str, object], expected: str) -> None:
    assert api_selector(selector(**fields)) == expected


def test_no_selector_has_no_text() -> None:
    assert api_selector(None) == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"match_labels": {"a": "1,b=2"}}, "'1,b=2' cannot be the value of label a"),
        ({"match_labels": {"a,b": "1"}}, "'a,b' cannot be the name of a label"),
        ({"match_labels": {"!a": "1"}}, "'!a' cannot be the name of a label"),
        ({"match_expressions": [{"key": "a", "operator": "In", "values": ["ok", "b)"]}]}, "'b)' cannot be the value"),
        ({"match_expressions": [{"key": "a", "operator": "In", "values": ["two words"]}]}, "cannot be the value"),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        api_selector(selector(**fields))
