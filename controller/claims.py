"""Pure: names that only one model may hold, first come, first served. Who comes later waits, and is next when the
holder lets go.

The holder keeps a name as long as it wants it: a newcomer never moves the traffic of a model that works.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


class Claims(Generic[Name]):
    """Who holds which name, and who waits for it. Owners are model keys."""

    def __init__(self) -> None:
        self._queues: dict[Name, list[str]] = {}
        self._wanted: dict[str, frozenset[Name]] = {}

    def claim(self, owner: str, names: Iterable[Name]) -> set[str]:
        """Sets what `owner` wants, all of it. Returns the others that hold something new because of that."""
        new = frozenset(names)
        old = self._wanted.get(owner, frozenset())
        heirs: set[str] = set()
        for name in old - new:
            queue = self._queues[name]
            held = queue[0] == owner
            queue.remove(owner)
            if not queue:
                del self._queues[name]
            elif held:
                heirs.add(queue[0])
        for name in new - old:
            self._queues.setdefault(name, []).append(owner)
        if new:
            self._wanted[owner] = new
        else:
            self._wanted.pop(owner, None)
        return heirs

    def holder(self, name: Name) -> str | None:
        queue = self._queues.get(name)
        return queue[0] if queue else None

    def held(self, owner: str) -> frozenset[Name]:
        return frozenset(name for name in self._wanted.get(owner, ()) if self._queues[name][0] == owner)
