"""Which Events are written for what is announced."""

from __future__ import annotations

import pytest

from controller import correlation
from controller.correlation import BURST, REFILL_S, SAME_WITHIN_S, Correlator, Happening
from controller.events import Announce

OUT = Announce("shop/php", "ThresholdReached", "cpu is at 80 % of 50 %.")
BACK = Announce("shop/php", "Returned", "Everything is local again.")


def counts(correlator: Correlator, uid: str, *times: tuple[Announce, float]) -> list[int | None]:
    taken = [correlator.take(uid, what, at_s) for what, at_s in times]
    return [happening.count if happening else None for happening in taken]


def test_something_new_is_an_event_of_its_own() -> None:
    assert Correlator().take("u", OUT, 100.0) == Happening("u", OUT, 100.0, 100.0, 1)


def test_the_same_again_counts_up_and_keeps_when_it_first_happened() -> None:
    correlator = Correlator()
    correlator.take("u", OUT, 100.0)
    correlator.take("u", BACK, 110.0)

    assert correlator.take("u", OUT, 160.0) == Happening("u", OUT, 100.0, 160.0, 2)


@pytest.mark.parametrize(
    "other",
    [
        Announce("shop/php", "Forced", OUT.message),
        Announce("shop/php", OUT.reason, "cpu is at 90 % of 50 %."),
        Announce("shop/php", OUT.reason, OUT.message, warning=True),
    ],
)
def test_another_reason_message_or_type_is_another_event(other: Announce) -> None:
    assert counts(Correlator(), "u", (OUT, 0.0), (other, 1.0)) == [1, 1]


def test_another_object_of_the_same_name_is_another() -> None:
    correlator = Correlator()
    assert counts(correlator, "old", (OUT, 0.0)) + counts(correlator, "new", (OUT, 1.0)) == [1, 1]


def test_what_the_api_server_may_have_forgotten_begins_anew() -> None:
    again_s = SAME_WITHIN_S + 1.0
    assert counts(Correlator(), "u", (OUT, 0.0), (OUT, again_s), (OUT, again_s + 1.0)) == [1, 1, 2]


def test_an_object_has_a_budget_which_others_do_not_share() -> None:
    correlator = Correlator()
    assert counts(correlator, "u", *[(OUT, 0.0)] * (BURST + 1)) == [*range(1, BURST + 1), None]
    assert counts(correlator, "other", (OUT, 0.0)) == [1]


def test_the_budget_comes_back_slowly_and_not_beyond_its_size() -> None:
    correlator = Correlator()
    counts(correlator, "u", *[(OUT, 0.0)] * BURST)

    late_s = 2.5 * REFILL_S
    assert counts(correlator, "u", *[(BACK, late_s)] * 3) == [1, 2, None]
    idle_s = late_s + 100 * BURST * REFILL_S
    assert counts(correlator, "u", *[(OUT, idle_s)] * (BURST + 1))[-2:] == [BURST, None]


def test_only_so_much_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlation, "REMEMBERED", 2)
    correlator = Correlator()
    for uid in ("a", "b", "a", "c"):
        correlator.take(uid, OUT, 0.0)

    assert counts(correlator, "a", (OUT, 1.0)) == [3]
    assert counts(correlator, "b", (OUT, 1.0)) == [1]
