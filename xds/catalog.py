"""Pure: the routes and secrets in force, as resources of the snapshot.

A route's resources are its own, except for the clusters of its backends, which it shares with every route that has an
equal backend. Limits of all routes go in a few runtime layers. A secret is in the snapshot as long as a cluster there
refers to it, so no gateway can get any other.

A route that cannot be in force is refused whole, and its last good state stays. A host and a port belong to one route:
the second claimant is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from xds import ir
from xds.snapshot import ROUTE, SECRET, Key, Resource, Snapshot
from xds.translate import (
    LIMIT_LAYERS,
    Gateway,
    backend_resource,
    gateway_resources,
    limit_layer,
    limits_resource,
    route_resources,
    secret_resource,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a route comes to."""

    route: ir.Route
    resources: Mapping[Key, Resource]

    @property
    def required(self) -> AbstractSet[Key]:
        """The resources that a gateway must have before the route is whole there.

        Limits are not, for they are in force as soon as they are read; nor is a RouteConfiguration without a scope or
        a listener, since nothing leads a gateway to ask for it.
        """
        keys = self.resources.keys()
        return keys if self.claims else {key for key in keys if key[0] != ROUTE}

    @property
    def claims(self) -> tuple[str | int, ...]:
        """Where callers find the route: its hosts, and its own port."""
        hosts, port = self.route.hosts, self.route.port
        return hosts if port is None else (*hosts, port)


class Catalog:
    """Owns the snapshot. Each call costs in proportion to the routes that it names."""

    def __init__(self, gateway: Gateway) -> None:
        self.snapshot = Snapshot()
        self.plans: dict[str, Plan] = {}
        self._gateway = gateway
        self._users: dict[Key, tuple[str, ...] | set[str]] = {}
        """A tuple as long as there is one: that is nearly always so, and a set takes four times the memory."""
        self._holders: dict[str | int, str] = {}
        """Who has a host or a port."""
        self._secrets: dict[str, Resource] = {}
        self._limits: list[dict[str, int]] = [{} for _ in range(LIMIT_LAYERS)]
        layers = (limits_resource(layer, {}) for layer in range(LIMIT_LAYERS))
        self.snapshot.apply((*gateway_resources(gateway), *layers))

    def users(self, key: Key) -> frozenset[str]:
        """The routes that have this resource; none of what is there for all."""
        return frozenset(self._users.get(key, ()))

    def plan(self, route: ir.Route) -> Plan:
        """Translates a route, as far as it differs from what is in force."""
        before = self.plans.get(route.name)
        known = (before.route, before.resources) if before else ()
        own = route_resources(route, self._gateway, *known)
        backends = dict.fromkeys(remote.backend for remote in route.remotes)
        shared = (backend_resource(each, self._gateway) for each in backends)
        return Plan(route, {each.key: each for each in (*own, *shared)})

    def objections(self, plans: Mapping[str, Plan | None]) -> dict[str, str]:
        """Those of the plans (None: the route goes) that cannot be in force together with the rest, with the reason."""
        refused: dict[str, str] = {}
        for name, plan in plans.items():
            if plan and (missing := self.snapshot.missing(plan.resources.values())):
                refused[name] = f"refers to what does not exist: {', '.join(key[1] for key in missing)}"
        rest = {name: plan for name, plan in plans.items() if name not in refused}
        while conflict := self._conflict(rest):
            name, reason = conflict
            refused[name] = reason
            del rest[name]  # so it keeps what it had, which may be in another's way
        return refused

    def install(self, plans: Mapping[str, Plan | None]) -> frozenset[Key]:
        """Puts plans without objections in force, in one change. Returns the resources that differ now."""
        put: list[Resource] = []
        released: dict[Key, Resource] = {}
        layers: set[int] = set()
        for name, plan in plans.items():
            old = self.plans.get(name)
            before = old.resources if old else {}
            after = plan.resources if plan else {}
            put += [each for key, each in after.items() if before.get(key) is not each]
            released |= {key: each for key, each in before.items() if key not in after}
            if self._set_limit(name, plan):
                layers.add(limit_layer(name))
            self._replace(name, old, plan)
        secrets = {name for each in (*put, *released.values()) for type_url, name in each.refs if type_url == SECRET}
        put += [limits_resource(layer, self._limits[layer]) for layer in layers]
        changed = self.snapshot.apply(put, [key for key in released if key not in self._users])
        return changed | self._provide(secrets)

    def keep_secrets(self, secrets: Mapping[str, ir.Secret | None]) -> frozenset[Key]:
        """New values, None: gone. Returns the resources that differ now."""
        for name, secret in secrets.items():
            if secret is None:
                self._secrets.pop(name, None)
            else:
                self._secrets[name] = secret_resource(secret)
        return self._provide(secrets)

    def _provide(self, names: Iterable[str]) -> frozenset[Key]:
        """Brings the snapshot in line with which of these secrets are known and referred to."""
        put, drop = [], []
        for name in names:
            if name in self._secrets and self.snapshot.is_referred_to((SECRET, name)):
                put.append(self._secrets[name])
            else:
                drop.append((SECRET, name))
        return self.snapshot.apply(put, drop)

    def _set_limit(self, name: str, plan: Plan | None) -> bool:
        """Notes a limit that differs from the one its cluster was created with. True if that is news."""
        limits = self._limits[limit_layer(name)]
        known = limits.pop(name, None)
        if plan and plan.route.local.limit != plan.route.local.initial_limit:
            limits[name] = plan.route.local.limit
        return limits.get(name) != known

    def _replace(self, name: str, old: Plan | None, plan: Plan | None) -> None:
        before = old.resources.keys() if old else set()
        after = plan.resources.keys() if plan else set()
        for key in before - after:
            self._release(key, name)
        for key in after - before:
            self._use(key, name)
        for claim in old.claims if old else ():
            if self._holders.get(claim) == name:
                del self._holders[claim]
        if plan is None:
            self.plans.pop(name, None)
        else:
            self.plans[name] = plan
            self._holders.update(dict.fromkeys(plan.claims, name))

    def _use(self, key: Key, name: str) -> None:
        users = self._users.get(key)
        if isinstance(users, set):
            users.add(name)
        else:
            self._users[key] = {*users, name} if users else (name,)

    def _release(self, key: Key, name: str) -> None:
        users = self._users[key]
        if isinstance(users, set):
            users.discard(name)
        if users in (set(), (name,)):
            del self._users[key]

    def _conflict(self, plans: Mapping[str, Plan | None]) -> tuple[str, str] | None:
        """A route with a claim on what another one has, or claimed before, with the reason."""
        claimed: dict[str | int, str] = {}
        for name, plan in plans.items():
            for claim in plan.claims if plan else ():
                if claim == self._gateway.port:
                    return name, f"port {claim} is where callers of all models arrive"
                holder = self._holders.get(claim, name)
                keeps = plans[holder] if holder in plans else self.plans.get(holder)
                if holder == name or keeps is None or claim not in keeps.claims:
                    holder = claimed.setdefault(claim, name)
                if holder != name:
                    return name, f"{'port' if isinstance(claim, int) else 'host'} {claim} belongs to {holder}"
        return None
