"""Pure: everything that happens comes in as an event, everything that must be done goes out as an effect. The only
owner of changing state.

One path: an event marks the models it touches; then each of them is *resolved* (what do its manifests, endpoints and
credentials come to?) if an object changed, and *decided* (how much leaves?). A route is published only if it differs
from the last one. A model that is wrong or incomplete keeps its last good route; nothing one model does holds up
another.

`handle` takes the time and never reads a clock; `wake_at` says when time alone would change something, and `advance` is
then called. Times are seconds since the epoch. One caller, so no locks.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from controller import events, offload
from controller.api import ModelDeployment, RemoteBackend
from controller.claims import Claims
from controller.credentials import Need, Vault, certificate_authority, need_of, secret_keys
from controller.events import Effect, Event, Kind
from controller.gateways import Gateways
from controller.health import HealthPolicy, RemoteHealth
from controller.inventory import Inventory, Reference
from controller.leasing import Leasing
from controller.metrics import Query, ScrapeQuery, Source, Unknown, query_for
from controller.objects import Resolved
from controller.record import Gauge, Record, Target, new_record, saved_credentials, saved_gateways, to_save
from controller.routing import RemoteState, hosts_of, policy_of, remote_of
from controller.watches import Watches
from xds import events as gateway_events
from xds import ir
from xds.translate import backend_cluster_name


@dataclass(frozen=True, slots=True)
class Config:
    """What the engine takes from the settings. `workspace` None: a model's namespace stands for it."""

    source: Source
    default_remote: RemoteBackend | None = None
    workspace: str | None = None
    health: HealthPolicy = field(default_factory=HealthPolicy)


