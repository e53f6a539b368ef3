"""The HorizontalPodAutoscaler's arithmetic, in tables. Its own answers stand beside ours in tests/cluster."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.kube_metrics import (
    CPU_INITIALIZATION_S,
    INITIAL_READINESS_S,
    STALE_S,
    Pod,
    Sample,
    Usage,
    read_pods,
    read_resource,
    read_sum,
)
from controller.metric_spec import MetricTarget
from controller.metrics import PodsQuery, Reading, ResourceQuery, Unknown, Value

NOW = 1_700_000_000.0
HOUR_S = 3_600.0


def utilization(percent: int, resource: str = "cpu", container: str | None = None) -> ResourceQuery:
    target = MetricTarget(type="Utilization", average_utilization=percent)
    return ResourceQuery("prod", "app=llama", resource, container, target)


def average(value: str, resource: str = "cpu") -> ResourceQuery:
    target = MetricTarget.model_validate({"type": "AverageValue", "averageValue": value})
    return ResourceQuery("prod", "app=llama", resource, None, target)


def pods_query(value: str) -> PodsQuery:
    target = MetricTarget.model_validate({"type": "AverageValue", "averageValue": value})
    return PodsQuery("prod", "app=llama", "running", "", target)


def pod(name: str, request: str | None = "1", **fields: Any) -> Pod:
    """A pod that has been ready for an hour."""
    containers = {"main": {"cpu": request, "memory": request} if request else {}}
    ready = {"started_at_s": NOW - HOUR_S, "ready": "True", "ready_since_s": NOW - HOUR_S}
    return Pod(name, **{"containers": containers, **ready, **fields})


def usage(name: str, *values: str, at_s: float | None = NOW, window_s: float = 30.0) -> dict[str, Usage]:
    """Of a pod whose containers are `main` and `side`, by the pod's name."""
    containers = dict(zip(("main", "side"), ({"cpu": value, "memory": value} for value in values), strict=False))
    return {name: Usage(containers, at_s, window_s)}


def usages_of(values: Iterable[str]) -> dict[str, Usage]:
    """Of pods p0, p1 ..., with one container each."""
    return {name: each for index, value in enumerate(values) for name, each in usage(f"p{index}", value).items()}


def unknown(reading: Reading) -> str:
    assert isinstance(reading, Unknown), reading
    assert reading.message
    return reading.reason


def known(reading: Reading) -> tuple[float, float]:
    """(value, ratio), rounded."""
    assert isinstance(reading, Value), reading
    assert reading.ratio is not None
    return round(reading.value, 6), round(reading.ratio, 6)


# All pods measured


@pytest.mark.parametrize(
    ("percent", "requests", "used", "expected"),
    [
        (50, ["1", "1"], ["500m", "500m"], (50, 1.0)),
        (50, ["1", "1"], ["730m", "730m"], (73, 1.46)),
        (80, ["1", "3"], ["1", "0"], (25, 0.3125)),
        (80, ["100m", "100m"], ["90m", "70m"], (80, 1.0)),
        (80, ["500m"], ["1500m"], (300, 3.75)),
        (150, ["1"], ["1200m"], (120, 0.8)),
        (80, ["1"], ["0"], (0, 0.0)),
        (80, ["1"], ["799999999n"], (79.9999999, 0.99999999875)),
        (50, ["1Gi"], ["512Mi"], (50, 1.0)),
    ],
)
def test_defect_13_utilization_is_what_all_use_in_percent_of_what_all_request(
    percent: int, requests: list[str], used: list[str], expected: tuple[float, float]
) -> None:
    pods = [pod(f"p{number}", request) for number, request in enumerate(requests)]
    usages = usages_of(used)

    value, share = known(read_resource(utilization(percent), pods, usages, NOW))
    assert (value, share) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("target", "used", "expected"),
    [
        ("500m", ["250m", "750m"], (0.5, 1.0)),
        ("500m", ["1", "1", "1"], (1, 2.0)),
        ("1Gi", ["512Mi", "512Mi"], (2**29, 0.5)),
        ("500m", ["1000000n"], (0.001, 0.002)),
        ("100M", ["250M", "350M"], (300e6, 3.0)),
    ],
)
def test_defect_13_an_average_is_divided_by_the_pods_once(
    target: str, used: list[str], expected: tuple[float, float]
) -> None:
    pods = [pod(f"p{number}", request=None) for number in range(len(used))]
    usages = usages_of(used)

    assert known(read_resource(average(target), pods, usages, NOW)) == expected


