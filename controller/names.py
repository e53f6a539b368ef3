"""Pure: what only one model can have: an identity (environment and model), each Host, a port of a Service.

First come, first served; who comes later waits, and is next when the holder lets go. Manifests do not say who came
first, so the controller that leads does: what a model has lost, it does not ask for elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.claims import Claims
from controller.record import Lost, Record


class Names:
    """Who holds what. Owned by the engine."""

    def __init__(self) -> None:
        self._identities: Claims[tuple[str, str]] = Claims()
        self._hosts: Claims[str] = Claims()
        self._ports: Claims[tuple[str, int]] = Claims()

    def claim_identity(self, record: Record, lost: Lost) -> set[str]:
        """Asks for the identity of a model's newest manifest. Returns the models that hold something new.

        What a model serves stays its own until it may be what it is to become.
        """
        served = [] if record.route is None else [record.spec.identity]
        wanted = [] if lost.identity else [record.wanted.identity]
        return self._identities.claim(record.key, [*served, *wanted])

    def keep_identity(self, record: Record) -> set[str]:
        """Lets go of all but that of the manifest in force. Returns the models that hold something new."""
        return self._identities.claim(record.key, [record.spec.identity])

    def holder(self, identity: tuple[str, str]) -> str | None:
        return self._identities.holder(identity)

    def settle(
        self, record: Record, hosts: Iterable[str], service: tuple[str, int | None] | None, lost: Lost
    ) -> set[str]:
        """Asks for Hosts and for the Service's port, and notes what the model has of them. Returns the others that hold
        something new.
        """
        key, wanted = record.key, frozenset(hosts)
        heirs = self._hosts.claim(key, wanted - lost.hosts)
        held = self._hosts.held(key)
        record.hosts = tuple(sorted(held))
        record.lost_hosts = {host: self._hosts.holder(host) or "" for host in sorted(wanted - held)}
        ports = [(name, port) for name, port in [service or ("", None)] if port is not None]
        heirs |= self._ports.claim(key, [] if lost.port else ports)
        holders = (self._ports.holder(port) or "" for port in ports)
        record.port_holder = next((holder for holder in holders if holder != key), "")
        return heirs - {key}

    def forget(self, key: str) -> set[str]:
        """The model is gone. Returns the others that hold something new."""
        return self._identities.claim(key, ()) | self._hosts.claim(key, ()) | self._ports.claim(key, ())
