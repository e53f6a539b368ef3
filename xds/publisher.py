"""Pure: what is published, and what the gateways make of it. Intent goes in, the catalog changes, events come out.

**Quarantine.** A gateway that refuses a resource must not keep other routes from moving, nor be asked the same again:

- The culprits of a refused push are those that Envoy's words name. When they name none, each is sent once more alone,
  and its own answer decides.
- A culprit's routes go back to their last accepted state, which every gateway connected at the time had accepted, or
  leave if there is none. The refused versions are refused here too until a changed route brings others.
- Endpoints and the limit never go back with the rest: whatever else of a route is not in force, those are, since pods
  move on. Only endpoints that were refused themselves stay out.
- What all gateways had accepted before does not go back because one more gateway refuses it: that one keeps what it
  has, and is not sent it again.

All work is in proportion to what changed, times the gateways that must hear of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TypeVar

from xds import ir
from xds.catalog import Catalog, Plan
from xds.events import (
    GatewayConnected,
    GatewayDisconnected,
    GatewayEvent,
    GatewayRefused,
    LeaseAccepted,
    LoadReported,
    Programmed,
    Rejected,
    SecretsDelivered,
)
from xds.peer import Peer, Version
from xds.response import Encoder
from xds.session import Session
from xds.session_delta import DeltaSession
from xds.session_state import StateSession
from xds.snapshot import ENDPOINTS, SECRET, Key, Resource
from xds.subscription import Ack, Kept, Nack, Report
from xds.translate import Gateway

MAX_TOMBSTONES = 1_000
"""From here on, those that no stream needs any more are dropped."""

MAX_REFUSED = 10_000
"""Refused versions that are remembered: of all gateways, and of each; and gateways that were turned away. Who is
forgotten is asked, or reported, once more.
"""

_Name = TypeVar("_Name")
_Words = TypeVar("_Words")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A published route that is not in force, and why. Its last good state stays."""

    route: str
    message: str


@dataclass(slots=True)
class _Model:
    """A route as published, and why it is not in force, if so. `accepted` is what every gateway had; `waiting` counts
    the gateways that do not have what is in force, without those that have no route at all.
    """

    wanted: ir.Route
    refusal: str = ""
    accepted: Plan | None = None
    waiting: int = 0

    def has_accepted(self, resource: Resource) -> bool:
        """Whether it is part of what every gateway had."""
        return self.accepted is not None and self.accepted.resources.get(resource.key) == resource