class Engine:
    """All models, and what is known of the world around them.

    `saved`: per model key what `Save` effects said before a restart. A model that was saved keeps its place before
    those that were not.
    """

    def __init__(self, config: Config, saved: Mapping[str, Mapping[str, object]]) -> None:
        self.records: dict[str, Record] = {}
        self.refused: dict[tuple[Kind, str], events.Refused] = {}
        self.vault = Vault(saved_credentials(saved))
        self.health = RemoteHealth(config.health)
        self.gateways = Gateways(saved_gateways(saved))
        self.leasing = Leasing(self.gateways.count)
        self._divided_by = self.gateways.count
        self._config = config
        self._saved = dict(saved)
        self._inventory = Inventory()
        self._identities: Claims[tuple[str, str]] = Claims()
        self._hosts: Claims[str] = Claims()
        self._watches = Watches()
        self._unresolved: set[str] = set()
        self._undecided: set[str] = set()
        self._routes: dict[str, ir.Route | None] = {}
        self._secrets: dict[str, ir.Secret | None] = {}
        self._effects: list[Effect] = []
        self._timers: list[tuple[float, str]] = []

    def handle(self, event: Event, now: float) -> tuple[Effect, ...]:
        """Takes one event and returns what must be done about it, in order."""
        return self.handle_all((event,), now)

    def handle_all(self, batch: Iterable[Event], now: float) -> tuple[Effect, ...]:
        """Takes events that happened together: one publication for all of them."""
        for event in batch:
            self._take(event, now)
        return self._settle(now)

    def advance(self, now: float) -> tuple[Effect, ...]:
        """Does what is due by now."""
        while self._timers and self._timers[0][0] <= now:
            _, key = heapq.heappop(self._timers)
            if record := self.records.get(key):
                record.timer_at_s = None
                self._undecided.add(key)
        self.gateways.expire(now)
        return self._settle(now)

    def forget_saved(self) -> list[str]:
        """Drops saved states that no model has taken up: those models exist no more. Returns their keys."""
        gone, self._saved = sorted(self._saved), {}
        return gone

    def wake_at(self) -> float | None:
        """When to call `advance`, None while time changes nothing."""
        times = [self.gateways.wake_at(), self.leasing.wake_at(), *(at for at, _ in self._timers[:1])]
        return min((at for at in times if at is not None), default=None)

    # What an event touches

    def _take(self, event: Event, now: float) -> None:
        match event:
            case events.Applied(object=ModelDeployment() as spec):
                self._apply_model(spec, now)
            case events.Applied(object=thing):
                self.refused.pop((Kind(type(thing).__name__), thing.key), None)
                self._unresolved |= self._inventory.apply(thing)
            case events.Removed(kind=kind, key=key):
                self.refused.pop((kind, key), None)
                if kind is Kind.MODEL_DEPLOYMENT:
                    self._remove_model(key)
                else:
                    self._unresolved |= self._inventory.remove(kind, key)
            case events.Refused(kind=kind, key=key):
                if self.refused.get((kind, key)) != event:
                    self.refused[kind, key] = event
                    self._announce(key, "Invalid", event.sentence, warning=True)
            case events.Observed() | events.TokenIssued() | events.TokenFailed():
                self._take_answer(event, now)
            case events.GatewaysSeen() | events.Exposed() | events.Elected() | events.Decided():
                pass
            case _:
                self._take_gateway_event(event, now)
                self.leasing.take(event, self.gateways, now)

    def _take_answer(self, event: events.Observed | events.TokenIssued | events.TokenFailed, now: float) -> None:
        match event:
            case events.Observed(query=query, reading=reading):
                for key in self._watches.models(query):
                    record = self.records[key]
                    for gauge in record.gauges:
                        if gauge.query == query:
                            gauge.read(reading, record.replicas, now)
                    self._undecided.add(key)
            case events.TokenIssued(name=name, token=token, expires_at_s=expires_at_s):
                if secret := self.vault.issued(name, token, expires_at_s):
                    self._provide({name: secret})
                    self._undecided |= self.vault.users(name)
            case events.TokenFailed(name=name, reason=reason):
                if self.vault.failed(name, reason):
                    for key in sorted(self.vault.users(name)):
                        self._announce(key, "TokenUnavailable", f"No token for {name}: {reason}.", warning=True)
                    self._undecided |= self.vault.users(name)

    def _take_gateway_event(self, event: gateway_events.GatewayEvent, now: float) -> None:
        match event:
            case gateway_events.GatewayConnected(gateway=gateway, version=version):
                self.gateways.join(gateway, version, now)
            case gateway_events.GatewayDisconnected(gateway=gateway):
                self.gateways.leave(gateway, now)
                for record in self.records.values():
                    record.forget_gateway(gateway)
            case gateway_events.Programmed(gateway=gateway, routes=routes):
                for record in self._records(routes):
                    record.accepted_by(gateway)
            case gateway_events.Rejected(routes=routes):
                for record in self._records(routes):
                    words = record.rejected_by(event)
                    self._announce(record.key, "ProxyRejected", words, warning=True)
                    self._unresolved.add(record.key)
            case gateway_events.SecretsDelivered(secrets=secrets):
                for name in filter(self.vault.delivered, secrets):
                    self._undecided |= self.vault.users(name)
            case gateway_events.LoadReported(backends=backends):
                self._undecided |= self.health.hear(backends, now)
            case gateway_events.LeaseAccepted() | gateway_events.GatewayRefused():
                pass  # neither changes what models come to

    def _records(self, keys: Iterable[str]) -> list[Record]:
        return [self.records[key] for key in sorted(keys) if key in self.records]

    def _apply_model(self, spec: ModelDeployment, now: float) -> None:
        self.refused.pop((Kind.MODEL_DEPLOYMENT, spec.key), None)
        record = self.records.get(spec.key)
        if record is None:
            record = self.records[spec.key] = new_record(spec, self._saved.pop(spec.key, None), now)
        record.wanted = spec
        # What a model serves stays its own until it may be what it is to become.
        held = [] if record.route is None else [record.spec.identity]
        self._unresolved |= self._identities.claim(spec.key, [*held, spec.identity])
        self._unresolved.add(spec.key)

    def _remove_model(self, key: str) -> None:
        if record := self.records.pop(key, None):
            self._unresolved |= self._identities.claim(key, ())
            self._withdraw(record)
            self._effects.append(events.Save({key: None}))

    def _withdraw(self, record: Record) -> None:
        """Takes a model out of everything it takes part in."""
        key = record.key
        self._unresolved |= self._hosts.claim(key, ())
        self._use(key, (), ())
        self.leasing.set_limit(key, None, 0)
        self._effects += self._watches.use(key, {})
        self._inventory.follow(key, ())
        if record.route is not None:
            record.route = None
            self._routes[key] = None

    # Settling

    def _settle(self, now: float) -> tuple[Effect, ...]:
        self.leasing.retain(self.gateways)
        if self.gateways.count != self._divided_by:
            self._divided_by = self.gateways.count
            self._unresolved |= {key for key, record in self.records.items() if record.is_limited}
        while self._unresolved:
            pending, self._unresolved = self._unresolved, set()
            for record in self._records(pending):
                self._resolve(record, now)
            self._undecided |= pending
        pending, self._undecided = self._undecided, set()
        for record in self._records(pending):
            self._decide(record, now)
        if self._routes or self._secrets:
            self._effects.append(events.Publish(ir.Update(self._routes, self._secrets)))
            self._routes, self._secrets = {}, {}
        self._effects += self.leasing.step(now)
        effects, self._effects = tuple(self._effects), []
        return effects

    def _resolve(self, record: Record, now: float) -> None:
        """What the manifests of a model come to: hosts, endpoints, remotes, metrics."""
        if not self._may_become_what_it_wants(record) and record.route is None:
            return
        spec = record.spec
        follows: set[Reference] = set()
        self._resolve_local(record, follows)
        hosts = hosts_of(spec)
        self._unresolved |= self._hosts.claim(spec.key, hosts) - {spec.key}
        record.hosts = tuple(sorted(self._hosts.held(spec.key)))
        record.lost_hosts = {host: self._hosts.holder(host) or "" for host in hosts if host not in record.hosts}
        self._resolve_remotes(record, follows)
        self._resolve_metrics(record, follows, now)
        self._inventory.follow(spec.key, follows)

    def _may_become_what_it_wants(self, record: Record) -> bool:
        """Puts the newest manifest in force, unless another model serves what it names: then what it was goes on."""
        wanted = record.wanted
        holder = self._identities.holder(wanted.identity)
        if holder != record.key:
            environment, name = wanted.identity
            conflict = f"{holder} already serves model {name!r} in environment {environment!r}"
            if record.conflict != conflict:
                self._announce(record.key, "Conflict", conflict + ".", warning=True)
            record.conflict = conflict
            return False
        record.conflict = ""
        if record.spec is not wanted:
            record.spec, record.policy = wanted, policy_of(wanted)
            self._unresolved |= self._identities.claim(record.key, [wanted.identity])
        return True

    def _resolve_local(self, record: Record, follows: set[Reference]) -> None:
        """Ready endpoints, and a gateway's part of their limit. What cannot be resolved leaves what was known."""
        ref = record.spec.spec.service_ref
        record.unresolved = ""
        resolved: Resolved | str | None = "spec.serviceRef is missing, so no local endpoint is known"
        if ref is not None:
            service_key = ref.object_key(record.spec.metadata.namespace)
            follows.add((Kind.SERVICE, service_key))
            resolved = self._inventory.endpoints(service_key, ref.target_port)
        if isinstance(resolved, Resolved):
            record.replicas = resolved.replicas
            record.local = ir.Local(resolved.endpoints, resolved.protocol)
        else:
            record.unresolved = resolved or ""
        limit = self._limit(record)
        if record.initial_limit is None:
            record.initial_limit = limit
        record.local = replace(record.local or ir.Local(), initial_limit=record.initial_limit, limit=limit)

    def _limit(self, record: Record) -> int:
        """Each gateway's static part of the limit."""
        configured = record.spec.spec.offloading_config.local_limit
        if configured is None:
            self.leasing.set_limit(record.key, None, 0)
            return ir.UNLIMITED
        if not record.replicas:
            return record.local.limit if record.local else configured.max_concurrent_requests_per_replica
        total = configured.max_concurrent_requests_per_replica * record.replicas
        static = max(1, total // self.gateways.count)
        self.leasing.set_limit(record.key, total, static)
        return static

    def _resolve_remotes(self, record: Record, follows: set[Reference]) -> None:
        spec = record.spec
        configured = spec.spec.offloading_config.remotes
        default = self._config.default_remote
        remotes = configured or ((default,) if default else ())
        targets: list[Target] = []
        needs: list[Need] = []
        for remote in remotes:
            namespace = spec.metadata.namespace
            follows |= {(Kind.SECRET, key) for key in secret_keys(remote, namespace)}
            owner = f"{spec.key}/{remote.name}" if configured else "config"
            need = need_of(remote, spec, owner, self._inventory.secrets)
            ca_pem, missing = certificate_authority(remote, namespace, self._inventory.secrets)
            if need is not None:
                needs.append(need)
                missing = missing or need.missing
            credential = need.credential if need else None
            target = remote_of(remote, spec, self._config.workspace or namespace, credential, ca_pem)
            state = RemoteState(remote, target, ready=not missing, reason=missing)
            cluster = backend_cluster_name(target.backend)
            if words := record.refused_remotes.get(cluster):
                state = replace(state, ready=False, refused=True, reason=f"refused by {words}")
            targets.append(Target(state, credential.secret if credential else None, cluster))
        record.targets = tuple(targets)
        record.refused_remotes = {t.cluster: w for t in targets if (w := record.refused_remotes.get(t.cluster))}
        self._use(spec.key, needs, [target.cluster for target in targets])

    def _use(self, key: str, needs: Iterable[Need], clusters: Iterable[str]) -> None:
        self.health.use(key, clusters)
        effects, secrets = self.vault.use(key, needs)
        self._effects += effects
        self._provide(secrets)

    def _provide(self, secrets: Mapping[str, ir.Secret | None]) -> None:
        """While there is no gateway nobody has to acknowledge them: who connects gets secrets before routes."""
        self._secrets |= secrets
        if not self.gateways.names:
            for name in secrets:
                self.vault.delivered(name)

    def _resolve_metrics(self, record: Record, follows: set[Reference], now: float) -> None:
        gauges: list[Gauge] = []
        for spec in record.spec.spec.offloading_config.metrics:
            query = query_for(spec, record.spec, self._config.source)
            if isinstance(query, Unknown):
                gauges.append(Gauge(spec, None, query))
                continue
            if isinstance(query, ScrapeQuery):
                follows.add((Kind.SERVICE, query.service))
            known = next((gauge for gauge in record.gauges if gauge.spec == spec and gauge.query == query), None)
            gauges.append(known or Gauge(spec, query, Unknown("Waiting", "no answer has come yet")))
        if gauges and not record.gauges:
            record.watching_since_s = now
        record.gauges = tuple(gauges)
        queries = {gauge.query: self._targets(gauge.query) for gauge in gauges if gauge.query is not None}
        self._effects += self._watches.use(record.key, queries)

    def _targets(self, query: Query) -> tuple[ir.Endpoint, ...]:
        """The endpoints to ask; none if the query goes elsewhere."""
        if not isinstance(query, ScrapeQuery):
            return ()
        resolved = self._inventory.endpoints(query.service, query.port)
        return resolved.endpoints if isinstance(resolved, Resolved) else ()

    # Deciding

    def _decide(self, record: Record, now: float) -> None:
        if record.local is None:
            return  # it waits for another model to let go
        known, record.remotes = record.remotes, tuple(self._remote_state(target, now) for target in record.targets)
        for remote in record.remotes:
            if remote.rests and not any(each.rests and each.target == remote.target for each in known):
                self._announce(record.key, "RemoteUnhealthy", f"{remote.spec.name}: {remote.reason}.", warning=True)
        last, seen = record.decision, record.observe(now)
        decision = record.decision = offload.step(record.policy, last, seen, now)
        if record.reroute():
            self._routes[record.key] = record.route
        if decision.state is not last.state or decision.restraint != last.restraint:
            self._announce(record.key, decision.reason, decision.sentence, warning=bool(decision.restraint))
        credentials = [target.credential for target in record.targets if target.credential]
        self._save(record, credentials)
        deadlines = [offload.stale_at_s(record.policy, seen)] if record.policy.watched else []
        deadlines += [self.health.rests_until_s(target.cluster) for target in record.targets]
        deadlines += [at for name in credentials if (at := self.vault.usable_until_s(name)) is not None]
        self._arm(record, min((at for at in deadlines if at > now), default=None))

    def _remote_state(self, target: Target, now: float) -> RemoteState:
        if not target.remote.ready:
            return target.remote
        if target.credential and (obstacle := self.vault.obstacle(target.credential, now)):
            return replace(target.remote, ready=False, reason=obstacle)
        if obstacle := self.health.obstacle(target.cluster, now):
            return replace(target.remote, ready=False, rests=True, reason=obstacle)
        return target.remote

    def _save(self, record: Record, credentials: Iterable[str]) -> None:
        held = {name: self.vault.expires_at_s(name) for name in credentials if self.vault.is_delivered(name)}
        saved = to_save(record, held, self.gateways.count)
        if saved != record.saved:
            record.saved = saved
            self._effects.append(events.Save({record.key: saved}))

    def _arm(self, record: Record, at_s: float | None) -> None:
        if at_s is not None and (record.timer_at_s is None or at_s < record.timer_at_s):
            record.timer_at_s = at_s
            heapq.heappush(self._timers, (at_s, record.key))

    def _announce(self, key: str, reason: str, message: str, *, warning: bool = False) -> None:
        self._effects.append(events.Announce(key, reason, message, warning))
