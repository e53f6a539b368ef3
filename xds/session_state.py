"""Pure: a stream of the state-of-the-world variant: DiscoveryRequests in, DiscoveryResponses out.

Each request names everything that the client wants. A response of CLUSTER, LISTENER or SCOPED_ROUTE is the whole state:
what it leaves out is gone. So a cluster whose removal must wait is still listed, from its tombstone; and a listener or
scope that must wait for its clusters cannot be left out, so it delays all others of its type. Responses of other types
list what changed; that something is gone cannot be said in them.
"""

from __future__ import annotations

from collections.abc import Sequence

from protos.envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from xds.response import Push
from xds.session import REFERRING, WILDCARD_TYPES, Session
from xds.snapshot import Resource
from xds.subscription import Kept, Lane, Subscription


class StateSession(Session):
    """See the module, and `xds.session` for the theory."""

    def receive(self, request: DiscoveryRequest, now_s: float) -> float | None:
        type_url = self._type_of(request.type_url)
        names = set(request.resource_names)
        subscription = self.subscriptions.get(type_url)
        if subscription is None:
            subscription = self._open(type_url, now_s)
            if not names and type_url in WILDCARD_TYPES:
                names = {"*"}
            self._resubscribe(subscription, names)
            self._take_over(subscription, request.version_info)
            return None
        error = request.error_detail.message if request.HasField("error_detail") else None
        # A stale request says nothing: the client will answer the response that it has not seen yet.
        waited_s = self._answer(subscription, request.response_nonce, error, now_s)
        if subscription.flight is None:
            implicit = subscription.wildcard and not subscription.names and not names
            self._resubscribe(subscription, {"*"} if implicit else names)
        return waited_s

    def _resubscribe(self, subscription: Subscription, names: set[str]) -> None:
        had = subscription.names | ({"*"} if subscription.wildcard else set())
        self._unsubscribe(subscription, sorted(had - names, reverse=True))  # '*' last: it keeps what it covers
        new = names - had
        self._subscribe(subscription, sorted(new))
        subscription.answer_due = subscription.answer_due or bool(subscription.owed.keys() & new)

    def _take_over(self, subscription: Subscription, version: str) -> None:
        """Nothing is sent to a client that reconnects with the whole state as it is."""
        self._warming.clear()  # a client of this variant asks for endpoints again by itself
        if subscription.wildcard and _lists_all(subscription) and version == subscription.log.version:
            subscription.answer_due = False
            subscription.owed.clear()
            subscription.makes.position = self._snapshot.sequence
            self._reports.append(Kept(subscription.type_url))

    def _walk(self, subscription: Subscription, lane: Lane, gate: int) -> None:
        held_back = subscription.type_url in REFERRING and any(subscription.log.changed_since(gate))
        if not (held_back and _lists_all(subscription)):
            super()._walk(subscription, lane, gate)

    def _encode(
        self, subscription: Subscription, lane: Lane, names: Sequence[str], gate: int
    ) -> tuple[Push | None, bool]:
        log = subscription.log
        if _lists_all(subscription):
            if subscription.type_url in REFERRING and any(log.changed_since(gate)):
                lane.position = min(lane.position, gate)
                return None, False
            return self._state(subscription), True
        if lane.removing:
            return None, True
        entries = [entry for name in names if (entry := log.get(name))]
        ready = [each.resource for each in entries if each.sequence <= max(gate, lane.position)]
        resources = [each for each in ready if not self._is_refused(each)]
        whole = len(ready) == len(entries)
        if resources or subscription.answer_due:
            return self._encoder.state(subscription.type_url, resources, log.version), whole
        return None, whole

    def _divisible(self, subscription: Subscription) -> bool:
        return not _lists_all(subscription)

    def _state(self, subscription: Subscription) -> Push:
        """All there is, and what is gone but may still be referred to. Nothing breaks without a listener or scope."""
        log = subscription.log
        gone = () if subscription.type_url in REFERRING else log.removed_since(subscription.removes.position)
        waiting = [each.resource for each in gone]
        listed = [each for each in (*log.resources(), *waiting) if self._lists(subscription, each)]
        version = log.version + ("+" if waiting else "")
        return self._encoder.state(subscription.type_url, listed, version)

    def _lists(self, subscription: Subscription, each: Resource) -> bool:
        return subscription.covers(each.name) and not self._is_refused(each)


def _lists_all(subscription: Subscription) -> bool:
    return subscription.type_url in WILDCARD_TYPES
