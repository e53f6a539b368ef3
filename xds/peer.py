"""Pure: what one connected gateway has accepted.

Who connects has accepted nothing, and that takes no list, however much there is: of an *untouched* type everything is
pending, and while the gateway is *empty* no route is whole. So a storm of gateways costs what they ask for, and one
that follows a single type needs no list of the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import repeat

from xds.leases import Granted
from xds.snapshot import CLUSTER, ENDPOINTS, TYPES, Key, Resource, Snapshot
from xds.subscription import Kept

Version = tuple[str, str, str]
"""A resource's type, name and version."""


@dataclass(slots=True)
class Peer:
    """`incomplete`: the routes that it does not have whole, once it is not `empty`. `refused`: what it is never sent
    again. `granted`: what is leased to it.
    """

    streams: int = 0
    empty: bool = True
    incomplete: set[str] = field(default_factory=set)
    refused: dict[Version, None] = field(default_factory=dict)
    granted: Granted = field(default_factory=Granted)
    _untouched: set[str] = field(default_factory=lambda: set(TYPES))
    _pending: set[Key] = field(default_factory=set)

    def expect(self, made: AbstractSet[Key], gone: AbstractSet[Key]) -> None:
        """It has yet to accept what was made; nobody waits for what is gone."""
        self._pending |= {key for key in made if key[0] not in self._untouched} if self._untouched else made
        self._pending -= gone

    def accept(self, resources: Iterable[Resource], snapshot: Snapshot) -> list[Key]:
        """It has these, all of one type. Returns what it did not have before, as it is now."""
        got = [each.key for each in resources if snapshot.get(each.key) is each]
        if got and (type_url := got[0][0]) in self._untouched:
            self._untouched.discard(type_url)
            self._pending.update(zip(repeat(type_url), snapshot.logs[type_url].versions, strict=False))
        return self._settle([key for key in got if key in self._pending])

    def keep(self, kept: Kept, snapshot: Snapshot) -> AbstractSet[str]:
        """It came back with these. Returns the names of what it was not known to have."""
        type_url, names = kept.type_url, snapshot.logs[kept.type_url].versions.keys()
        if type_url in self._untouched:
            self._untouched.discard(type_url)
            self._pending.update((type_url, name) for name in kept.but & names)
            return names - kept.but
        had = [key for key in self._pending if key[0] == type_url and key[1] not in kept.but]
        return {name for _, name in self._settle(had)}

    def has(self, required: AbstractSet[Key]) -> bool:
        """Whether it has accepted all of these."""
        if untouched := self._untouched:
            for type_url, _ in required:  # no generator: this is asked of every route when a gateway comes back
                if type_url in untouched:
                    return False
        return not self._pending or self._pending.isdisjoint(required)

    @property
    def is_bare(self) -> bool:
        """Whether it cannot have a whole route: each has a cluster and endpoints of its own."""
        return CLUSTER in self._untouched or ENDPOINTS in self._untouched

    def _settle(self, keys: list[Key]) -> list[Key]:
        self._pending.difference_update(keys)
        if not self._pending:
            self._pending.clear()  # or it keeps the room that it needed once
        return keys
