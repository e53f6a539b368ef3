"""Pure: what a session keeps for each type, and what it reports. `xds.session` says what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xds.response import Push
from xds.snapshot import Log, Resource


@dataclass(frozen=True, slots=True)
class Ack:
    """The client acknowledged a response with these resources."""

    resources: tuple[Resource, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A client that came back has all resources of a type as they are now, except those named."""

    type_url: str
    but: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Nack:
    """The client refused a response with these resources, for the reason in `message`. Not `divisible`: they cannot be
    sent one by one.
    """

    type_url: str
    resources: tuple[Resource, ...]
    message: str
    divisible: bool = True


@dataclass(frozen=True, slots=True)
class LeaseAck:
    """The client has the lease of this serial in force."""

    serial: int


Report = Ack | Kept | Nack | LeaseAck


@dataclass(slots=True)
class Piece:
    """Names to send together. `completes`: what their lane is complete through when this piece has been answered."""

    names: Sequence[str]
    completes: int | None = None


@dataclass(slots=True, eq=False)
class Lane:
    """What is made, or what is removed, of one type. See the theory."""

    removing: bool
    position: int = 0
    complete: int = 0
    pieces: list[Piece] = field(default_factory=list)


@dataclass(slots=True)
class Flight:
    """A push that waits for its answer."""

    push: Push
    lane: Lane
    names: Sequence[str]
    completes: int | None
    sent_at_s: float


@dataclass(slots=True)
class Subscription:
    """One type on one stream.

    `owed` are names to send whatever the position: newly subscribed, or to be sent again. `withdrawn` are names that a
    client kept from an earlier stream, and that are gone.
    """

    type_url: str
    log: Log
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    makes: Lane = field(default_factory=lambda: Lane(removing=False))
    removes: Lane = field(default_factory=lambda: Lane(removing=True))
    owed: dict[str, None] = field(default_factory=dict)
    withdrawn: dict[str, None] = field(default_factory=dict)
    answer_due: bool = False
    flight: Flight | None = None
    answered: bool = False
    error: str | None = None
    ack_s: float | None = None

    def covers(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def is_idle(self, lane: Lane) -> bool:
        """Whether the lane has nothing to send and waits for no answer."""
        return (self.flight is None or self.flight.lane is not lane) and not self.is_behind(lane)

    def is_behind(self, lane: Lane) -> bool:
        """Whether there may be something for the lane to walk over or to send."""
        if lane.pieces:
            return True
        if lane.removing:
            return bool(self.withdrawn) or self.log.newest_removal > lane.position
        return self.answer_due or bool(self.owed) or self.log.newest > lane.position