@pytest.mark.parametrize(
    ("target", "values", "expected"), [("10", [8, 12], (10, 1.0)), ("500m", [1, 2], (1.5, 3.0)), ("4", [0], (0, 0.0))]
)
def test_a_pods_metric_is_the_average_over_the_pods(
    target: str, values: list[int], expected: tuple[float, float]
) -> None:
    pods = [pod(f"p{number}") for number in range(len(values))]
    samples = {f"p{number}": Sample(Fraction(value), NOW) for number, value in enumerate(values)}

    assert known(read_pods(pods_query(target), pods, samples, NOW)) == expected


def test_all_containers_of_a_pod_add_up_sidecars_too() -> None:
    both = pod("p", containers={"main": {"cpu": "1"}, "side": {"cpu": "500m"}})
    assert known(read_resource(utilization(50), [both], usage("p", "600m", "150m"), NOW)) == (50, 1.0)


@pytest.mark.parametrize(("container", "expected"), [("main", (60, 0.75)), ("side", (30, 0.375))])
def test_defect_13_of_a_container_resource_only_the_container_counts(
    container: str, expected: tuple[float, float]
) -> None:
    both = pod("p", containers={"main": {"cpu": "1"}, "side": {"cpu": "500m"}})
    query = utilization(80, container=container)
    assert known(read_resource(query, [both], usage("p", "600m", "150m"), NOW)) == expected


def test_what_a_pod_requests_as_a_whole_counts_for_the_pod_but_not_for_a_container() -> None:
    whole = pod("p", requests={"cpu": "2"})
    assert known(read_resource(utilization(50), [whole], usage("p", "1"), NOW)) == (50, 1.0)
    assert known(read_resource(utilization(50, container="main"), [whole], usage("p", "1"), NOW)) == (100, 2.0)


def test_usage_of_pods_that_are_not_the_workloads_does_not_count() -> None:
    usages = usage("p", "500m") | usage("stranger", "100")
    for query, expected in ((utilization(50), (50, 1.0)), (average("500m"), (0.5, 1.0))):
        assert known(read_resource(query, [pod("p")], usages, NOW)) == expected


# Pods that do not count


OUT_OF_COUNT = {
    "deleted": pod("x", is_deleted=True),
    "failed": pod("x", phase="Failed", ready="False"),
    "pending": pod("x", phase="Pending", ready="False"),
}


@pytest.mark.parametrize("out", OUT_OF_COUNT.values(), ids=OUT_OF_COUNT)
@pytest.mark.parametrize("used", ["200m", "900m"])
@pytest.mark.parametrize("resource", ["cpu", "memory"])
def test_pods_that_are_deleted_or_failed_or_pending_do_not_count_either_way(out: Pod, used: str, resource: str) -> None:
    query = utilization(50, resource)
    with_it = read_resource(query, [pod("p"), out], usage("p", used) | usage("x", "5"), NOW)
    assert with_it == read_resource(query, [pod("p")], usage("p", used), NOW)


@pytest.mark.parametrize("out", OUT_OF_COUNT.values(), ids=OUT_OF_COUNT)
def test_a_pod_that_does_not_count_needs_no_request(out: Pod) -> None:
    without = replace(out, containers={"main": {}})
    assert known(read_resource(utilization(50), [pod("p"), without], usage("p", "500m"), NOW)) == (50, 1.0)


