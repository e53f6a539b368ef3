"""Conversations in the incremental variant of the protocol."""

import pytest

from tests.xds.talk import DeltaClient, World, word
from xds import session_delta
from xds.session import DRAIN_S, HOLD_S, OPENING_S, ProtocolError
from xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, RUNTIME, SCOPED_ROUTE, SECRET

A, B = word(CLUSTER, "a"), word(CLUSTER, "b")


def versions(*resources: object) -> dict[str, str]:
    return {each.name: each.version for each in resources}  # type: ignore[attr-defined]


# Subscriptions


def test_a_first_request_without_names_means_all_and_what_changes_follows() -> None:
    world = World(A, B)
    client = DeltaClient(world)
    client.says(CLUSTER)
    assert client.hears() == {"CDS": ["a=1", "b=1"]}
    client.acks(CLUSTER)
    assert client.hears() == {}

    world.has(word(CLUSTER, "b", 2), word(CLUSTER, "c"))
    assert client.hears() == {"CDS": ["b=2", "c=1"]}


@pytest.mark.parametrize("type_url", [CLUSTER, LISTENER, SCOPED_ROUTE])
def test_a_client_that_asks_for_all_of_nothing_is_told_so(type_url: str) -> None:
    client = DeltaClient(World())
    client.says(type_url)
    assert list(client.hears().values()) == [[]]
    client.acks(type_url)
    assert client.hears() == {}


@pytest.mark.parametrize("type_url", [ENDPOINTS, ROUTE, SECRET, RUNTIME])
def test_types_that_are_asked_for_by_name_send_nothing_unasked(type_url: str) -> None:
    client = DeltaClient(World(word(type_url, "x"), word(type_url, "y")))
    client.says(type_url)
    assert client.hears() == {}
    client.says(type_url, "y")
    assert list(client.hears().values()) == [["y=1"]]


def test_a_name_that_does_not_exist_is_answered_and_sent_when_it_does() -> None:
    world = World()
    client = DeltaClient(world)
    client.says(ENDPOINTS, "x")
    assert client.hears() == {"EDS": ["-x"]}
    client.acks(ENDPOINTS)
    world.has(word(ENDPOINTS, "x"))
    assert client.hears() == {"EDS": ["x=1"]}


def test_a_name_unsubscribed_is_sent_no_more() -> None:
    world = World(word(ENDPOINTS, "x"), word(ENDPOINTS, "y"))
    client = DeltaClient(world)
    client.says(ENDPOINTS, "x", "y")
    client.settles()
    client.says(ENDPOINTS, without=["x"])
    world.has(word(ENDPOINTS, "x", 2), word(ENDPOINTS, "y", 2))
    assert client.hears() == {"EDS": ["y=2"]}


def test_subscribing_to_a_name_again_sends_it_again() -> None:
    client = DeltaClient(World(word(ENDPOINTS, "x"), word(ENDPOINTS, "y")))
    client.says(ENDPOINTS, "x", "y")
    client.settles()
    client.says(ENDPOINTS, "x")
    assert client.hears() == {"EDS": ["x=1"]}


def test_a_star_and_names_live_side_by_side() -> None:
    world = World(A, B)
    client = DeltaClient(world)
    client.says(CLUSTER, "a")
    assert client.settles() == [{"CDS": ["a=1"]}]
    client.says(CLUSTER, "*")
    assert client.settles() == [{"CDS": ["a=1", "b=1"]}]
    client.says(CLUSTER, without=["*"])
    world.has(word(CLUSTER, "a", 2), word(CLUSTER, "b", 2))
    assert client.settles() == [{"CDS": ["a=2"]}]


def test_who_gives_up_a_name_that_the_star_still_covers_hears_what_it_is() -> None:
    client = DeltaClient(World(A, B))
    client.says(CLUSTER, "*", "a", "x")
    client.settles()
    client.says(CLUSTER, without=["a", "x"])
    assert client.settles() == [{"CDS": ["a=1", "-x"]}]


def test_secrets_are_never_sent_for_a_star() -> None:
    client = DeltaClient(World(word(SECRET, "token")))
    client.says(SECRET, "*")
    assert client.hears() == {}
    client.says(SECRET, "token")
    assert client.hears() == {"SDS": ["token=1"]}


def test_a_type_that_nobody_serves_ends_the_stream() -> None:
    with pytest.raises(ProtocolError, match=r"'type\.googleapis\.com/x\.Y' are not served"):
        DeltaClient(World()).says("type.googleapis.com/x.Y")


