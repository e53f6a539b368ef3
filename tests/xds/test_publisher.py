"""What is published, what gateways make of it, and what becomes of what they refuse."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as Any_

from protos.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from protos.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from protos.envoy.service.runtime.v3.rtds_pb2 import Runtime
from tests.xds.plane import model
from xds import ir, publisher
from xds.events import (
    GatewayConnected,
    GatewayDisconnected,
    GatewayEvent,
    GatewayRefused,
    Programmed,
    Rejected,
    SecretsDelivered,
)
from xds.publisher import Publisher, Refusal
from xds.session import OPENING_S, Session
from xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, RUNTIME, SCOPED_ROUTE, SECRET, Key
from xds.translate import Gateway, backend_cluster_name, limit_layer

FOLLOWED = {SCOPED_ROUTE: ROUTE, LISTENER: ROUTE, CLUSTER: ENDPOINTS}


@dataclass
class Envoy:
    """A gateway that asks for what it is told of, and refuses (type, content) that a test says it dislikes.

    `dislikes`: type -> words in a resource's bytes that it refuses, and what it says then.
    """

    publisher: Publisher
    name: str
    dislikes: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    known: dict[str, dict[str, str]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    session: Session = field(init=False)

    def __post_init__(self) -> None:
        self.session = self.publisher.open(self.name, "1.40.0", incremental=True)
        for type_url in (CLUSTER, LISTENER, SCOPED_ROUTE):
            self.ask(type_url)
        for type_url in (ENDPOINTS, ROUTE, SECRET):
            if type_url in self.known:
                self.ask(type_url, *self.known[type_url])
        self.settle()

    def ask(self, type_url: str, *names: str) -> None:
        first = type_url not in self.session.subscriptions
        known = self.known.get(type_url, {}) if first else {}
        self.send(type_url=type_url, resource_names_subscribe=names, initial_resource_versions=known)

    def send(self, **fields: Any) -> None:
        self.session.receive(DeltaDiscoveryRequest(**fields), OPENING_S)
        self.hear()

    def hear(self) -> None:
        for report in self.session.reports():
            self.publisher.hear(self.name, self.session, report)

    def settle(self, *, answer: bool = True) -> None:
        """Takes and answers everything there is."""
        for _ in range(100):
            pushes = self.session.offer(2 * OPENING_S)
            self.hear()
            if not pushes or not answer:
                return
            for push in pushes:
                self._take(push.data)
        raise AssertionError("it never ends")

    def _take(self, data: bytes) -> None:
        response = DeltaDiscoveryResponse.FromString(data)
        type_url = response.type_url
        word, complaint = self.dislikes.get(type_url, (b"\0never", ""))
        self.log += [f"{type_url.rsplit('.')[-1]} {each.name}" for each in response.resources]
        if any(word in each.resource.value for each in response.resources):
            self.send(type_url=type_url, response_nonce=response.nonce, error_detail={"message": complaint})
            return
        held = self.known.setdefault(type_url, {})
        held |= {each.name: each.version for each in response.resources}
        for name in response.removed_resources:
            held.pop(name, None)
        if new := self._named(response):
            self.ask(FOLLOWED[type_url], *new)
        if type_url == CLUSTER and (secrets := self._secrets(response)):
            self.ask(SECRET, *secrets)
        self.send(type_url=type_url, response_nonce=response.nonce)

    def _named(self, response: DeltaDiscoveryResponse) -> list[str]:
        follower = FOLLOWED.get(response.type_url)
        subscription = self.session.subscriptions.get(follower or "")
        refs = self._refs(response)
        return [name for kind, name in refs if kind == follower and not (subscription and name in subscription.names)]

    def _secrets(self, response: DeltaDiscoveryResponse) -> list[str]:
        return [name for kind, name in self._refs(response) if kind == SECRET]

    def _refs(self, response: DeltaDiscoveryResponse) -> list[Key]:
        found = [self.publisher.snapshot.get((response.type_url, each.name)) for each in response.resources]
        return [ref for each in found if each for ref in each.refs]


@dataclass
class Plane:
    events: list[GatewayEvent] = field(default_factory=list)
    changes: int = 0

    def __post_init__(self) -> None:
        self.publisher = Publisher(Gateway(), self.events.append)
        self.publisher.on_change = self._count

    def _count(self) -> None:
        self.changes += 1

    def publish(self, *routes: ir.Route, gone: tuple[ir.Route, ...] = (), **secrets: str | None) -> list[Refusal]:
        update = ir.Update(
            {route.name: route for route in routes} | {route.name: None for route in gone},
            {name: ir.Secret(name, value) if value else None for name, value in secrets.items()},
        )
        return list(self.publisher.publish(update))

    def take(self, *kinds: type[GatewayEvent]) -> list[GatewayEvent]:
        """What was reported since the last call, of these kinds or all but connections."""
        events = [event for event in self.events if not isinstance(event, GatewayConnected | GatewayDisconnected)]
        self.events.clear()
        return [event for event in events if not kinds or isinstance(event, kinds)]

    def has(self, type_url: str) -> set[str]:
        return {each.name for each in self.publisher.snapshot.logs[type_url].resources()}


@pytest.fixture(name="plane")
def _plane() -> Plane:
    return Plane()


A, B = model("a", 1), model("b", 1)
BACKEND = ir.Backend("10.0.0.1", 80, credential=ir.Credential("token"))
REMOTE = ir.Remote(BACKEND, "remote.test")


def programmed(gateway: str, *routes: ir.Route) -> Programmed:
    return Programmed(gateway, frozenset(route.name for route in routes))


# Intent


def test_a_route_is_four_resources_and_leaves_none_behind(plane: Plane) -> None:
    before = {type_url: plane.has(type_url) for type_url in (CLUSTER, ENDPOINTS, ROUTE, SCOPED_ROUTE)}
    plane.publish(A)
    assert plane.has(ROUTE) == {"choose/default/a"}
    assert plane.has(SCOPED_ROUTE) == {"a"}
    assert plane.has(CLUSTER) - before[CLUSTER] == plane.has(ENDPOINTS) == {"local/default/a"}
    plane.publish(gone=(A,))
    assert {type_url: plane.has(type_url) for type_url in before} == before


def test_publishing_the_same_again_changes_nothing(plane: Plane) -> None:
    plane.publish(A, token="x")
    sequence, changes = plane.publisher.snapshot.sequence, plane.changes
    assert plane.publish(A, token="x") == []
    assert plane.publish(gone=(B,)) == []
    assert (plane.publisher.snapshot.sequence, plane.changes) == (sequence, changes)


def test_a_backend_is_shared_and_goes_with_its_last_user(plane: Plane) -> None:
    a, b = replace(A, remotes=(REMOTE,)), replace(B, remotes=(REMOTE,))
    name = backend_cluster_name(BACKEND)
    plane.publish(a, b)
    plane.publish(replace(a, remotes=()))
    assert name in plane.has(CLUSTER)
    plane.publish(gone=(b,))
    assert name not in plane.has(CLUSTER)


def test_a_secret_is_there_as_long_as_a_cluster_needs_it(plane: Plane) -> None:
    plane.publish(token="x", other="y")
    assert plane.has(SECRET) == set()
    route = replace(A, remotes=(REMOTE,))
    plane.publish(route)
    assert plane.has(SECRET) == {"token"}
    plane.publish(A)
    assert plane.has(SECRET) == set()
    plane.publish(route)
    plane.publish(token=None)
    assert plane.has(SECRET) == set()


def test_limits_travel_in_their_layer_and_touch_no_cluster(plane: Plane) -> None:
    plane.publish(A)
    sequence = plane.publisher.snapshot.sequence
    plane.publish(replace(A, local=replace(A.local, limit=3)))
    layer = f"limits-{limit_layer(A.name)}"
    logs = plane.publisher.snapshot.logs.values()
    changed = [each.resource.name for log in logs for each in log.changed_since(sequence)]
    assert changed == [layer]
    body = plane.publisher.snapshot.get((RUNTIME, layer))
    assert body is not None
    assert b"circuit_breakers.local/default/a" in body.body
    plane.publish(A)
    assert body.version != plane.publisher.snapshot.get((RUNTIME, layer)).version  # type: ignore[union-attr]


def test_a_host_belongs_to_one_route_and_the_second_claimant_keeps_what_it_had(plane: Plane) -> None:
    plane.publish(A, B)
    assert plane.publish(replace(B, hosts=("a", "b"))) == [Refusal(B.name, "host a belongs to default/a")]
    assert plane.has(SCOPED_ROUTE) == {"a", "b"}
    assert plane.publish(replace(B, hosts=("b", "c"))) == []


def test_who_waited_for_a_host_gets_it_when_its_holder_lets_go(plane: Plane) -> None:
    both = replace(A, hosts=("a", "shared"))
    plane.publish(both)
    second = replace(B, hosts=("b", "shared"))
    assert plane.publish(second) == [Refusal(B.name, "host shared belongs to default/a")]
    assert plane.publish(A) == []
    assert plane.has(SCOPED_ROUTE) == {"a", "b", "shared"}


def test_two_claimants_of_one_update_are_told_apart(plane: Plane) -> None:
    refused = plane.publish(replace(A, hosts=("x",)), replace(B, hosts=("x",)))
    assert refused == [Refusal(B.name, "host x belongs to default/a")]


def test_hosts_may_change_hands_in_one_update(plane: Plane) -> None:
    plane.publish(A, B)
    assert plane.publish(replace(A, hosts=("b",)), replace(B, hosts=("a",))) == []
    scope = plane.publisher.snapshot.get((SCOPED_ROUTE, "a"))
    assert scope is not None
    assert scope.refs == ((ROUTE, "choose/default/b"),)
    assert plane.publish(model("c", 1, hosts=("b",)), gone=(A,)) == []


def test_who_loses_a_claim_keeps_its_hosts_from_others_in_the_same_update(plane: Plane) -> None:
    plane.publish(A, B, model("c", 1))
    wants_a, wants_b = replace(B, hosts=("a",)), model("c", 1, hosts=("b",))
    refused = {each.route: each.message for each in plane.publish(wants_a, wants_b)}
    assert refused == {B.name: "host a belongs to default/a", "default/c": "host b belongs to default/b"}


def test_a_port_of_its_own_is_a_listener_that_comes_and_goes_with_it(plane: Plane) -> None:
    shared = plane.has(LISTENER)
    plane.publish(replace(A, hosts=(), port=20001), replace(B, port=20002))
    assert plane.has(LISTENER) - shared == {"port-20001", "port-20002"}
    listener = plane.publisher.snapshot.get((LISTENER, "port-20001"))
    assert listener is not None
    assert listener.refs == ((ROUTE, "choose/default/a"),)
    plane.publish(replace(A, port=20003), B)
    assert plane.has(LISTENER) - shared == {"port-20003"}
    plane.publish(gone=(A,))
    assert plane.has(LISTENER) == shared


def test_nothing_of_a_route_but_its_port_touches_the_listener(plane: Plane) -> None:
    plane.publish(replace(A, port=20001))
    sequence = plane.publisher.snapshot.sequence
    plane.publish(replace(model("a", 2, 3), port=20001, hosts=("other",), remotes=(REMOTE,), affinity_header="x"))
    assert not list(plane.publisher.snapshot.logs[LISTENER].changed_since(sequence))


def test_a_port_belongs_to_one_route_and_passes_on_when_its_holder_lets_go(plane: Plane) -> None:
    plane.publish(replace(A, port=20001))
    second = replace(B, port=20001)
    assert plane.publish(second) == [Refusal(B.name, "port 20001 belongs to default/a")]
    assert plane.has(SCOPED_ROUTE) == {"a"}
    assert plane.publish(replace(A, port=20002)) == []
    listener = plane.publisher.snapshot.get((LISTENER, "port-20001"))
    assert listener is not None
    assert listener.refs == ((ROUTE, "choose/default/b"),)
    assert plane.publish(replace(A, port=20001), replace(B, port=20002)) == [], "they may change hands in one update"


def test_the_port_where_all_callers_arrive_is_nobodys_own(plane: Plane) -> None:
    (refusal,) = plane.publish(replace(A, port=Gateway().port))
    assert refusal == Refusal(A.name, "port 8080 is where callers of all models arrive")


def test_sessions_are_woken_once_for_what_changed(plane: Plane) -> None:
    plane.publish(A)
    changes = plane.changes
    plane.publish(replace(A, affinity_header="x-session"))
    assert plane.changes == changes + 1


# What gateways have


def test_a_route_is_programmed_when_a_gateway_has_all_of_it(plane: Plane) -> None:
    gateway = Envoy(plane.publisher, "g")
    plane.publish(A, B)
    assert plane.take() == []
    gateway.settle()
    assert {name for event in plane.take(Programmed) for name in event.routes} == {A.name, B.name}  # type: ignore[union-attr]


def test_a_route_is_not_programmed_before_its_listener_and_what_that_asks_for(plane: Plane) -> None:
    gateway = Envoy(plane.publisher, "g")
    alone = replace(A, hosts=(), port=20001)
    plane.publish(alone)
    seen: list[str] = []
    while not plane.take(Programmed):
        pushes = gateway.session.offer(2 * OPENING_S)
        assert pushes
        for push in pushes:
            gateway._take(push.data)
            seen = gateway.log[:]
    assert {"Listener port-20001", "RouteConfiguration choose/default/a"} <= set(seen)


def test_a_listener_that_cannot_bind_takes_its_route_back_and_no_other(plane: Plane) -> None:
    plane.publish(A, B)
    words = "error adding listener(s) port-20001: cannot bind '0.0.0.0:20001': Address already in use"
    gateway = Envoy(plane.publisher, "g", {LISTENER: (b"port-20001", words)})
    plane.take()
    plane.publish(replace(A, port=20001), replace(B, port=20002))
    gateway.settle()
    reports = plane.take(Rejected, Programmed)
    assert Rejected("g", LISTENER, frozenset({"port-20001"}), frozenset({A.name}), words) in reports
    assert programmed("g", B) in reports
    assert plane.has(SCOPED_ROUTE) == {"a", "b"}, "callers that name it by its host go on"
    assert "port-20001" not in plane.has(LISTENER)
    assert plane.publish(replace(A, port=20001)) == [Refusal(A.name, words)]


def test_every_gateway_is_programmed_for_itself(plane: Plane) -> None:
    one, two = Envoy(plane.publisher, "one"), Envoy(plane.publisher, "two")
    plane.publish(A)
    one.settle()
    assert plane.take() == [programmed("one", A)]
    two.settle()
    assert plane.take() == [programmed("two", A)]
    plane.publish(replace(A, affinity_header="x"))
    two.settle()
    assert plane.take() == [programmed("two", A)]


def test_what_changes_nothing_for_a_gateway_is_programmed_at_once(plane: Plane) -> None:
    Envoy(plane.publisher, "g")
    plane.publish(A)
    plane.publisher.publish(ir.Update({}))
    gateway = Envoy(plane.publisher, "h")
    gateway.settle()
    plane.take()
    plane.publish(replace(A, local=replace(A.local, limit=5)))
    assert plane.take() == [programmed("h", A)], "a limit is no resource that a gateway could refuse"


def test_a_shared_backend_must_be_accepted_too(plane: Plane) -> None:
    gateway = Envoy(plane.publisher, "g", {CLUSTER: (b"10.0.0.1", "no remote/10.0.0.1")})
    plane.publish(A)
    gateway.settle()
    plane.take()
    plane.publish(replace(A, remotes=(REMOTE,)))
    gateway.settle()
    assert plane.take(Programmed) == []


def test_a_gateway_that_comes_back_with_everything_is_programmed_without_being_sent_anything(plane: Plane) -> None:
    plane.publish(replace(A, remotes=(REMOTE,)), token="x")
    before = Envoy(plane.publisher, "g")
    assert SecretsDelivered("g", frozenset({"token"})) in plane.take()
    plane.publisher.close("g", before.session)
    plane.take()

    after = Envoy(plane.publisher, "g", known=before.known)

    assert after.log == []
    assert set(plane.take()) == {programmed("g", A), SecretsDelivered("g", frozenset({"token"}))}


def test_a_secret_is_delivered_when_its_current_value_is_accepted(plane: Plane) -> None:
    plane.publish(replace(A, remotes=(REMOTE,)))
    gateway = Envoy(plane.publisher, "g")
    plane.take()
    plane.publish(token="first")
    gateway.settle(answer=False)
    assert plane.take() == []
    plane.publish(token="second")
    assert plane.take() == []
    flight = gateway.session.subscriptions[SECRET].flight
    assert flight is not None
    gateway.send(type_url=SECRET, response_nonce=flight.push.nonce)
    assert plane.take() == [], "what it has is the first value"
    gateway.settle()
    assert plane.take() == [SecretsDelivered("g", frozenset({"token"}))]


def test_a_gateway_is_connected_while_it_has_a_stream(plane: Plane) -> None:
    one = plane.publisher.open("g", "1.40.0", incremental=True)
    two = plane.publisher.open("g", "1.40.0", incremental=False, only=CLUSTER)
    assert plane.events == [GatewayConnected("g", "1.40.0")]
    plane.publisher.close("g", one)
    plane.publisher.close("g", two)
    assert plane.events == [GatewayConnected("g", "1.40.0"), GatewayDisconnected("g")]


def test_a_gateway_that_is_turned_away_is_reported_once(plane: Plane) -> None:
    for _ in range(3):
        plane.publisher.turn_away("g", "1.36.4", "too old")
    assert plane.take() == [GatewayRefused("g", "1.36.4", "too old")]
    Envoy(plane.publisher, "g")
    plane.publisher.turn_away("g", "1.36.4", "too old")
    assert plane.take(GatewayRefused) == [GatewayRefused("g", "1.36.4", "too old")]


def test_of_gateways_that_were_turned_away_the_newest_are_remembered(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "MAX_REFUSED", 2)
    for name in ("a", "b", "c", "c", "b", "a"):
        plane.publisher.turn_away(name, "1.36.4", "too old")
    assert [event.gateway for event in plane.take(GatewayRefused)] == ["a", "b", "c", "a"]


def test_tombstones_go_when_every_stream_has_passed_them(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "MAX_TOMBSTONES", 10)
    quick, slow = Envoy(plane.publisher, "quick"), Envoy(plane.publisher, "slow")
    for number in range(20):
        plane.publish(model(f"m{number}", 1))
        plane.publish(gone=(model(f"m{number}", 1),))
        quick.settle()
    assert plane.publisher.snapshot.tombstones == 80
    slow.settle()
    plane.publish(A)
    assert plane.publisher.snapshot.tombstones == 0


# Quarantine


BAD = "bad-header"


def refusing(plane: Plane, type_url: str = ROUTE, words: str = "no", name: str = "g") -> Envoy:
    return Envoy(plane.publisher, name, {type_url: (BAD.encode(), words)})


def bad(route: ir.Route, content: str = "") -> ir.Route:
    return replace(route, affinity_header=BAD + content)


def test_a_refused_route_goes_back_to_what_was_accepted_and_others_move_on(plane: Plane) -> None:
    gateway = refusing(plane, words="route 'choose/default/a' is bad")
    plane.publish(A, B)
    gateway.settle()
    plane.take()
    good = plane.publisher.snapshot.get((ROUTE, "choose/default/a"))

    plane.publish(bad(A), replace(B, affinity_header="x-session"), model("c", 1))
    gateway.settle()

    assert plane.publisher.snapshot.get((ROUTE, "choose/default/a")) == good
    events = plane.take()
    rejected = Rejected(
        "g", ROUTE, frozenset({"choose/default/a"}), frozenset({A.name}), "route 'choose/default/a' is bad"
    )
    assert rejected in events
    reported = [event.routes for event in events if isinstance(event, Programmed)]
    assert frozenset().union(*reported) == {B.name, "default/c"}


def test_a_route_that_was_never_accepted_leaves(plane: Plane) -> None:
    gateway = refusing(plane)
    plane.publish(bad(A))
    gateway.settle()
    assert plane.has(ROUTE) == set()
    assert [event.routes for event in plane.take(Rejected)] == [{A.name}]  # type: ignore[union-attr]


def test_a_refused_version_is_never_sent_again_to_anyone(plane: Plane) -> None:
    gateway = refusing(plane, words="about choose/default/a: no")
    plane.publish(A)
    gateway.settle()
    plane.publish(bad(A))
    gateway.settle()
    gateway.log.clear()

    assert plane.publish(bad(A)) == [Refusal(A.name, "about choose/default/a: no")]
    other = Envoy(plane.publisher, "other")
    gateway.settle()

    assert other.known[ROUTE] == gateway.known[ROUTE]
    assert [line for line in gateway.log if line == "RouteConfiguration choose/default/a"] == []


def test_of_refused_versions_the_newest_are_remembered(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "MAX_REFUSED", 2)
    gateway = refusing(plane)
    for number in range(3):
        plane.publish(bad(A, str(number)))
        gateway.settle()
    refused = [plane.publish(bad(A, str(number))) for number in (1, 2, 0)]
    assert refused == [[Refusal(A.name, "no")], [Refusal(A.name, "no")], []]
    plane.take()
    gateway.settle()
    assert [type(event) for event in plane.take()] == [Rejected], "it is asked again, and says the same"


def test_a_changed_route_is_tried_again(plane: Plane) -> None:
    gateway = refusing(plane)
    plane.publish(A)
    gateway.settle()
    plane.publish(bad(A))
    gateway.settle()
    plane.take()
    assert plane.publish(replace(A, affinity_header="x-session")) == []
    gateway.settle()
    assert plane.take() == [programmed("g", A)]
    plane.publish(bad(A, "-2"))
    gateway.settle()
    assert [type(event) for event in plane.take()] == [Rejected]


def test_going_back_is_not_reported_as_the_published_route(plane: Plane) -> None:
    gateway = refusing(plane)
    plane.publish(A)
    gateway.settle()
    plane.take()
    plane.publish(bad(A))
    gateway.settle()
    assert plane.take(Programmed) == []
    plane.publish(A)
    gateway.settle()
    assert plane.take(Programmed) == [programmed("g", A)]


def test_words_that_name_nothing_are_traced_to_the_culprit_by_sending_each_alone(plane: Plane) -> None:
    gateway = refusing(plane, words="something is wrong")
    models = [model(f"m{number}", 1) for number in range(5)]
    plane.publish(*models)
    gateway.settle()
    plane.take()
    gateway.log.clear()

    changed = [replace(each, affinity_header="x-fine") for each in models]
    changed[2] = bad(models[2])
    plane.publish(*changed)
    gateway.settle()

    events = plane.take()
    assert [event.routes for event in events if isinstance(event, Rejected)] == [{"default/m2"}]
    reported = frozenset[str]().union(*(event.routes for event in events if isinstance(event, Programmed)))
    assert reported == {each.name for each in models} - {"default/m2"}
    assert gateway.log.count("RouteConfiguration choose/default/m2") == 3, "with others, alone, and as it was"


@pytest.mark.parametrize(
    ("words", "guilty"),
    [
        ("Error adding/updating cluster(s) local/default/a: bad, local/default/ab: worse", {"a", "ab"}),
        ("Error adding/updating cluster(s) local/default/ab: bad", {"ab"}),
        ("cluster 'local/default/a'", {"a"}),
        ("local/default/a.b is bad", {"a.b"}),
        ("the end: local/default/a.", {"a"}),
    ],
)
def test_names_in_the_words_are_whole_names(plane: Plane, words: str, guilty: set[str]) -> None:
    gateway = Envoy(plane.publisher, "g", {CLUSTER: (b"local/default/a", words)})
    routes = [model(name, 1, hosts=(name,)) for name in ("a", "ab", "a.b")]
    gateway.session.offer(0)
    plane.publish(*routes)
    pushes = gateway.session.offer(0)
    [push] = pushes
    gateway.send(type_url=CLUSTER, response_nonce=push.nonce, error_detail={"message": words})
    [event] = plane.take(Rejected)
    assert isinstance(event, Rejected)
    assert event.routes == {f"default/{name}" for name in guilty}


def test_a_refused_backend_takes_back_all_that_came_with_it(plane: Plane) -> None:
    gateway = Envoy(plane.publisher, "g", {CLUSTER: (b"10.0.0.1", f"cluster {backend_cluster_name(BACKEND)}: no")})
    plane.publish(A, B)
    gateway.settle()
    plane.take()
    plane.publish(replace(A, remotes=(REMOTE,)), replace(B, remotes=(REMOTE,)))
    gateway.settle()
    [event] = plane.take(Rejected)
    assert isinstance(event, Rejected)
    assert event.routes == {A.name, B.name}
    assert backend_cluster_name(BACKEND) not in plane.has(CLUSTER)
    assert plane.has(ROUTE) == {"choose/default/a", "choose/default/b"}


def test_one_gateway_that_refuses_what_all_others_have_keeps_to_itself(plane: Plane) -> None:
    good = Envoy(plane.publisher, "good")
    plane.publish(bad(A))
    good.settle()
    plane.take()
    new = refusing(plane, name="new")
    assert [event.gateway for event in plane.take(Rejected)] == ["new"]
    assert plane.has(ROUTE) == {"choose/default/a"}
    new.log.clear()
    new.ask(ROUTE, "choose/default/a")
    new.settle()
    assert new.log == []

    changed = replace(bad(A), retry=ir.Retry(0))
    assert plane.publish(changed) == []
    good.settle()
    assert programmed("good", A) in plane.take()


def test_what_one_gateway_refuses_before_all_have_it_goes_back_for_all(plane: Plane) -> None:
    good, picky = Envoy(plane.publisher, "good"), refusing(plane, name="picky")
    plane.publish(A)
    good.settle()
    picky.settle()
    plane.publish(bad(A))
    good.settle()
    picky.settle()
    good.settle()
    assert good.known[ROUTE] == picky.known[ROUTE]
    assert plane.publish(bad(A)) == [Refusal(A.name, "no")]


def addresses(gateway: Envoy, name: str = "local/default/a") -> list[int]:
    """The ports that a gateway sends a model's requests to, as the published resource that it acknowledged has them."""
    held = gateway.publisher.snapshot.get((ENDPOINTS, name))
    assert held is not None
    assert gateway.known[ENDPOINTS][name] == held.version
    message = ClusterLoadAssignment.FromString(Any_.FromString(held.body).value)
    hosts = [each for locality in message.endpoints for each in locality.lb_endpoints]
    return [each.endpoint.address.socket_address.port_value for each in hosts]


