"""Reading chosen metrics out of Prometheus' text format."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controller.exposition import Page
from controller.metrics import Reading, ScrapeQuery, Unknown, Value
from controller.selector import Matcher

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="llama"} 3.0
vllm:num_requests_running{engine="1",model_name="llama"} 4.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="llama"} 1e+02
vllm:num_requests_running_total 99
"""


def query(metric: str, *matchers: Matcher) -> ScrapeQuery:
    return ScrapeQuery("default/llama", None, metric, matchers)


def read(text: str, metric: str, *matchers: Matcher) -> Reading:
    return Page(text, {metric}).read(query(metric, *matchers))


def reason(reading: Reading) -> str:
    assert isinstance(reading, Unknown), reading
    return reading.reason


def test_the_series_of_one_endpoint_add_up() -> None:
    assert read(VLLM, "vllm:num_requests_running") == Value(7)


def test_labels_choose_among_them() -> None:
    assert read(VLLM, "vllm:num_requests_running", Matcher("engine", ("1",))) == Value(4)


def test_one_page_answers_several_queries() -> None:
    page = Page(VLLM, {"vllm:num_requests_running", "vllm:num_requests_waiting"})
    assert page.read(query("vllm:num_requests_running", Matcher("engine", ("0",)))) == Value(3)
    assert page.read(query("vllm:num_requests_waiting")) == Value(100)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("m 1", 1),
        ("m\t1", 1),
        ("  m 1  ", 1),
        ("m 1 1700000000000", 1),
        ("m{} 1", 1),
        ('m {a="b"} 1', 1),
        ('m{a="b",} 1', 1),
        ('m{ a = "b" , c="d" }2', 2),
        ('m{a="}, {"} 1', 1),
        (r'm{a="\"} 5 \\"} 1', 1),
        ('m{a="b"} -1.5e3', -1500),
        ('m{a="b"} 1 # {trace="x"} 7', 1),
        ('{"m"} 1', 1),
        ('{"m",a="b"} 1', 1),
        ('{ "m" , "dotted.label"="b"} 1', 1),
        ("m 1\r", 1),
    ],
)
def test_each_way_to_write_a_sample_is_read(line: str, expected: float) -> None:
    assert read(f"other 5\n{line}\nother 6", "m") == Value(expected)


@pytest.mark.parametrize(
    "line", ["m_total 1", "other_m 1", "m:x 1", "m.x 1", "# m 1", '{"m.x"} 1', "other 1 m 1", 'other{a="\\nm 1"} 2']
)
def test_a_line_of_another_metric_is_not_taken_for_ours(line: str) -> None:
    assert reason(read(line, "m")) == "Empty"


@pytest.mark.parametrize(
    "line", ["m", "m{", "m{} ", "m x", 'm{a="b} 1', "m{a=b} 1", 'm{a="b"c="d"} 1', "m 1_000", 'm{"a"} 1', "m{a} 1"]
)
def test_a_malformed_line_makes_its_metric_unknown_and_says_where(line: str) -> None:
    found = read(f"good 1\n{line}\nm 1\n", "m")
    assert reason(found) == "Malformed"
    assert isinstance(found, Unknown)
    assert "line 2" in found.message
    assert read(f"good 1\n{line}\nm 1\n", "good") == Value(1)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_what_is_no_number_is_unknown(value: str) -> None:
    assert reason(read(f"m {value}\n", "m")) == "NotANumber"


@pytest.mark.parametrize("text", ["", "\n", "<html>no metrics here</html>", VLLM])
def test_a_page_without_the_metric_is_unknown_and_not_zero(text: str) -> None:
    assert reason(read(text, "m")) == "Empty"


def test_a_label_that_nothing_has_is_named_as_the_reason() -> None:
    found = read(VLLM, "vllm:num_requests_running", Matcher("engine", ("7",)))
    assert isinstance(found, Unknown)
    assert "labels" in found.message


@given(
    st.dictionaries(st.from_regex("[a-z]{1,4}", fullmatch=True), st.text(st.characters(exclude_categories=["Cs"]))),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_what_the_prometheus_client_writes_is_read_back(labels: dict[str, str], value: float) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("vllm:running", "With: all {sorts} of\nhelp.", list(labels), registry=registry)
    (gauge.labels(*labels.values()) if labels else gauge).set(value)
    matchers = [Matcher(name, (text,)) for name, text in labels.items()]

    assert read(generate_latest(registry).decode(), "vllm:running", *matchers) == Value(value)


def test_counters_and_histograms_have_the_names_they_are_served_under() -> None:
    registry = CollectorRegistry()
    Counter("requests", "", ["code"], registry=registry).labels("200").inc(3)
    Histogram("latency", "", registry=registry, buckets=(1, 2)).observe(1.5)
    text = generate_latest(registry).decode()

    assert read(text, "requests_total") == Value(3)
    assert read(text, "latency_bucket", Matcher("le", ("2.0",))) == Value(1)
    assert read(text, "latency_sum") == Value(1.5)


LINES = st.lists(st.text('m{}"\\=,a1 \t#.\n', max_size=12), max_size=6).map("\n".join)


@given(LINES)
def test_no_page_whatever_raises_and_what_prometheus_reads_we_read_alike(text: str) -> None:
    found = read(text, "m")
    try:
        families = list(text_string_to_metric_families(text))
    except (ValueError, IndexError):
        return
    values = [sample.value for family in families for sample in family.samples if sample.name == "m"]
    if isinstance(found, Value) and values:
        assert math.isclose(found.value, sum(values))


def test_a_page_of_nothing_but_openings_takes_no_longer_than_it_is_long() -> None:
    hostile = "m{" + 'a="' * 50_000 + "\n" + "m{" + "a" * 100_000 + "\n" + 'm{a="b",' * 20_000
    assert reason(read(hostile, "m")) == "Malformed"
