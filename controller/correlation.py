"""Pure: which Kubernetes Events are written for what is announced, so that nobody's events drown in ours.

The same reason and message of the same object again raises the count of its Event. Each object has a budget of `BURST`
events, and one more every `REFILL_S` (client-go's numbers): a model that swings for ever cannot fill etcd.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from controller.events import Announce

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

BURST = 25
REFILL_S = 300.0
SAME_WITHIN_S = 3_000.0
"""An Event is counted up this long after it was written last; the API server keeps it for an hour."""
REMEMBERED = 4_096
"""Objects, and Events, that are remembered; of more, those that were longest without news are forgotten."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One Event: what it is about (`uid`), how often it happened, first and last when, in seconds since the epoch."""

    uid: str
    what: Announce
    first_s: float
    last_s: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class _Budget:
    left: float
    at_s: float


class Correlator:
    def __init__(self) -> None:
        self._happenings: _Recent[tuple[str, Announce], Happening] = _Recent()
        self._budgets: _Recent[str, _Budget] = _Recent()

    def take(self, uid: str, what: Announce, now_s: float) -> Happening | None:
        """The Event to write; one whose count is above 1 has been written before. None: the budget is used up."""
        budget = self._budgets.get(uid) or _Budget(BURST, now_s)
        left = min(float(BURST), budget.left + (now_s - budget.at_s) / REFILL_S)
        if left < 1.0:
            return None
        self._budgets.put(uid, _Budget(left - 1.0, now_s))
        last = self._happenings.get((uid, what))
        if last is None or now_s > last.last_s + SAME_WITHIN_S:
            happening = Happening(uid, what, now_s, now_s)
        else:
            happening = replace(last, last_s=now_s, count=last.count + 1)
        self._happenings.put((uid, what), happening)
        return happening


class _Recent(Generic[K, V]):
    """The values that were put last."""

    def __init__(self) -> None:
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > REMEMBERED:
            self._values.popitem(last=False)