def limit(plane: Plane, route: ir.Route = A) -> int | None:
    """What the limits' layer says of a route; None: nothing, so its initial limit is in force."""
    layer = plane.publisher.snapshot.get((RUNTIME, f"limits-{limit_layer(route.name)}"))
    assert layer is not None
    message = Runtime.FromString(Any_.FromString(layer.body).value)
    values = [message.layer.fields[key].number_value for key in message.layer.fields if f"local/{route.name}." in key]
    return int(values[0]) if values else None


def at(route: ir.Route, *ports: int, limit: int = ir.UNLIMITED) -> ir.Route:
    """The same at other endpoints."""
    endpoints = tuple(ir.Endpoint("127.0.0.1", port) for port in ports)
    return replace(route, local=replace(route.local, endpoints=endpoints, limit=limit))


def test_endpoints_and_limit_do_not_go_back_with_a_refused_route(plane: Plane) -> None:
    gateway = refusing(plane)
    plane.publish(A)
    gateway.settle()
    plane.publish(at(bad(A), 2, 3, limit=7))
    gateway.settle()
    assert (addresses(gateway), limit(plane)) == ([2, 3], 7)


def test_endpoints_and_limit_follow_while_the_rest_of_a_route_is_refused(plane: Plane) -> None:
    gateway = refusing(plane)
    plane.publish(A)
    gateway.settle()
    plane.publish(bad(A))
    gateway.settle()
    plane.take()
    gateway.log.clear()
    for port in (2, 3):
        assert plane.publish(at(bad(A), port, limit=port)) == [Refusal(A.name, "no")]
        gateway.settle()
        assert (addresses(gateway), limit(plane)) == ([port], port)
    assert gateway.log == ["ClusterLoadAssignment local/default/a"] * 2
    assert plane.take() == [], "it is still not what was published"

    plane.publish(at(A, 3, limit=3))
    assert plane.take() == [programmed("g", A)]


