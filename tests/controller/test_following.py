"""Several controllers: one decides, the others publish what it decided, and any of them can take its place."""

from __future__ import annotations

from typing import Any

import pytest

from controller import events
from controller.api import Problem
from controller.events import Applied, Decided, Event, Kind, Removed, TokenIssued
from controller.gateways import GRACE_S
from controller.offload import PPM, State
from tests.controller.cluster_world import ClusterWorld, leader, manifest, served, workload
from tests.controller.manifests import OAUTH, Json, endpoint_slice, model_from, secret, service
from tests.controller.world import KEY
from xds import events as gateway_events
from xds import ir
from xds.translate import backend_cluster_name

HALF = {"behavior": {"percentage": 50}}
WITH_OAUTH = {"remoteBackend": {"host": "r.example.com", "authConfig": OAUTH}, **HALF}


def objects(*things: Any, **offloading: Any) -> list[Event]:
    """What every controller sees: a model with two endpoints, and more."""
    made = model_from(manifest(**{**HALF, **offloading}))
    return [Applied(each) for each in (service(), endpoint_slice("10.0.0.1", "10.0.0.2"), made, *things)]


def overflowing(*things: Any, **offloading: Any) -> ClusterWorld:
    """A leader whose model sends half of its requests away."""
    found = leader().give(*objects(*things, **offloading))
    found.read(15, times=7)
    return found


def follower(of: ClusterWorld, *seen: Event) -> ClusterWorld:
    """A controller that has seen these objects, and what `of` has decided."""
    found = ClusterWorld()
    found.now = of.now + 3
    found.give(*seen, *of.words())
    return found


def clusters(found: ClusterWorld) -> list[str]:
    return [backend_cluster_name(remote.backend) for remote in found.routes[KEY].remotes]


def fails(found: ClusterWorld, cluster: str) -> None:
    """A remote fails all requests for as long as it takes to be believed."""
    for _ in range(3):
        found.wait(1)
        load = gateway_events.BackendLoad(cluster, succeeded=0, failed=5)
        found.give(gateway_events.LoadReported("a", (load,)))


# Following


def test_a_follower_publishes_what_the_leader_publishes_and_says_nothing_of_its_own() -> None:
    ahead = overflowing()
    found = follower(ahead, *objects()).see("a").connect("a").accept("a")
    assert found.routes == ahead.routes
    assert found.share() == PPM // 2
    assert (found.saved, found.said, found.exposed, found.watched, found.leases) == ({}, [], {}, {}, {})
    found.give(Removed(Kind.MODEL_DEPLOYMENT, KEY))
    assert (found.routes, found.saved, found.exposed) == ({}, {}, {})


def test_a_follower_publishes_nothing_of_a_model_before_the_leader_has_decided() -> None:
    found = ClusterWorld().give(*objects())
    assert found.routes == {}
    found.give(Decided(KEY, {}))
    assert found.routes == {}, "a status without a decision decides nothing"
    found.give(*leader().give(*objects()).words())
    assert found.share() == 0
    assert KEY in found.routes


def test_it_does_not_matter_whether_the_model_or_its_decision_is_seen_first() -> None:
    ahead = overflowing()
    found = ClusterWorld().give(*ahead.words()).give(*objects())
    assert found.routes == ahead.routes


@pytest.mark.parametrize("junk", [{"decision": {"state": "Dancing"}}, {"decision": 7}, {"decision": {}}, {"x": 1}, {}])
def test_a_decision_that_cannot_be_read_moves_nothing(junk: Json) -> None:
    ahead = overflowing()
    found = follower(ahead, *objects()).give(Decided(KEY, junk))
    assert found.routes == ahead.routes


def test_a_follower_reads_what_another_version_wrote_as_far_as_it_can() -> None:
    ahead = overflowing()
    (word,) = ahead.words()
    odd: Any = {**word.saved, "remotes": 5, "lost": {"hosts": 5, "identity": "x"}, "gateway_port": "x", "news": True}
    found = ClusterWorld().give(*objects(), Decided(KEY, odd))
    assert found.routes[KEY].port is None
    assert found.state() is State.OVERFLOWING


def test_endpoints_are_a_followers_own_business() -> None:
    ahead = overflowing()
    found = follower(ahead, *objects(endpoint_slice("10.0.0.9")))
    assert found.routes[KEY].local.endpoints == (ir.Endpoint("10.0.0.9", 8000),)