def test_a_stream_of_one_type_need_not_name_it_and_may_name_no_other() -> None:
    client = DeltaClient(World(A), only=CLUSTER)
    client.says("")
    assert client.hears() == {"CDS": ["a=1"]}
    with pytest.raises(ProtocolError):
        client.says(LISTENER)


# Answers


def test_while_a_push_waits_for_its_answer_changes_pile_up_and_the_last_one_counts() -> None:
    world = World(A)
    client = DeltaClient(world)
    client.says(CLUSTER)
    client.hears()
    for content in range(2, 9):
        world.has(word(CLUSTER, "a", content))
        assert client.hears() == {}
    client.acks(CLUSTER)
    assert client.hears() == {"CDS": ["a=8"]}


def test_an_answer_with_a_stale_nonce_means_nothing() -> None:
    world = World(A)
    client = DeltaClient(world)
    client.says(CLUSTER)
    client.hears()
    stale = client.nonces[CLUSTER]
    client.acks(CLUSTER)
    world.has(word(CLUSTER, "a", 2))
    client.hears()
    client.session.reports()

    client.acks(CLUSTER, stale)

    assert client.accepted() == []
    world.has(word(CLUSTER, "a", 3))
    assert client.hears() == {}


def test_what_is_acknowledged_is_reported() -> None:
    client = DeltaClient(World(A, B))
    client.says(CLUSTER)
    client.hears()
    assert client.accepted() == []
    client.acks(CLUSTER)
    assert client.accepted() == ["a", "b"]


def test_what_is_refused_is_reported_with_the_reason_and_not_sent_again() -> None:
    world = World(A)
    client = DeltaClient(world)
    client.says(CLUSTER)
    client.hears()
    client.nacks(CLUSTER, "bad a")
    [nack] = client.rejections()
    assert (nack.type_url, [each.name for each in nack.resources], nack.message) == (CLUSTER, ["a"], "bad a")
    assert client.hears() == {}
    world.has(word(CLUSTER, "a", 2))
    assert client.hears() == {"CDS": ["a=2"]}


def test_what_a_gateway_has_refused_is_not_sent_even_when_it_is_asked_for() -> None:
    world = World(A, B)
    world.refused.add((CLUSTER, "a", A.version))
    client = DeltaClient(world)
    client.says(CLUSTER, "*", "a")
    assert client.settles() == [{"CDS": ["b=1"]}]


@pytest.mark.parametrize(("alone", "expected"), [(False, [["a=1", "b=1"]]), (True, [["a=1"], ["b=1"]])])
def test_the_innocent_of_a_refused_push_are_sent_again(alone: bool, expected: list[list[str]]) -> None:
    client = DeltaClient(World(A, B, word(CLUSTER, "c")))
    client.says(CLUSTER)
    client.hears()
    client.nacks(CLUSTER)
    client.session.resend(CLUSTER, ["a", "b"], alone=alone)
    assert client.settles() == [{"CDS": each} for each in expected]


def test_a_nack_of_one_type_holds_up_no_other() -> None:
    world = World(A, word(LISTENER, "l"))
    client = DeltaClient(world)
    client.says(CLUSTER)
    client.says(LISTENER)
    client.hears()
    client.nacks(CLUSTER)
    assert client.hears() == {"LDS": ["l=1"]}


# Reconnecting


def test_who_comes_back_with_everything_is_sent_nothing() -> None:
    client = DeltaClient(World(A, B))
    client.says(CLUSTER, known=versions(A, B))
    assert client.hears() == {}
    assert client.accepted() == ["a", "b"]


def test_who_comes_back_is_sent_what_changed_and_told_what_is_gone() -> None:
    old = word(CLUSTER, "a", "old")
    client = DeltaClient(World(A, B))
    client.says(CLUSTER, known=versions(old, B, word(CLUSTER, "x")))
    assert client.settles() == [{"CDS": ["a=1"]}, {"CDS": ["-x"]}]


def test_names_are_compared_as_the_star_is() -> None:
    x, y = word(ENDPOINTS, "x"), word(ENDPOINTS, "y")
    client = DeltaClient(World(x, y))
    client.says(ENDPOINTS, "x", "y", "z", known=versions(x, word(ENDPOINTS, "y", "old"), word(ENDPOINTS, "z")))
    assert client.settles() == [{"EDS": ["y=1"]}, {"EDS": ["-z"]}]


