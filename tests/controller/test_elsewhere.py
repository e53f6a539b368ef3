"""Gateways that are connected to other controllers: what those report of them, and what the engine makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.elsewhere import own_report
from controller.events import Applied, Elected, Kind, PeerReported, Removed
from controller.exposures import HOLD_S
from controller.gateways import GRACE_S, Gateways
from controller.offload import PPM, State
from controller.peers import PeerReport, from_text, to_text
from controller.record import WORDS_MAX
from tests.controller.cluster_world import ClusterWorld, leader, manifest, pod, served
from tests.controller.manifests import endpoint_slice, model_from, service
from tests.controller.world import KEY
from xds import events as gateway_events
from xds.events import BackendLoad, LoadReported
from xds.snapshot import CLUSTER
from xds.translate import backend_cluster_name

LISTENS = frozenset({20_000})
OTHER = "other-controller"


def tell(found: ClusterWorld, report: PeerReport | None, replica: str = OTHER) -> ClusterWorld:
    found.give(PeerReported(replica, report))
    return found


def elsewhere(*gateways: str, ports: frozenset[int] = LISTENS, **more: Any) -> PeerReport:
    return PeerReport("run", dict.fromkeys(gateways, ports), **more)


def own(found: ClusterWorld) -> PeerReport:
    """What it tells, as the others read it."""
    report = from_text(to_text(found.engine.peer_report("run")))
    assert report is not None
    return report


def remote(found: ClusterWorld, slot: int = 0) -> str:
    return backend_cluster_name(found.routes[KEY].remotes[slot].backend)


def pair(**spec: Any) -> tuple[ClusterWorld, ClusterWorld]:
    """A controller that leads and one that follows it, with the model `llama`."""
    leading, following = leader(), ClusterWorld()
    for each in leading, following:
        each.see("here", "there")
        each.give(*served("llama", **spec))
    following.give(*leading.words())
    leading.connect("here")
    following.connect("there")
    return leading, following


# Where callers are led


def test_callers_are_led_to_a_gateway_that_listens_elsewhere() -> None:
    leading, following = pair()
    tell(leading, own(following))
    assert leading.exposed == {}
    tell(leading, own(following.accept("there")))
    assert leading.gateways_of() == ["there"]
    leading.accept("here")
    assert leading.gateways_of() == ["here", "there"]


def test_a_pod_that_is_not_ready_gets_no_callers_whoever_says_that_it_listens() -> None:
    found = leader().see("here", pod("there", ready=False))
    found.give(*served("llama"))
    tell(found, elsewhere("there"))
    assert found.exposed == {}
    found.see("here", "there")
    assert found.gateways_of() == ["there"]
    found.see("here", pod("there", ready=False))
    assert found.gateways_of() == []


def test_a_gateway_that_listens_at_another_port_is_none_of_this_model() -> None:
    found = leader().see("there")
    found.give(*served("llama"))
    tell(found, elsewhere("there", ports=frozenset({19_999, 20_001})))
    assert found.exposed == {}


def test_models_are_led_as_their_ports_are_told() -> None:
    found = leader().see("there")
    found.give(*served("llama"), *served("qwen"))
    ports = {key: found.port_of(key) for key in (KEY, "default/qwen")}
    assert sorted(port or 0 for port in ports.values()) == [20_000, 20_001]
    for key, port in ports.items():
        assert port is not None
        assert key not in found.exposed
        tell(found, elsewhere("there", ports=frozenset(range(20_000, port + 1))))
        assert found.gateways_of(key) == ["there"]


def test_what_was_told_before_the_model_came_counts() -> None:
    found = tell(leader().see("there"), elsewhere("there"))
    found.give(*served("llama"))
    assert found.gateways_of() == ["there"]


@pytest.mark.parametrize("report", [None, PeerReport("run"), PeerReport("another run")])
def test_callers_stay_where_they_are_when_the_other_controller_goes(report: PeerReport | None) -> None:
    """An Envoy that loses its controller goes on listening."""
    found = leader().see("there")
    found.give(*served("llama"))
    tell(tell(found, elsewhere("there")), report).wait(3 * GRACE_S)
    found.give(*served("llama"))
    assert found.gateways_of() == ["there"]


def test_who_follows_leads_nobody_and_goes_on_from_what_it_heard_once_it_leads() -> None:
    leading, following = pair()
    leading.accept("here")
    tell(following, own(leading))
    assert following.exposed == {}
    following.lead().wait(HOLD_S)
    assert following.gateways_of() == ["here"]


def test_who_follows_says_what_gateways_elsewhere_have_and_that_it_does_not_measure() -> None:
    leading, following = pair()
    following.accept("there")
    assert following.condition("Programmed")[:2] == ("True", "Programmed")
    tell(following, own(leading))
    following.give(*leading.accept("here").words())
    assert following.condition("Programmed")[1:] == ("Pending", "Waiting for here.")
    tell(following, own(leading))
    assert following.condition("Programmed")[:2] == ("True", "Programmed")
    assert leading.condition("MetricsAvailable")[0] == "False"
    assert following.condition("MetricsAvailable")[:2] == ("Unknown", "Following")


def test_nothing_is_held_once_all_gateways_are_known_to_listen() -> None:
    leading, following = pair()
    tell(following, own(leading.accept("here")))
    following.accept("there").lead()
    assert following.gateways_of() == ["here", "there"]


# What a controller tells


def test_a_controller_tells_of_its_own_gateways_only() -> None:
    leading, following = pair()
    tell(leading, own(following.accept("there")))
    leading.accept("here")
    assert own(leading) == PeerReport("run", {"here": LISTENS})
    assert own(following) == PeerReport("run", {"there": LISTENS})


def test_a_tool_is_no_gateway() -> None:
    found = leader()
    found.give(gateway_events.GatewayConnected("curl", "unknown"))
    assert own(found) == PeerReport("run")


def test_a_gateway_that_is_disconnected_is_not_told_of() -> None:
    found = leader().see("here").connect("here")
    found.give(*served("llama"))
    found.accept("here").disconnect("here")
    assert own(found) == PeerReport("run")


def test_the_port_of_a_model_that_is_gone_is_not_told() -> None:
    found = leader().see("here").connect("here")
    found.give(*served("llama"), *served("qwen"))
    found.accept("here")
    found.give(Removed(Kind.MODEL_DEPLOYMENT, "default/qwen"))
    assert own(found).gateways == {"here": LISTENS}


def test_requests_are_counted_as_long_as_a_model_has_the_remote() -> None:
    found = leader().connect("here")
    found.give(*served("llama"))
    cluster = remote(found)
    for load in ((3, 1), (0, 2)):
        found.give(LoadReported("here", (BackendLoad(cluster, *load), BackendLoad("remote/unknown/1", 5, 5))))
    assert own(found).loads == {cluster: (3, 3)}
    found.give(Removed(Kind.MODEL_DEPLOYMENT, KEY))
    assert own(found).loads == {}


def test_what_gateways_elsewhere_carried_is_not_told_again() -> None:
    found = leader().connect("here")
    found.give(*served("llama"))
    cluster = remote(found)
    for count in (1, 50):
        tell(found, elsewhere("there", loads={cluster: (count, count)}))
    assert own(found).loads == {}


def test_long_words_are_told_in_part() -> None:
    found = leader().connect("here", "here-too")
    found.give(*served("llama"))
    for gateway in ("here", "here-too"):
        found.give(gateway_events.Rejected(gateway, CLUSTER, frozenset(), frozenset({KEY}), 1_000 * "x"))
    (words,) = own(found).rejected.values()
    assert words.startswith("here-too: xxx")
    assert len(words) == WORDS_MAX


def test_a_report_of_no_model_is_a_report() -> None:
    assert own_report("1", [], ["b", "a"], {}) == PeerReport("1", {"a": frozenset(), "b": frozenset()})


# What remotes are good for


def half_away() -> list[Applied]:
    """A model that sends half of its requests to its remote while it overflows."""
    made = manifest(behavior={"percentage": 50}, remoteBackend={"host": "remote.example.com"})
    things = (service("llama"), endpoint_slice("10.0.0.1", of="llama"), model_from(made))
    return [Applied(each) for each in things]


def overflowing() -> ClusterWorld:
    found = leader()
    found.give(*half_away()).read(15, times=7)
    assert (found.state(), found.share()) == (State.OVERFLOWING, PPM // 2)
    return found


def test_a_remote_that_fails_at_gateways_elsewhere_rests() -> None:
    found = overflowing()
    cluster = remote(found)
    tell(found, elsewhere("there", loads={cluster: (100, 7)}))
    assert found.share() == PPM // 2, "how long ago that was is not known"
    tell(found, elsewhere("there", loads={cluster: (100, 11)}))
    assert found.share() == PPM // 2
    tell(found, elsewhere("there", loads={cluster: (100, 12)}))
    assert found.share() == 0
    assert "the last 5 requests to it failed" in found.condition("RemoteReady")[2]


def test_a_remote_that_works_at_gateways_elsewhere_does_not_rest() -> None:
    found = overflowing()
    cluster = remote(found)
    tell(found, elsewhere("there", loads={cluster: (100, 0)}))
    tell(found, elsewhere("there", loads={cluster: (101, 0)}))
    found.give(LoadReported("here", (BackendLoad(cluster, 0, 50),)))
    assert found.share() == PPM // 2


def test_a_remote_that_rests_works_again_once_it_does_elsewhere() -> None:
    found = overflowing()
    cluster = remote(found)
    tell(found, elsewhere("there", loads={cluster: (1, 0)}))
    found.give(LoadReported("here", (BackendLoad(cluster, 0, 50),)))
    assert found.share() == 0
    tell(found, elsewhere("there", loads={cluster: (2, 0)}))
    assert found.share() == PPM // 2


def test_a_controller_that_starts_again_counts_from_its_start() -> None:
    found = overflowing()
    cluster = remote(found)
    tell(found, elsewhere("there", loads={cluster: (100, 0)}))
    tell(found, replace(elsewhere("there", loads={cluster: (0, 5)}), run="next"))
    assert found.share() == 0


def test_a_controller_that_was_gone_says_nothing_of_when() -> None:
    found = overflowing()
    cluster = remote(found)
    tell(found, elsewhere("there", loads={cluster: (100, 0)}))
    tell(found, None)
    tell(found, elsewhere("there", loads={cluster: (100, 500)}))
    assert found.share() == PPM // 2


def test_each_controller_counts_for_itself() -> None:
    found = overflowing()
    cluster = remote(found)
    for failed in (100, 104):
        tell(found, elsewhere("there", loads={cluster: (0, failed)}), "one")
        tell(found, elsewhere("far", loads={cluster: (0, failed - 100)}), "two")
    assert found.share() == 0


def test_nothing_that_is_told_moves_traffic_of_a_follower() -> None:
    following = ClusterWorld()
    following.give(*half_away(), *overflowing().words())
    assert following.share() == PPM // 2
    for failed in (0, 50):
        tell(following, elsewhere("there", loads={remote(following): (0, failed)}))
    assert following.share() == PPM // 2


# What people are told


def test_a_model_is_programmed_once_gateways_elsewhere_listen() -> None:
    found = leader().see("there")
    found.give(*served("llama"))
    assert found.condition("Programmed")[1] == "NoGateway"
    tell(found, elsewhere("there", ports=frozenset()))
    assert found.condition("Programmed") == ("False", "Pending", "Waiting for there.")
    tell(found, elsewhere("there"))
    assert found.condition("Programmed")[1] == "Programmed"
    tell(found, None)
    assert found.condition("Programmed")[1] == "NoGateway"


def test_a_model_without_a_port_waits_for_our_own_gateways_only() -> None:
    found = leader().see("here", "there").connect("here")
    found.give(*served("llama", takeover="Manual"))
    tell(found, elsewhere("there", ports=frozenset()))
    assert found.condition("Programmed") == ("False", "Pending", "Waiting for here.")
    found.accept("here")
    assert found.condition("Programmed")[1] == "Programmed"


def test_a_gateway_that_comes_here_speaks_for_itself() -> None:
    found = tell(leader().see("a"), elsewhere("a"))
    found.connect("a")
    found.give(*served("llama"))
    assert found.condition("Programmed") == ("False", "Pending", "Waiting for a.")


def test_what_is_refused_elsewhere_is_said_until_it_is_not() -> None:
    leading, following = pair()
    following.give(gateway_events.Rejected("there", CLUSTER, frozenset(), frozenset({KEY}), "no\nsuch thing"))
    tell(leading, own(following))
    assert leading.condition("Programmed") == ("False", "ProxyRejected", "there: no such thing.")
    assert [(e.reason, e.message, e.warning) for e in leading.said] == [("ProxyRejected", "there: no such thing", True)]
    tell(leading, own(following))
    assert len(leading.said) == 1
    assert own(leading).rejected == {}, "it is for the other one to say"
    leading.accept("here")
    assert leading.condition("Programmed")[1] == "ProxyRejected"
    tell(leading, own(following.accept("there")))
    assert leading.condition("Programmed")[1] == "Programmed"


def test_what_was_refused_elsewhere_is_forgotten_with_the_controller() -> None:
    found = leader().see("here").connect("here")
    found.give(*served("llama"))
    found.accept("here")
    tell(found, elsewhere("there", rejected={KEY: "there: no", "default/unknown": "there: no"}))
    assert found.condition("Programmed")[1] == "ProxyRejected"
    tell(found, None)
    assert found.condition("Programmed")[1] == "Programmed"


def test_a_remote_that_a_gateway_elsewhere_refuses_is_said() -> None:
    leading, following = pair()
    refused = frozenset({remote(following)})
    following.give(gateway_events.Rejected("there", CLUSTER, refused, frozenset({KEY}), "bad SNI"))
    following.accept("there")
    assert own(following).rejected == {KEY: "there: bad SNI"}
    tell(leading, own(following))
    assert leading.condition("Programmed") == ("False", "ProxyRejected", "there: bad SNI.")


def test_models_that_nothing_is_said_of_are_left_alone() -> None:
    found = leader().see("there")
    found.give(*served("llama"), *served("qwen"))
    tell(found, elsewhere("there"))
    found.engine.take_touched()
    tell(found, elsewhere("there", loads={remote(found): (5, 0)}))
    assert found.engine.take_touched() == set()
    tell(found, elsewhere("there", ports=frozenset({20_000, 20_001})))
    assert found.engine.take_touched() == {"default/qwen"}
    tell(found, elsewhere("there", ports=frozenset({20_000, 20_001}), rejected={KEY: "no"}))
    assert found.engine.take_touched() == {KEY}


told = st.builds(
    PeerReport,
    st.sampled_from(["1", "2"]),
    st.dictionaries(st.sampled_from("abc"), st.frozensets(st.integers(20_000, 20_002))),
    st.dictionaries(st.sampled_from([KEY, "default/qwen", "default/gone"]), st.sampled_from(["no", "never"])),
    st.dictionaries(st.just("remote/unknown/1"), st.tuples(st.integers(0, 9), st.integers(0, 9))),
)
happenings = st.lists(
    st.builds(PeerReported, st.sampled_from(["one", "two"]), st.none() | told) | st.builds(Elected, st.booleans()),
    max_size=12,
)


@given(happenings)
def test_nothing_is_left_of_controllers_that_are_gone_but_where_gateways_listen(happened: list[Any]) -> None:
    found = leader().see("a", "b")
    found.give(*served("llama"), *served("qwen"))
    for event in happened:
        found.give(event)
        for key in (KEY, "default/qwen"):
            exposure = found.exposed.get(key)
            assert exposure is None or {gateway.name for gateway in exposure.gateways} <= {"a", "b"}
    found.lead()
    for replica in ("one", "two"):
        tell(found, None, replica)
    found.wait(GRACE_S)
    assert found.engine.gateways.connected == []
    assert sorted(found.engine.gateways.names) == ["a", "b"]
    assert {found.condition("Programmed", key)[1] for key in (KEY, "default/qwen")} == {"NoGateway"}


# By how many a limit is divided


def test_gateways_elsewhere_hold_a_part_of_each_limit() -> None:
    found = leader().connect("here")
    limit = {"localLimit": {"maxConcurrentRequestsPerReplica": 8}}
    found.give(*served("llama", offloadingConfig=limit))
    assert found.routes[KEY].local.limit == 16
    tell(found, elsewhere("there"))
    assert found.routes[KEY].local.limit == 8
    tell(found, None).wait(GRACE_S - 1)
    assert found.routes[KEY].local.limit == 8
    found.wait(1)
    assert found.routes[KEY].local.limit == 16


def test_a_gateway_that_moves_from_one_controller_to_another_counts_once() -> None:
    gateways = Gateways(0)
    gateways.see_elsewhere(["a"], 1_000)
    assert (gateways.connected, list(gateways.streaming), gateways.count) == (["a"], [], 1)
    gateways.join("a", "1.40.0", 1_001)
    assert (gateways.connected, gateways.count) == (["a"], 1)
    gateways.see_elsewhere([], 1_002)
    assert (gateways.connected, gateways.wake_at()) == (["a"], None)
    gateways.leave("a", 1_003)
    assert (gateways.connected, gateways.count, gateways.wake_at()) == ([], 1, 1_003 + GRACE_S)
    gateways.see_elsewhere(["a"], 1_004)
    assert (gateways.connected, gateways.wake_at()) == (["a"], None)
    gateways.see(["a"], 1_005)
    gateways.see([], 1_006)
    assert gateways.wake_at() is None
    gateways.see(["a"], 1_007)
    gateways.see_elsewhere([], 1_008)
    assert (gateways.connected, list(gateways.names), gateways.wake_at()) == ([], ["a"], None)