def test_a_follower_wakes_for_nothing_that_is_the_leaders() -> None:
    ahead = overflowing(localLimit={"maxConcurrentRequestsPerReplica": 4})
    limited = objects(localLimit={"maxConcurrentRequestsPerReplica": 4})
    found = follower(ahead, *limited).see("a", "b").connect("a", "b")
    for _ in range(5):
        if (at_s := found.engine.wake_at()) is not None:
            assert at_s > found.now
            found.wait(at_s - found.now)
    assert found.engine.wake_at() is None
    assert found.leases == {}


def test_limits_are_divided_by_all_gateways_whichever_controller_they_are_connected_to() -> None:
    limit = {"maxConcurrentRequestsPerReplica": 4}
    ahead = leader().see("a", "b").connect("a").give(*objects(localLimit=limit))
    found = follower(ahead, *objects(localLimit=limit)).see("a", "b").connect("b")
    assert ahead.routes[KEY].local.limit == 4
    assert found.routes == ahead.routes
    for world in (ahead, found):
        world.see("a").wait(GRACE_S)
    assert found.routes[KEY].local.limit == 4, "b may have lost its pod and not its stream"
    found.disconnect("b").wait(GRACE_S)
    assert (ahead.routes[KEY].local.limit, found.routes[KEY].local.limit) == (8, 8)


def test_the_limit_that_a_cluster_was_created_with_is_the_same_everywhere_and_for_ever() -> None:
    limit = {"maxConcurrentRequestsPerReplica": 4}
    ahead = leader().give(*objects(localLimit=limit), Applied(endpoint_slice("10.0.0.1", "10.0.0.2", "10.0.0.3")))
    seen = [*objects(localLimit=limit), Applied(endpoint_slice("10.0.0.9"))]
    found = follower(ahead, *seen)
    assert (found.routes[KEY].local.initial_limit, found.routes[KEY].local.limit) == (12, 4)
    found.lead().give(*objects(localLimit=limit))
    assert found.routes[KEY].local.initial_limit == 12


# Remotes and credentials


def with_token(found: ClusterWorld, gateway: str, *, delivered: bool = True) -> str:
    """A token for the only credential, which this gateway has acknowledged."""
    (name,) = found.clients
    found.connect(gateway).give(TokenIssued(name, "token", found.now + 600))
    if delivered:
        found.give(gateway_events.SecretsDelivered(gateway, frozenset({name})))
    return name


def test_a_follower_uses_a_remote_only_when_its_own_gateways_have_the_credential() -> None:
    keys = secret(client_secret="s3cret")
    ahead = leader().give(*objects(keys, **WITH_OAUTH))
    with_token(ahead, "a")
    ahead.read(15, times=7)
    assert ahead.share() == PPM // 2
    found = ClusterWorld().connect("b").give(*objects(keys, **WITH_OAUTH), *ahead.words())
    assert (found.state(), found.share()) == (State.OVERFLOWING, 0)
    name = with_token(found, "b", delivered=False)
    assert found.share() == 0
    found.give(gateway_events.SecretsDelivered("b", frozenset({name})))
    assert found.routes == ahead.routes


def test_a_follower_whose_token_has_expired_uses_no_remote_until_it_has_another() -> None:
    keys = secret(client_secret="s3cret")
    ahead = overflowing(keys, **WITH_OAUTH)
    with_token(ahead, "a")
    found = follower(ahead, *objects(keys, **WITH_OAUTH))
    name = with_token(found, "b")
    assert found.share() == PPM // 2
    found.sleep(600)
    assert found.share() == 0
    found.give(TokenIssued(name, "another", found.now + 600))
    assert found.share() == PPM // 2


def test_what_gateways_held_before_a_restart_they_still_hold() -> None:
    keys = secret(client_secret="s3cret")
    ahead = leader().give(*objects(keys, **WITH_OAUTH))
    with_token(ahead, "a")
    ahead.read(15, times=7)
    for found in (follower(ahead, *objects(keys, **WITH_OAUTH)), ClusterWorld().give(*ahead.words())):
        found.give(*objects(keys, **WITH_OAUTH))
        assert found.routes == ahead.routes


