"""Pure: the models, and everything they take part in: names, endpoints, remotes, credentials, limits, metrics, ports.

A model that is touched is *resolved* (what do its manifests come to?), and then *decided* by the controller that leads,
or *follows* what that one has decided. A model that is wrong or incomplete keeps its last good route, and nothing one
model does holds up another.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import replace

from controller import events, offload
from controller.api import ModelDeployment
from controller.credentials import Need
from controller.elsewhere import Elsewhere
from controller.events import Effect
from controller.exposures import Exposures
from controller.gateways import Gateways
from controller.inventory import Inventory
from controller.leasing import Leasing
from controller.names import Names
from controller.record import (
    FORGOTTEN,
    SHARED,
    Record,
    gauges_of,
    new_record,
    restore,
    saved_credentials,
    saved_gateways,
    saved_ports,
    to_save,
)
from controller.remotes import Remotes
from controller.resolution import Config, Resolution, Resolver
from controller.routing import policy_of
from controller.watches import Watches
from xds import events as gateway_events
from xds import ir

_NOT_TOLD = FORGOTTEN - SHARED
"""What a decision that is followed does without."""


class Models:
    """Owned by the engine, which marks what happened in `unresolved`, `undecided` and `touched`, and then settles."""

    def __init__(self, config: Config, saved: Mapping[str, Mapping[str, object]]) -> None:
        self.records: dict[str, Record] = {}
        self.saved = dict(saved)
        """States that no model has taken up yet."""
        self.unresolved: set[str] = set()
        self.undecided: set[str] = set()
        self.touched: set[str] = set()
        """Models of which something that people are told may have changed."""
        self.inventory = Inventory()
        self.remotes = Remotes(config.health, saved)
        self.gateways = Gateways(saved_gateways(saved))
        self.elsewhere = Elsewhere()
        self.leasing = Leasing(self.gateways.count)
        self.leads = config.cluster is None
        self.watches = Watches(active=self.leads)
        self.exposures = Exposures(config.cluster, saved_ports(saved))
        self._config = config
        self._divided_by = self.gateways.count
        self._names = Names()
        self._resolver = Resolver(self.inventory, config)
        self._count = 0
        self._routes: dict[str, ir.Route | None] = {}
        self._secrets: dict[str, ir.Secret | None] = {}
        self._effects: list[Effect] = []
        self._timers: list[tuple[float, str]] = []

    def of(self, keys: Iterable[str]) -> list[Record]:
        """Those of these models that exist, in the order in which they came."""
        return sorted((self.records[key] for key in keys if key in self.records), key=lambda record: record.number)

    # What gateways make of them

    def accept(self, event: gateway_events.Programmed) -> None:
        """A gateway has what is published of these models."""
        for record in self.of(event.routes):
            if record.accepted_by(event.gateway):
                self.undecided.add(record.key)
        self.touched |= event.routes

    def reject(self, event: gateway_events.Rejected) -> None:
        """A gateway refused something of these models."""
        for record in self.of(event.routes):
            words = record.rejected_by(event)
            self.announce(record.key, "ProxyRejected", words, warning=True)
            self.unresolved.add(record.key)

    def lose(self, gateway: str) -> None:
        """A gateway has no stream any more."""
        for record in self.records.values():
            record.forget_gateway(gateway)
        self.touched |= self.records.keys()

    # Manifests

    def apply(self, spec: ModelDeployment, now: float) -> None:
        """A good manifest, new or changed."""
        record = self.records.get(spec.key)
        if record is None:
            saved = self.saved.pop(spec.key, None)
            record = self.records[spec.key] = new_record(spec, saved, now)
            self._count += 1
            record.number = self._count
            if saved and not self.leads:
                self._tell(record, saved)
        record.wanted = spec
        self._claim_identity(record)
        self.unresolved.add(spec.key)

    def _claim_identity(self, record: Record) -> None:
        """What the leader has not told anything of takes nothing from those that it has."""
        if self.leads or record.told:
            self.unresolved |= self._names.claim_identity(record, record.told_lost)

    def refuse(self, key: str) -> None:
        """A manifest was never good: the model is not served, whatever was so before a restart."""
        if self.leads and self._config.cluster and key not in self.records:
            self._effects.append(events.Expose(key, None))

    def remove(self, key: str) -> None:
        """The manifest is gone."""
        self.saved.pop(key, None)
        record = self.records.pop(key, None)
        if record:
            self._withdraw(record)
            if self.leads:
                self._effects.append(events.Save({key: None}))
        if self.leads and self._config.cluster:
            self._effects.append(events.Expose(key, None))

    def _withdraw(self, record: Record) -> None:
        """Takes a model out of everything it takes part in."""
        key = record.key
        self.unresolved |= self._names.forget(key)
        self._resolver.forget(key)
        self.exposures.release(key)
        record.targets = ()
        self._use(record, ())
        self.leasing.set_limit(key, None, 0)
        self._effects += self.watches.use(key, {})
        self.inventory.follow(key, ())
        if record.route is not None:
            record.route = None
            self._routes[key] = None

    # Leading and following

    def elect(self, *, leads: bool, now: float) -> None:
        """Who leads goes on where the last one stopped; who does not any more lets its leases end by themselves."""
        self.leads = leads
        self._effects += self.watches.activate() if leads else self.watches.deactivate()
        self._effects.append(events.Conduct(ir.Survey()))
        self.leasing = Leasing(self.gateways.count)
        for gateway in sorted(self.gateways.streaming):
            self.leasing.take(gateway_events.GatewayConnected(gateway, ""), self.gateways, now)
        if leads:
            self._take_over(now)
        else:
            self._step_down()
        self.unresolved |= self.records.keys()

    def repeat(self) -> None:
        """Says once more what is wanted of each Service."""
        for record in self.records.values():
            record.expose = None
        self.undecided |= self.records.keys()

    def _take_over(self, now: float) -> None:
        records = self.of(self.records)
        self.exposures.start(records, now)
        self.remotes.take_over(records, now)
        for record in records:
            record.told = record.heard = None
            record.gauges = ()  # what was measured once is no reason now
            self._claim_identity(record)

    def _step_down(self) -> None:
        for record in self.records.values():
            for saved in (record.heard, record.saved):
                if saved and record.told is None:
                    self._tell(record, saved)
            if record.told is None:
                self.unresolved |= self._names.forget(record.key)

    def hear(self, key: str, saved: Mapping[str, object]) -> None:
        """What has been decided of a model, by the leader or by this controller itself."""
        record = self.records.get(key)
        if record is None:
            self.saved[key] = saved
        elif self.leads:
            record.heard = saved
        else:
            self._tell(record, saved)
        if not self.leads and not self.gateways.streaming:
            self.remotes.vault.adopt(saved_credentials({key: saved}))

    def _tell(self, record: Record, saved: Mapping[str, object]) -> None:
        """The leader has decided. What cannot be read changes nothing."""
        told = restore(saved, forgotten=_NOT_TOLD)
        if told.decision is None or told == record.told:
            return
        record.told, record.saved = told, saved
        record.decision, record.initial_limit = told.decision, told.initial_limit
        record.gateway_port = told.gateway_port
        if loser := self.records.get(self.exposures.hold(record.key, told.gateway_port) or ""):
            loser.gateway_port = None
            self.unresolved.add(loser.key)
        self._claim_identity(record)
        self.unresolved.add(record.key)

    # Settling

    def expire(self, now: float) -> None:
        """Marks what time alone changes."""
        while self._timers and self._timers[0][0] <= now:
            _, key = heapq.heappop(self._timers)
            if record := self.records.get(key):
                record.timer_at_s = None
                self.undecided.add(key)
        self.gateways.expire(now)

    def wake_at(self) -> float | None:
        """When to call `expire`, None while time changes nothing."""
        leasing = self.leasing.wake_at() if self.leads else None
        times = [self.gateways.wake_at(), leasing, *(at for at, _ in self._timers[:1])]
        return min((at for at in times if at is not None), default=None)

    def settle(self, now: float) -> tuple[Effect, ...]:
        """Brings all that is marked in line. Returns what must be done."""
        self.leasing.retain(self.gateways)
        if self.gateways.count != self._divided_by:
            self._divided_by = self.gateways.count
            self.unresolved |= {key for key, record in self.records.items() if record.is_limited}
        while self.unresolved:
            pending, self.unresolved = self.unresolved, set()
            for record in self.of(pending):
                self._resolve(record, now)
            self.undecided |= pending
        pending, self.undecided = self.undecided, set()
        for record in self.of(pending):
            if self.leads:
                self._decide(record, now)
            else:
                self._follow(record, now)
        self.touched |= pending
        if self._routes or self._secrets:
            self._effects.append(events.Publish(ir.Update(self._routes, self._secrets)))
            self._routes, self._secrets = {}, {}
        if self.leads:
            self._effects += self.leasing.step(now)
        effects, self._effects = tuple(self._effects), []
        return effects

    def _resolve(self, record: Record, now: float) -> None:
        """Takes in what the manifests of a model come to."""
        if not self.leads and record.told is None:
            return
        if not self._may_become_what_it_wants(record) and record.route is None:
            return
        found = self._resolver.resolve(record.spec, record.refused_remotes)
        side = found.remote
        self.inventory.follow(record.key, found.follows)
        taken = found.service if self._config.cluster else None  # elsewhere, Hosts tell models of one Service apart
        self.unresolved |= self._names.settle(record, found.hosts, taken, record.told_lost)
        record.service, record.make, record.is_touched = found.service, found.make, found.is_touched
        self._settle_local(record, found)
        record.targets, record.notes, record.inline_secrets = side.targets, side.notes, side.inline_secrets
        record.missing, record.forbidden = found.missing, found.forbidden
        refused = record.refused_remotes
        record.refused_remotes = {t.cluster: w for t in side.targets if (w := refused.get(t.cluster))}
        self._use(record, side.needs)
        self._settle_metrics(record, found, now)

    def _may_become_what_it_wants(self, record: Record) -> bool:
        """Puts the newest manifest in force, unless another model serves what it names: then what it was goes on."""
        wanted = record.wanted
        holder = self._names.holder(wanted.identity)
        if holder != record.key:
            environment, name = wanted.identity
            conflict = f"{holder or 'another one'} already serves model {name!r} in environment {environment!r}."
            if record.conflict != conflict:
                self.announce(record.key, "Conflict", conflict, warning=True)
            record.conflict = conflict
            return False
        record.conflict = ""
        if record.spec is not wanted:
            record.spec, record.policy = wanted, policy_of(wanted)
            self.unresolved |= self._names.keep_identity(record)
        return True

    def _settle_local(self, record: Record, found: Resolution) -> None:
        """Endpoints, and a gateway's part of their limit. What cannot be resolved leaves what was known."""
        if found.local is not None:
            record.replicas = found.local.replicas
            record.local = ir.Local(found.local.endpoints, found.local.protocol)
        limit = self._limit(record)
        if record.initial_limit is None and self.leads:
            record.initial_limit = limit
        initial_limit = limit if record.initial_limit is None else record.initial_limit
        record.local = replace(record.local or ir.Local(), initial_limit=initial_limit, limit=limit)

    def _limit(self, record: Record) -> int:
        """Each gateway's static part of the limit."""
        configured = record.spec.spec.offloading_config.local_limit
        if configured is None:
            self.leasing.set_limit(record.key, None, 0)
            return ir.UNLIMITED
        if not record.replicas:
            return record.local.limit if record.local else configured.max_concurrent_requests_per_replica
        total = min(configured.max_concurrent_requests_per_replica * record.replicas, ir.UNLIMITED)
        static = max(1, total // self.gateways.count)
        self.leasing.set_limit(record.key, total, static)
        return static

    def _use(self, record: Record, needs: Iterable[Need]) -> None:
        effects, secrets = self.remotes.use(record, needs)
        self._effects += effects
        self.provide(secrets)

    def provide(self, secrets: Mapping[str, ir.Secret | None]) -> None:
        """While there is no gateway nobody has to acknowledge them: who connects gets secrets before routes."""
        self._secrets |= secrets
        if not self.gateways.streaming:
            for name in secrets:
                self.remotes.vault.delivered(name)

    def _settle_metrics(self, record: Record, found: Resolution, now: float) -> None:
        gauges = gauges_of(found.queries, record.gauges)
        if gauges and not record.gauges:
            record.watching_since_s = now
        record.gauges = gauges
        queries = {gauge.query: self.inventory.targets(gauge.query) for gauge in gauges if gauge.query is not None}
        self._effects += self.watches.use(record.key, queries)

    # Deciding

    def _decide(self, record: Record, now: float) -> None:
        self.exposures.settle(record)
        if record.local is None:  # it waits for another model to let go
            self._expose(record, now)
            return
        known, record.remotes = record.remotes, tuple(self.remotes.judged(each, now) for each in record.targets)
        for remote in record.remotes:
            if remote.rests and not any(each.rests and each.target == remote.target for each in known):
                self.announce(record.key, "RemoteUnhealthy", f"{remote.spec.name}: {remote.reason}.", warning=True)
        last, seen = record.decision, record.observe(now)
        decision = record.decision = offload.step(record.policy, last, seen, now)
        if record.reroute():
            self._routes[record.key] = record.route
        self.elsewhere.mark(record, self.gateways.streaming)
        if decision.state is not last.state or decision.restraint != last.restraint:
            self.announce(record.key, decision.reason, decision.sentence, warning=bool(decision.restraint))
        self._expose(record, now)
        self._save(record)
        deadlines = [offload.stale_at_s(record.policy, seen)] if record.policy.watched else []
        deadlines += self.remotes.deadlines(record)
        if (held_until_s := self.exposures.held_until_s(record, now)) is not None:
            deadlines.append(held_until_s)
        self._arm(record, deadlines, now)

    def _expose(self, record: Record, now: float) -> None:
        if expose := self.exposures.expose(record, now):
            self._effects.append(expose)

    def _follow(self, record: Record, now: float) -> None:
        """Publishes what the leader has decided. Nothing before it has: a limit of our own could not be taken back."""
        if record.local is None or record.told is None:
            return
        told = record.told.remotes
        record.remotes = tuple(self.remotes.told(each, told, now) for each in record.targets)
        if record.reroute():
            self._routes[record.key] = record.route
        self.elsewhere.mark(record, self.gateways.streaming)
        self._arm(record, self.remotes.deadlines(record), now)

    def _save(self, record: Record) -> None:
        saved = to_save(record, self.remotes.held(record), self.gateways.count, shared=self._config.cluster is not None)
        if saved != record.saved:
            record.saved = saved
            self._effects.append(events.Save({record.key: saved}))

    def _arm(self, record: Record, deadlines: Iterable[float], now: float) -> None:
        at_s = min((at for at in deadlines if at > now), default=None)
        if at_s is not None and (record.timer_at_s is None or at_s < record.timer_at_s):
            record.timer_at_s = at_s
            heapq.heappush(self._timers, (at_s, record.key))

    def announce(self, key: str, reason: str, message: str, *, warning: bool = False) -> None:
        if self.leads:
            self._effects.append(events.Announce(key, reason, message, warning))
