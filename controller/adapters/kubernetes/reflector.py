"""Shell: one kind of object, listed once and watched from there on.

Nothing is lost by what goes wrong. A watch that ends, or breaks off, goes on from the last version seen, which
bookmarks keep young. Only where the server cannot go on from there everything is listed again, and what differs from
what was known is told: changed objects, and those that are gone. While nothing can be read, what is known stays.

Lists name no resourceVersion. That costs the server a read of its newest state ("0" would take any from its cache), but
a controller that starts must not act on a past one: it would take Services over, or move traffic, as things were. It is
also what makes every server answer in pages.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, TypeVar

import msgspec

from controller.adapters.keyed_tasks import KeyedTasks
from controller.adapters.kubernetes.client import JSON, METADATA_LIST, METADATA_ONLY, ApiError, Cluster, path_of
from controller.events import Applied, Event, Kind, Object, Refused, Removed
from controller.parsing import Problem
from controller.refresh import Pace, next_retry_s

T = TypeVar("T")

PAGE = 500
"""Objects of one answer to a list."""
WATCH_S = 240
"""A watch is asked for anew after one to two times this long."""
GOOD_S = 2.0
"""A watch that lasted this long was none that failed, though nothing may have happened."""
PACE = Pace(first_retry_s=0.5, longest_retry_s=10.0)

log = logging.getLogger(__name__)

_LIST_AGAIN = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.GATEWAY_TIMEOUT}  # 504: not yet there
)
"""Answers to a watch that may be about the version it begins at."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects. `path`: of a kind, in one namespace or in all (`path_of`). `metadata_only`: no spec, no status."""

    path: str
    label_selector: str = ""
    field_selector: str = ""
    metadata_only: bool = False

    def __str__(self) -> str:
        return "".join((self.path, *(f" [{each}]" for each in (self.label_selector, self.field_selector) if each)))

    @property
    def query(self) -> dict[str, str]:
        given = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {name: value for name, value in given.items() if value}


def selections(group_version: str, plural: str, namespaces: Iterable[str], label_selector: str = "") -> list[Selection]:
    """A kind's objects in these namespaces; none named: in all."""
    paths = [path_of(group_version, plural, namespace) for namespace in namespaces] or [path_of(group_version, plural)]
    return [Selection(path, label_selector) for path in paths]