@pytest.mark.parametrize("used", ["200m", "900m"])
def test_a_pod_that_takes_no_requests_and_has_no_sample_is_no_excuse(used: str) -> None:
    """A pod that crashes under load is why requests should leave, not why they should stay."""
    crashing = pod("x", ready="False", ready_since_s=NOW - 10)
    with_it = read_resource(utilization(50), [pod("p"), crashing], usage("p", used), NOW)
    assert with_it == read_resource(utilization(50), [pod("p")], usage("p", used), NOW)


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({"started_at_s": None}, False),
        ({"ready": ""}, False),
        ({"ready": "False"}, True),
        ({"ready": "False", "started_at_s": NOW - HOUR_S, "ready_since_s": NOW - HOUR_S + 1}, False),
        ({"ready": "False", "ready_since_s": NOW - HOUR_S + INITIAL_READINESS_S}, True),
        ({"ready": "Unknown", "ready_since_s": NOW - HOUR_S + 1}, True),
        ({"started_at_s": NOW - 60, "ready": "False", "ready_since_s": NOW - 10}, False),
        ({"started_at_s": NOW - 60, "ready_since_s": NOW - 20}, False),
        ({"started_at_s": NOW - 60, "ready_since_s": NOW - 30}, True),
        ({"started_at_s": NOW - CPU_INITIALIZATION_S, "ready_since_s": NOW - 20}, True),
    ],
)
def test_the_cpu_of_a_pod_counts_once_it_has_started(fields: dict[str, Any], counts: bool) -> None:
    starting = pod("x", **{"ready_since_s": NOW - 60, **fields})
    pods, usages = [pod("p"), starting], usage("p", "100m") | usage("x", "900m", window_s=30)

    assert known(read_resource(utilization(50), pods, usages, NOW))[0] == (50 if counts else 10)


def test_memory_counts_from_the_first_sample_on() -> None:
    starting = pod("x", started_at_s=NOW - 5, ready="False", ready_since_s=NOW - 5)
    pods, usages = [pod("p"), starting], usage("p", "100m") | usage("x", "900m")

    assert known(read_resource(utilization(50, "memory"), pods, usages, NOW))[0] == 50


def test_a_sample_without_a_time_does_not_count_for_a_pod_that_starts() -> None:
    starting = pod("x", started_at_s=NOW - 60, ready_since_s=NOW - 50)
    usages = usage("p", "100m") | usage("x", "900m", at_s=None)
    found = read_resource(utilization(50), [pod("p"), starting], usages, NOW)
    assert known(found)[0] == 10


# Ready pods without a sample


@pytest.mark.parametrize(
    ("query", "used", "expected"),
    [
        (utilization(50), "1500m", (150, 1.5)),  # idle: 1500m of 2
        (utilization(50), "1", (100, 1.0)),
        (utilization(50), "999m", None),  # 1.998 alone, 0.999 if the other is idle
        (utilization(50), "500m", None),
        (utilization(80), "100m", (10, 0.6875)),  # the other at 100 %: 1100m of 2
        (utilization(80), "599m", (59.9, 0.999375)),
        (utilization(80), "700m", None),
        (utilization(200), "1", (100, 0.75)),  # the other at its target: 3 of 2
        (utilization(200), "1999m", (199.9, 0.99975)),
        (average("500m"), "1500m", (1.5, 1.5)),
        (average("500m"), "999m", None),
        (average("500m"), "100m", (0.1, 0.6)),
        (average("500m"), "499m", (0.499, 0.999)),
    ],
)
def test_a_ready_pod_without_a_sample_speaks_against_moving_traffic(
    query: ResourceQuery, used: str, expected: tuple[float, float] | None
) -> None:
    found = read_resource(query, [pod("p"), pod("x")], usage("p", used), NOW)
    if expected is None:
        assert unknown(found) == "PodsWithoutSample"
    else:
        assert known(found) == pytest.approx((expected[0], expected[1]))


