"""Pure: responses as bytes, joined from what each resource keeps encoded, and shared between streams.

Many streams get the same response when something changes. It is joined once and lives as long as one of them waits for
its answer, so a thousand streams cost one copy. Its nonce is therefore its own and not the stream's: unique among all
responses, which includes those of any one stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count, islice
from typing import NamedTuple
from weakref import WeakValueDictionary

from xds.snapshot import Log, Resource, length_delimited, text_field

STEPS = STEP_RESOURCES = 64
"""How many steps are remembered, and how many resources are in one at most."""

_Identity = tuple[object, ...]


class Push:
    """One response: what it says, and its bytes. `removed` are names, and empty in state of the world."""

    __slots__ = ("__weakref__", "data", "nonce", "removed", "resources", "type_url", "version")

    def __init__(
        self,
        type_url: str,
        resources: tuple[Resource, ...],
        removed: tuple[str, ...],
        nonce: str,
        version: str,
        data: bytes,
    ) -> None:
        self.type_url = type_url
        self.resources = resources
        self.removed = removed
        self.nonce = nonce
        self.version = version
        self.data = data


class Step(NamedTuple):
    """All that changed of a type after some position, and its names."""

    push: Push
    names: tuple[str, ...]


class Encoder:
    """Makes responses, or finds them among those that still wait for an answer somewhere."""

    def __init__(self) -> None:
        self._nonces = count(1)
        self._pushes: WeakValueDictionary[_Identity, Push] = WeakValueDictionary()
        self._steps: dict[tuple[str, int, int, int], Step | None] = {}

    def step(self, type_url: str, log: Log, position: int) -> Step | None:
        """The DeltaDiscoveryResponse that takes a stream from `position` to the end of the log; None if there is
        nothing or much in it. It is remembered, since thousands stand in one place.
        """
        key = (type_url, position, log.newest, log.newest_removal)
        if key not in self._steps:
            if len(self._steps) >= STEPS:
                self._steps.clear()
            changed = [entry.resource for entry in islice(log.changed_since(position), STEP_RESOURCES + 1)]
            changed.reverse()
            names = tuple(each.name for each in changed)
            small = 0 < len(changed) <= STEP_RESOURCES
            self._steps[key] = Step(self.delta(type_url, changed, ()), names) if small else None
        return self._steps[key]

    def delta(self, type_url: str, resources: Sequence[Resource], removed: Sequence[str]) -> Push:
        """A DeltaDiscoveryResponse."""
        identity = (type_url, tuple(removed), *map(id, resources))
        if found := self._pushes.get(identity):
            return found
        nonce = f"{next(self._nonces):x}"
        parts = [text_field(4, type_url)]
        parts += chain.from_iterable((each.delta_head, each.body) for each in resources)
        parts += [text_field(6, name) for name in removed]
        parts.append(text_field(5, nonce))
        return self._keep(identity, Push(type_url, tuple(resources), tuple(removed), nonce, "", b"".join(parts)))

    def state(self, type_url: str, resources: Sequence[Resource], version: str) -> Push:
        """A DiscoveryResponse."""
        identity = (type_url, version, *map(id, resources))
        if found := self._pushes.get(identity):
            return found
        nonce = f"{next(self._nonces):x}"
        parts = [text_field(1, version)]
        parts += chain.from_iterable((length_delimited(2, len(each.body)), each.body) for each in resources)
        parts += [text_field(4, type_url), text_field(5, nonce)]
        return self._keep(identity, Push(type_url, tuple(resources), (), nonce, version, b"".join(parts)))

    def _keep(self, identity: _Identity, push: Push) -> Push:
        # The push holds its resources, so none of the identities in its key can be reused while the key is there.
        self._pushes[identity] = push
        return push


def encoded_size(resource: Resource) -> int:
    """Bytes that the resource takes in a DeltaDiscoveryResponse."""
    return len(resource.delta_head) + len(resource.body)