def test_endpoints_follow_while_a_route_waits_for_a_host(plane: Plane) -> None:
    gateway = Envoy(plane.publisher, "g")
    plane.publish(A, B)
    gateway.settle()
    wanted = at(replace(B, hosts=("a", "b")), 2)
    assert plane.publish(wanted) == [Refusal(B.name, "host a belongs to default/a")]
    gateway.settle()
    assert addresses(gateway, "local/default/b") == [2]
    assert plane.has(SCOPED_ROUTE) == {"a", "b"}


def test_refused_endpoints_go_back_and_others_are_tried(plane: Plane) -> None:
    gateway = Envoy(plane.publisher, "g", {ENDPOINTS: (b"6.6.6.6", "no")})
    plane.publish(A)
    gateway.settle()
    wanted = replace(A.local, endpoints=(ir.Endpoint("6.6.6.6", 6),), limit=7)
    plane.publish(replace(A, local=wanted))
    gateway.settle()
    assert (addresses(gateway), limit(plane)) == ([1], 7)
    assert plane.publish(replace(A, local=replace(wanted, limit=8))) == [Refusal(A.name, "no")]
    assert limit(plane) == 8
    assert plane.publish(at(A, 2)) == []
    gateway.settle()
    assert (addresses(gateway), limit(plane)) == ([2], None)