def test_what_is_missing_is_said_in_numbers() -> None:
    found = read_resource(utilization(50), [pod("p"), pod("x")], usage("p", "600m"), NOW)
    assert isinstance(found, Unknown)
    assert "1 of 2 pods have no sample" in found.message
    assert "120% of the target without them, 60%" in found.message


@pytest.mark.parametrize(
    "partial", [{"x": Usage({})}, {"x": Usage({"main": {"memory": "1"}})}, usage("x", "1", at_s=NOW - STALE_S - 1)]
)
def test_a_sample_that_is_empty_or_in_part_or_old_is_missing(partial: dict[str, Usage]) -> None:
    found = read_resource(utilization(80), [pod("p"), pod("x")], usage("p", "100m") | partial, NOW)
    assert known(found) == (10, 0.6875)


def test_a_container_that_a_pod_does_not_have_requests_nothing() -> None:
    other = pod("x", containers={"other": {}})
    found = read_resource(utilization(80, container="main"), [pod("p"), other], usage("p", "400m"), NOW)
    assert known(found) == (40, 0.5)


def test_a_pods_metric_has_the_same_caution() -> None:
    pods = [pod("p"), pod("x")]
    assert known(read_pods(pods_query("10"), pods, {"p": Sample(Fraction(30), NOW)}, NOW)) == (30, 1.5)
    assert known(read_pods(pods_query("10"), pods, {"p": Sample(Fraction(2), NOW)}, NOW)) == (2, 0.6)
    assert unknown(read_pods(pods_query("10"), pods, {"p": Sample(Fraction(15), NOW)}, NOW)) == "PodsWithoutSample"


# What cannot be known


def test_defect_13_a_pod_without_requests_is_named_and_crashes_nothing() -> None:
    sidecar = pod("p2", containers={"main": {"cpu": "1"}, "logger": {"memory": "1Gi"}})
    found = read_resource(utilization(50), [pod("p1"), sidecar], usage("p1", "1") | usage("p2", "1", "1"), NOW)

    assert unknown(found) == "NoRequest"
    assert isinstance(found, Unknown)
    assert "container logger of pod p2 requests no cpu" in found.message


def test_a_ready_pod_without_a_sample_needs_a_request_too() -> None:
    assert unknown(read_resource(utilization(50), [pod("p"), pod("x", None)], usage("p", "1"), NOW)) == "NoRequest"


def test_requests_of_nothing_are_nothing_to_compare_with() -> None:
    assert unknown(read_resource(utilization(50), [pod("p", "0")], usage("p", "1"), NOW)) == "NoRequest"


@pytest.mark.parametrize(
    ("pods", "expected"),
    [([], "NoPods"), ([pod("p")], "NoSamples"), (list(OUT_OF_COUNT.values()), "NoSamples")],
)
def test_without_a_measured_pod_nothing_is_known(pods: list[Pod], expected: str) -> None:
    assert unknown(read_resource(utilization(50), pods, {}, NOW)) == expected
    assert unknown(read_resource(average("1"), pods, {}, NOW)) == expected
    assert unknown(read_pods(pods_query("1"), pods, {}, NOW)) == expected


def test_a_number_beyond_all_numbers_is_unknown_and_crashes_nothing() -> None:
    huge = read_resource(average("1e-300"), [pod("p")], usage("p", "1e300"), NOW)
    assert unknown(huge) == "NotANumber"


def test_what_is_no_quantity_is_unknown_and_not_repeated() -> None:
    found = read_resource(utilization(50), [pod("p")], usage("p", "much"), NOW)
    assert unknown(found) == "BadAnswer"
    assert isinstance(found, Unknown)
    assert "much" not in found.message.split()


# Sums


def test_the_series_of_an_external_metric_add_up() -> None:
    assert read_sum([Sample(Fraction(1, 2), NOW), Sample(Fraction(3), None)], NOW) == Value(3.5)


