"""Pure: what each remote of a model is good for now: what its manifests, its credential and its health come to, or what
the controller that leads says of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from controller.credentials import Need, Vault
from controller.events import Effect
from controller.health import HealthPolicy, RemoteHealth
from controller.record import Readiness, Record, Target, saved_credentials
from controller.routing import RemoteState
from xds import ir


class Remotes:
    """Owned by the engine. `saved`: as of `Save`, by model, before a restart."""

    def __init__(self, policy: HealthPolicy, saved: Mapping[str, Mapping[str, object]]) -> None:
        self.vault = Vault(saved_credentials(saved))
        self.health = RemoteHealth(policy)

    def use(self, record: Record, needs: Iterable[Need]) -> tuple[list[Effect], dict[str, ir.Secret | None]]:
        """Takes a model's targets, all of them, and what they need. Returns as `Vault.use`."""
        self.health.use(record.key, [target.cluster for target in record.targets])
        return self.vault.use(record.key, needs)

    def take_over(self, records: Iterable[Record], now: float) -> None:
        """From now on this controller leads: what rested still does."""
        resting = [
            target.cluster
            for record in records
            if record.told
            for target in record.targets
            if record.told.remotes.get(target.remote.spec.name) == Readiness.RESTS
        ]
        self.health.start(resting, now)

    def judged(self, target: Target, now: float) -> RemoteState:
        """A remote as this controller sees it."""
        remote = self._credited(target, now)
        if remote.ready and (obstacle := self.health.obstacle(target.cluster, now)):
            return replace(remote, ready=False, rests=True, reason=obstacle)
        return remote

    def told(self, target: Target, told: Mapping[str, str], now: float) -> RemoteState:
        """A remote as the leader sees it, as far as our own gateways can follow. `told`: by name."""
        remote, word = self._credited(target, now), told.get(target.remote.spec.name)
        if not remote.ready or word == Readiness.READY:
            return remote
        reason = "the leader says that it is not ready"
        return replace(remote, ready=False, rests=word == Readiness.RESTS, reason=reason)

    def held(self, record: Record) -> dict[str, float | None]:
        """The credentials of a model that a gateway has, with their expiry."""
        names = {target.credential for target in record.targets if target.credential}
        return {name: self.vault.expires_at_s(name) for name in sorted(names) if self.vault.is_delivered(name)}

    def deadlines(self, record: Record) -> list[float]:
        """When time alone changes what they are good for; some of it may be past."""
        names = (target.credential for target in record.targets if target.credential)
        expiries = [at for name in names if (at := self.vault.usable_until_s(name)) is not None]
        return expiries + [self.health.rests_until_s(target.cluster) for target in record.targets]

    def _credited(self, target: Target, now: float) -> RemoteState:
        """A remote as far as its manifests and its credential go."""
        remote = target.remote
        if remote.ready and target.credential and (obstacle := self.vault.obstacle(target.credential, now)):
            return replace(remote, ready=False, reason=obstacle)
        return remote
