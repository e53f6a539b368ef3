"""Pure: a stream of the incremental variant: DeltaDiscoveryRequests in, DeltaDiscoveryResponses out.

The client says what it wants more and what no longer, and a response says what changed. Subscriptions count whatever
the nonce; only the answer to a push needs the right one.
"""

from __future__ import annotations

from collections.abc import Sequence

from protos.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from xds import leases
from xds.leases import Granted, LeaseLane
from xds.response import Encoder, Push, encoded_size
from xds.session import WILDCARD_TYPES, Refused, Session
from xds.snapshot import ENDPOINTS, RUNTIME, Snapshot
from xds.subscription import Flight, Kept, Lane, LeaseAck, Nack, Subscription

PIECE_BYTES = 1_000_000
"""A response is cut where it would grow beyond this. One message for each type took Envoy 100 MB more."""


class DeltaSession(Session):
    """See the module, and `xds.session` for the theory. `granted`: what is leased to this gateway alone."""

    def __init__(
        self,
        snapshot: Snapshot,
        encoder: Encoder,
        refused: Refused = frozenset(),
        only: str | None = None,
        granted: Granted | None = None,
    ) -> None:
        super().__init__(snapshot, encoder, refused, only)
        self._leases = LeaseLane(granted or Granted())

    def offer(self, now_s: float) -> list[Push]:
        pushes = super().offer(now_s)
        runtime = self.subscriptions.get(RUNTIME)
        if runtime and not runtime.flight and (push := self._leases.offer(now_s)):
            pushes.append(push)
        return pushes

    def receive(self, request: DeltaDiscoveryRequest, now_s: float) -> float | None:
        type_url = self._type_of(request.type_url)
        subscription = self.subscriptions.get(type_url)
        names: Sequence[str] = request.resource_names_subscribe
        known: dict[str, str] | None = None
        waited_s = None
        if subscription is None:
            subscription = self._open(type_url, now_s)
            known = dict(request.initial_resource_versions)
            if not names and type_url in WILDCARD_TYPES:
                names = ("*",)
        elif request.response_nonce:
            error = request.error_detail.message if request.HasField("error_detail") else None
            waited_s = self._answer(subscription, request.response_nonce, error, now_s)
        gone: Sequence[str] = request.resource_names_unsubscribe
        if type_url == RUNTIME:
            self._settled_at = -1  # a lease may have waited for this answer
            names, gone = self._receive_leases(request, names, known)
        self._subscribe(subscription, names)
        self._unsubscribe(subscription, gone)
        if known is not None:
            self._take_over(subscription, known)
        return waited_s

    def _receive_leases(
        self, request: DeltaDiscoveryRequest, names: Sequence[str], known: dict[str, str] | None
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Takes what is said of layers of the gateway's own. Returns which others it names, and names no longer."""
        gone = request.resource_names_unsubscribe
        self._leases.subscribe(leases.NAMES.intersection(names))
        self._leases.unsubscribe(leases.NAMES.intersection(gone))
        for name in leases.NAMES.intersection(known or ()):
            del (known or {})[name]
        error = request.error_detail.message if request.HasField("error_detail") else None
        answered = self._leases.answer(request.response_nonce)
        if answered and error is not None:
            self._reports.append(Nack(RUNTIME, (), error, divisible=False))
        elif answered:
            self._reports.append(LeaseAck(answered))
        return [each for each in names if each not in leases.NAMES], [each for each in gone if each not in leases.NAMES]

    def _take_over(self, subscription: Subscription, known: dict[str, str]) -> None:
        """What the client kept from an earlier stream. Endpoints whose cluster was sent on this one it needs again.

        There may be tens of thousands, so what is done for each of them is little.
        """
        versions, owed = subscription.log.versions, subscription.owed
        subscription.answer_due = subscription.answer_due and not known
        subscription.withdrawn = dict.fromkeys(sorted(known.keys() - versions.keys()))
        if subscription.type_url == ENDPOINTS:
            known = {name: version for name, version in known.items() if name not in self._warming}
            self._warming.clear()
        if not known:
            return
        stale = [name for name, version in versions.items() if known.get(name) != version]
        but = frozenset(stale)
        if subscription.wildcard:
            subscription.makes.position = self._snapshot.sequence
        else:
            stale = [name for name in stale if name in owed]
            but |= versions.keys() - owed.keys()
        absent = [name for name in owed if name not in versions and name not in known]
        subscription.owed = dict.fromkeys(absent + stale)
        self._reports.append(Kept(subscription.type_url, but))

    def _advance(self, subscription: Subscription, lane: Lane, gate: int, now_s: float) -> Push | None:
        """A stream about which nothing is special takes the same step as the others that stand where it does."""
        special = lane.removing or lane.pieces or subscription.flight or subscription.owed or subscription.answer_due
        if not special and not self._refused and subscription.log.newest <= gate:
            step = self._encoder.step(subscription.type_url, subscription.log, lane.position)
            covered = step and (subscription.wildcard or subscription.names.issuperset(step.names))
            if step and covered and len(step.push.data) <= PIECE_BYTES:
                lane.position = self._snapshot.sequence
                self._send(subscription, Flight(step.push, lane, step.names, lane.position, now_s))
                return step.push
        return super()._advance(subscription, lane, gate, now_s)

    def _cut(self, subscription: Subscription, names: Sequence[str]) -> list[Sequence[str]]:
        if len(names) < 2:
            return [names]
        pieces = []
        start = size = 0
        get = subscription.log.get
        for index, name in enumerate(names):
            more = encoded_size(entry.resource) if (entry := get(name)) else len(name)
            if size and size + more > PIECE_BYTES:
                pieces.append(names[start:index])
                start, size = index, 0
            size += more
        pieces.append(names[start:])
        return pieces

    def _encode(
        self, subscription: Subscription, lane: Lane, names: Sequence[str], gate: int
    ) -> tuple[Push | None, bool]:
        resources, removed, whole = [], [], True
        for name in names:
            entry = subscription.log.get(name)
            if entry is None:
                # What went after it was queued is told in the removing lane, in its turn.
                if lane.removing or not subscription.log.is_removed_since(name, subscription.removes.position):
                    removed.append(name)
            elif lane.removing:
                continue
            elif entry.sequence > max(gate, lane.position):
                whole = False
            elif not self._is_refused(entry.resource):
                resources.append(entry.resource)
        if resources or removed or (subscription.answer_due and not lane.removing):
            return self._encoder.delta(subscription.type_url, resources, removed), whole
        return None, whole
