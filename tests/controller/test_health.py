"""When a remote is unhealthy, for how long it rests, and what the engine makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.health import Health, HealthPolicy, RemoteHealth, hear
from controller.offload import PPM, State
from tests.controller.manifests import OAUTH, endpoint_slice, model, secret, service
from tests.controller.test_engine import deliver, world
from tests.controller.world import KEY, World
from xds import ir
from xds.events import BackendLoad, LoadReported
from xds.translate import backend_cluster_name

POLICY = HealthPolicy()
TWO = [{"name": "a", "host": "a.example.com"}, {"name": "b", "host": "b.example.com"}]

Report = tuple[float, int, int]
"""Seconds since the one before, succeeded, failed."""

gaps = st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0, 30.0, 60.0])
reports = st.lists(st.tuples(gaps, st.integers(0, 3), st.integers(0, 9)), max_size=40)
failures = st.lists(st.tuples(gaps, st.just(0), st.integers(1, 9)), min_size=1, max_size=40)


def after(told: list[Report], health: Health | None = None, start_s: float = 1_000) -> tuple[Health, float]:
    """What is known after these reports, and when that is."""
    health, now = health or Health(), start_s
    for gap_s, succeeded, failed in told:
        now += gap_s
        health = hear(POLICY, health, succeeded, failed, now)
    return health, now


# The rule


@pytest.mark.parametrize(
    ("told", "rests"),
    [
        ([(0, 0, 4)], False),
        ([(0, 0, 5)], True),
        ([(0, 0, 1)] + [(1, 0, 1)] * 4, True),
        ([(0, 0, 1)] + [(3, 0, 1)] * 20, False),
        ([(0, 1, 0), (1, 0, 100)], False),
        ([(0, 1, 0), (9, 0, 100)], False),
        ([(0, 1, 0), (9, 0, 100), (1, 0, 1)], True),
        ([(0, 1, 0), (10, 0, 5)], True),
        ([(0, 1, 100)], False),
        ([(0, 0, 0)] * 20, False),
    ],
)
def test_a_remote_is_unhealthy_when_all_of_at_least_five_requests_in_ten_seconds_failed(
    told: list[Report], rests: bool
) -> None:
    health, now = after(told)
    assert health.rests(now) == rests


def test_each_rest_is_twice_as_long_until_ten_minutes() -> None:
    health, now, rests = Health(), 1_000.0, []
    for _ in range(7):
        health = hear(POLICY, health, 0, 5, now)
        rests.append(health.rests_until_s - now)
        now = health.rests_until_s
    assert rests == [30, 60, 120, 240, 480, 600, 600]


def test_after_a_rest_it_takes_five_new_failures() -> None:
    health, now = after([(0, 0, 5), (29, 0, 50), (1, 0, 4)])
    assert not health.rests(now)
    health, now = after([(1, 0, 1)], health, now)
    assert health.rests(now)
    assert health.rest_s == 60


def test_one_success_ends_a_rest_and_its_doubling() -> None:
    health, now = after([(0, 0, 5), (30, 0, 5), (5, 1, 7)])
    assert not health.rests(now)
    health, now = after([(60, 0, 5)], health, now)
    assert health.rest_s == 30


@given(reports)
def test_a_report_of_nothing_changes_nothing(told: list[Report]) -> None:
    health, now = after(told)
    for later_s in (0, 5, 1_000):
        assert hear(POLICY, health, 0, 0, now + later_s) == health


@given(reports)
def test_only_failures_begin_a_rest_and_every_success_ends_it(told: list[Report]) -> None:
    health, now = Health(), 1_000.0
    for gap_s, succeeded, failed in told:
        now += gap_s
        before, health = health, hear(POLICY, health, succeeded, failed, now)
        if succeeded:
            assert not health.rests(now)
        elif health.rests(now) and not before.rests(now):
            assert failed
            assert health.failed >= POLICY.attempts
            assert POLICY.rest_s <= health.rest_s <= POLICY.max_rest_s


@given(reports)
def test_a_remote_that_worked_in_the_window_never_rests(told: list[Report]) -> None:
    health, now, worked_at_s = Health(), 1_000.0, -1_000.0
    for gap_s, succeeded, failed in told:
        now += gap_s
        health = hear(POLICY, health, succeeded, failed, now)
        worked_at_s = now if succeeded else worked_at_s
        assert now - worked_at_s >= POLICY.window_s or not health.rests(now)


@given(failures)
def test_the_rule_is_what_counting_all_reports_of_the_window_says(told: list[Report]) -> None:
    """Failures only, so the first rest begins where a plain count says; what is remembered stays small."""
    health, now, all_of_them = Health(), 1_000.0, list[tuple[float, int]]()
    for gap_s, _, failed in told:
        now += gap_s
        all_of_them.append((now, failed))
        health = hear(POLICY, health, 0, failed, now)
        assert len(health.failures) <= POLICY.attempts
        counted = sum(count for at_s, count in all_of_them if at_s >= now - POLICY.window_s)
        assert health.rests(now) == (counted >= POLICY.attempts)
        if health.rests(now):
            return


@given(reports)
def test_it_is_always_tried_again(told: list[Report]) -> None:
    health, now = after(told)
    assert not health.rests(now + POLICY.max_rest_s)


# Who uses which remote


def test_what_is_known_of_a_remote_is_dropped_with_its_last_user() -> None:
    known = RemoteHealth(POLICY)
    known.use("one", ["x"])
    known.use("two", ["x", "y"])
    assert known.hear([BackendLoad("x", 0, 5), BackendLoad("of-nobody", 0, 5)], 1_000) == {"one", "two"}
    known.use("one", ())
    assert known.obstacle("x", 1_000)
    known.use("two", ["y"])
    assert known.obstacle("x", 1_000) == ""
    known.use("two", ["x"])
    assert known.obstacle("x", 1_000) == ""


def test_models_are_touched_only_when_a_rest_begins_or_ends() -> None:
    known = RemoteHealth(POLICY)
    known.use("one", ["x"])
    touched = [known.hear([BackendLoad("x", *load)], 1_000) for load in ((0, 4), (0, 1), (0, 9), (1, 0), (1, 0))]
    assert touched == [set(), {"one"}, set(), {"one"}, set()]


# The engine


def cluster(found: World, slot: int = 0, key: str = KEY) -> str:
    return backend_cluster_name(found.routes[key].remotes[slot].backend)


def report_load(found: World, succeeded: int, failed: int, slot: int = 0, gateway: str = "envoy") -> World:
    return found.give(LoadReported(gateway, (BackendLoad(cluster(found, slot), succeeded, failed),)))


def overflowing(**offloading: Any) -> World:
    return world(behavior={"percentage": 50}, **offloading).read(15, times=7)


def test_a_remote_that_only_fails_gets_no_share_until_it_is_tried_again() -> None:
    found = report_load(overflowing(), 0, 14)
    assert (found.state(), found.share()) == (State.OVERFLOWING, 0)
    words = "remote: the last 14 requests to it failed; it is tried again after 30 s."
    assert found.condition("RemoteReady") == ("False", "NotReady", words)
    assert "No remote can take requests, so they stay local." in found.condition("Overflowing")[2]
    assert found.condition("ResolvedRefs")[0] == "True"
    assert [each.message for each in found.said if each.reason == "RemoteUnhealthy"] == [words]
    assert found.engine.wake_at() == found.now + 30
    found.wait(29).read(15)
    assert found.share() == PPM // 2
    assert found.condition("RemoteReady")[0] == "True"


def test_failing_again_doubles_the_rest_and_a_success_brings_the_share_back_at_once() -> None:
    found = report_load(overflowing(), 0, 5)
    report_load(found.wait(30), 0, 5).read(15, times=59)
    assert found.share() == 0
    report_load(found, 1, 0)
    assert found.share() == PPM // 2


def test_the_failures_of_several_gateways_add_up_and_one_that_succeeds_is_enough() -> None:
    found = overflowing()
    report_load(report_load(found, 0, 3, gateway="one"), 0, 2, gateway="two")
    assert found.share() == 0
    report_load(found, 1, 0, gateway="two")
    assert found.share() == PPM // 2


def test_another_remote_takes_the_share_and_the_unhealthy_one_comes_last() -> None:
    found = report_load(overflowing(remoteBackends=TWO), 0, 5)
    assert found.routes[KEY].chains == (
        ir.Chain("local", PPM // 2, ("remote-1", "remote-0")),
        ir.Chain("remote-1", PPM // 2, ("local", "remote-0")),
    )
    assert found.condition("RemoteReady")[0] == "True"
    assert "a: the last 5 requests" in found.condition("RemoteReady")[2]
    report_load(found, 0, 5, slot=1)
    assert found.share() == 0


def test_in_standby_an_unhealthy_remote_changes_no_route_since_it_is_a_last_resort_already() -> None:
    found = world().read(1)
    published = found.published
    report_load(found, 0, 5)
    assert found.condition("RemoteReady")[0] == "False"
    assert found.published == published


def test_with_local_down_the_only_remote_gets_everything_however_unhealthy() -> None:
    found = report_load(overflowing(), 0, 5)
    found.give(endpoint_slice("10.0.0.1", ready=False))
    assert (found.state(), found.share()) == (State.FAILOVER, PPM)
    assert "so they fail" not in found.condition("Overflowing")[2]
    found.give(endpoint_slice("10.0.0.1"))
    assert (found.state(), found.share()) == (State.OVERFLOWING, 0)


def test_with_local_down_healthy_remotes_come_before_unhealthy_ones() -> None:
    found = report_load(world(remoteBackends=TWO).read(1), 0, 5)
    found.give(endpoint_slice("10.0.0.1", ready=False))
    assert found.routes[KEY].chains == (ir.Chain("remote-1", PPM, ("remote-0",)),)


def test_models_share_what_is_known_of_a_remote() -> None:
    found = overflowing()
    found.give(model("other", behavior={"mode": "Force", "percentage": 10}))
    assert cluster(found) == cluster(found, key="default/other")
    report_load(found, 0, 5)
    assert (found.share(), found.share("default/other")) == (0, 0)
    found.wait(30)
    assert found.share("default/other") == PPM // 10


def test_a_remote_with_other_settings_is_another_one() -> None:
    found = report_load(overflowing(), 0, 5)
    settings = {"host": "remote.example.com:80", "headersToAdd": {"x-key": "1"}}
    found.give(model(behavior={"percentage": 50}, remoteBackend=settings))
    assert found.share() == PPM // 2


def test_a_missing_token_is_said_before_ill_health_and_makes_no_last_resort() -> None:
    remote = {"host": "r.example.com", "authConfig": OAUTH}
    found = world(behavior={"percentage": 50}, remoteBackend=remote).give(secret(client_secret="s3cret"))
    deliver(found, expires_in_s=10)
    report_load(found, 0, 5)
    assert found.routes[KEY].chains == (ir.Chain("local", PPM, ("remote-0",)),)
    found.wait(11)
    assert "expired" in found.condition("RemoteReady")[2]
    assert found.routes[KEY].chains == (ir.Chain("local", PPM),)


def test_a_restart_forgets_health() -> None:
    found = report_load(overflowing(), 0, 5).restarted()
    found.give(service(), endpoint_slice("10.0.0.1", "10.0.0.2"), model(behavior={"percentage": 50}))
    assert (found.state(), found.share()) == (State.OVERFLOWING, PPM // 2)


def test_who_takes_the_lead_lets_those_rest_that_rested_and_forgets_what_it_knew_itself() -> None:
    found = RemoteHealth(POLICY)
    found.use("a", ["one", "two"])
    found.hear([BackendLoad("two", 0, POLICY.attempts)], 0)
    found.start(["one"], 1)
    assert (found.obstacle("one", 1), found.obstacle("two", 1)) == (
        "all requests to it failed; it is tried again after 30 s",
        "",
    )
    assert found.rests_until_s("one") == 1 + POLICY.rest_s
    assert found.obstacle("one", 1 + POLICY.rest_s) == ""
    found.hear([BackendLoad("one", 0, POLICY.attempts)], 2 + POLICY.rest_s)
    assert found.rests_until_s("one") == 2 + 3 * POLICY.rest_s, "it fails again, so it rests for twice as long"
