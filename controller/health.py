"""Pure: which remotes are known not to work, learnt from how requests to them end.

Theory
------
A remote is *unhealthy* when, in the last `window_s`, at least `attempts` requests to it finished and every one failed.
That is a rule for what does not work at all, not for what works badly: one success in the window, and it stays. No
attempt says nothing, so silence changes nothing.

An unhealthy remote *rests*: it gets no share for `rest_s`, and is then tried again with all of it. Each time it fails
again without a success between, the rest is twice as long, up to `max_rest_s`. One success, whenever it comes, proves
that it works: it ends the rest and forgets the failures. (It can come during a rest: a remote that rests is still the
last resort of a request that nobody else takes.) Failures during a rest say nothing new.

What counts, measured on Envoy 1.40 with real destinations:

    failed       a refused connection, a failed TLS handshake, a connection cut before the answer, any 5xx
    succeeded    any other answer, 401, 404 and 429 included: the remote works, though maybe not for us. An answer
                 counts when its headers arrive, so a long stream counts at once
    neither      the remote's limit here is reached; its name does not resolve; its hosts are ejected after failed
                 connections; the caller went away before an answer; the gateway lacks the credential

Reports of several gateways about one remote are taken as one sequence, so a remote that works for one of them works.
Health is not saved: after a restart every remote is tried. A controller that takes the lead from another lets those
rest that rested there. Times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from xds.events import BackendLoad


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """When a remote is unhealthy, and for how long it then rests."""

    window_s: float = 10
    attempts: int = 5
    rest_s: float = 30
    max_rest_s: float = 600


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one remote.

    `failures`: when reports without a success came, and how many requests each had, newest last; no more of them than
    can matter. `rest_s`: the length of the last rest, 0 after a success.
    """

    succeeded_at_s: float | None = None
    failures: tuple[tuple[float, int], ...] = ()
    rest_s: float = 0
    rests_until_s: float = 0

    def rests(self, now: float) -> bool:
        return now < self.rests_until_s

    @property
    def failed(self) -> int:
        """The requests that failed in a row, as far as they are remembered."""
        return sum(count for _, count in self.failures)


def hear(policy: HealthPolicy, last: Health, succeeded: int, failed: int, now: float) -> Health:
    """What a report adds: so many requests finished since the one before."""
    if succeeded:
        return Health(succeeded_at_s=now)
    if not failed or last.rests(now):
        return last
    within = [each for each in last.failures if max(last.rests_until_s, now - policy.window_s) <= each[0]]
    failures = (*within, (now, failed))[-policy.attempts :]
    worked = last.succeeded_at_s is not None and now - last.succeeded_at_s < policy.window_s
    if worked or sum(count for _, count in failures) < policy.attempts:
        return Health(last.succeeded_at_s, failures, last.rest_s, last.rests_until_s)
    rest_s = min(2 * last.rest_s or policy.rest_s, policy.max_rest_s)
    return Health(last.succeeded_at_s, failures, rest_s, now + rest_s)


class RemoteHealth:
    """The health of every remote that a model uses, by its cluster."""

    def __init__(self, policy: HealthPolicy) -> None:
        self._policy = policy
        self._known: dict[str, Health] = {}
        self._users: dict[str, set[str]] = {}
        self._used: dict[str, frozenset[str]] = {}
        self.totals: dict[str, tuple[int, int]] = {}
        """By remote that a model uses, how many requests succeeded and failed there, as far as counted here."""

    def use(self, model: str, clusters: Iterable[str]) -> None:
        """Says which remotes a model has now. What is known of one that nobody has is dropped."""
        wanted = frozenset(clusters)
        for cluster in self._used.pop(model, frozenset()) - wanted:
            self._users[cluster].discard(model)
            if not self._users[cluster]:
                del self._users[cluster]
                self._known.pop(cluster, None)
                self.totals.pop(cluster, None)
        for cluster in wanted:
            self._users.setdefault(cluster, set()).add(model)
        if wanted:
            self._used[model] = wanted

    def start(self, resting: Iterable[str], now: float) -> None:
        """Begins anew with what another controller knew: these remotes rest."""
        rests_until_s = now + self._policy.rest_s
        self._known = {each: Health(rest_s=self._policy.rest_s, rests_until_s=rests_until_s) for each in resting}

    def count(self, loads: Iterable[BackendLoad]) -> None:
        """Adds a report to the totals."""
        for load in loads:
            if load.cluster in self._users:
                succeeded, failed = self.totals.get(load.cluster, (0, 0))
                self.totals[load.cluster] = succeeded + load.succeeded, failed + load.failed

    def hear(self, loads: Iterable[BackendLoad], now: float) -> set[str]:
        """Takes a report. Returns the models that have a remote whose rest began or ended with it."""
        touched: set[str] = set()
        for load in loads:
            if users := self._users.get(load.cluster):
                last = self._known.get(load.cluster, Health())
                health = self._known[load.cluster] = hear(self._policy, last, load.succeeded, load.failed, now)
                if health.rests(now) != last.rests(now):
                    touched |= users
        return touched

    def obstacle(self, cluster: str, now: float) -> str:
        """Why this remote gets no share, empty if it may."""
        health = self._known.get(cluster)
        if health is None or not health.rests(now):
            return ""
        failed = f"the last {health.failed} requests" if health.failed else "all requests"
        return f"{failed} to it failed; it is tried again after {health.rest_s:g} s"

    def rests_until_s(self, cluster: str) -> float:
        """When it was or will be tried again, 0 if it has not rested."""
        health = self._known.get(cluster)
        return health.rests_until_s if health else 0