class Publisher:
    """Stands between the one who publishes and the streams. Everything here is called from one task."""

    def __init__(self, gateway: Gateway, on_event: Callable[[GatewayEvent], object]) -> None:
        self.on_change: Callable[[], object] = lambda: None
        """Called when sessions may have something to offer."""
        self.surveyed = ir.Survey()
        self._on_event = on_event
        self._catalog = Catalog(gateway)
        self.snapshot = self._catalog.snapshot
        self._encoder = Encoder()
        self._sessions: set[Session] = set()
        self._models: dict[str, _Model] = {}
        self._peers: dict[str, Peer] = {}
        self._empty = 0
        """Gateways without any whole route."""
        self._turned_away: dict[str, str] = {}
        self._refused: dict[Version, str] = {}
        self._blocked: set[str] = set()
        """Routes that cannot be in force together with others that are."""

    # Intent

    def publish(self, update: ir.Update) -> tuple[Refusal, ...]:
        """Puts an update in force, as far as its routes can be. Returns those of its routes that are not."""
        plans, refusals = self._plan(update.routes)
        objections = self._catalog.objections(plans)
        for name in objections:
            del plans[name]
            if (in_force := self._catalog.plans.get(name)) and (route := update.routes[name]):
                plans[name] = self._renewed(in_force, route.local)
        refusals = objections | refusals
        for name, route in update.routes.items():
            if route:
                model = self._models.setdefault(name, _Model(route))
                model.wanted = route
                model.refusal = refusals.get(name, "")
        waiting = self._blocked - update.routes.keys()
        self._blocked = waiting | objections.keys()
        retry = waiting if waiting and self._frees(plans) else ()
        self._install(plans)
        for name in [name for name, plan in plans.items() if plan is None]:
            del self._models[name]
        self._expect(self._catalog.keep_secrets(update.secrets))
        self._retry(retry)
        return tuple(Refusal(name, reason) for name, reason in refusals.items())

    def _plan(self, routes: Mapping[str, ir.Route | None]) -> tuple[dict[str, Plan | None], dict[str, str]]:
        """What to put in force for those that are news, and why it is less than what is wanted, where it is."""
        plans: dict[str, Plan | None] = {}
        refusals: dict[str, str] = {}
        for name, route in routes.items():
            model = self._models.get(name)
            if route is None:
                if model:
                    plans[name] = None
            elif model is None or model.wanted != route or model.refusal:
                plan = self._catalog.plan(route)
                if words := self._known_refusal(plan.resources.values()):
                    refusals[name] = words
                    good = self._catalog.plans.get(name) or (model.accepted if model else None)
                    if good is None:
                        continue
                    plan = self._renewed(good, route.local)
                plans[name] = plan
        return plans, refusals

    def _renewed(self, plan: Plan, wanted: ir.Local) -> Plan:
        """The same with the endpoints and the limit of now, or with the limit alone if these endpoints were refused."""
        local = replace(plan.route.local, limit=wanted.limit)
        renewed = self._catalog.plan(replace(plan.route, local=replace(local, endpoints=wanted.endpoints)))
        if self._known_refusal(each for each in renewed.resources.values() if each.type_url == ENDPOINTS):
            return self._catalog.plan(replace(plan.route, local=local))
        return renewed

    def _frees(self, plans: Mapping[str, Plan | None]) -> bool:
        """Whether a route in force lets go of a host or a port with these plans."""
        claims = {name: set(plan.claims if plan else ()) for name, plan in plans.items()}
        in_force = {name: self._catalog.plans[name] for name in plans.keys() & self._catalog.plans.keys()}
        return any(not claims[name].issuperset(plan.claims) for name, plan in in_force.items())

    def _retry(self, names: Iterable[str]) -> None:
        """What stood in the way of these may be gone. Who asked for them knows of their refusal, and hears of the end
        of it as of any route that gateways accept.
        """
        if wanted := {name: self._models[name].wanted for name in names}:
            self.publish(ir.Update(wanted))

    def _known_refusal(self, resources: Iterable[Resource]) -> str:
        """What was said of one of them when it was refused before; empty if none was."""
        if not self._refused:
            return ""
        return next((words for each in resources if (words := self._refused.get(_version(each)))), "")

    def _install(self, plans: Mapping[str, Plan | None]) -> None:
        changed = self._catalog.install(plans) if plans else frozenset()
        gone = {name for name, plan in plans.items() if plan is None}
        for peer in self._peers.values():
            peer.incomplete -= gone
        for name in gone:
            self._models[name].waiting = 0
        self._expect(changed, plans.keys() - gone)

    def _expect(self, changed: frozenset[Key], installed: AbstractSet[str] = frozenset()) -> None:
        """Every gateway has to accept what changed; one that has all of an installed route is done with it."""
        if self._peers and (changed or installed):
            made = {key for key in changed if self.snapshot.get(key)}
            users = {key: self._catalog.users(key) for key in made}
            pending = {key for key in made if users[key] or key[0] == SECRET}
            for peer in self._peers.values():
                peer.expect(pending, changed - made)
            self._review(frozenset(installed).union(*users.values()), self._peers, installed)
        if changed:
            if self.snapshot.tombstones > MAX_TOMBSTONES:
                self.snapshot.forget(min((each.passed() for each in self._sessions), default=self.snapshot.sequence))
            self.on_change()

    def grant(self, leases: Iterable[ir.Lease]) -> None:
        """Leases limits to gateways, in place of what each was leased before. One that is not connected gets none."""
        for lease in leases:
            if peer := self._peers.get(lease.gateway):
                peer.granted.grant(lease)
        self.on_change()

    def survey(self, survey: ir.Survey) -> None:
        """Which models' own endpoints gateways are to report, from their next report on."""
        self.surveyed = survey

    # Gateways

    def open(self, gateway: str, version: str, *, incremental: bool, only: str | None = None) -> Session:
        """A new stream. `incremental`: it speaks the delta variant. `only`: it carries this type alone."""
        peer = self._peers.get(gateway)
        if peer is None:
            peer = self._peers[gateway] = Peer()
            self._turned_away.pop(gateway, None)
            self._empty += 1
            self._on_event(GatewayConnected(gateway, version))
        peer.streams += 1
        session: Session
        if incremental:
            session = DeltaSession(self.snapshot, self._encoder, peer.refused.keys(), only, peer.granted)
        else:
            session = StateSession(self.snapshot, self._encoder, peer.refused.keys(), only)
        self._sessions.add(session)
        return session

    def close(self, gateway: str, session: Session) -> None:
        """The stream ended."""
        self._sessions.discard(session)
        peer = self._peers[gateway]
        peer.streams -= 1
        if peer.streams == 0:
            del self._peers[gateway]
            if peer.empty:
                self._empty -= 1
            for name in peer.incomplete:
                self._models[name].waiting -= 1
            self._promote(self._catalog.plans if peer.empty else peer.incomplete)
            self._on_event(GatewayDisconnected(gateway))

    def turn_away(self, gateway: str, version: str, message: str) -> None:
        """A gateway that cannot be served. Reported once, until it has been served or the reason is another."""
        if self._turned_away.get(gateway) != message:
            _remember(self._turned_away, gateway, message)
            self._on_event(GatewayRefused(gateway, version, message))

    def hear(self, gateway: str, session: Session, report: Report) -> None:
        """Takes what a session of the gateway reports."""
        if isinstance(report, Ack):
            self._accepted(gateway, report.resources)
        elif isinstance(report, Nack):
            self._rejected(gateway, session, report)
        elif isinstance(report, Kept):
            self._kept(gateway, report)
        else:
            self._on_event(LeaseAccepted(gateway, report.serial))

    def hear_load(self, report: LoadReported) -> None:
        """Takes what a gateway carried; it changes nothing here."""
        self._on_event(report)

    def _accepted(self, gateway: str, resources: Iterable[Resource]) -> None:
        peer = self._peers[gateway]
        if keys := peer.accept(resources, self.snapshot):
            self._deliver(gateway, frozenset(name for type_url, name in keys if type_url == SECRET))
            if not peer.is_bare:
                self._review(frozenset[str]().union(*map(self._catalog.users, keys)), [gateway])

    def _kept(self, gateway: str, kept: Kept) -> None:
        peer = self._peers[gateway]
        names = peer.keep(kept, self.snapshot)
        if kept.type_url == SECRET:
            self._deliver(gateway, frozenset(names))
        if not peer.is_bare:
            self._review(set(self._catalog.plans) if peer.empty else set(peer.incomplete), [gateway])

    def _deliver(self, gateway: str, secrets: frozenset[str]) -> None:
        if secrets:
            self._on_event(SecretsDelivered(gateway, secrets))

    def _review(self, names: AbstractSet[str], gateways: Iterable[str], news: AbstractSet[str] = frozenset()) -> None:
        """Finds which of these routes the gateways have whole, and reports those that are now, and the `news`."""
        plans = self._catalog.plans
        programmed: dict[str, set[str]] = {}
        for gateway in gateways:
            peer = self._peers[gateway]
            if peer.is_bare:
                continue
            whole = {name for name in names if peer.has(plans[name].required)}
            if peer.empty and whole:
                self._fill(peer)
            if not peer.empty:
                became, ceased = whole & peer.incomplete, names - whole - peer.incomplete
                peer.incomplete -= became
                peer.incomplete |= ceased
                for name in became:
                    self._models[name].waiting -= 1
                for name in ceased:
                    self._models[name].waiting += 1
                programmed[gateway] = became | whole & news
        self._promote(names)
        for gateway, whole in programmed.items():
            if in_force := frozenset(name for name in whole if not self._models[name].refusal):
                self._on_event(Programmed(gateway, in_force))

    def _fill(self, peer: Peer) -> None:
        """Its first whole route is about to be found."""
        peer.empty = False
        self._empty -= 1
        peer.incomplete.update(self._catalog.plans)
        for name in peer.incomplete:
            self._models[name].waiting += 1

    def _promote(self, names: Iterable[str]) -> None:
        """What every gateway has is what a route may go back to."""
        if not self._peers or self._empty:
            return
        for name in names:
            model = self._models[name]
            if not model.waiting:
                model.accepted = self._catalog.plans[name]

    def _rejected(self, gateway: str, session: Session, nack: Nack) -> None:
        named = _named(nack.message, nack.resources)
        if not named and len(nack.resources) > 1 and nack.divisible:
            session.resend(nack.type_url, [each.name for each in nack.resources], alone=True)
            return
        culprits = named or nack.resources
        routes, doomed = set[str](), set[str]()
        for each in culprits:
            _remember(self._peers[gateway].refused, _version(each), None)
            current = self.snapshot.get(each.key) == each
            users = self._catalog.users(each.key) if current else frozenset()
            going = {name for name in users if not self._models[name].has_accepted(each)}
            if going == users:  # nobody is left who has it in force, and nobody shall bring it back
                _remember(self._refused, _version(each), nack.message)
            routes |= users
            doomed |= going
        self._revert(doomed, nack.message)
        session.resend(nack.type_url, [each.name for each in nack.resources if each not in culprits])
        refused = frozenset(each.name for each in culprits)
        self._on_event(Rejected(gateway, nack.type_url, refused, frozenset(routes), nack.message))

    def _revert(self, names: Iterable[str], reason: str) -> None:
        """Back to what every gateway had, with the endpoints of now; out, if there is nothing to go back to or another
        route has its host or port by now.
        """
        plans: dict[str, Plan | None] = {}
        for name in names:
            model = self._models[name]
            model.refusal = reason
            plans[name] = self._renewed(model.accepted, model.wanted.local) if model.accepted else None
        objections = self._catalog.objections(plans)
        plans |= dict.fromkeys(objections)
        retry = self._blocked - plans.keys() if self._frees(plans) else ()
        self._blocked |= objections.keys()
        self._install(plans)
        self._retry(retry)


def _remember(memory: dict[_Name, _Words], name: _Name, words: _Words) -> None:
    """Makes room by forgetting who came first."""
    memory[name] = words
    if len(memory) > MAX_REFUSED:
        del memory[next(iter(memory))]


def _version(each: Resource) -> Version:
    return each.type_url, each.name, each.version


def _named(message: str, resources: Sequence[Resource]) -> tuple[Resource, ...]:
    """Those whose names stand in Envoy's words: not as a part of a longer name."""
    return tuple(
        each
        for each in resources
        if each.name in message and re.search(rf"(?<![\w/.-]){re.escape(each.name)}(?![\w/-]|[.:]\w)", message)
    )
