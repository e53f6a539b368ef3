"""Pure: which gateways there are, and by how many a limit is divided.

A gateway that went away still holds its part of each limit for `GRACE_S`: it may only have lost its stream. After a
restart the controller does not know yet who will be back, so for as long it counts at least as many as there were.
"""

from __future__ import annotations

from collections.abc import Collection

GRACE_S = 60.0


class Gateways:
    """Owned by the engine. `restored`: how many there were before a restart."""

    def __init__(self, restored: int) -> None:
        self._gone_at_s: dict[str, float | None] = {}
        self._observers: set[str] = set()
        self._restored = restored
        self._restored_until_s: float | None = None

    @property
    def connected(self) -> list[str]:
        """Those with a stream now, tools that only look on included."""
        return sorted(self._observers | {name for name, gone in self._gone_at_s.items() if gone is None})

    @property
    def names(self) -> Collection[str]:
        """Those that hold a part of each limit: connected, or gone for less than `GRACE_S`."""
        return self._gone_at_s.keys()

    @property
    def count(self) -> int:
        """By how many a limit is divided, at least 1."""
        return max(1, self._restored, len(self._gone_at_s))

    def join(self, name: str, version: str, now: float) -> None:
        """A gateway connected. One that does not say which Envoy it is carries no traffic: it is a tool."""
        if version == "unknown":
            self._observers.add(name)
            return
        self._gone_at_s[name] = None
        if self._restored and self._restored_until_s is None:
            self._restored_until_s = now + GRACE_S

    def leave(self, name: str, now: float) -> None:
        self._observers.discard(name)
        if name in self._gone_at_s:
            self._gone_at_s[name] = now

    def expire(self, now: float) -> None:
        """Forgets those whose time is over."""
        for name, gone_at_s in list(self._gone_at_s.items()):
            if gone_at_s is not None and now >= gone_at_s + GRACE_S:
                del self._gone_at_s[name]
        if self._restored_until_s is not None and now >= self._restored_until_s:
            self._restored, self._restored_until_s = 0, None

    def wake_at(self) -> float | None:
        """When `expire` changes something."""
        times = [gone_at_s + GRACE_S for gone_at_s in self._gone_at_s.values() if gone_at_s is not None]
        if self._restored_until_s is not None:
            times.append(self._restored_until_s)
        return min(times, default=None)