def test_new_endpoints_leave_a_route_where_it_is_if_one_more_gateway_refuses_the_rest(plane: Plane) -> None:
    good = Envoy(plane.publisher, "good")
    plane.publish(bad(A))
    good.settle()
    plane.publish(at(bad(A), 2))
    refusing(plane, name="new")
    assert plane.has(ROUTE) == {"choose/default/a"}
    good.settle()
    assert addresses(good) == [2]
    assert plane.publish(at(bad(A), 3)) == []


def test_a_route_that_left_for_want_of_its_host_comes_back_when_it_is_free(plane: Plane) -> None:
    gateway = refusing(plane)
    plane.publish(A)
    gateway.settle()
    plane.publish(replace(bad(A), hosts=("new",)))
    plane.publish(replace(B, hosts=("a",)))
    gateway.settle()
    assert plane.has(ROUTE) == {"choose/default/b"}
    plane.publish(gone=(B,))
    gateway.settle()
    assert plane.has(SCOPED_ROUTE) == {"a"}
    assert plane.has(ROUTE) == {"choose/default/a"}


def test_a_host_that_a_reverted_route_held_goes_to_who_waited_for_it(plane: Plane) -> None:
    gateway = refusing(plane)
    plane.publish(replace(A, hosts=("a", "shared")))
    gateway.settle()
    plane.publish(bad(A))
    gateway.settle()
    waiting = replace(B, hosts=("shared",))
    assert plane.publish(waiting) == [Refusal(B.name, "host shared belongs to default/a")]
    plane.take()
    assert plane.publish(A) == []
    gateway.settle()
    assert {name for event in plane.take(Programmed) for name in event.routes} == {A.name, B.name}  # type: ignore[union-attr]
    assert plane.has(SCOPED_ROUTE) == {"a", "shared"}