def test_a_remote_that_rests_for_the_leader_rests_for_its_followers_and_when_one_takes_its_place() -> None:
    two = [{"name": "one", "host": "one.example.com"}, {"name": "two", "host": "two.example.com"}]
    ahead = leader().give(*objects(remoteBackends=two))
    ahead.connect("a").read(15, times=7)
    fails(ahead, clusters(ahead)[0])
    seen = objects(remoteBackends=two)
    found = follower(ahead, *seen)
    assert found.routes == ahead.routes
    assert [chain.first for chain in found.routes[KEY].chains] == ["local", "remote-1"]
    published = found.published
    found.lead()
    assert found.published == published
    assert found.said == []
    assert "all requests to it failed" in found.condition("RemoteReady")[2]
    at_s = found.engine.records[KEY].timer_at_s
    assert at_s is not None
    found.wait(at_s - found.now)
    assert [chain.first for chain in found.routes[KEY].chains] == ["local", "remote-0", "remote-1"]


def test_what_its_own_gateways_report_is_no_followers_reason() -> None:
    ahead = overflowing()
    found = follower(ahead, *objects()).connect("a")
    fails(found, clusters(found)[0])
    assert found.routes == ahead.routes
    found.lead()
    assert found.routes == ahead.routes


# Names that only one model can have


def test_a_follower_agrees_on_who_has_a_name_in_whatever_order_it_sees_them() -> None:
    first, second = served("llama"), served("other", model="llama", environment="test")
    ahead = leader().give(*first).give(*second)
    assert "llama" in ahead.routes[KEY].hosts
    found = ClusterWorld().give(*second).give(*first).give(*ahead.words())
    assert found.routes == ahead.routes
    found = ClusterWorld().give(*second, *ahead.words()[1:]).give(*first, *ahead.words()[:1])
    assert found.routes == ahead.routes


def test_an_edit_into_a_conflict_moves_nothing_at_the_next_change_of_leader() -> None:
    conflicting = served("aaa", model="llama")
    ahead = leader().give(*served("aaa")).give(*served("llama"))
    ahead.give(*conflicting)
    assert ahead.condition("Accepted", "default/aaa")[1] == "Conflict"
    route = ahead.routes[KEY]
    found = ClusterWorld().give(*conflicting).give(*served("llama")).give(*ahead.words())
    assert found.routes[KEY] == route
    found.lead()
    assert found.routes[KEY] == route
    assert found.condition("Accepted", "default/aaa")[1] == "Conflict"


def test_a_model_that_nobody_has_decided_on_takes_nothing_from_one_that_is_served() -> None:
    ahead = leader().give(*served("llama"))
    found = ClusterWorld().give(*served("aaa", model="llama")).give(*served("llama")).give(*ahead.words())
    assert found.routes == ahead.routes
    found.lead()
    assert found.routes == ahead.routes
    assert found.condition("Accepted", "default/aaa")[1] == "Conflict"


def test_the_second_on_a_port_stays_the_second_when_the_lead_changes() -> None:
    second = served("aaa", serviceRef={"name": "llama", "targetPort": 80})
    ahead = leader().give(*served("llama")).give(*second)
    found = ClusterWorld().give(*second).give(*served("llama")).give(*ahead.words())
    found.lead()
    assert found.routes == ahead.routes
    assert found.condition("Accepted", "default/aaa")[1] == "Conflict"
    found.give(Removed(Kind.MODEL_DEPLOYMENT, KEY))
    assert found.condition("Accepted", "default/aaa")[0] == "True"


def test_a_port_that_goes_from_one_model_to_another_is_never_two_models() -> None:
    one, two = served("one"), served("two")
    found = ClusterWorld().give(*one, *two)

    def told(port: int | None) -> Json:
        return {"decision": {"state": "Standby"}, "gateway_port": port}

    found.give(Decided("default/one", told(20_000)), Decided("default/two", told(20_001)))
    found.give(Decided("default/two", told(20_000)))
    assert (found.routes["default/one"].port, found.routes["default/two"].port) == (None, 20_000)
    found.give(Decided("default/one", told(20_001)))
    assert (found.routes["default/one"].port, found.routes["default/two"].port) == (20_001, 20_000)


# Taking the lead, and giving it up


def test_a_change_of_leader_moves_no_traffic_and_the_next_samples_go_on_from_there() -> None:
    ahead = overflowing()
    found = follower(ahead, *objects()).wait(3_600)
    published = found.published
    found.lead()
    assert found.published == published
    assert list(found.watched) == list(ahead.watched)
    assert found.said == []
    found.read(2, times=50)
    assert found.state() is State.OVERFLOWING
    found.read(2, times=20)
    assert found.state() is State.STANDBY


