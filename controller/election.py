"""Pure: who leads, by a Lease that all contenders read and write.

The holder renews the lease over and over. Others take it once they have seen no change of it for as long as it lasts:
only the time between two looks of one's own counts, so clocks need not agree; and only if both succeed, so that after
an outage of the API server whoever held the lease, and went on deciding, can still renew it. The holder stops leading
`deadline_s` after it *began* the last renewal that succeeded, which is before anybody else can take the lease
(`deadline_s` is shorter than `duration_s`): at no time two lead, however long requests take. A lease that is deleted
has to run out too.

A write carries the version of the lease that was read, and fails if that is not the newest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

NOBODY = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a lease lasts without renewal, how long its holder leads without one, and how often it is looked at."""

    duration_s: int = 15
    deadline_s: float = 10.0
    retry_s: float = 2.0

    def __post_init__(self) -> None:
        if not self.retry_s < self.deadline_s < self.duration_s:
            raise ValueError("retry_s < deadline_s < duration_s must hold")


@dataclass(frozen=True, slots=True)
class Lease:
    """As in Kubernetes. `acquired` and `renewed` are times as text, for people; nobody reckons with them."""

    holder: str = NOBODY
    duration_s: int = 1
    transitions: int = 0
    acquired: str = ""
    renewed: str = ""


class Candidate:
    """One contender. `identity` is nobody else's at the same time. Times are this contender's own, in seconds."""

    def __init__(self, identity: str, terms: Terms) -> None:
        self.identity = identity
        self._terms = terms
        self._seen: Lease | None = None
        self._seen_at_s = 0.0
        self._looked_at_s = 0.0
        self.leads_until_s = float("-inf")

    def leads(self, now_s: float) -> bool:
        return now_s < self.leads_until_s

    def claim(self, lease: Lease | None, now_s: float, time: str) -> Lease | None:
        """What to write after reading `lease` (None: there is none), to hold it; None: it is somebody else's.

        `time`: now, as text.
        """
        self._looked_at_s = now_s
        if lease is not None and lease != self._seen:
            self._seen, self._seen_at_s = lease, now_s
        ours = Lease(self.identity, self._terms.duration_s, 0, time, time)
        held = self._seen
        if held is None:
            return ours
        if held.holder == self.identity:
            # Also after a crash: a pod that starts again in place has its name, and what it held.
            return replace(ours, transitions=held.transitions, acquired=held.acquired)
        self.leads_until_s = float("-inf")
        if held.holder != NOBODY and now_s < self._seen_at_s + held.duration_s:
            return None
        return replace(ours, transitions=held.transitions + 1)

    def missed(self, now_s: float) -> None:
        """A look, or the write after it, failed."""
        self._seen_at_s += now_s - self._looked_at_s
        self._looked_at_s = now_s

    def wrote(self, lease: Lease, begun_s: float) -> None:
        """A claim was written; the request began at `begun_s`."""
        self._seen, self._seen_at_s = lease, begun_s
        self.leads_until_s = begun_s + self._terms.deadline_s

    def release(self, time: str) -> Lease | None:
        """What to write so that somebody else may lead at once; None: there is nothing to give back."""
        self.leads_until_s = float("-inf")
        if self._seen is None or self._seen.holder != self.identity:
            return None
        return replace(self._seen, holder=NOBODY, duration_s=1, renewed=time)