def test_what_a_client_had_is_compared_only_once() -> None:
    world = World(word(CLUSTER, "a", 2))
    client = DeltaClient(world)
    client.says(CLUSTER, known=versions(A))
    assert client.settles() == [{"CDS": ["a=2"]}]
    world.has(A)
    assert client.settles() == [{"CDS": ["a=1"]}]


def test_nothing_is_removed_while_a_client_is_still_asking_for_its_types() -> None:
    world = World(A)
    client = DeltaClient(world)
    client.now_s = 0.0
    client.says(CLUSTER, known=versions(A, B))
    assert client.hears() == {}
    assert client.session.wake_at(client.now_s) == OPENING_S
    client.waits(OPENING_S)
    assert client.hears() == {"CDS": ["-b"]}


# Make before break


def test_a_route_waits_for_the_cluster_that_it_needs() -> None:
    world = World()
    client = DeltaClient(world)
    client.says(CLUSTER)
    client.says(ROUTE, "r")
    assert client.settles() == [{"CDS": [], "RDS": ["-r"]}]

    world.has(A, word(ROUTE, "r", 1, A.key))
    assert client.hears() == {"CDS": ["a=1"]}
    assert client.hears() == {}
    client.acks(CLUSTER)
    assert client.hears() == {"RDS": ["r=1"]}


def serving_a_route() -> tuple[World, DeltaClient]:
    """A client that has route r, to cluster a."""
    world = World(A, word(ROUTE, "r", 1, A.key))
    client = DeltaClient(world)
    client.says(CLUSTER)
    client.says(ROUTE, "r")
    client.settles()
    return world, client


def test_a_changed_weight_goes_at_once() -> None:
    world, client = serving_a_route()
    world.has(word(ROUTE, "r", 2, A.key))
    assert client.hears() == {"RDS": ["r=2"]}


def test_a_cluster_is_removed_after_the_route_that_used_it_has_let_go() -> None:
    world, client = serving_a_route()
    world.has(B, word(ROUTE, "r", 2, B.key), gone=[A.key])
    assert client.settles() == [{"CDS": ["b=1"]}, {"RDS": ["r=2"]}, {"CDS": ["-a"]}]


def test_a_cluster_stays_while_the_route_that_lets_it_go_is_held_back_by_a_later_change() -> None:
    world, client = serving_a_route()
    world.has(B, word(ROUTE, "r", 2, B.key), gone=[A.key])
    assert client.hears() == {"CDS": ["b=1"]}
    c = word(CLUSTER, "c")
    world.has(c, word(ROUTE, "r", 3, c.key))
    client.acks(CLUSTER)
    # The client still has r=1, which needs a, although nothing is left of the change that took a away but a's removal.
    assert client.hears() == {"CDS": ["c=1"]}
    client.acks(CLUSTER)
    assert client.settles() == [{"RDS": ["r=3"]}, {"CDS": ["-a"]}]


def test_a_cluster_that_is_back_before_its_removal_was_told_is_not_removed() -> None:
    world, client = serving_a_route()
    world.has(B, word(ROUTE, "r", 2, B.key), gone=[A.key])
    client.hears()
    world.has(A, word(ROUTE, "r", 3, A.key))
    client.acks(CLUSTER)
    assert client.settles() == [{"CDS": ["a=1"]}, {"RDS": ["r=3"]}]


def test_a_model_goes_in_the_opposite_order() -> None:
    world, client = serving_a_route()
    route, scope = word(ROUTE, "r", 1, A.key), word(SCOPED_ROUTE, "s", 1, (ROUTE, "r"))
    world.has(scope)
    client.says(SCOPED_ROUTE)
    client.settles()
    world.has(gone=[A.key, route.key, scope.key])
    assert client.settles() == [{"SRDS": ["-s"]}, {"RDS": ["-r"]}, {"CDS": ["-a"]}]


def serving_at_a_listener() -> tuple[World, DeltaClient]:
    """The same, and route r is reached at listener l."""
    world, client = serving_a_route()
    world.has(word(LISTENER, "l", 1, (ROUTE, "r")))
    client.says(LISTENER)
    client.settles()
    return world, client


def test_what_a_removed_listener_needs_stays_until_its_callers_have_left() -> None:
    world, client = serving_at_a_listener()
    world.has(gone=[A.key, (ROUTE, "r"), (LISTENER, "l")])
    assert client.settles() == [{"LDS": ["-l"]}]
    assert client.session.wake_at(client.now_s) == client.now_s - OPENING_S + DRAIN_S

    client.waits(DRAIN_S - OPENING_S - 1)
    assert client.hears() == {}
    client.waits(1)
    assert client.settles() == [{"RDS": ["-r"]}, {"CDS": ["-a"]}]
    assert client.session.wake_at(client.now_s) is None


