"""Pure: one xDS stream, without I/O: requests and the time go in, responses come out as bytes.

Theory
------
A stream is a client that follows the snapshot. For each type it has two *lanes*, one for what is made (added or
changed) and one for what is removed, and in each lane the position in the type's log that it has been sent up to.
Nothing else is remembered of what the client has.

**Make before break.** No request may meet a configuration that points at something missing. So what is referred to is
made before what refers to it, and removed after it. The lanes stand in four stages:

    1  make    RUNTIME CLUSTER ENDPOINTS SECRET       what is referred to
    2  make    LISTENER SCOPED_ROUTE ROUTE            what refers
    3  remove  SCOPED_ROUTE LISTENER
    4  remove  ROUTE
    5  remove  SECRET ENDPOINTS CLUSTER RUNTIME

A lane is *complete through* sequence s when the client has answered for everything in it that changed up to s. One rule
orders all: **a lane sends a change of sequence s only when all lanes of earlier stages are complete through s.** A
change of weights alone touches nothing in stage 1, which is complete at once, and leaves without waiting.

Why this is enough. Say route R of sequence s refers to cluster C. C changed last at some t; the snapshot was consistent
at s, so C exists since s or before. Stage 1 has no gate: each walk takes everything there is. So once it is complete
through s, it has been through a walk at s or later, and that walk included C, at whatever t. The removals need the same
of R: if C is gone since s, R let go of it by then, but R's entry may have moved on to t > s, which its gate still holds
back, and the client would have the R of before s. Hence a walk that had to leave something behind completes nothing.

**One push in flight for each type.** While it waits for its answer, changes pile up in the log, where a later change
of a resource takes the place of an earlier: a slow client skips what it was too slow for. A large push goes in pieces.
A piece is kept as names and takes the latest content when it is sent.

**Answers.** An ACK and a NACK both end a push. The position has moved when it was sent, so what was refused is not sent
again; whoever hears of it (the publisher) changes the snapshot, or calls `resend` for the innocent. An answer that is
overdue by `HOLD_S` holds nothing back any more, except removals: what stays too long does no harm.

**Endpoints follow their cluster.** A changed EDS cluster warms until endpoints come, and a delta Envoy does not ask for
them again. So with each cluster its endpoints are owed again. A new cluster's endpoints Envoy asks for before it
acknowledges the cluster, so then too they are in flight when stage 1 would open stage 2.

**A listener drains.** Envoy stops to accept connections at a listener that is removed, and asks callers to leave those
that they have; until they do, or `DRAIN_S` have passed, requests arrive there and are served by its route. So what
went along with it or later (stages 4 and 5) is removed that much later. What has been removed meanwhile for other
reasons waits too, and does no harm.

A client that reconnects asks for one type after the other. Until it has been quiet for `OPENING_S` nothing is removed,
since what still refers to it may belong to a type that it has not asked for yet.

On streams of one type each (no ADS) order *between* types is best effort: a stream knows nothing of the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from math import inf
from typing import Any

from xds.response import Encoder, Push
from xds.snapshot import (
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    ROUTE,
    RUNTIME,
    SCOPED_ROUTE,
    SECRET,
    Entry,
    Resource,
    Snapshot,
)
from xds.subscription import Ack, Flight, Lane, Nack, Piece, Report, Subscription

HOLD_S = 5.0
"""How long an unanswered push may hold back what must come after it."""

DRAIN_S = 600.0
"""How long Envoy gives callers to leave a listener that is removed, by default (--drain-time-s)."""

OPENING_S = 1.0
"""How long after a stream's last first request for a type its removals wait."""

REFERRED = (RUNTIME, CLUSTER, ENDPOINTS, SECRET)
REFERRING = (LISTENER, SCOPED_ROUTE, ROUTE)
STAGES = (
    tuple((type_url, False) for type_url in REFERRED),
    tuple((type_url, False) for type_url in REFERRING),
    ((SCOPED_ROUTE, True), (LISTENER, True)),
    ((ROUTE, True),),
    tuple((type_url, True) for type_url in reversed(REFERRED)),
)
"""Lanes as (type, whether it removes), in the order of the theory."""

DRAINED = frozenset({ROUTE, *REFERRED})
"""Types whose removals wait until listeners have drained."""

