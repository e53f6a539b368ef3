"""Pure: which gateways there are, and by how many a limit is divided.

A gateway that went away still holds its part of each limit for `GRACE_S`: it may only have lost its stream. After a
restart the controller does not know yet who will be back, so for as long it counts at least as many as there were. In a
cluster a gateway is there as long as its pod is, whichever controller it is connected to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet

GRACE_S = 60.0


class Gateways:
    """Owned by the engine. `restored`: how many there were before a restart."""

    def __init__(self, restored: int) -> None:
        self._streaming: set[str] = set()
        self._pods: frozenset[str] = frozenset()
        self._elsewhere: frozenset[str] = frozenset()
        self._gone_at_s: dict[str, float] = {}
        self._observers: set[str] = set()
        self._restored = restored
        self._restored_until_s: float | None = None

    @property
    def connected(self) -> list[str]:
        """Those with a stream now, to whichever controller; of ours, tools that only look on included."""
        return sorted(self._observers | self._streaming | self._elsewhere)

    @property
    def streaming(self) -> Collection[str]:
        """Those with a stream to this controller now, without tools."""
        return self._streaming

    @property
    def names(self) -> Collection[str]:
        """Those that hold a part of each limit: there now, or gone for less than `GRACE_S`."""
        return self._streaming | self._elsewhere | self._pods | self._gone_at_s.keys()

    @property
    def count(self) -> int:
        """By how many a limit is divided, at least 1."""
        return max(1, self._restored, len(self.names))

    def join(self, name: str, version: str, now: float) -> None:
        """A gateway connected. One that does not say which Envoy it is carries no traffic: it is a tool."""
        if version == "unknown":
            self._observers.add(name)
            return
        self._streaming.add(name)
        self._gone_at_s.pop(name, None)
        if self._restored and self._restored_until_s is None:
            self._restored_until_s = now + GRACE_S

    def leave(self, name: str, now: float) -> None:
        """It lost its stream."""
        self._observers.discard(name)
        if name in self._streaming:
            self._streaming.discard(name)
            self._miss(name, now)

    def see(self, pods: Iterable[str], now: float) -> None:
        """Takes the names of all pods of the gateway."""
        known, self._pods = self._pods, frozenset(pods)
        self._renew(known, self._pods, now)

    def see_elsewhere(self, names: Iterable[str], now: float) -> None:
        """Takes all that are connected to other controllers."""
        known, self._elsewhere = self._elsewhere, frozenset(names)
        self._renew(known, self._elsewhere, now)

    def expire(self, now: float) -> None:
        """Forgets those whose time is over."""
        for name, gone_at_s in list(self._gone_at_s.items()):
            if now >= gone_at_s + GRACE_S:
                del self._gone_at_s[name]
        if self._restored_until_s is not None and now >= self._restored_until_s:
            self._restored, self._restored_until_s = 0, None

    def wake_at(self) -> float | None:
        """When `expire` changes something."""
        times = [gone_at_s + GRACE_S for gone_at_s in self._gone_at_s.values()]
        if self._restored_until_s is not None:
            times.append(self._restored_until_s)
        return min(times, default=None)

    def _renew(self, known: AbstractSet[str], names: AbstractSet[str], now: float) -> None:
        for name in names:
            self._gone_at_s.pop(name, None)
        for name in known - names:
            self._miss(name, now)

    def _miss(self, name: str, now: float) -> None:
        if name not in self._streaming | self._elsewhere | self._pods:
            self._gone_at_s[name] = now