def test_while_a_listener_drains_all_that_is_made_goes_on_and_other_listeners_go() -> None:
    world, client = serving_at_a_listener()
    k = word(LISTENER, "k", 1, (ROUTE, "r"))
    world.has(k)
    client.settles()
    world.has(gone=[k.key])
    client.settles()

    world.has(B, word(ROUTE, "r", 2, B.key), gone=[A.key])
    assert client.settles() == [{"CDS": ["b=1"]}, {"RDS": ["r=2"]}]
    world.has(gone=[(LISTENER, "l")])
    assert client.settles() == [{"LDS": ["-l"]}]
    world.has(A, word(ROUTE, "r", 3, A.key))
    assert client.settles() == [{"CDS": ["a=1"]}, {"RDS": ["r=3"]}]
    client.waits(DRAIN_S)
    assert client.settles() == [], "what came back is not removed"


def test_listeners_that_go_one_after_the_other_are_each_waited_for_and_no_longer() -> None:
    world, client = serving_at_a_listener()
    k = word(LISTENER, "k", 1, B.key)
    world.has(B, k)
    client.settles()
    world.has(gone=[A.key, (ROUTE, "r"), (LISTENER, "l")])
    client.settles()
    client.waits(DRAIN_S / 2)
    world.has(gone=[B.key, k.key])
    assert client.settles() == [{"LDS": ["-k"]}]
    client.waits(DRAIN_S / 2)
    assert client.settles() == [{"RDS": ["-r"]}, {"CDS": ["-a"]}]
    client.waits(DRAIN_S / 2)
    assert client.settles() == [{"CDS": ["-b"]}]


def test_a_listener_drains_with_what_its_client_had_although_it_changed_before_it_went() -> None:
    world = World(A, word(LISTENER, "l", 1, A.key))
    client = DeltaClient(world)
    client.says(CLUSTER)
    client.says(LISTENER)
    client.settles()
    world.has(B, word(LISTENER, "l", 2, B.key), gone=[A.key])
    assert client.hears() == {"CDS": ["b=1"]}
    world.has(gone=[(LISTENER, "l")])
    client.acks(CLUSTER)
    assert client.settles() == [{"LDS": ["-l"]}], "its callers are still at a"
    client.waits(DRAIN_S)
    assert client.settles() == [{"CDS": ["-a"]}]


def test_a_listener_that_went_while_its_client_was_away_drains_as_well() -> None:
    world, _ = serving_at_a_listener()
    known = {type_url: dict(world.snapshot.logs[type_url].versions) for type_url in (CLUSTER, LISTENER)}
    world.has(gone=[A.key, (ROUTE, "r"), (LISTENER, "l")])
    world.snapshot.forget(world.snapshot.sequence)
    client = DeltaClient(world)
    for type_url in (CLUSTER, LISTENER):
        client.says(type_url, known=known[type_url])
    assert client.settles() == [{"LDS": ["-l"]}]
    client.waits(DRAIN_S)
    assert client.settles() == [{"CDS": ["-a"]}]


def test_a_refused_cluster_holds_its_followers_no_longer() -> None:
    world, client = serving_a_route()
    world.has(B, word(ROUTE, "r", 2, B.key))
    client.hears()
    client.nacks(CLUSTER)
    assert client.hears() == {"RDS": ["r=2"]}


def test_a_client_that_does_not_answer_holds_back_what_follows_for_so_long_only() -> None:
    world, client = serving_a_route()
    world.has(B, word(ROUTE, "r", 2, B.key))
    client.hears()
    deadline_s = client.now_s + HOLD_S
    assert client.session.wake_at(client.now_s) == deadline_s
    client.waits(HOLD_S)
    assert client.hears() == {"RDS": ["r=2"]}


def test_removals_wait_for_an_overdue_answer_however_long_it_takes() -> None:
    world, client = serving_a_route()
    world.has(B, word(ROUTE, "r", 2, B.key), gone=[A.key])
    client.hears()
    client.waits(HOLD_S)
    assert client.hears() == {"RDS": ["r=2"]}
    client.acks(CLUSTER)
    client.waits(100 * HOLD_S)
    assert client.hears() == {}
    client.acks(ROUTE)
    assert client.hears() == {"CDS": ["-a"]}


