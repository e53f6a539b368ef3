"""A model client against the session: whatever is published, answered, refused or dropped, and in whatever order, it
never holds a route whose cluster it does not have, and in the end it holds exactly the snapshot.

The client does as Envoy does: it takes clusters, listeners and scopes as they come, asks for the endpoints of its
clusters and the routes of its scopes, answers a response of one type in its own time, and goes on to use a listener
that was removed until it has drained.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protos.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from tests.xds.talk import World, content_of, word
from xds.session import DRAIN_S, HOLD_S, OPENING_S, WILDCARD_TYPES, Session
from xds.session_delta import DeltaSession
from xds.session_state import StateSession
from xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, SCOPED_ROUTE, Key, Resource
from xds.subscription import Nack

NAMED_BY = {ENDPOINTS: CLUSTER, ROUTE: SCOPED_ROUTE}
"""Types asked for by name, and the type whose resources say which names."""

ORDER = (CLUSTER, ENDPOINTS, LISTENER, SCOPED_ROUTE, ROUTE)
NAMES = st.sampled_from("abcd")
CLUSTERS = st.frozensets(NAMES, min_size=1, max_size=3)

Held = dict[str, tuple[str, Resource]]
"""Name -> version, resource."""


@dataclass
class Response:
    nonce: str
    data: bytes
    says_news: bool
    """Whether it has resources that it was sent for; that one is gone cannot be refused."""


@dataclass
class ModelClient:
    """One client over all its streams. `held`: what it has accepted, by type. `draining`: listeners that it has not any
    more, and until when they need what they refer to. A new stream does not know of those. `unheard`: types about which
    it must hear on this stream before they can be whole: who wants the state of the world does not say what it has.
    """

    world: World
    state_of_the_world: bool
    find: Callable[[str, str], Resource]
    held: dict[str, Held] = field(default_factory=lambda: {type_url: {} for type_url in ORDER})
    asked: dict[str, set[str]] = field(default_factory=dict)
    inbox: dict[str, Response] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    nonces: dict[str, str] = field(default_factory=dict)
    draining: list[tuple[Resource, float]] = field(default_factory=list)
    unheard: set[str] = field(default_factory=set)
    session: Session = field(init=False)

    def __post_init__(self) -> None:
        self.connect()

    def connect(self) -> None:
        """A new stream. What was on its way on the old one is lost."""
        variant = StateSession if self.state_of_the_world else DeltaSession
        self.session = variant(self.world.snapshot, self.world.encoder)
        self.asked, self.inbox, self.nonces, self.draining = {}, {}, {}, []
        self.unheard = {type_url for type_url in ORDER if self.state_of_the_world and self.held[type_url]}

    def ask(self, type_url: str, now_s: float) -> None:
        """The first request for a type on this stream."""
        self.asked[type_url] = self.wanted(type_url)
        known = {name: version for name, (version, _) in self.held[type_url].items()}
        self.send(type_url, now_s, known=known, subscribe=self.asked[type_url])

    def wanted(self, type_url: str) -> set[str]:
        parent = NAMED_BY.get(type_url)
        return {ref[1] for _, each in self.held[parent].values() for ref in each.refs} if parent else set()

    def follow(self, now_s: float) -> None:
        """Asks for what the parents name now, and forgets what they do not."""
        for type_url in NAMED_BY.keys() & self.asked.keys():
            wanted, asked = self.wanted(type_url), self.asked[type_url]
            self.asked[type_url] = wanted
            for name in self.held[type_url].keys() - wanted:
                del self.held[type_url][name]
            if wanted != asked:
                self.send(type_url, now_s, subscribe=wanted - asked, unsubscribe=asked - wanted)

    def send(self, type_url: str, now_s: float, nonce: str = "", refuse: str = "", **delta: Any) -> None:
        error: Any = {"error_detail": {"message": refuse}} if refuse else {}
        request: DiscoveryRequest | DeltaDiscoveryRequest
        if self.state_of_the_world:
            request = DiscoveryRequest(
                type_url=type_url,
                version_info=self.versions.get(type_url, ""),
                response_nonce=nonce or self.nonces.get(type_url, ""),
                resource_names=sorted(self.asked[type_url]),
                **error,
            )
        else:
            request = DeltaDiscoveryRequest(
                type_url=type_url,
                response_nonce=nonce,
                resource_names_subscribe=sorted(delta.get("subscribe", ())),
                resource_names_unsubscribe=sorted(delta.get("unsubscribe", ())),
                initial_resource_versions=delta.get("known", {}),
                **error,
            )
        self.session.receive(request, now_s)

    def fetch(self, now_s: float) -> None:
        for push in self.session.offer(now_s):
            assert push.type_url not in self.inbox, "two responses of one type in flight"
            flight = self.session.subscriptions[push.type_url].flight
            assert flight
            says_news = any(each.name in flight.names for each in push.resources)
            self.inbox[push.type_url] = Response(push.nonce, push.data, says_news)

    def accept(self, type_url: str, now_s: float) -> None:
        response = self.inbox.pop(type_url)
        before = {} if type_url in self.unheard else self.held[LISTENER].copy()
        self.unheard.discard(type_url)
        (self._take_state if self.state_of_the_world else self._take_delta)(type_url, response.data)
        gone = before.keys() - self.held[LISTENER].keys()
        self.draining += [(before[name][1], now_s + DRAIN_S) for name in gone]
        self.nonces[type_url] = response.nonce
        self.follow(now_s)  # Envoy asks before it acknowledges
        self.send(type_url, now_s, nonce=response.nonce)

    def refuse(self, type_url: str, now_s: float) -> None:
        response = self.inbox.pop(type_url)
        self.nonces[type_url] = response.nonce
        self.send(type_url, now_s, nonce=response.nonce, refuse="no")

    def _take_delta(self, type_url: str, data: bytes) -> None:
        response = DeltaDiscoveryResponse.FromString(data)
        for each in response.resources:
            self.held[type_url][each.name] = (each.version, self.find(type_url, content_of(each.resource)))
        for name in response.removed_resources:
            self.held[type_url].pop(name, None)

    def _take_state(self, type_url: str, data: bytes) -> None:
        response = DiscoveryResponse.FromString(data)
        found = [self.find(type_url, content_of(each)) for each in response.resources]
        if type_url in WILDCARD_TYPES:
            self.held[type_url] = {}
        self.held[type_url] |= {each.name: (each.version, each) for each in found}
        self.versions[type_url] = response.version_info


class Conversation(RuleBasedStateMachine):
    """The rules; subclasses choose the variant."""

    state_of_the_world = False

    @initialize()
    def begin(self) -> None:
        self.now_s = 0.0
        self.edition = 0
        self.made: dict[tuple[str, str], Resource] = {}
        self.world = World()
        self.client = ModelClient(self.world, self.state_of_the_world, lambda type_url, key: self.made[type_url, key])

    def _make(self, type_url: str, name: str, *refs: Key) -> Resource:
        """Each has its own content, by which the client finds what it refers to."""
        self.edition += 1
        made = word(type_url, name, self.edition, *refs)
        self.made[type_url, str(self.edition)] = made
        return made

    def _keep_or_make(self, type_url: str, name: str, refs: tuple[Key, ...], changed: bool) -> Resource:
        current = self.world.snapshot.get((type_url, name))
        return current if current and current.refs == refs and not changed else self._make(type_url, name, *refs)

    @rule(
        routes=st.dictionaries(NAMES, CLUSTERS, max_size=4),
        listener=st.one_of(st.none(), CLUSTERS),
        changed=st.frozensets(st.tuples(st.sampled_from(ORDER), NAMES), max_size=3),
    )
    def publish(
        self, routes: dict[str, frozenset[str]], listener: frozenset[str] | None, changed: frozenset[Key]
    ) -> None:
        wanted: dict[Key, tuple[Key, ...]] = {}
        for name, clusters in routes.items():
            wanted[ROUTE, name] = tuple((CLUSTER, each) for each in sorted(clusters))
            wanted[SCOPED_ROUTE, name] = ((ROUTE, name),)
        if listener:
            wanted[LISTENER, "front"] = tuple((CLUSTER, each) for each in sorted(listener))
        for _, name in {ref for refs in wanted.values() for ref in refs if ref[0] == CLUSTER}:
            wanted[CLUSTER, name] = ((ENDPOINTS, name),)
            wanted[ENDPOINTS, name] = ()
        put = [self._keep_or_make(*key, refs, key in changed) for key, refs in wanted.items()]
        gone = [each.key for log in self.world.snapshot.logs.values() for each in log.resources()]
        self.world.snapshot.apply(put, set(gone) - wanted.keys())

    @rule()
    def fetch(self) -> None:
        self.client.fetch(self.now_s)

    @precondition(lambda self: len(self.client.asked) < len(ORDER))
    @rule()
    def ask(self) -> None:
        self.client.ask(ORDER[len(self.client.asked)], self.now_s)

    @precondition(lambda self: self.client.inbox)
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        self.client.accept(data.draw(st.sampled_from(sorted(self.client.inbox))), self.now_s)

    @precondition(lambda self: any(each.says_news for each in self.client.inbox.values()))
    @rule(data=st.data(), blamed=st.integers(0, 3), alone=st.booleans())
    def refuse(self, data: st.DataObject, blamed: int, alone: bool) -> None:
        """As the publisher does: what is to blame changes, the others are sent again."""
        inbox = self.client.inbox.items()
        type_url = data.draw(st.sampled_from(sorted(type_url for type_url, each in inbox if each.says_news)))
        self.client.refuse(type_url, self.now_s)
        for report in self.client.session.reports():
            if isinstance(report, Nack):
                guilty, innocent = report.resources[: blamed + 1], report.resources[blamed + 1 :]
                current = [each for each in guilty if self.world.snapshot.get(each.key) == each]
                self.world.snapshot.apply([self._make(*each.key, *each.refs) for each in current])
                if innocent:
                    self.client.session.resend(type_url, [each.name for each in innocent], alone=alone)

    @rule()
    def reconnect(self) -> None:
        self.client.connect()

    @precondition(lambda self: not self.client.inbox and len(self.client.asked) == len(ORDER))
    @rule(seconds=st.sampled_from([OPENING_S, DRAIN_S / 2, DRAIN_S]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def forget_tombstones(self) -> None:
        self.world.snapshot.forget(self.client.session.passed())

    @invariant()
    def every_reference_to_a_cluster_leads_somewhere(self) -> None:
        held = self.client.held
        draining = [each for each, until_s in self.client.draining if self.now_s < until_s]
        whole = [type_url for type_url in (ROUTE, LISTENER) if type_url not in self.client.unheard]
        for each in [each for type_url in whole for _, each in held[type_url].values()] + draining:
            missing = [name for kind, name in each.refs if kind == CLUSTER and name not in held[CLUSTER]]
            assert not missing, f"{each.type_url} {each.name} refers to {missing}"

    def teardown(self) -> None:
        """In the end all is answered, and the client has the snapshot: for nothing that was asked is forgotten."""
        if not hasattr(self, "client"):
            return
        while len(self.client.asked) < len(ORDER):
            self.ask()
        for _ in range(100):
            self.client.fetch(self.now_s)
            if not self.client.inbox:
                wake_at_s = self.client.session.wake_at(self.now_s)
                if wake_at_s is None:
                    break
                assert wake_at_s <= self.now_s + max(HOLD_S, DRAIN_S)
                self.now_s = wake_at_s
            for type_url in list(self.client.inbox):
                self.client.accept(type_url, self.now_s)
                self.every_reference_to_a_cluster_leads_somewhere()
        for type_url in ORDER:
            everything = {each.name: each.version for each in self.world.snapshot.logs[type_url].resources()}
            has = {name: version for name, (version, _) in self.client.held[type_url].items()}
            assert has == everything, type_url


class StateConversation(Conversation):
    state_of_the_world = True


SETTINGS = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestIncremental = Conversation.TestCase
TestIncremental.settings = SETTINGS
TestStateOfTheWorld = StateConversation.TestCase
TestStateOfTheWorld.settings = SETTINGS
