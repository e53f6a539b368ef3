"""Pure: one model's limit in the hands of several gateways. `controller.leasing` has the theory.

Each gateway's `Part` has its `limit`, as told, and its `bound`, the most that may be in progress there. `divide` moves
the limits towards what each should have, and raises nothing before the bounds leave room for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from controller.routing import divide
from xds.events import LocalLoad

SETTLE_S = 0.05
"""A report that comes this long after an acknowledgement was made after it: they come on different streams."""

DRAIN_S = 60.0
"""After this long, what a gateway was lowered from is taken to be gone although no report says so."""

CALM_S = 30.0
"""After this long without one that is short, all go back to their static parts."""

RATE_S = 5.0
"""Over how long arrivals are averaged."""

FLOOR = 1
"""What nobody's limit is lowered below, as long as the whole is enough for it."""


@dataclass(slots=True)
class Part:
    """One gateway's part. `lowered`: the serial of the lease that lowered it, until that is confirmed, then 0;
    `applied_at_s`: when it was acknowledged. From its reports: requests in progress, and how many arrive per second.
    """

    limit: int
    bound: int
    lowered: int = 0
    lowered_at_s: float = 0.0
    applied_at_s: float | None = None
    active: int = 0
    rate: float = 0.0

    def lower(self, limit: int, serial: int, now: float) -> None:
        self.limit = limit
        self.lowered, self.lowered_at_s, self.applied_at_s = serial, now, None

    def confirm(self, now: float) -> bool:
        """Lets the bound come down to what is in progress, if the last report tells that; whether it moved."""
        if self.lowered and (self.applied_at_s is None or now < self.applied_at_s + SETTLE_S):
            return False
        self.lowered = 0
        known, self.bound = self.bound, max(self.limit, min(self.bound, self.active))
        return self.bound < known


@dataclass(slots=True)
class Ledger:
    """All parts. `leased`: they are divided by demand; otherwise they are on their way to static."""

    parts: dict[str, Part]
    leased: bool = False
    short_at_s: float = float("-inf")

    def is_static(self, static: int) -> bool:
        return not self.leased and all(part.limit == part.bound == static for part in self.parts.values())

    def apply(self, gateway: str, serial: int, now: float) -> None:
        """The gateway has what it was told with this serial, and before."""
        part = self.parts.get(gateway)
        if part and 0 < part.lowered <= serial and part.applied_at_s is None:
            part.applied_at_s = now

    def hear(self, part: Part, load: LocalLoad, elapsed_s: float, now: float) -> bool:
        """The gateway with this part says what it carries; whether that may change anything."""
        part.active = load.active
        part.rate += min(1.0, elapsed_s / RATE_S) * ((load.issued + load.refused) / elapsed_s - part.rate)
        if is_short(load, part.limit):
            self.short_at_s = now
        return part.confirm(now) or self.leased

    def review(self, static: int, live: Collection[str], now: float) -> bool:
        """What time alone changes; whether it did."""
        changed = False
        if self.leased and now >= self.short_at_s + CALM_S:
            self.leased, changed = False, True
        for name, part in self.parts.items():
            if part.bound > part.limit and now >= part.lowered_at_s + DRAIN_S:
                known, part.bound = part.bound, part.limit if name in live else max(part.limit, static)
                changed = changed or part.bound < known
        return changed

    def divide(self, total: int, static: int, live: Collection[str], serial: int, now: float) -> None:
        """Lowers who has more than it needs, and raises who has less by what has become free."""
        for name, part in self.parts.items():
            if name not in live and part.bound < static:
                part.bound = static  # its lease may end before it is heard of again
                part.lower(part.limit, serial, now)
        parts = {name: part for name, part in self.parts.items() if name in live}
        if not parts:
            return
        available = max(0, total - sum(part.bound for name, part in self.parts.items() if name not in live))
        wants = self._wants(parts, available, static)
        needs = {name: want - parts[name].limit for name, want in wants.items() if want > parts[name].limit}
        deficit = sum(part.limit for part in parts.values()) + sum(needs.values()) - available
        for name in sorted(parts, key=lambda name: (wants[name] - parts[name].limit, name)):
            part = parts[name]
            surplus = min(part.limit - wants[name], deficit)
            if surplus > 0 and not part.lowered:  # one at a time, or a report never confirms any
                part.lower(part.limit - surplus, serial, now)
                deficit -= surplus
        self._raise(needs, total)

    def _wants(self, parts: Mapping[str, Part], available: int, static: int) -> dict[str, int]:
        """What each of these shall have in the end."""
        if not self.leased:
            even = divide(available, [1] * len(parts))
            return {name: min(static, part) for name, part in zip(parts, even, strict=True)}
        free = available - sum(part.active for part in parts.values())
        if free < 0:
            fewer = divide(available, [part.active + 1 for part in parts.values()])
            return dict(zip(parts, fewer, strict=True))
        more = divide(free, [round(part.rate * 1_000) + 1 for part in parts.values()])
        return {
            name: max(FLOOR, part.active + part_of_free)
            for (name, part), part_of_free in zip(parts.items(), more, strict=True)
        }

    def _raise(self, needs: Mapping[str, int], total: int) -> None:
        """The neediest first, as far as there is room."""
        room = total - sum(part.bound for part in self.parts.values())
        for name in sorted(needs, key=lambda name: (-needs[name], name)):
            part = self.parts[name]
            limit = min(part.limit + needs[name], part.bound + max(0, room))
            if limit > part.limit:
                room -= max(0, limit - part.bound)
                part.limit, part.bound = limit, max(part.bound, limit)


def is_short(load: LocalLoad, limit: int) -> bool:
    """Whether a gateway is about to need more than its limit: one free slot of ten, and one at least, is kept."""
    return load.refused > 0 or load.active >= limit - max(1, limit // 10)
