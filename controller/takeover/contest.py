"""Pure: somebody puts back the selector of a Service that is taken over. How often to take it again, and when to stop.

A deployment tool that knows the Service by its manifest does so, once in a while or within seconds, every time. Losing
it once is nothing: it is taken again after a pause that doubles each time. But nobody wins against a tool that never
tires, and callers whose requests pass the gateway by and do not, in turns, are the worst of all. So after
`ROUNDS_MAX` rounds without an hour's peace between, the Service is given up: it stays as the tool wants it, and the
condition says who it was and what can be done. It is tried again once every `RETRY_S`, or as soon as the Service or
what is wanted of it changes.

Kept in memory only: a controller that starts anew tries anew.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from enum import Enum, auto

from controller.objects import MANAGER
from controller.takeover.world import ServiceView

ROUNDS_MAX = 5
PAUSE_S = 5.0
PEACE_S = 3_600.0
RETRY_S = 6 * 3_600.0


class Hold(Enum):
    FREE = auto()
    """As the user has made it."""
    OURS = auto()
    LOST = auto()
    """It was ours until somebody put the selector back."""


@dataclass(frozen=True, slots=True)
class Contest:
    """`since_s`: of `hold`. `terms`: what the contest is about. `by`: who won last."""

    terms: Hashable = None
    hold: Hold = Hold.FREE
    since_s: float = 0.0
    rounds: int = 0
    by: str = ""

    @property
    def retake_at_s(self) -> float:
        """From when on a Service with a selector may be taken."""
        if self.hold is not Hold.LOST:
            return 0.0
        return self.since_s + (RETRY_S if self.rounds > ROUNDS_MAX else PAUSE_S * 2 ** (self.rounds - 1))

    def is_given_up(self, now: float) -> bool:
        return self.hold is Hold.LOST and self.rounds > ROUNDS_MAX and now < self.retake_at_s


def watch(contest: Contest, service: ServiceView, terms: Hashable, now: float) -> Contest:
    """What the state of a Service that is wanted means for the contest."""
    if contest.terms != terms:
        contest = Contest(terms)
    if not service.selector:
        return contest if contest.hold is Hold.OURS else replace(contest, hold=Hold.OURS, since_s=now)
    if MANAGER in service.writers:
        # We put it back ourselves, or share it: nobody is against us.
        return replace(contest, hold=Hold.FREE) if contest.hold is Hold.OURS else contest
    was_ours = contest.hold is Hold.OURS or (contest.hold is Hold.FREE and service.models is not None)
    if not was_ours:
        return contest
    peaceful = contest.hold is Hold.OURS and now - contest.since_s >= PEACE_S
    rounds = 1 if peaceful else contest.rounds + 1
    by = ", ".join(sorted(service.writers)) or "somebody"
    return Contest(terms, Hold.LOST, now, rounds, by)
