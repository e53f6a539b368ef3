"""Pure: every resource the gateways shall have, and in which order they changed.

A `Resource` is encoded once, when it is made, and kept as bytes: a protobuf message of the same content takes six times
the memory, and a response is then no more than a concatenation. Its version is a hash of its content, so that replicas
of the controller agree on versions without talking, and a restart changes none.

A `Log` holds the resources of one type **in the order of their last change**. What changed since a position is found by
walking from the end until the position is reached: work in proportion to what changed, however many resources there
are. A stream therefore remembers one number, not a version for each resource. Removed names stay as tombstones, in
the order of removal, until no stream needs them any more.

Invariants: all changes of one `Snapshot.apply` share one sequence number, and after each of them no resource refers to
one that does not exist. (A reference to a SECRET may dangle: a secret arrives when its value has been fetched.)
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import chain
from typing import NamedTuple

import xxhash
from google.protobuf.message import Message

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
SCOPED_ROUTE = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
RUNTIME = "type.googleapis.com/envoy.service.runtime.v3.Runtime"

TYPES = (RUNTIME, CLUSTER, ENDPOINTS, SECRET, LISTENER, SCOPED_ROUTE, ROUTE)
"""All types served, in the order in which one update makes them: what is referred to before what refers to it."""

Key = tuple[str, str]
"""A resource's type and name."""


class DanglingReferenceError(ValueError):
    """A change would leave references to resources that do not exist."""


