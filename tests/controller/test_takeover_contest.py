"""How long to take a Service again whose selector somebody puts back."""

from __future__ import annotations

from dataclasses import replace

from controller.takeover.contest import PAUSE_S, PEACE_S, RETRY_S, ROUNDS_MAX, Contest, Hold, watch
from controller.takeover.world import ServiceView

SERVICE = ServiceView("ns/php", "uid-1", "7", selector={"app": "php"})


TAKEN = replace(SERVICE, selector={}, models="ns/model")
PUT_BACK = replace(SERVICE, models="ns/model", writers=frozenset({"flux", "argo"}))


def lose(contest: Contest, now: float) -> Contest:
    held = watch(contest, TAKEN, None, now)
    return watch(held, PUT_BACK, None, now)


def test_pauses_double_until_it_is_given_up_and_then_it_is_tried_once_in_a_while() -> None:
    contest, now, pauses = Contest(), 0.0, []
    for _ in range(ROUNDS_MAX):
        contest = lose(contest, now)
        assert contest.by == "argo, flux"
        assert not contest.is_given_up(now)
        pauses.append(contest.retake_at_s - now)
        now = contest.retake_at_s
    assert pauses == [PAUSE_S * 2**n for n in range(ROUNDS_MAX)]
    contest = lose(contest, now)
    assert contest.is_given_up(now)
    assert contest.retake_at_s == now + RETRY_S
    assert not contest.is_given_up(now + RETRY_S)
    assert lose(contest, now + RETRY_S).is_given_up(now + RETRY_S)


def test_an_hour_of_peace_is_a_new_beginning() -> None:
    contest = lose(lose(Contest(), 0.0), 10.0)
    assert contest.rounds == 2
    held = watch(contest, TAKEN, None, 100.0)
    assert watch(held, PUT_BACK, None, 100.0 + PEACE_S - 1).rounds == 3
    assert watch(held, PUT_BACK, None, 100.0 + PEACE_S).rounds == 1


def test_being_put_back_counts_once_however_often_it_is_seen() -> None:
    once = lose(Contest(), 0.0)
    assert watch(once, PUT_BACK, None, 3.0) == once


def test_a_change_of_the_terms_ends_it() -> None:
    assert watch(lose(Contest(), 0.0), SERVICE, "other", 1.0) == Contest("other")


def test_a_controller_that_starts_knows_by_the_annotation_that_it_was_put_back() -> None:
    assert watch(Contest(), PUT_BACK, None, 5.0).hold is Hold.LOST
    assert watch(Contest(), replace(PUT_BACK, models=None), None, 5.0).hold is Hold.FREE


def test_nobody_is_fought_where_we_put_it_back_ourselves() -> None:
    held = watch(Contest(), TAKEN, None, 0.0)
    back = replace(PUT_BACK, writers=frozenset({"spillway", "flux"}))
    assert watch(held, back, None, 1.0).hold is Hold.FREE


def test_nobody_has_a_name() -> None:
    held = watch(Contest(), TAKEN, None, 0.0)
    assert watch(held, replace(PUT_BACK, writers=frozenset()), None, 1.0).by == "somebody"
