"""What replicas tell each other: the text, its bounds, and what happened between two reports."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.peers import REJECTED_MAX, TEXT_MAX, PeerReport, difference, from_text, moved_ports, to_text
from xds.events import BackendLoad

A, B = "remote/a.example.com:443/1", "remote/b.example.com:443/2"

words = st.text(max_size=12)
counts = st.integers(0, 10**6)
ports = st.frozensets(st.integers(1, 40) | st.integers(65_500, 65_535), max_size=30)
loads = st.dictionaries(words, st.tuples(counts, counts), max_size=6)
reports = st.builds(
    PeerReport,
    words,
    st.dictionaries(words, ports, max_size=4),
    st.dictionaries(words, words, max_size=REJECTED_MAX),
    loads,
    st.frozensets(words, max_size=2),
)


def size(report: PeerReport) -> int:
    return len(to_text(report).encode())


# The text


def test_a_report_is_short_and_can_be_read_by_people() -> None:
    report = PeerReport(
        "run-1",
        {"envoy-b": frozenset(), "envoy-a": frozenset({20_107, *range(20_000, 20_106)})},
        {"shop/llama": "envoy-a: no such thing"},
        {A: (10, 2)},
    )
    assert json.loads(to_text(report)) == {
        "run": "run-1",
        "gateways": {"envoy-a": "20000-20105,20107", "envoy-b": ""},
        "rejected": {"shop/llama": "envoy-a: no such thing"},
        "loads": {A: [10, 2]},
    }


def test_reports_that_say_the_same_are_the_same_text() -> None:
    one = PeerReport("", {"a": frozenset({1}), "b": frozenset()}, {"x": "1", "y": "2"}, {A: (1, 0), B: (1, 0)})
    other = PeerReport("", {"b": frozenset(), "a": frozenset({1})}, {"y": "2", "x": "1"}, {B: (1, 0), A: (1, 0)})
    assert to_text(one) == to_text(other)


@given(reports)
def test_what_is_read_is_what_was_written(report: PeerReport) -> None:
    assert from_text(to_text(report)) == report


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_nothing_that_is_read_raises(text: str) -> None:
    assert isinstance(from_text(text), PeerReport | None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"run": 1}',
        '{"gateways": ["a"]}',
        '{"gateways": {"a": 20000}}',
        '{"gateways": {"a": "x"}}',
        '{"gateways": {"a": "1,,2"}}',
        '{"gateways": {"a": "2-1"}}',
        '{"gateways": {"a": "0"}}',
        '{"gateways": {"a": "65536"}}',
        '{"gateways": {"a": "1-99999999999999"}}',
        '{"gateways": {"a": "1-5,5-9"}}',
        '{"loads": {"a": [1]}}',
        '{"loads": {"a": [1, -1]}}',
        '{"loads": {"a": [0.5, 1]}}',
        '{"more": ' + 100_000 * "[",
    ],
)
def test_what_no_replica_can_have_written_is_no_report(text: str) -> None:
    assert from_text(text) is None


def test_what_a_later_version_may_add_is_passed_by() -> None:
    assert from_text('{"run": "1", "mood": {"good": true}}') == PeerReport("1")


# Its bounds


def test_a_report_of_two_thousand_models_is_whole() -> None:
    listening = frozenset(range(20_000, 22_000))
    report = PeerReport(
        "run",
        {f"envoy-7c9f8b6d5-{number:05}": listening for number in range(50)},
        {},
        {f"remote/llm-{number}.example.com:443/0f1e2d3c": (10**6, 10**4) for number in range(2_000)},
    )
    assert from_text(to_text(report)) == report


def test_of_many_refusals_some_are_told() -> None:
    report = PeerReport(rejected={f"shop/model-{number:03}": "no" for number in range(100)})
    told = from_text(to_text(report))
    assert told is not None
    assert list(told.rejected) == [f"shop/model-{number:03}" for number in range(REJECTED_MAX)]
    assert told.cut == {"rejected"}


def test_of_too_many_remotes_those_that_are_used_most_are_told() -> None:
    report = PeerReport("run", {"envoy": frozenset({1})}, {"a": "b"}, {f"{n:0100}": (n, 0) for n in range(2_000)})
    told = from_text(to_text(report))
    assert told is not None
    assert size(report) <= TEXT_MAX
    assert told == replace(report, loads=told.loads, cut=frozenset({"loads"}))
    assert set(told.loads) == {f"{n:0100}" for n in range(2_000 - len(told.loads), 2_000)}
    assert len(told.loads) >= 500


def test_gateways_are_told_before_all_else() -> None:
    odd = frozenset(range(1, 30_000, 2))
    report = PeerReport("run", {"envoy": odd}, {"a": 100_000 * "b"}, {A: (1, 1)})
    told = from_text(to_text(report))
    assert told == PeerReport("run", {"envoy": odd}, cut=frozenset({"loads", "rejected"}))


@given(st.integers(0, 30), st.integers(0, 20_000), st.integers(0, 300))
def test_a_report_is_never_too_long(gateways: int, length: int, remotes: int) -> None:
    report = PeerReport(
        "run",
        {f"envoy-{n}": frozenset(range(1, length, 2)) for n in range(gateways)},
        {f"model-{n}": length * "é" for n in range(25)},
        {f"{n}" + length * "x": (n, n) for n in range(remotes)},
    )
    assert size(report) <= TEXT_MAX
    told = from_text(to_text(report))
    assert told is not None
    for name in ("gateways", "rejected", "loads"):
        assert (getattr(told, name) == getattr(report, name)) == (name not in told.cut)
        assert getattr(told, name).items() <= getattr(report, name).items()


# Between two reports


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, PeerReport("1", loads={A: (5, 5)}), ()),
        (PeerReport("1"), PeerReport("1"), ()),
        (PeerReport("1", loads={A: (5, 5)}), PeerReport("1", loads={A: (5, 5)}), ()),
        (PeerReport("1", loads={A: (5, 5)}), PeerReport("1", loads={A: (6, 9)}), (BackendLoad(A, 1, 4),)),
        (PeerReport("1"), PeerReport("1", loads={A: (5, 5)}), (BackendLoad(A, 5, 5),)),
        (PeerReport("1", loads={A: (5, 5)}), PeerReport("1"), ()),
        (PeerReport("1", loads={A: (5, 5)}), PeerReport("2", loads={A: (6, 6)}), (BackendLoad(A, 6, 6),)),
        (PeerReport("1", loads={A: (5, 5)}), PeerReport("1", loads={A: (1, 6)}), (BackendLoad(A, 1, 6),)),
        (PeerReport("1", loads={A: (5, 5)}), PeerReport("1", loads={A: (6, 1)}), (BackendLoad(A, 6, 1),)),
        (PeerReport("1", cut=frozenset({"loads"})), PeerReport("1", loads={A: (5, 5)}), ()),
        (PeerReport("1", cut=frozenset({"loads"})), PeerReport("2", loads={A: (5, 5)}), (BackendLoad(A, 5, 5),)),
        (
            PeerReport("1", loads={A: (5, 5)}, cut=frozenset({"loads"})),
            PeerReport("1", loads={A: (5, 6), B: (9, 9)}),
            (BackendLoad(A, 0, 1),),
        ),
    ],
)
def test_the_difference(before: PeerReport | None, after: PeerReport, expected: tuple[BackendLoad, ...]) -> None:
    assert difference(before, after) == expected


@given(st.lists(st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 9), st.integers(0, 9)), max_size=4)))
def test_whatever_reports_are_missed_the_differences_add_up(steps: list[list[tuple[str, int, int]]]) -> None:
    """`steps`: the requests between two reports. Each second report is never read."""
    total: dict[str, tuple[int, int]] = {}
    heard: dict[str, tuple[int, int]] = {}
    before = PeerReport("1")
    for number, step in enumerate(steps):
        for cluster, succeeded, failed in step:
            past = total.get(cluster, (0, 0))
            total[cluster] = past[0] + succeeded, past[1] + failed
        if number % 2 == 0 or number == len(steps) - 1:
            after = PeerReport("1", loads=dict(total))
            for load in difference(before, after):
                past = heard.get(load.cluster, (0, 0))
                heard[load.cluster] = past[0] + load.succeeded, past[1] + load.failed
            before = after
    assert heard == {cluster: count for cluster, count in total.items() if count != (0, 0)}


def test_ports_at_which_something_changed() -> None:
    before = PeerReport(gateways={"a": frozenset({1, 2}), "gone": frozenset({7}), "same": frozenset({9})})
    after = PeerReport(gateways={"a": frozenset({2, 3}), "new": frozenset({8}), "same": frozenset({9})})
    assert moved_ports(before, after) == {1, 3, 7, 8}