def test_a_host_that_a_refused_route_had_taken_goes_to_who_waited_for_it(plane: Plane) -> None:
    gateway = refusing(plane)
    plane.publish(A)
    gateway.settle()
    plane.publish(replace(bad(A), hosts=("a", "shared")))
    assert plane.publish(replace(B, hosts=("shared",))) == [Refusal(B.name, "host shared belongs to default/a")]
    gateway.settle()
    assert plane.has(SCOPED_ROUTE) == {"a", "shared"}
    assert programmed("g", B) in plane.take()


def test_a_removed_route_waits_for_no_host(plane: Plane) -> None:
    plane.publish(A)
    plane.publish(replace(B, hosts=("a",)))
    plane.publish(gone=(B,))
    plane.publish(gone=(A,))
    assert plane.has(SCOPED_ROUTE) == set()


def test_a_route_whose_old_host_is_taken_by_now_leaves_instead_of_going_back(plane: Plane) -> None:
    gateway = refusing(plane)
    plane.publish(A)
    gateway.settle()
    plane.publish(replace(bad(A), hosts=("new",)))
    plane.publish(replace(B, hosts=("a",)))
    gateway.settle()
    assert plane.has(SCOPED_ROUTE) == {"a"}
    assert plane.has(ROUTE) == {"choose/default/b"}


