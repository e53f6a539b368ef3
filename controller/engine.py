"""Pure: everything that happens comes in as an event, everything that must be done goes out as an effect. The only
owner of changing state.

One path: an event marks the models it touches; then each of them is *resolved* (what do its manifests, endpoints and
credentials come to?) if an object changed, and *decided* (how much leaves?). A route is published only if it differs
from the last one. A model that is wrong or incomplete keeps its last good route; nothing one model does holds up
another.

Several controllers may run, and one *leads*. The others take what it decided (`Decided`) instead of deciding, publish
the same, and say nothing of their own: no effect of theirs but routes, secrets and tokens leaves them.

`handle` takes the time and never reads a clock; `wake_at` says when time alone would change something, and `advance` is
then called. Times are seconds since the epoch. One caller, so no locks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from controller import events
from controller.api import ModelDeployment
from controller.credentials import Vault
from controller.elsewhere import own_report
from controller.events import Effect, Event, Kind
from controller.gateways import Gateways
from controller.leasing import Leasing
from controller.models import Models
from controller.peers import PeerReport, difference, moved_ports
from controller.record import Record
from controller.resolution import Config
from xds import events as gateway_events


class Engine:
    """All models, and what is known of the world around them.

    `saved`: per model key what `Save` effects said before a restart. A model that was saved keeps its place before
    those that were not. Outside a cluster it leads from the start, in one from `Elected` on.
    """

    def __init__(self, config: Config, saved: Mapping[str, Mapping[str, object]]) -> None:
        self._models = Models(config, saved)
        self.refused: dict[tuple[Kind, str], events.Refused] = {}

    @property
    def records(self) -> Mapping[str, Record]:
        return self._models.records

    @property
    def vault(self) -> Vault:
        return self._models.remotes.vault

    @property
    def gateways(self) -> Gateways:
        return self._models.gateways

    @property
    def leasing(self) -> Leasing:
        return self._models.leasing

    @property
    def followed_secrets(self) -> AbstractSet[str]:
        """Keys of the Secrets that models refer to."""
        return self._models.inventory.followed_secrets

    def peer_report(self, run: str) -> PeerReport:
        """What other controllers are to know of the gateways that are connected to this one, whose process is `run`."""
        return own_report(run, self.records.values(), self.gateways.streaming, self._models.remotes.health.totals)

    def take_touched(self) -> set[str]:
        """The models of which something that people are told may have changed, since the last call."""
        touched, self._models.touched = self._models.touched, set()
        return touched

    def handle(self, event: Event, now: float) -> tuple[Effect, ...]:
        """Takes one event and returns what must be done about it, in order."""
        return self.handle_all((event,), now)

    def handle_all(self, batch: Iterable[Event], now: float) -> tuple[Effect, ...]:
        """Takes events that happened together: one publication for all of them."""
        for event in batch:
            self._take(event, now)
        return self._models.settle(now)

    def advance(self, now: float) -> tuple[Effect, ...]:
        """Does what is due by now."""
        self._models.expire(now)
        return self._models.settle(now)

    def forget_saved(self) -> list[str]:
        """Drops saved states that no model has taken up: those models exist no more. Returns their keys."""
        gone, self._models.saved = sorted(self._models.saved), {}
        return gone

    def wake_at(self) -> float | None:
        """When to call `advance`, None while time changes nothing."""
        return self._models.wake_at()

    # What an event touches

    def _take(self, event: Event, now: float) -> None:
        match event:
            case events.Applied(object=thing):
                self.refused.pop((events.kind_of(thing), thing.key), None)
                if isinstance(thing, ModelDeployment):
                    self._models.apply(thing, now)
                self._models.unresolved |= self._models.inventory.apply(thing)
            case events.Removed(kind=kind, key=key):
                self.refused.pop((kind, key), None)
                if kind is Kind.MODEL_DEPLOYMENT:
                    self._models.remove(key)
                else:
                    self._models.unresolved |= self._models.inventory.remove(kind, key)
            case events.Refused(kind=kind, key=key):
                if self.refused.get((kind, key)) != event:
                    self.refused[kind, key] = event
                    self._models.touched.add(key)
                    self._models.announce(key, "Invalid", event.sentence, warning=True)
                    if kind is Kind.MODEL_DEPLOYMENT:
                        self._models.refuse(key)
            case events.Observed() | events.TokenIssued() | events.TokenFailed():
                self._take_answer(event, now)
            case events.GatewaysSeen() | events.Exposed() | events.Elected() | events.Decided():
                self._take_word_of_the_cluster(event, now)
            case events.PeerReported():
                self._take_peer_report(event, now)
            case _:
                self._take_gateway_event(event, now)
                self.leasing.take(event, self.gateways, now)

    def _take_answer(self, event: events.Observed | events.TokenIssued | events.TokenFailed, now: float) -> None:
        match event:
            case events.Observed(query=query, reading=reading):
                for key in self._models.watches.models(query):
                    record = self.records[key]
                    for gauge in record.gauges:
                        if gauge.query == query:
                            gauge.read(reading, record.replicas, now)
                    self._models.undecided.add(key)
            case events.TokenIssued(name=name, token=token, expires_at_s=expires_at_s):
                if secret := self.vault.issued(name, token, expires_at_s):
                    self._models.provide({name: secret})
                    self._models.undecided |= self.vault.users(name)
            case events.TokenFailed(name=name, reason=reason):
                if self.vault.failed(name, reason):
                    users = self.vault.users(name)
                    for record in self._models.of(users):
                        remotes = ", ".join(t.remote.spec.name for t in record.targets if t.credential == name)
                        words = f"{remotes}: no token could be had: {reason.rstrip('. ')}."
                        self._models.announce(record.key, "TokenUnavailable", words, warning=True)
                    self._models.undecided |= users

    def _take_word_of_the_cluster(
        self, event: events.GatewaysSeen | events.Exposed | events.Elected | events.Decided, now: float
    ) -> None:
        match event:
            case events.GatewaysSeen(pods=pods):
                self.gateways.see((pod.name for pod in pods), now)
                if self._models.exposures.see(pods, self.records.values()):
                    self._models.undecided |= self.records.keys()
            case events.Exposed(key=key):
                if record := self.records.get(key):
                    record.exposed = event
                    self._models.undecided.add(key)
            case events.Elected(leads=leads):
                if leads is not self._models.leads:
                    self._models.elect(leads=leads, now=now)
                elif leads:
                    self._models.repeat()
                for kind, key in sorted(self.refused):
                    if kind is Kind.MODEL_DEPLOYMENT:
                        self._models.refuse(key)
            case events.Decided(key=key, saved=saved):
                self._models.hear(key, saved)

    def _take_peer_report(self, event: events.PeerReported, now: float) -> None:
        models, after = self._models, event.report or PeerReport()
        last = models.elsewhere.take(event)
        before = last or PeerReport()
        if before.gateways.keys() != after.gateways.keys():
            self.gateways.see_elsewhere(models.elsewhere.gateways, now)
            models.undecided |= self.records.keys()
        models.undecided |= models.exposures.at(moved_ports(before, after))
        for record in models.of({key for key, _ in before.rejected.items() ^ after.rejected.items()}):
            record.rejections.pop(event.replica, None)
            models.undecided.add(record.key)
            if words := after.rejected.get(record.key):
                models.announce(record.key, "ProxyRejected", words, warning=True)
        if models.leads:
            models.undecided |= models.remotes.health.hear(difference(last, after), now)

    def _take_gateway_event(self, event: gateway_events.GatewayEvent, now: float) -> None:
        match event:
            case gateway_events.GatewayConnected(gateway=gateway, version=version):
                self.gateways.join(gateway, version, now)
            case gateway_events.GatewayDisconnected(gateway=gateway):
                self.gateways.leave(gateway, now)
                self._models.lose(gateway)
            case gateway_events.Programmed():
                self._models.accept(event)
            case gateway_events.Rejected():
                self._models.reject(event)
            case gateway_events.SecretsDelivered(secrets=secrets):
                for name in filter(self.vault.delivered, secrets):
                    self._models.undecided |= self.vault.users(name)
            case gateway_events.LoadReported(backends=backends):
                self._models.remotes.health.count(backends)
                if self._models.leads:
                    self._models.undecided |= self._models.remotes.health.hear(backends, now)
            case gateway_events.LeaseAccepted() | gateway_events.GatewayRefused():
                pass  # neither changes what models come to
