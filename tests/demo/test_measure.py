"""What a run comes to."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.demo.frame import event_text, frame_of, progress_text, share_per_second, summary_text, tells_apart
from controller.demo.measure import (
    Departure,
    Moment,
    Outcome,
    Summary,
    departure_of,
    moment_of,
    overflows,
    per_second,
    percentile,
    summarize,
)
from controller.demo.scenario import LONG
from controller.simulate.workload import Arrival


def outcome(at_s: float = 0.0, wait_s: float | None = 0.1, **changes: Any) -> Outcome:
    first_s = None if wait_s is None else at_s + wait_s
    seen = Outcome(Arrival(at_s, 10, 10), at_s, first_s, at_s + 1, 200, "local")
    return replace(seen, **changes)


def moment(at_s: float, state: str = "Standby", share_ppm: int = 0, reason: str = "BelowTarget") -> Moment:
    return Moment(at_s, state, share_ppm, reason, "In words.")


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(1, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], percent: float) -> None:
    found = percentile(values, percent)

    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-9
    assert sum(value < found for value in values) < len(values) * percent / 100


def test_the_percentile_of_nothing_is_nothing() -> None:
    assert percentile([], 99) == 0.0


def test_seconds_are_counted_up_to_the_end() -> None:
    assert per_second([0.0, 0.9, 2.1, 7.0], until_s=3.5) == [2, 0, 1, 0]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"destination": "local", "errors": None}, None),
        ({"destination": None}, None),
        ({"destination": "remote-0", "errors": None}, Departure.OFFLOAD),
        ({"destination": "remote-0", "errors": {"local": "UO upstream_reset"}}, Departure.SPILL),
        ({"destination": "remote-0", "errors": {"local": "UF connection_failure"}}, Departure.FAILOVER),
        ({"destination": "remote-0", "errors": {"local": "429"}}, Departure.FAILOVER),
        ({"destination": "remote-1", "errors": {"remote-0": "UF connection_failure"}}, Departure.OFFLOAD),
    ],
)
def test_the_access_log_tells_why_a_request_went_remote(entry: dict[str, Any], why: Departure | None) -> None:
    assert departure_of(json.dumps(entry)) is why


def test_half_a_line_of_the_access_log_is_not_counted() -> None:
    assert departure_of('{"destination": "remo') is None


def test_a_moment_is_read_from_the_status() -> None:
    status = {
        "models": [
            {
                "key": "demo/chat",
                "state": "Overflowing",
                "share_ppm": 250_000,
                "reason": "ThresholdReached",
                "message": "Full.",
                "metrics": [{"value": 14.0, "target": 12.0}],
                "remotes": [{"ready": True}],
            }
        ]
    }

    assert moment_of(status, 3.0) == Moment(3.0, "Overflowing", 250_000, "ThresholdReached", "Full.", 14.0, 12.0)


@pytest.mark.parametrize("status", [{}, {"models": []}, {"models": None}])
def test_without_a_model_there_is_no_moment(status: dict[str, Any]) -> None:
    assert moment_of(status, 0.0) is None


def test_a_model_that_was_never_usable_is_a_moment_too() -> None:
    assert moment_of({"models": [{"state": None, "share_ppm": 0}]}, 0.0) == Moment(
        0.0, "", 0, "", "", obstacle="it is not known"
    )


def test_overflows_are_counted_by_leaving_standby() -> None:
    states = ["Standby", "Overflowing", "Overflowing", "Failover", "Standby", "Overflowing"]

    assert overflows([moment(at_s, state) for at_s, state in enumerate(states)]) == 2
    assert overflows([moment(0, "Overflowing")]) == 1
    assert overflows([]) == 0


def summary_of(outcomes: list[Outcome], moments: list[Moment]) -> Summary:
    return summarize(outcomes, moments, [Departure.SPILL], [0.1, 5.0], slow_s=0.5, overflows_wanted=1)


def test_a_good_run_has_no_failures() -> None:
    moments = [moment(0, "Overflowing"), moment(1)]
    summary = summary_of([outcome(), outcome(1.0, 0.7, destination="remote-0")], moments)

    assert (summary.requests, summary.local, summary.remote, dict(summary.errors)) == (2, 1, 1, {})
    assert (summary.waits.slow, summary.without.slow, summary.without.p99_s) == (1, 1, 5.0)
    assert summary.failures == []
    assert "FAILED" not in summary_text(summary, LONG)


def test_a_run_that_went_wrong_says_everything_that_did() -> None:
    broken = outcome(error="the stream broke off")
    summary = summary_of([broken, broken], [moment(0, "Failover")] * 2)

    assert summary.failures == [
        "2 client errors: the stream broke off",
        "no request went remote",
        "the model is in state Failover at the end, not in Standby",
    ]
    assert summary_text(summary, LONG).count("FAILED: ") == 3
    assert "local overflowed 0 times instead of 1" in summary_of([], [moment(0)]).failures


def test_a_wait_counts_from_when_the_request_was_meant_to_be_sent() -> None:
    assert outcome(2.0, sent_s=2.5, first_byte_s=3.0).wait_s == 1.0
    assert outcome(wait_s=None).wait_s is None


def test_a_frame_has_a_value_for_each_second_so_far() -> None:
    outcomes = [outcome(0.2), outcome(1.2, destination="remote-0"), outcome(1.3), outcome(1.4, error="status 500")]
    moments = [moment(0.5, "Overflowing", 300_000), moment(1.5, "Overflowing", 600_000)]

    frame = frame_of(outcomes, moments, in_flight=4, at_s=2.6)

    assert (frame.local, frame.remote, frame.shares) == ([1, 1, 0], [0, 1, 0], [0.3, 0.6, 0.6])
    assert (frame.local_total, frame.remote_total, frame.errors, frame.in_flight) == (2, 1, 1, 4)
    assert frame.local_per_s == 1.0
    assert "local 2 (1.0/s), remote 1 (0.5/s), errors 1" in progress_text(frame)


def test_a_frame_before_anything_happened_is_empty_and_can_be_told() -> None:
    frame = frame_of([], [], in_flight=0, at_s=0.0)

    assert (frame.moment, frame.local, frame.shares, frame.local_per_s) == (None, [], [], 0.0)
    assert "unknown" in progress_text(frame)
    assert share_per_second([], 2) == [0.0, 0.0]


def test_a_new_state_or_reason_is_an_event_and_another_share_is_not() -> None:
    calm = moment(0)

    assert tells_apart(None, calm)
    assert tells_apart(calm, moment(1, reason="Activating"))
    assert not tells_apart(calm, replace(calm, share_ppm=1, at_s=2))
    assert event_text(moment(3.2, "Overflowing", 250_000, "ThresholdReached")) == (
        "  3.2 s  Overflowing, 25% remote  ThresholdReached: In words."
    )
