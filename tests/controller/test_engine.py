"""The engine: events in, effects out. Time is an argument."""

from __future__ import annotations

import json
from typing import Any

from controller import events
from controller.api import Problem
from controller.events import Kind, Removed, TokenFailed, TokenIssued
from controller.gateways import GRACE_S
from controller.metrics import PromQuery
from controller.offload import PPM, State
from controller.status import report
from tests.controller.manifests import (
    OAUTH,
    endpoint_slice,
    model,
    model_from,
    model_manifest,
    secret,
    service,
)
from tests.controller.world import KEY, World
from xds import events as gateway_events
from xds import ir
from xds.snapshot import CLUSTER
from xds.translate import backend_cluster_name


def world(**offloading: Any) -> World:
    return World().give(service(), endpoint_slice("10.0.0.1", "10.0.0.2"), model(**offloading))


def test_a_model_is_watched_and_routed_to_its_endpoints() -> None:
    found = world()
    assert list(found.watched) == [PromQuery("queue_length")]
    route = found.routes[KEY]
    assert route.local.endpoints == (ir.Endpoint("10.0.0.1", 8000), ir.Endpoint("10.0.0.2", 8000))
    assert found.share() == 0


def test_a_batch_is_published_once() -> None:
    assert world().published == 1


def test_defect_1_a_burst_after_a_calm_offloads_again() -> None:
    found = world(behavior={"percentage": 50})
    for _ in range(3):
        found.read(15, times=7)
        assert (found.state(), found.share()) == (State.OVERFLOWING, PPM // 2)
        found.read(2, times=250)
        assert (found.state(), found.share()) == (State.STANDBY, 0)


def test_defect_2_healthy_events_without_a_reached_metric_offload_nothing() -> None:
    found = world()
    found.give(service(), endpoint_slice("10.0.0.3"), model()).read(9, times=20)
    assert found.share() == 0


def test_defect_3_with_percentage_100_one_outage_comes_back_by_itself() -> None:
    found = world().read(1)
    found.give(endpoint_slice("10.0.0.1", ready=False))
    assert (found.state(), found.share()) == (State.FAILOVER, PPM)
    found.give(endpoint_slice("10.0.0.1"))
    assert (found.state(), found.share()) == (State.STANDBY, 0)


def test_unchanged_samples_publish_and_save_nothing() -> None:
    found = world().read(1, times=2)
    published, saved = found.published, dict(found.saved)
    found.read(2, times=50)
    assert found.published == published
    assert found.saved == saved


def test_silence_changes_nothing_and_is_said_after_a_while() -> None:
    found = world(behavior={"percentage": 50}).read(15, times=7)
    found.read(None, times=30)
    assert found.share() == PPM // 2
    assert found.condition("MetricsAvailable")[0] == "True"
    found.read(None, times=60)
    assert found.share() == PPM // 2
    assert found.condition("MetricsAvailable") == ("False", "Down", "queue_length: no answer.")


def test_staleness_is_noticed_without_any_event() -> None:
    found = world(behavior={"percentage": 50, "onMetricsUnavailable": "Local"}).read(15, times=7)
    while (wake_at_s := found.engine.wake_at()) is not None:
        found.wait(wake_at_s - found.now)
    assert found.share() == 0


def test_endpoints_that_vanish_from_view_are_not_an_outage() -> None:
    found = world()
    found.give(Removed(Kind.SERVICE, KEY), Removed(Kind.ENDPOINT_SLICE, KEY))
    assert found.state() is State.STANDBY
    assert found.routes[KEY].local.endpoints
    assert found.condition("ResolvedRefs") == ("False", "RefNotFound", "Service default/llama does not exist.")


def test_defect_18_a_model_without_service_offloading_or_remote_is_no_crash() -> None:
    manifest = model_manifest()
    del manifest["spec"]["serviceRef"], manifest["spec"]["offloadingConfig"]
    found = World().give(model_from(manifest))
    assert found.share() == 0
    assert found.condition("ResolvedRefs")[0] == "False"
    assert found.condition("RemoteReady")[1] == "NoRemote"


def test_the_default_remote_serves_models_without_their_own() -> None:
    remote = model().spec.offloading_config.remotes[0]
    found = World(default_remote=remote).give(service(), endpoint_slice("10.0.0.1"), model(remoteBackend=None))
    assert found.routes[KEY].remotes[0].authority == "remote.example.com:80"


def test_defect_17_the_second_model_of_one_name_and_environment_is_told_who_has_it() -> None:
    found = world()
    manifest = model_manifest("other")
    manifest["spec"]["model"] = "llama"
    found.give(model_from(manifest))
    assert "default/other" not in found.routes
    status, reason, message = found.condition("Accepted", "default/other")
    assert (status, reason) == ("False", "Conflict")
    assert "default/llama" in message
    found.give(Removed(Kind.MODEL_DEPLOYMENT, KEY))
    assert "default/other" in found.routes
    assert found.condition("Accepted", "default/other")[0] == "True"


def test_an_edit_into_a_conflict_keeps_what_was_served_until_the_name_is_free() -> None:
    found = world()
    other = model_manifest("other")
    found.give(service("other"), endpoint_slice("10.0.0.9", of="other"), model_from(other))
    route = found.routes["default/other"]
    other["spec"]["model"] = "llama"
    found.give(model_from(other))
    assert found.routes["default/other"] == route
    assert found.condition("Accepted", "default/other")[1] == "Conflict"
    found.give(Removed(Kind.MODEL_DEPLOYMENT, KEY))
    assert found.condition("Accepted", "default/other")[0] == "True"
    assert "llama" in found.routes["default/other"].hosts


def test_an_edit_out_of_a_conflict_gives_the_name_back() -> None:
    found = world()
    other = model_manifest("other")
    other["spec"]["model"] = "llama"
    found.give(model_from(other))
    other["spec"]["model"] = "other"
    found.give(model_from(other))
    assert found.condition("Accepted", "default/other")[0] == "True"
    assert "default/other" in found.routes


def test_a_model_that_no_host_leads_to_says_who_has_them() -> None:
    manifest = model_manifest("other")
    manifest["spec"] |= {"model": "org/other", "serviceRef": {"name": "llama", "targetPort": 80}}
    found = world().give(model_from(manifest))
    status, reason, message = found.condition("Accepted", "default/other")
    assert (status, reason) == ("False", "HostConflict")
    assert "llama (default/llama)" in message


def test_a_remote_that_a_gateway_refuses_is_left_out_and_all_else_keeps_moving() -> None:
    two = [{"name": "bad", "host": "bad.example.com"}, {"name": "good", "host": "good.example.com"}]
    found = world(remoteBackends=two, behavior={"percentage": 50}).read(1)
    (bad, good) = (backend_cluster_name(remote.backend) for remote in found.routes[KEY].remotes)
    words = "Error adding/updating cluster(s):\n  no such thing" + 500 * "x"
    found.give(gateway_events.GatewayConnected("envoy", "1.40.0"))
    found.give(gateway_events.Rejected("envoy", CLUSTER, frozenset({bad}), frozenset({KEY}), words))
    assert [backend_cluster_name(remote.backend) for remote in found.routes[KEY].remotes] == [good]
    assert found.condition("Programmed")[1] == "ProxyRejected"
    found.give(gateway_events.Programmed("envoy", frozenset({KEY})), endpoint_slice("10.0.0.7")).read(15, times=7)
    assert found.routes[KEY].local.endpoints == (ir.Endpoint("10.0.0.7", 8000),)
    assert found.share() == PPM // 2
    message = found.condition("RemoteReady")[2]
    assert "bad: refused by envoy: Error adding/updating cluster(s): no such thing" in message
    assert len(message) < 600


def test_defect_7_the_same_name_in_two_namespaces_is_two_models() -> None:
    manifest = model_manifest(namespace="team")
    manifest["spec"]["environment"] = "team"
    found = world().give(service(namespace="team"), endpoint_slice("10.9.9.9", namespace="team"), model_from(manifest))
    assert found.routes["team/llama"].local.endpoints == (ir.Endpoint("10.9.9.9", 8000),)
    assert "llama.team" in found.routes["team/llama"].hosts
    assert "llama" in found.routes[KEY].hosts
    assert "llama" not in found.routes["team/llama"].hosts


def test_the_short_name_moves_on_when_its_holder_goes() -> None:
    manifest = model_manifest(namespace="team")
    manifest["spec"]["environment"] = "team"
    found = world().give(model_from(manifest), Removed(Kind.MODEL_DEPLOYMENT, KEY))
    assert "llama" in found.routes["team/llama"].hosts


def test_a_refused_manifest_keeps_the_last_good_one_and_says_why() -> None:
    found = world()
    route = found.routes[KEY]
    problem = Problem("spec.offloadingConfig.behavior.percentage", "must be at most 100, not 101")
    found.give(events.Refused(Kind.MODEL_DEPLOYMENT, KEY, (problem,)))
    assert found.routes[KEY] == route
    assert found.condition("Accepted")[1] == "Invalid"
    assert "percentage: must be at most 100" in found.condition("Accepted")[2]
    found.give(model())
    assert found.condition("Accepted")[0] == "True"


def test_a_manifest_that_was_never_good_is_shown_with_its_problem() -> None:
    found = World().give(events.Refused(Kind.MODEL_DEPLOYMENT, "default/bad", (Problem("spec.model", "is required"),)))
    assert found.condition("Accepted", "default/bad") == ("False", "Invalid", "spec.model: is required.")


def test_removing_a_model_leaves_nothing_behind() -> None:
    found = world(remoteBackend={"host": "r.example.com", "authConfig": OAUTH})
    found.give(secret(client_secret="s3cret"), Removed(Kind.MODEL_DEPLOYMENT, KEY))
    assert (found.routes, found.secrets, found.watched, found.clients) == ({}, {}, {}, {})
    assert found.saved == {KEY: None}


# Credentials


def with_oauth(**offloading: Any) -> World:
    found = world(remoteBackend={"host": "r.example.com", "authConfig": OAUTH}, **offloading)
    return found.give(secret(client_secret="s3cret"))


def deliver(found: World, expires_in_s: float = 600) -> str:
    (name,) = found.clients
    found.give(TokenIssued(name, "token-value", found.now + expires_in_s))
    found.give(gateway_events.GatewayConnected("envoy", "1.40.0"))
    found.give(gateway_events.SecretsDelivered("envoy", frozenset({name})))
    return name


def test_a_remote_gets_no_share_until_the_gateway_has_its_secret() -> None:
    found = with_oauth(behavior={"percentage": 50}).give(gateway_events.GatewayConnected("envoy", "1.40.0"))
    found.read(15, times=7)
    assert (found.state(), found.share()) == (State.OVERFLOWING, 0)
    (name,) = found.clients
    found.give(TokenIssued(name, "token", found.now + 600))
    assert found.secrets[name].value == "token"
    assert found.share() == 0
    assert "acknowledged" in found.condition("RemoteReady")[2]
    found.give(gateway_events.SecretsDelivered("envoy", frozenset({name})))
    assert found.share() == PPM // 2


def test_a_secret_known_before_any_gateway_waits_for_none_and_moves_nothing_when_it_is_acknowledged() -> None:
    found = with_oauth(behavior={"percentage": 50}).read(15, times=7)
    (name,) = found.clients
    found.give(TokenIssued(name, "token", found.now + 600))
    assert found.share() == PPM // 2
    route = found.routes[KEY]
    found.give(gateway_events.GatewayConnected("envoy", "1.40.0"))
    found.give(gateway_events.SecretsDelivered("envoy", frozenset({name})))
    assert found.routes[KEY] is route


def test_an_expired_token_takes_the_share_back_and_a_new_one_restores_it() -> None:
    found = with_oauth(behavior={"percentage": 50})
    name = deliver(found, expires_in_s=100)
    found.read(15, times=90)
    assert found.share() == PPM // 2
    found.give(TokenFailed(name, "the issuer does not answer")).read(15, times=11)
    assert found.share() == 0
    assert "the issuer does not answer" in found.condition("RemoteReady")[2]
    found.give(TokenIssued(name, "new", found.now + 100))
    assert found.share() == PPM // 2


def test_a_token_that_cannot_be_had_is_told_once_with_the_remote_that_needs_it() -> None:
    found = with_oauth()
    (name,) = found.clients
    refused = TokenFailed(name, "the issuer refuses: invalid_client: No such client.")
    found.give(refused).give(refused)
    told = [(each.reason, each.message, each.warning) for each in found.said if each.reason == "TokenUnavailable"]
    words = "remote: no token could be had: the issuer refuses: invalid_client: No such client."
    assert told == [("TokenUnavailable", words, True)]


def test_a_new_token_moves_no_traffic() -> None:
    found = with_oauth(behavior={"percentage": 50})
    name = deliver(found)
    found.read(15, times=7)
    route = found.routes[KEY]
    found.give(TokenIssued(name, "second", found.now + 600))
    assert found.secrets[name].value == "second"
    assert found.routes[KEY] == route


def test_a_missing_secret_is_named_and_its_arrival_is_enough_until_it_goes() -> None:
    found = world(remoteBackend={"host": "r.example.com", "authConfig": OAUTH})
    assert found.condition("RemoteReady") == ("False", "NotReady", "remote: Secret default/remote does not exist.")
    found.give(secret(other="x"))
    assert "has no key 'client-secret'" in found.condition("RemoteReady")[2]
    found.give(secret(client_secret="s3cret"))
    assert len(found.clients) == 1
    found.give(Removed(Kind.SECRET, "default/remote"))
    assert found.condition("RemoteReady")[2] == "remote: Secret default/remote does not exist."


def test_models_of_one_client_share_one_token() -> None:
    remote = {"host": "r.example.com", "authConfig": OAUTH}
    found = World().give(
        secret(client_secret="s3cret"), model("one", remoteBackend=remote), model("two", remoteBackend=remote)
    )
    assert len(found.clients) == 1
    found.give(Removed(Kind.MODEL_DEPLOYMENT, "default/one"))
    assert len(found.clients) == 1
    found.give(Removed(Kind.MODEL_DEPLOYMENT, "default/two"))
    assert found.clients == {}


def test_an_api_key_goes_to_the_gateway_and_nowhere_else() -> None:
    auth = {
        "type": "apiKey",
        "apiKeyConfig": {"secretRef": {"name": "remote", "key": "key"}, "header": "X-Api-Key", "prefix": ""},
    }
    found = world(remoteBackend={"host": "r.example.com", "authConfig": auth}).give(secret(key="k-123"))
    (held,) = found.secrets.values()
    assert held.value == "k-123"
    credential = found.routes[KEY].remotes[0].backend.credential
    assert credential == ir.Credential(held.name, header="x-api-key", value_prefix="")
    shown = report(found.engine.records, [], found.engine.vault, [], found.now)
    for text in (json.dumps(shown), json.dumps(found.saved), repr(found.routes), repr(found.secrets), repr(found.said)):
        assert "k-123" not in text


# Limits


def test_the_limit_grows_with_replicas_and_never_changes_the_cluster() -> None:
    found = world(localLimit={"maxConcurrentRequestsPerReplica": 4})
    assert (found.routes[KEY].local.initial_limit, found.routes[KEY].local.limit) == (8, 8)
    found.give(endpoint_slice("10.0.0.1", "10.0.0.2", "10.0.0.3"))
    assert (found.routes[KEY].local.initial_limit, found.routes[KEY].local.limit) == (8, 12)
    assert found.restarted().give(
        service(), endpoint_slice("10.0.0.1"), model(localLimit={"maxConcurrentRequestsPerReplica": 4})
    ).routes[KEY].local == ir.Local((ir.Endpoint("10.0.0.1", 8000),), initial_limit=8, limit=4)


def test_the_limit_is_divided_over_gateways_and_a_lost_one_keeps_its_part_for_a_while() -> None:
    found = world(localLimit={"maxConcurrentRequestsPerReplica": 4})
    for name in ("one", "two"):
        found.give(gateway_events.GatewayConnected(name, "1.40.0"))
    assert found.routes[KEY].local.limit == 4
    found.give(gateway_events.GatewayDisconnected("two"))
    assert found.routes[KEY].local.limit == 4
    found.wait(GRACE_S)
    assert found.routes[KEY].local.limit == 8


def test_a_second_gateway_gets_its_part_when_the_first_has_come_down_to_its_own() -> None:
    found = world(localLimit={"maxConcurrentRequestsPerReplica": 4})
    found.give(gateway_events.GatewayConnected("one", "1.40.0"))
    assert found.survey.routes == frozenset(), "one gateway has nobody to share with"
    found.give(gateway_events.GatewayConnected("two", "1.40.0"))
    assert (found.leases["one"].lent, found.leases["two"].lent) == ({}, {KEY: 0})
    assert (found.survey.routes, found.survey.urgent) == (frozenset([KEY]), True)

    def hear(active: int) -> None:
        for name, load in (("one", active), ("two", 0)):
            found.give(gateway_events.LeaseAccepted(name, found.leases[name].serial)).wait(1)
            locals_ = (gateway_events.LocalLoad(KEY, load, load, 0),)
            found.give(gateway_events.LoadReported(name, (), locals_, frozenset([KEY]))).wait(1)

    for active, told in ((6, 0), (6, 2), (4, 4)):
        hear(active)
        assert found.leases["two"].lent == {KEY: told} or (told == 4 and found.leases["two"].lent == {})
    assert found.leases["one"].lent in ({KEY: 4}, {})


def test_a_model_that_is_gone_or_has_no_limit_any_more_is_not_leased() -> None:
    found = world(localLimit={"maxConcurrentRequestsPerReplica": 4})
    for name in ("one", "two"):
        found.give(gateway_events.GatewayConnected(name, "1.40.0"))
    assert KEY in found.engine.leasing.limits
    found.give(model())
    assert (found.engine.leasing.limits, found.survey.routes) == ({}, frozenset())


def test_after_a_restart_no_gateway_gets_the_part_of_one_that_is_not_back_yet() -> None:
    before = world(localLimit={"maxConcurrentRequestsPerReplica": 4})
    for name in ("one", "two"):
        before.give(gateway_events.GatewayConnected(name, "1.40.0"))
    after = before.restarted()
    after.give(
        service(), endpoint_slice("10.0.0.1", "10.0.0.2"), model(localLimit={"maxConcurrentRequestsPerReplica": 4})
    )
    assert after.routes == before.routes
    after.give(gateway_events.GatewayConnected("one", "1.40.0"))
    assert after.routes == before.routes
    after.wait(GRACE_S)
    assert after.routes[KEY].local.limit == 8


def test_a_tool_that_looks_on_takes_no_part_of_a_limit() -> None:
    found = world(localLimit={"maxConcurrentRequestsPerReplica": 4})
    found.give(gateway_events.GatewayConnected("one", "1.40.0"), gateway_events.GatewayConnected("tool", "unknown"))
    assert found.routes[KEY].local.limit == 8


def test_a_gateway_that_reconnects_in_time_changes_nothing() -> None:
    found = world(localLimit={"maxConcurrentRequestsPerReplica": 4})
    found.give(gateway_events.GatewayConnected("one", "1.40.0"))
    published = found.published
    found.give(gateway_events.GatewayDisconnected("one")).wait(10)
    found.give(gateway_events.GatewayConnected("one", "1.40.0")).wait(GRACE_S)
    assert found.published == published


# Restarts, gateways


def test_defect_20_a_restart_in_the_middle_of_an_overflow_moves_no_traffic() -> None:
    before = with_oauth(behavior={"percentage": 50})
    deliver(before)
    before.read(15, times=7)
    after = before.restarted()
    after.give(
        service(),
        endpoint_slice("10.0.0.1", "10.0.0.2"),
        secret(client_secret="s3cret"),
        model(remoteBackend={"host": "r.example.com", "authConfig": OAUTH}, behavior={"percentage": 50}),
    )
    assert after.routes == before.routes
    assert after.engine.records[KEY].decision.since_s == before.engine.records[KEY].decision.since_s


def test_a_saved_state_of_another_version_is_ignored_not_fatal() -> None:
    wrong_types = {"decision": {"state": "Overflowing", "since_s": "x", "stepped_at_s": "x"}, "gateways": "two"}
    for junk in ({"decision": {"state": "Dancing"}}, {"decision": 7, "credentials": 3}, wrong_types, {}):
        found = World({KEY: junk}).give(service(), endpoint_slice("10.0.0.1"), model())
        assert found.state() is State.STANDBY


def test_defect_15_a_model_deleted_while_the_controller_was_down_starts_afresh_when_it_returns() -> None:
    before = world(behavior={"percentage": 50}).read(15, times=7)
    after = before.restarted()
    assert after.engine.forget_saved() == [KEY]
    after.give(service(), endpoint_slice("10.0.0.1"), model(behavior={"percentage": 50}))
    assert (after.state(), after.share()) == (State.STANDBY, 0)


def test_defect_22_every_model_shows_its_conditions_percentage_and_metrics() -> None:
    found = world(behavior={"percentage": 50}).read(15, times=7)
    shown = report(found.engine.records, [], found.engine.vault, [], found.now)[0]
    conditions: Any = shown["conditions"]
    types = ["Accepted", "ResolvedRefs", "Programmed", "MetricsAvailable", "RemoteReady", "Overflowing"]
    assert [condition["type"] for condition in conditions] == types
    assert all(condition["reason"] and condition["message"] for condition in conditions)
    assert (shown["state"], shown["share_ppm"], shown["reason"]) == ("Overflowing", PPM // 2, "ThresholdReached")
    metrics: Any = shown["metrics"]
    assert (metrics[0]["value"], metrics[0]["target"], metrics[0]["ratio"]) == (15, 10, 1.5)


def test_programmed_follows_the_gateways() -> None:
    found = world()
    assert found.condition("Programmed")[1] == "NoGateway"
    found.give(gateway_events.GatewayConnected("envoy", "1.40.0"))
    assert found.condition("Programmed")[1] == "Pending"
    found.give(gateway_events.Programmed("envoy", frozenset({KEY})))
    assert found.condition("Programmed")[0] == "True"
    found.give(gateway_events.GatewayDisconnected("envoy"), gateway_events.GatewayConnected("envoy", "1.40.0"))
    assert found.condition("Programmed")[1] == "Pending"
    found.give(gateway_events.Programmed("envoy", frozenset({KEY})))
    found.give(gateway_events.Rejected("envoy", "type", frozenset({"choose/x"}), frozenset({KEY}), "bad regex"))
    assert found.condition("Programmed") == ("False", "ProxyRejected", "envoy: bad regex.")


def test_changes_of_state_are_announced_once_with_the_words_of_the_status() -> None:
    found = world(behavior={"percentage": 50}).read(15, times=20)
    moved = [a for a in found.said if a.reason == "ThresholdReached"]
    assert len(moved) == 1
    assert moved[0].message == found.engine.records[KEY].decision.sentence