class UnusableError(ValueError):
    """An object that cannot be used, and every reason why."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Handler(Generic[T]):
    """What is done with objects. Keys are '<namespace>/<name>', or '<name>' for kinds without namespaces.

    `decode` takes an object's JSON and raises UnusableError where it must; then `refuse` is told, and nothing else
    happens: what is known of the object stays.
    """

    decode: Callable[[bytes], T]
    change: Callable[[T], None]
    remove: Callable[[str], None]
    refuse: Callable[[str, tuple[Problem, ...]], None]


def as_events(kind: Kind, decode: Callable[[bytes], Object], emit: Callable[[Event], None]) -> Handler[Object]:
    """A handler for objects that go into the engine as they are."""
    return Handler(
        decode,
        lambda decoded: emit(Applied(decoded)),
        lambda key: emit(Removed(kind, key)),
        lambda key, problems: emit(Refused(kind, key, problems)),
    )


class _Metadata(msgspec.Struct, gc=False):
    name: str = ""
    namespace: str = ""
    resourceVersion: str = ""  # noqa: N815 - Kubernetes' name


class _Head(msgspec.Struct, gc=False):
    metadata: _Metadata


class _WatchEvent(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw


class _ListMetadata(msgspec.Struct, gc=False):
    resourceVersion: str  # noqa: N815
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, gc=False):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None
    """Go writes an empty list as null where it can."""


class _Status(msgspec.Struct, gc=False):
    code: int = 0
    reason: str = ""
    message: str = ""


_head = msgspec.json.Decoder(_Head)
_event = msgspec.json.Decoder(_WatchEvent)
_page = msgspec.json.Decoder(_Page)
_status = msgspec.json.Decoder(_Status)


class Reflector(Generic[T]):
    """Tells `handler` what there is of a selection, and then what changes.

    `synced` is set once all there is has been told. `trouble`: why nothing can be read now, '' if it can.
    """

    def __init__(
        self,
        cluster: Cluster,
        selection: Selection,
        handler: Handler[T],
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.selection = selection
        self.synced = asyncio.Event()
        self.trouble = ""
        self._cluster = cluster
        self._handler = handler
        self._jitter = jitter
        self._versions: dict[str, str] = {}
        self._version = ""
        self._failures = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            goes_on = bool(self._version)
            try:
                if not goes_on:
                    await self._list()
                await self._watch()
            except ApiError as error:
                is_forgotten = error.status == HTTPStatus.GONE and goes_on
                if is_forgotten:
                    self._failures = 0  # the server is there, and only has to be asked otherwise
                self._failures += 1
                if error.status in _LIST_AGAIN:
                    self._version = ""
                if self._failures > 1 or error.status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
                    self._complain(error)
                if not is_forgotten:
                    await asyncio.sleep(next_retry_s(PACE, self._failures, self._jitter()))

    async def _list(self) -> None:
        """All there is, page by page, and then what is gone."""
        accept = METADATA_LIST if self.selection.metadata_only else JSON
        query = {**self.selection.query, "limit": str(PAGE)}
        seen: set[str] = set()
        while True:
            body = await self._cluster.request("GET", self.selection.path, query=query, accept=accept)
            page = _decoded(_page, body)
            for item in page.items or ():
                seen.add(self._apply(item))
            if not page.metadata.continue_:
                break
            query["continue"] = page.metadata.continue_
        for key in self._versions.keys() - seen:
            self._remove(key)
        self._version = page.metadata.resourceVersion
        self._recovered()
        self.synced.set()

    async def _watch(self) -> None:
        """What happens after the last version seen, until the server ends it. Raises ApiError."""
        accept = METADATA_ONLY if self.selection.metadata_only else JSON
        query = {
            **self.selection.query,
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(int(WATCH_S * (1.0 + self._jitter()))),
        }
        clock = asyncio.get_running_loop().time
        began_s = clock()
        try:
            async with self._cluster.watch(self.selection.path, query, accept=accept) as lines:
                self._recovered()
                async for line in lines:
                    self._take(_decoded(_event, line))
                    self._failures = 0
        finally:
            if clock() >= began_s + GOOD_S:
                self._failures = 0
        if clock() < began_s + GOOD_S:
            raise ApiError(0, "WatchClosed", "the API server ends the watch as soon as it begins")

    def _take(self, event: _WatchEvent) -> None:
        match event.type:
            case "ADDED" | "MODIFIED":
                self._version = self._versions[self._apply(event.object)]
            case "DELETED":
                head = _decoded(_head, event.object)
                self._remove(_key(head))
                self._version = head.metadata.resourceVersion
            case "BOOKMARK":
                self._version = _decoded(_head, event.object).metadata.resourceVersion
            case _:
                self._version = ""
                status = _decoded(_status, event.object)
                raise ApiError(status.code, status.reason, status.message)

    def _apply(self, raw: msgspec.Raw) -> str:
        """Tells an object if it is not known in this version. Returns its key."""
        head = _decoded(_head, raw)
        key, version = _key(head), head.metadata.resourceVersion
        if self._versions.get(key) != version:
            self._versions[key] = version
            try:
                decoded = self._handler.decode(bytes(raw))
            except UnusableError as error:
                self._handler.refuse(key, error.problems)
            else:
                self._handler.change(decoded)
        return key

    def _remove(self, key: str) -> None:
        if self._versions.pop(key, None) is not None:
            self._handler.remove(key)

    def _complain(self, error: ApiError) -> None:
        """Once for each trouble, not for each attempt."""
        words = f"{self.selection} {_WHY.get(error.status, 'cannot be read')}: {error.message or error.reason}"
        if words != self.trouble:
            self.trouble = words
            log.warning(words, extra={"reason": error.reason})

    def _recovered(self) -> None:
        if self.trouble:
            self.trouble = ""
            log.info("%s is read again", self.selection)


_WHY: dict[int, str] = {
    HTTPStatus.FORBIDDEN: "may not be read by this controller (RBAC)",
    HTTPStatus.NOT_FOUND: "is not served (is its CRD installed?)",
}


def _key(head: _Head) -> str:
    metadata = head.metadata
    return f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError(0, "BadAnswer", f"not what the Kubernetes API says: {error}") from error


class Reflectors:
    """Reflectors that come and go by key while `run` runs them."""

    def __init__(self) -> None:
        self._tasks: KeyedTasks[str] = KeyedTasks()
        self._reflectors: dict[str, Reflector[Any]] = {}

    def start(self, key: str, reflector: Reflector[Any]) -> None:
        """In place of the one with the same key."""
        self._reflectors[key] = reflector
        self._tasks.start(key, reflector.run)

    def stop(self, key: str) -> None:
        """What it told stays told."""
        self._reflectors.pop(key, None)
        self._tasks.stop(key)

    @property
    def troubles(self) -> list[str]:
        """Why some cannot read what they should, one sentence for each."""
        return sorted(each.trouble for each in self._reflectors.values() if each.trouble)

    async def wait_synced(self) -> None:
        """Until each that is there now has told all there is."""
        for reflector in list(self._reflectors.values()):
            await reflector.synced.wait()

    async def run(self) -> None:
        """Until it is cancelled."""
        await self._tasks.run()