def varint(value: int) -> bytes:
    """Protobuf's encoding of an unsigned integer."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


@lru_cache(maxsize=4096)  # few fields, and lengths that are nearly all small
def length_delimited(number: int, size: int) -> bytes:
    """What stands before the `size` bytes of field `number` in a protobuf message."""
    return varint(number << 3 | 2) + varint(size)


def text_field(number: int, value: str) -> bytes:
    """Field `number` of a protobuf message with a string in it."""
    return bytes_field(number, value.encode())


def bytes_field(number: int, value: bytes) -> bytes:
    """Field `number` of a protobuf message with bytes in it, or with another message."""
    return length_delimited(number, len(value)) + value


@cache
def _text_of_type(type_url: str) -> bytes:
    return text_field(1, type_url)


@dataclass(frozen=True, slots=True)
class Resource:
    """One xDS resource. `body` is the serialized google.protobuf.Any; it may hold a secret, so no repr shows it.

    `key` is its type and name. `refs` are the resources that this one needs to exist. `delta_head` is what stands
    before `body` where a DeltaDiscoveryResponse lists the resource: head + body is its `resources` field.
    """

    type_url: str
    name: str
    version: str
    body: bytes = field(repr=False)
    refs: tuple[Key, ...] = ()
    key: Key = field(init=False, repr=False, compare=False)
    delta_head: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.type_url, self.name))
        size = len(self.body)
        inner = text_field(3, self.name) + text_field(1, self.version) + length_delimited(2, size)
        object.__setattr__(self, "delta_head", length_delimited(2, len(inner) + size) + inner)


def resource(type_url: str, name: str, message: Message, refs: Iterable[Key] = ()) -> Resource:
    """Encodes `message`; equal messages give equal bytes, and so equal versions, in every process."""
    return encoded_resource(type_url, name, message.SerializeToString(deterministic=True), refs)


def encoded_resource(type_url: str, name: str, value: bytes, refs: Iterable[Key] = ()) -> Resource:
    """As `resource`, of a message that is serialized already."""
    body = _text_of_type(type_url) + bytes_field(2, value)  # google.protobuf.Any
    return Resource(type_url, name, xxhash.xxh3_64_hexdigest(body), body, tuple(refs))


class Entry(NamedTuple):
    """A resource and the sequence number of its last change; in a tombstone, of its removal."""

    sequence: int
    resource: Resource


class Log:
    """The resources of one type, and the tombstones of removed ones, each in the order of their last change.

    `newest` and `newest_removal` are the sequences of the last change and the last removal there was. `versions` are
    those of all resources, by name.
    """

    __slots__ = ("_digest", "_gone", "_live", "newest", "newest_removal", "versions")

    def __init__(self) -> None:
        self.newest = self.newest_removal = 0
        self.versions: dict[str, str] = {}
        self._live: OrderedDict[str, Entry] = OrderedDict()
        self._gone: OrderedDict[str, Entry] = OrderedDict()
        self._digest = 0

    def __len__(self) -> int:
        return len(self._live)

    def get(self, name: str) -> Entry | None:
        """The resource of that name."""
        return self._live.get(name)

    def sequence_of(self, name: str) -> int:
        """When the resource of that name changed last; 0 if there is none."""
        entry = self._live.get(name)
        return entry.sequence if entry else 0

    def resources(self) -> Iterator[Resource]:
        """All of them, least recently changed first."""
        return (entry.resource for entry in self._live.values())

    @property
    def version(self) -> str:
        """A hash of all names and versions, whatever their order: what a DiscoveryResponse calls its version."""
        return f"{self._digest:016x}"

    def changed_since(self, position: int) -> Iterator[Entry]:
        """What changed after `position`, newest first."""
        return _newer(self._live, position)

    def removed_since(self, position: int) -> Iterator[Entry]:
        """The tombstones of what was removed after `position`, newest first."""
        return _newer(self._gone, position)

    def is_removed_since(self, name: str, position: int) -> bool:
        """Whether there is a tombstone of that name after `position`."""
        entry = self._gone.get(name)
        return entry is not None and entry.sequence > position

    @property
    def tombstones(self) -> int:
        """How many there are."""
        return len(self._gone)

    def put(self, new: Resource, sequence: int) -> None:
        """Adds or replaces a resource: the newest change."""
        if old := self._live.pop(new.name, None):
            self._count(old.resource, -1)
        self._gone.pop(new.name, None)
        self._live[new.name] = Entry(sequence, new)
        self.versions[new.name] = new.version
        self.newest = sequence
        self._count(new, 1)

    def drop(self, name: str, sequence: int) -> None:
        """Turns a resource into a tombstone: the newest removal."""
        entry = self._live.pop(name)
        del self.versions[name]
        self._count(entry.resource, -1)
        self._gone[name] = Entry(sequence, entry.resource)
        self.newest_removal = sequence

    def forget(self, position: int) -> None:
        """Drops the tombstones of what was removed at or before `position`."""
        while self._gone and next(iter(self._gone.values())).sequence <= position:
            self._gone.popitem(last=False)

    def _count(self, counted: Resource, sign: int) -> None:
        digest = xxhash.xxh3_64_intdigest(f"{counted.name}\0{counted.version}".encode())
        self._digest = (self._digest + sign * digest) % (1 << 64)


def _newer(entries: OrderedDict[str, Entry], position: int) -> Iterator[Entry]:
    for entry in reversed(entries.values()):
        if entry.sequence <= position:
            return
        yield entry


class Snapshot:
    """All resources at one instant. `sequence` grows by one with each change."""

    def __init__(self) -> None:
        self.sequence = 0
        self.logs = {type_url: Log() for type_url in TYPES}
        self._referrers: Counter[Key] = Counter()

    def get(self, key: Key) -> Resource | None:
        """The resource of that type and name."""
        entry = self.logs[key[0]].get(key[1])
        return entry.resource if entry else None

    def is_referred_to(self, key: Key) -> bool:
        """Whether a resource that exists refers to this one, which need not exist."""
        return self._referrers[key] > 0

    def apply(self, put: Iterable[Resource], drop: Iterable[Key] = ()) -> frozenset[Key]:
        """Makes one change of all that is named; returns what differs now. Work in proportion to what is named.

        Raises DanglingReferenceError, and changes nothing, if afterwards a reference would lead nowhere.
        """
        new = {each.key: each for each in put}
        gone = set(drop)
        old = {key: found for key in (*new, *gone) if (found := self.get(key))}
        changed = {key: each for key, each in new.items() if old.get(key) != each}
        dropped = gone & old.keys() - new.keys()
        if not changed and not dropped:
            return frozenset()
        referrers = self._recount(changed, dropped, old)
        self._check(referrers, changed, dropped)
        self.sequence += 1
        for key in dropped:
            self.logs[key[0]].drop(key[1], self.sequence)
        for each in changed.values():
            self.logs[each.type_url].put(each, self.sequence)
        for key, count in referrers.items():
            if count:
                self._referrers[key] = count
            else:
                del self._referrers[key]
        return frozenset((*changed, *dropped))

    def missing(self, resources: Collection[Resource]) -> tuple[Key, ...]:
        """What these refer to and what neither exists nor is one of them. References to secrets do not count."""
        among = {each.key for each in resources}
        refs = {ref for each in resources for ref in each.refs}
        return tuple(sorted(ref for ref in refs - among if ref[0] != SECRET and self.get(ref) is None))

    @property
    def tombstones(self) -> int:
        """How many there are."""
        return sum(log.tombstones for log in self.logs.values())

    def forget(self, position: int) -> None:
        """Drops the tombstones that every stream has passed."""
        for log in self.logs.values():
            log.forget(position)

    def _recount(self, changed: dict[Key, Resource], dropped: set[Key], old: dict[Key, Resource]) -> dict[Key, int]:
        """How many resources will refer to each key whose count this change touches."""
        difference: Counter[Key] = Counter()
        for key in old.keys() & (changed.keys() | dropped):
            difference.subtract(old[key].refs)
        difference.update(chain.from_iterable(each.refs for each in changed.values()))
        return {key: self._referrers[key] + difference[key] for key in (*difference, *dropped)}

    def _check(self, referrers: dict[Key, int], changed: dict[Key, Resource], dropped: set[Key]) -> None:
        dangling = [
            key
            for key, count in referrers.items()
            if count and key[0] != SECRET and key not in changed and (key in dropped or self.get(key) is None)
        ]
        if dangling:
            names = ", ".join(sorted(name for _, name in dangling))
            raise DanglingReferenceError(f"referred to, but not there: {names}")