WILDCARD_TYPES = frozenset({CLUSTER, LISTENER, SCOPED_ROUTE})
"""Types of which a first request without names means all."""

Refused = AbstractSet[tuple[str, str, str]]
"""Type, name and version of what a gateway has refused."""


class ProtocolError(Exception):
    """A request that no client should send, so its stream ends. The message is for the client."""


class Session:
    """What both variants of the protocol share; DeltaSession and StateSession read requests and build responses."""

    def __init__(
        self, snapshot: Snapshot, encoder: Encoder, refused: Refused = frozenset(), only: str | None = None
    ) -> None:
        """`refused`: what this gateway is never sent again; it may grow while the session lives. `only`: the type of a
        stream that carries one.
        """
        self.subscriptions: dict[str, Subscription] = {}
        self._only = only
        self._snapshot = snapshot
        self._encoder = encoder
        self._refused = refused
        self._reports: list[Report] = []
        self._stages: tuple[list[tuple[Subscription, Lane]], ...] = ()
        self._settled_at = -1
        self._opening_until_s = 0.0
        self._warming: set[str] = set()
        self._draining: deque[tuple[int, float]] = deque()
        """Of listeners that were removed: the sequence from which on they may need what is gone, and until when they
        drain. Both only grow.
        """
        self._let_go = 0
        """No listener that the client has needs anything that is gone since this sequence or before."""

    def receive(self, request: Any, now_s: float) -> float | None:
        """Takes a request. Returns how long the push that it answers was under way, in seconds; None: it answers none.

        Raises ProtocolError.
        """
        raise NotImplementedError

    @property
    def is_settled(self) -> bool:
        """Whether all has been sent that there is: `offer` has no more until the snapshot changes, or what the client
        asks for. Answers may still be due.
        """
        return self._settled_at == self._snapshot.sequence

    def offer(self, now_s: float) -> list[Push]:
        """What is to be sent now; it counts as sent. Work in proportion to what changed since the last time."""
        pushes: list[Push] = []
        if self.is_settled:
            return pushes
        settled = True
        complete = reached = sequence = self._snapshot.sequence
        for lanes in self._stages:
            gate_to_make, gate_to_remove = reached, complete
            for subscription, lane in lanes:
                if lane.removing and now_s < self._opening_until_s:
                    settled = False
                elif subscription.is_idle(lane):
                    lane.position = lane.complete = sequence
                    continue
                else:
                    gate = gate_to_remove if lane.removing else gate_to_make
                    if lane.removing and subscription.type_url in DRAINED:
                        self._let_go = max(self._let_go, gate)
                        gate = min(gate, self._drained(now_s))
                    if push := self._advance(subscription, lane, gate, now_s):
                        pushes.append(push)
                complete = min(complete, lane.complete)
                reached = min(reached, self._reached(subscription, lane, now_s))
                settled = settled and not subscription.is_behind(lane)
        self._settled_at = sequence if settled else -1
        return pushes

    def wake_at(self, now_s: float) -> float | None:
        """When `offer` may have more although nothing else happens; None: never."""
        earliest = self._opening_until_s if self._opening_until_s > now_s else None
        if self._draining and not self.is_settled:
            at_s = self._draining[0][1]
            earliest = at_s if earliest is None else min(earliest, at_s)
        for each in self.subscriptions.values():
            if each.flight and (at_s := each.flight.sent_at_s + HOLD_S) > now_s:
                earliest = at_s if earliest is None else min(earliest, at_s)
        return earliest

    def resend(self, type_url: str, names: Iterable[str], *, alone: bool = False) -> None:
        """Sends these once more, together or each alone: they were in a response that was refused."""
        self._settled_at = -1
        subscription = self.subscriptions[type_url]
        pieces = subscription.makes.pieces
        for piece in pieces:
            piece.completes = None
        covered = [name for name in names if subscription.covers(name)]
        if alone:
            pieces.extend(Piece((name,)) for name in covered)
        else:
            subscription.owed.update(dict.fromkeys(covered))

    def reports(self) -> list[Report]:
        """What the client has accepted and refused since the last call."""
        reports, self._reports = self._reports, []
        return reports

    def passed(self) -> int:
        """This stream needs no tombstone of this sequence or before."""
        return min((each.removes.position for each in self.subscriptions.values()), default=self._snapshot.sequence)

    # Requests, for the variants

    def _type_of(self, type_url: str) -> str:
        """The type that a request is about; on a stream of one type it need not say."""
        type_url = type_url or self._only or ""
        if type_url not in self._snapshot.logs or self._only not in (None, type_url):
            raise ProtocolError(f"resources of type {type_url!r} are not served on this stream")
        return type_url

    def _open(self, type_url: str, now_s: float) -> Subscription:
        """The client's first request for a type."""
        subscription = Subscription(type_url, self._snapshot.logs[type_url])
        subscription.makes.position = subscription.removes.position = self._snapshot.sequence
        self.subscriptions[type_url] = subscription
        stages = (
            [
                (each, each.removes if removing else each.makes)
                for type_url, removing in stage
                if (each := self.subscriptions.get(type_url))
            ]
            for stage in STAGES
        )
        self._stages = tuple(filter(None, stages))
        self._settled_at = -1
        self._opening_until_s = now_s + OPENING_S
        return subscription

    def _answer(self, subscription: Subscription, nonce: str, error: str | None, now_s: float) -> float | None:
        """Ends the push in flight if it has this nonce; a stale one means nothing. Returns as `receive`."""
        flight = subscription.flight
        if flight is None or flight.push.nonce != nonce:
            return None
        subscription.flight = None
        subscription.answered = True
        subscription.error = error
        subscription.ack_s = now_s - flight.sent_at_s
        if flight.lane.removing and subscription.type_url == LISTENER:
            self._draining[-1] = (self._draining[-1][0], now_s + DRAIN_S)
        if error is not None:
            names = frozenset(flight.names)  # what is new in it; state of the world lists the rest too
            suspects = tuple(each for each in flight.push.resources if each.name in names)
            self._reports.append(Nack(subscription.type_url, suspects, error, self._divisible(subscription)))
            return subscription.ack_s
        if flight.completes is not None:
            flight.lane.complete = max(flight.lane.complete, flight.completes)
        if flight.push.resources:
            self._reports.append(Ack(flight.push.resources))
        return subscription.ack_s

    def _subscribe(self, subscription: Subscription, names: Iterable[str]) -> None:
        """What is asked for is sent, whether or not it was before. SECRET has no wildcard: it must be named."""
        for name in names:
            self._settled_at = -1
            if name != "*":
                entry = subscription.log.get(name)
                name = entry.resource.name if entry else name  # one string, however many streams hold it
                subscription.names.add(name)
                subscription.owed[name] = None
            elif subscription.type_url != SECRET:
                subscription.wildcard = True
                subscription.makes.position = 0
                subscription.answer_due = True

    def _unsubscribe(self, subscription: Subscription, names: Iterable[str]) -> None:
        for name in names:
            self._settled_at = -1
            if name == "*":
                subscription.wildcard = False
                continue
            subscription.names.discard(name)
            if subscription.wildcard:
                subscription.owed[name] = None  # still covered, and the client must be told what it is now
            else:
                subscription.owed.pop(name, None)

    # Responses

    def _encode(
        self, subscription: Subscription, lane: Lane, names: Sequence[str], gate: int
    ) -> tuple[Push | None, bool]:
        """The response that brings these names up to date, None if there is nothing to say; whether all are in it."""
        raise NotImplementedError

    def _cut(self, subscription: Subscription, names: Sequence[str]) -> list[Sequence[str]]:
        """Splits what is to be sent into what goes in one response."""
        return [names]

    def _divisible(self, subscription: Subscription) -> bool:
        """Whether a response may hold less than all resources."""
        return True

    def _is_refused(self, each: Resource) -> bool:
        return bool(self._refused) and (each.type_url, each.name, each.version) in self._refused

    def _advance(self, subscription: Subscription, lane: Lane, gate: int, now_s: float) -> Push | None:
        """The lane's next response, if the type has none in flight."""
        while True:
            if not lane.pieces and not (subscription.flight and subscription.flight.lane is lane):
                self._walk(subscription, lane, gate)
            if subscription.flight or not lane.pieces:
                return None
            piece = lane.pieces.pop(0)
            push, whole = self._encode(subscription, lane, piece.names, gate)
            completes = piece.completes if whole else None
            if push:
                self._send(subscription, Flight(push, lane, piece.names, completes, now_s))
                return push
            if completes is not None:
                lane.complete = max(lane.complete, completes)

    def _send(self, subscription: Subscription, flight: Flight) -> None:
        subscription.flight = flight
        subscription.answer_due = False
        if subscription.type_url == CLUSTER and not flight.lane.removing:
            self._owe_endpoints(flight.names)
        if subscription.type_url == LISTENER and flight.lane.removing:
            while self._draining and self._draining[-1][0] > self._let_go:
                self._draining.pop()
            self._draining.append((self._let_go + 1, inf))

    def _drained(self, now_s: float) -> int:
        """The sequence through which no removed listener needs what is gone."""
        while self._draining and self._draining[0][1] <= now_s:
            self._draining.popleft()
        return self._draining[0][0] - 1 if self._draining else self._snapshot.sequence

    def _walk(self, subscription: Subscription, lane: Lane, gate: int) -> None:
        """Queues what the lane may send of what changed since its position."""
        if not subscription.is_behind(lane):
            lane.position = lane.complete = self._snapshot.sequence
            return
        if lane.removing and gate <= lane.position and not subscription.withdrawn:
            return  # it may say nothing yet, and there may be much to look through, again and again
        collect = self._removed if lane.removing else self._made
        names, whole = collect(subscription, lane.position, gate)
        sequence = self._snapshot.sequence
        lane.position = sequence if whole else max(lane.position, gate)
        if names or (subscription.answer_due and whole and not lane.removing):
            lane.pieces.extend(Piece(piece) for piece in self._cut(subscription, names))
            lane.pieces[-1].completes = sequence if whole else None
        elif whole:
            lane.complete = sequence

    def _made(self, subscription: Subscription, position: int, gate: int) -> tuple[list[str], bool]:
        """The names to send in the order they changed, and whether none was held back."""
        changed = list(self._covered(subscription, position))
        names = [entry.resource.name for entry in reversed(changed) if entry.sequence <= gate]
        whole = len(names) == len(changed)
        if subscription.owed:
            listed = {entry.resource.name for entry in changed}
            ready = [name for name in subscription.owed if subscription.log.sequence_of(name) <= gate]
            names += [name for name in ready if name not in listed]
            whole = whole and len(ready) == len(subscription.owed)
            for name in ready:
                del subscription.owed[name]
        return names, whole

    def _covered(self, subscription: Subscription, position: int) -> Iterator[Entry]:
        """What changed after `position` and the client subscribes to, newest first."""
        changed = subscription.log.changed_since(position)
        if subscription.wildcard:
            return changed
        return (entry for entry in changed if entry.resource.name in subscription.names)

    def _removed(self, subscription: Subscription, position: int, gate: int) -> tuple[list[str], bool]:
        gone = [each for each in subscription.log.removed_since(position) if subscription.covers(each.resource.name)]
        names = [each.resource.name for each in reversed(gone) if each.sequence <= gate]
        whole = len(names) == len(gone)
        if subscription.withdrawn and gate >= position:
            names += subscription.withdrawn
            subscription.withdrawn = {}
        return names, whole and not subscription.withdrawn

    def _owe_endpoints(self, clusters: Iterable[str]) -> None:
        """Endpoints follow their cluster, also on a reconnect before the client has asked for them."""
        endpoints = self.subscriptions.get(ENDPOINTS)
        log = self._snapshot.logs[CLUSTER]
        entries = (entry for name in clusters if (entry := log.get(name)))
        for name in (name for entry in entries for type_url, name in entry.resource.refs if type_url == ENDPOINTS):
            if endpoints is None:
                self._warming.add(name)
            elif endpoints.covers(name):
                endpoints.owed[name] = None

    def _reached(self, subscription: Subscription, lane: Lane, now_s: float) -> int:
        """What the lane lets the next stage make; everything once an answer is overdue."""
        flight = subscription.flight
        overdue = flight is not None and now_s >= flight.sent_at_s + HOLD_S
        return self._snapshot.sequence if overdue else lane.complete