def test_a_sum_of_nothing_is_not_zero() -> None:
    assert unknown(read_sum([], NOW)) == "Empty"


def test_a_sum_with_an_old_part_is_unknown_and_says_how_old() -> None:
    fresh, old = Sample(Fraction(1), NOW), Sample(Fraction(1), NOW - STALE_S - 100)
    found = read_sum([fresh, old], NOW)
    assert unknown(found) == "Stale"
    assert isinstance(found, Unknown)
    assert "400 s ago" in found.message
    assert read_sum([replace(old, at_s=NOW - STALE_S)], NOW) == Value(1)


# Properties

MILLIS = st.integers(0, 4000)
FLEET = st.lists(st.tuples(st.integers(1, 4000), MILLIS), min_size=1, max_size=6)


def fleet_of(numbers: list[tuple[int, int]]) -> tuple[list[Pod], dict[str, Usage]]:
    pods = [pod(f"p{index}", f"{request}m") for index, (request, _) in enumerate(numbers)]
    return pods, usages_of(f"{used}m" for _, used in numbers)


@given(FLEET, st.integers(1, 300))
def test_the_target_is_reached_exactly_where_the_hpa_sees_it_reached(
    fleet: list[tuple[int, int]], percent: int
) -> None:
    pods, usages = fleet_of(fleet)
    requested, used = (sum(column) for column in zip(*fleet, strict=True))
    reached = used * 100 // requested >= percent

    found = read_resource(utilization(percent), pods, usages, NOW)
    assert isinstance(found, Value)
    assert found.ratio is not None
    assert (found.ratio >= 1) is reached


@given(FLEET, st.integers(1, 300), st.lists(st.integers(1, 4000), max_size=4))
def test_pods_without_a_sample_never_carry_a_metric_across_its_target(
    fleet: list[tuple[int, int]], percent: int, missing: list[int]
) -> None:
    pods, usages = fleet_of(fleet)
    silent = [pod(f"silent{index}", f"{request}m") for index, request in enumerate(missing)]
    alone = read_resource(utilization(percent), pods, usages, NOW)
    cautious = read_resource(utilization(percent), pods + silent, usages, NOW)

    assert isinstance(alone, Value)
    if isinstance(cautious, Value):
        assert alone.ratio is not None
        assert cautious.ratio is not None
        assert cautious.value == alone.value
        assert 1 <= cautious.ratio <= alone.ratio or alone.ratio <= cautious.ratio < 1


QUANTITY = st.one_of(st.sampled_from(["1", "500m", "", "x", "1e999", "-1", "0"]), st.text(max_size=4))
RESOURCES = st.dictionaries(st.sampled_from(["cpu", "memory"]), QUANTITY)
CONTAINERS = st.dictionaries(st.sampled_from(["main", "side"]), RESOURCES, max_size=2)
ANY_POD = st.builds(
    Pod,
    st.sampled_from("abc"),
    st.sampled_from(["Running", "Pending", "Failed", "Succeeded", "Unknown", ""]),
    st.booleans(),
    st.none() | st.floats(0, NOW),
    st.sampled_from(["", "True", "False", "Unknown"]),
    st.floats(0, NOW),
    CONTAINERS,
    RESOURCES,
)
ANY_USAGE = st.builds(Usage, CONTAINERS, st.none() | st.floats(0, NOW), st.floats(0, 100))
ANY_QUERY = st.sampled_from(
    [utilization(50), utilization(200, "memory"), utilization(50, container="main"), average("1"), average("1", "gpu")]
)


@given(ANY_QUERY, st.lists(ANY_POD, max_size=4), st.dictionaries(st.sampled_from("abcd"), ANY_USAGE))
def test_defect_13_no_pod_whatever_crashes_the_controller(
    query: ResourceQuery, pods: list[Pod], usages: dict[str, Usage]
) -> None:
    assert isinstance(read_resource(query, pods, usages, NOW), Value | Unknown)
