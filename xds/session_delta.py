"""Pure: a stream of the incremental variant: DeltaDiscoveryRequests in, DeltaDiscoveryResponses out.

The client says what it wants more and what no longer, and a response says what changed. Subscriptions count whatever
the nonce; only the answer to a push needs the right one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from protos.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from xds.response import Push, encoded_size
from xds.session import WILDCARD_TYPES, Session
from xds.snapshot import ENDPOINTS
from xds.subscription import Lane, Subscription

PIECE_BYTES = 1_000_000
"""A response is cut where it would grow beyond this. One message for each type took Envoy 100 MB more."""


class DeltaSession(Session):
    """See the module, and `xds.session` for the theory."""

    def receive(self, raw: bytes, now_s: float) -> float | None:
        request = DeltaDiscoveryRequest.FromString(raw)
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
        self._subscribe(subscription, names)
        self._unsubscribe(subscription, request.resource_names_unsubscribe)
        if known is not None:
            self._take_over(subscription, known)
        return waited_s

    def _take_over(self, subscription: Subscription, versions: dict[str, str]) -> None:
        """What the client kept from an earlier stream. Endpoints whose cluster was sent on this one it needs again."""
        subscription.answer_due = subscription.answer_due and not versions
        subscription.withdrawn = {name: None for name in versions if subscription.log.get(name) is None}
        if subscription.type_url == ENDPOINTS:
            versions = {name: version for name, version in versions.items() if name not in self._warming}
            self._warming.clear()
        subscription.known = versions

    def _cut(self, subscription: Subscription, names: Sequence[str]) -> Iterator[Sequence[str]]:
        start = size = 0
        for index, name in enumerate(names):
            entry = subscription.log.get(name)
            more = encoded_size(entry.resource) if entry else len(name)
            if size and size + more > PIECE_BYTES:
                yield names[start:index]
                start, size = index, 0
            size += more
        yield names[start:]

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