@pytest.mark.parametrize("on_unavailable", ["Local", "Remote", "Hold"])
def test_a_leader_that_has_not_measured_yet_is_not_one_whose_metric_is_silent(on_unavailable: str) -> None:
    behavior = {"behavior": {"percentage": 50, "onMetricsUnavailable": on_unavailable}}
    ahead = overflowing(**behavior)
    found = follower(ahead, *objects(**behavior)).wait(600)
    assert found.lead().routes == ahead.routes
    found.read(15, times=3)
    assert found.follow().wait(600) is found
    assert found.lead().routes == ahead.routes, "what it measured when it led before is no reason either"


def test_a_leader_that_steps_down_says_nothing_more_and_lets_its_leases_end() -> None:
    found = overflowing(localLimit={"maxConcurrentRequestsPerReplica": 4})
    found.connect("a", "b").wait(1)
    assert found.survey.routes
    route, saved, leases = found.routes[KEY], dict(found.saved), dict(found.leases)
    found.follow()
    assert (found.routes[KEY], found.watched, found.survey) == (route, {}, ir.Survey())
    found.give(endpoint_slice("10.0.0.9", ready=False)).wait(10)
    assert (found.saved, found.leases) == (saved, leases)
    assert found.state() is State.OVERFLOWING, "it is for the new leader to say"


def test_who_was_stopped_while_another_led_follows_it_when_it_learns_of_that() -> None:
    found = overflowing()
    other = follower(found, *objects()).lead().read(2, times=100)
    assert (other.state(), other.share()) == (State.STANDBY, 0)
    found.give(*other.words())
    assert found.share() == PPM // 2, "it still takes itself for the leader"
    assert found.follow().routes == other.routes


def test_who_steps_down_asks_for_nothing_that_nobody_told_it_of() -> None:
    """It was first in the queue behind a model that leaves; the new leader gives the name to another."""
    third, second = served("third", model="llama"), served("second", model="llama")
    found = leader().give(*served("llama")).give(*second).give(*third)
    other = leader().give(*served("llama")).give(*third).give(*second)
    gone = Removed(Kind.MODEL_DEPLOYMENT, KEY)
    other.give(gone)
    found.follow().give(gone, *other.words())
    assert found.routes == other.routes
    assert list(found.routes) == ["default/third"]


def test_a_leader_that_heard_what_it_cannot_read_goes_on_with_what_it_decided_itself() -> None:
    found = overflowing().give(Decided(KEY, {"decision": {"state": "Dancing"}})).follow()
    found.give(endpoint_slice("10.0.0.9"))
    assert found.share() == PPM // 2
    assert [endpoint.address for endpoint in found.routes[KEY].local.endpoints] == ["10.0.0.9"]


def test_a_restraint_is_no_news_for_the_next_leader() -> None:
    ahead = leader().give(*objects(remoteBackends=[]))
    ahead.read(15, times=7)
    assert [said.reason for said in ahead.said] == ["ThresholdReached"]
    found = follower(ahead, *objects(remoteBackends=[])).lead()
    assert found.said == []


def test_a_leader_does_not_follow_its_own_words() -> None:
    found = leader().give(*objects())
    early = found.words()
    found.read(15, times=7)
    found.give(*early)
    assert found.share() == PPM // 2


def test_a_single_controller_that_restarts_publishes_what_it_had_before_it_is_elected() -> None:
    before = overflowing(workload(), localLimit={"maxConcurrentRequestsPerReplica": 4})
    after = follower(before, *objects(workload(), localLimit={"maxConcurrentRequestsPerReplica": 4}))
    assert after.routes == before.routes
    assert after.routes[KEY].port is not None
    published = after.published
    after.lead()
    assert after.published == published


def test_a_model_that_was_deleted_and_made_again_begins_anew() -> None:
    ahead = overflowing()
    found = follower(ahead, *objects()).give(Removed(Kind.MODEL_DEPLOYMENT, KEY), *objects())
    assert found.routes == {}
    refused = events.Refused(Kind.MODEL_DEPLOYMENT, KEY, (Problem("spec.model", "is required"),))
    found = ClusterWorld().give(refused, *ahead.words(), Removed(Kind.MODEL_DEPLOYMENT, KEY), *objects())
    assert found.routes == {}