def test_a_route_asked_for_while_its_cluster_is_on_its_way_waits_too() -> None:
    world = World(A)
    client = DeltaClient(world)
    client.says(CLUSTER)
    client.settles()
    world.has(B, word(ROUTE, "r", 1, B.key))
    assert client.hears() == {"CDS": ["b=1"]}
    client.says(ROUTE, "r")
    assert client.hears() == {}
    client.acks(CLUSTER)
    assert client.hears() == {"RDS": ["r=1"]}


def test_models_that_keep_coming_do_not_starve_a_changed_weight() -> None:
    world, client = serving_a_route()
    world.has(word(CLUSTER, "c0"))
    client.hears()
    world.has(word(ROUTE, "r", 2, A.key))
    for number in range(1, 5):
        world.has(word(CLUSTER, f"c{number}"))
        client.acks(CLUSTER)
        if "RDS" in client.hears():
            return
    pytest.fail("the weight never went")


# Endpoints follow their cluster


def test_endpoints_are_sent_again_after_their_cluster_changed() -> None:
    x = word(ENDPOINTS, "x")
    world = World(x, word(CLUSTER, "c", 1, x.key))
    client = DeltaClient(world)
    client.says(CLUSTER)
    client.hears()
    client.says(ENDPOINTS, "x")
    client.acks(CLUSTER)
    client.settles()
    world.has(word(CLUSTER, "c", 2, x.key))
    assert client.hears() == {"CDS": ["c=2"], "EDS": ["x=1"]}


def test_endpoints_that_a_client_kept_are_sent_again_if_it_did_not_keep_their_cluster() -> None:
    x, y = word(ENDPOINTS, "x"), word(ENDPOINTS, "y")
    old, other = word(CLUSTER, "c", "old", x.key), word(CLUSTER, "d", 1, y.key)
    client = DeltaClient(World(x, y, word(CLUSTER, "c", 1, x.key), other))
    client.says(CLUSTER, known=versions(old, other))
    assert client.hears() == {"CDS": ["c=1"]}
    client.says(ENDPOINTS, "x", "y", known=versions(x, y))
    assert client.hears() == {"EDS": ["x=1"]}


# Pieces


def test_a_large_push_goes_in_pieces_that_streams_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_delta, "PIECE_BYTES", 1_000)
    world = World(*(word(CLUSTER, f"c{number}", "x" * 400) for number in range(9)))
    one, two = DeltaClient(world), DeltaClient(world)
    pieces = []
    for client in (one, two):
        client.says(CLUSTER)
        pieces.append(client.session.offer(client.now_s))
    assert pieces[0][0] is pieces[1][0]

    heard = one.decode(pieces[0][0].data)[2]
    one.nonces[CLUSTER] = pieces[0][0].nonce
    one.acks(CLUSTER)
    heard += [each for round_ in one.settles() for each in round_["CDS"]]
    assert [each.partition("=")[0] for each in heard] == [f"c{number}" for number in range(9)]
    assert max(one.sizes) < 1_200
    assert len(one.sizes) >= 4


def test_what_follows_waits_for_the_last_piece_and_a_piece_has_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_delta, "PIECE_BYTES", 1)
    world = World(word(ROUTE, "r", 1))
    client = DeltaClient(world)
    client.says(CLUSTER)
    client.says(ROUTE, "r")
    client.settles()
    world.has(A, B, word(ROUTE, "r", 2, A.key, B.key))
    assert client.hears() == {"CDS": ["a=1"]}
    world.has(word(CLUSTER, "b", 2))
    client.acks(CLUSTER)
    assert client.hears() == {"CDS": ["b=2"]}
    client.acks(CLUSTER)
    assert client.hears()["RDS"] == ["r=2"]


def test_what_goes_while_it_waits_in_a_piece_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_delta, "PIECE_BYTES", 1)
    world = World(A, B)
    client = DeltaClient(world)
    client.says(CLUSTER)
    assert client.hears() == {"CDS": ["a=1"]}
    world.has(gone=[B.key])
    client.acks(CLUSTER)
    assert client.settles() == [{"CDS": ["-b"]}]


def test_what_follows_waits_for_the_innocent_of_a_refused_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_delta, "PIECE_BYTES", 1)
    world = World()
    client = DeltaClient(world)
    client.says(CLUSTER)
    client.says(ROUTE, "r")
    client.settles()
    world.has(A, B, word(ROUTE, "r", 1, A.key))
    assert client.hears() == {"CDS": ["a=1"]}
    client.nacks(CLUSTER)
    client.session.resend(CLUSTER, ["a"])
    assert client.settles() == [{"CDS": ["b=1"]}, {"CDS": ["a=1"]}, {"RDS": ["r=1"]}]