def test_what_belongs_to_no_model_is_reported_and_nothing_goes_back(plane: Plane) -> None:
    gateway = Envoy(plane.publisher, "g", {LISTENER: (b"front", "listener front: cannot bind")})
    [event] = plane.take(Rejected)
    assert event == Rejected("g", LISTENER, frozenset({"front"}), frozenset(), "listener front: cannot bind")
    assert plane.has(LISTENER) == {"deliver-local", "deliver-remote", "front"}
    assert "deliver-local" in gateway.known[LISTENER]


def test_an_answer_to_what_has_changed_since_takes_nothing_back(plane: Plane) -> None:
    gateway = Envoy(plane.publisher, "g")
    plane.publish(A)
    gateway.settle()
    plane.publish(bad(A))
    [push] = gateway.session.offer(2 * OPENING_S)
    newer = replace(A, affinity_header="x-newer")
    plane.publish(newer)
    plane.take()
    gateway.send(type_url=ROUTE, response_nonce=push.nonce, error_detail={"message": "no"})
    gateway.settle()
    assert plane.take(Programmed) == [programmed("g", A)]
    assert plane.publish(bad(A)) == [Refusal(A.name, "no")]


def test_a_refused_route_can_be_removed(plane: Plane) -> None:
    gateway = refusing(plane)
    plane.publish(A)
    gateway.settle()
    plane.publish(bad(A))
    gateway.settle()
    plane.publish(gone=(A,))
    gateway.settle()
    assert plane.has(ROUTE) == set()


def test_no_event_and_no_refusal_shows_a_secret(plane: Plane) -> None:
    gateway = Envoy(plane.publisher, "g", {SECRET: (b"t0ps3cret", "no")})
    plane.publish(replace(A, remotes=(REMOTE,)), token="t0ps3cret")
    gateway.settle()
    events = plane.take()
    assert any(isinstance(event, Rejected) for event in events)
    assert "t0ps3cret" not in str(events)
