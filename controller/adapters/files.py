"""Shell: a directory of manifests, as events. Nobody has to write atomically, and no mistake in a file moves traffic:

- A file that cannot be read, or not to its end, or holds something unknowable, loses no object that it had. Nor does
  one that is empty: an editor may be about to fill it. To remove objects, delete them from their file, or the file.
- A file that vanished is looked for once more before its objects go: it may be being replaced.
- An object that is wrong keeps its last good version, and what is wrong is reported.
- An object in two files: the first in the order of paths counts.

Names that begin with a dot are passed over: editors' files, and the versions behind a mounted ConfigMap's links.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from watchfiles import awatch

from controller.adapters.last_good import LastGood
from controller.events import Applied, Event, Kind, Object, Refused, Removed
from controller.manifests import Contents, FileProblem, Identity, Manifest, Skipped, Source, read
from controller.parsing import Invalid, Parsed, Problem

SUFFIXES = (".yaml", ".yml", ".json")
FILE_BYTES_MAX = 16 * 1024 * 1024
QUIET_MS = 100
"""Changes are read once nothing has changed for this long."""
RESCAN_S = 5.0
"""Everything is looked at this often even if nothing is notified: links may lead where notifications do not."""
REPLACED_S = 0.1
"""A vanished file is looked for again after this."""

log = logging.getLogger(__name__)

_KINDS = frozenset(Kind)
Signature = tuple[int, int, int]


class ManifestError(Exception):
    """The directory cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class _File:
    """`contents`: what counts, with what it had before where that cannot be told now."""

    signature: Signature | None
    contents: Contents


class ManifestDirectory:
    """The objects below `path`. `problems`: all that is wrong there now, warnings too, logged when it is new.

    `lines`: for who looks once and tells all problems: faultless objects too know the line of each field, which takes
    several times the memory of the objects, and nothing is logged.
    `last_good`: what a file held before this start counts where it is bad now.
    """

    def __init__(self, path: Path, *, lines: bool = False, last_good: LastGood | None = None) -> None:
        self.problems: tuple[FileProblem, ...] = ()
        self._path = path
        self._lines = lines
        self._last_good = last_good
        self._remembered: dict[Identity, Object] = {}
        self._files: dict[PurePath, _File] = {}
        self._applied: dict[Identity, Object] = {}
        self._refused: dict[Identity, tuple[Problem, ...]] = {}
        self._noted: set[str] = set()
        self._reported: tuple[FileProblem, ...] = ()

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """The objects of the last `load`, good and bad, each once, in the order of paths."""
        return tuple(self._objects().values())

    def load(self) -> list[Event]:
        """Looks at the directory. Returns what has changed since the last time. Raises ManifestError."""
        if not self._read_files() and self.problems is self._reported:
            return []
        objects = self._objects()
        events = [*self._changes(objects), *self._removals(objects)]
        self._report(objects)
        return events

    async def watch(self, emit: Callable[[Event], None]) -> None:
        """Emits what changes, for ever."""
        while True:
            try:
                await self._reload(emit)
                watcher = awatch(
                    self._path,
                    watch_filter=None,
                    step=QUIET_MS,
                    rust_timeout=int(RESCAN_S * 1000),
                    yield_on_timeout=True,
                )
                async for _ in watcher:
                    await self._reload(emit)
            except (ManifestError, OSError) as error:
                problem = FileProblem(Source(PurePath(self._path.name)), "", "", "", str(error))
                if problem not in self.problems:
                    log.warning("manifests cannot be watched; what was read stays", extra={"error": str(error)})
                    self.problems = (*self.problems, problem)
                await asyncio.sleep(RESCAN_S)

    async def _reload(self, emit: Callable[[Event], None]) -> None:
        for event in await asyncio.to_thread(self.load):
            emit(event)

    # Reading

    def _read_files(self) -> bool:
        """False if nothing has changed since the last time."""
        present = self._list()
        if self._files.keys() - present.keys():
            time.sleep(REPLACED_S)
            present = self._list()
        known, self._files = self._files, {name: self._read(name, signature) for name, signature in present.items()}
        changed = not known or known != self._files
        if self._last_good and changed:
            self._last_good.save(self._files)
        return changed

    def _list(self) -> dict[PurePath, Signature | None]:
        """The manifest files, by path relative to the directory, in that order. A changed signature: a changed file."""
        if not self._path.is_dir():
            raise ManifestError(f"{self._path}: {'is not a directory' if self._path.exists() else 'does not exist'}")
        try:
            return {PurePath(path): _signature(entry) for path, entry in _walk(self._path, "", set())}
        except OSError as error:
            raise ManifestError(f"{error.filename or self._path}: {error.strerror or error}") from None

    def _read(self, name: PurePath, signature: Signature | None) -> _File:
        known = self._files.get(name)
        if known is not None and signature is not None and known.signature == signature:
            return known
        text = _text(self._path / name, name)
        found = text if isinstance(text, Contents) else read(name, text)
        before = known.contents.manifests if known else self._remember(name, found)
        if self._last_good and isinstance(text, str) and _is_good(found):
            self._last_good.keep(name, text)
        if before and found == Contents():
            found = _unknown(
                name, "the file is empty, so its objects stay as they were; delete the file to remove them"
            )
        if found.problems:
            seen = {manifest.identity for manifest in found.manifests}
            kept = (manifest for manifest in before if manifest.identity not in seen)
            found = replace(found, manifests=(*found.manifests, *kept))
        if not self._lines:
            found = replace(found, manifests=tuple(map(_without_lines, found.manifests)))
        return _File(signature, found)

    def _remember(self, name: PurePath, found: Contents) -> tuple[Manifest, ...]:
        """What a file that is bad at the start held before it."""
        if self._last_good is None or _is_good(found):
            return ()
        before = self._last_good.manifests(name)
        good = {each.identity: each.value for each in before}
        bad = (each.identity for each in found.manifests if isinstance(each.result, Invalid))
        for identity in bad:
            value = good.get(identity)
            if value is not None:
                self._remembered[identity] = value
        return before

    # What it means

    def _objects(self) -> dict[Identity, Manifest]:
        found: dict[Identity, Manifest] = {}
        for manifest in self._all_manifests():
            found.setdefault(manifest.identity, manifest)
        return found

    def _all_manifests(self) -> Iterator[Manifest]:
        for file in self._files.values():
            yield from file.contents.manifests

    def _changes(self, objects: dict[Identity, Manifest]) -> Iterator[Event]:
        for identity, manifest in objects.items():
            value = manifest.value
            if isinstance(manifest.result, Invalid):
                if manifest.kind in _KINDS and self._refused.get(identity) != manifest.result.problems:
                    self._refused[identity] = manifest.result.problems
                    if (remembered := self._remembered.pop(identity, None)) and identity not in self._applied:
                        self._applied[identity] = remembered
                        yield Applied(remembered)
                    yield Refused(Kind(manifest.kind), manifest.key, manifest.result.problems)
            elif value is not None:
                was_refused = self._refused.pop(identity, None) is not None
                if was_refused or self._applied.get(identity) != value:
                    self._applied[identity] = value
                    yield Applied(value)

    def _removals(self, objects: dict[Identity, Manifest]) -> Iterator[Event]:
        for identity in sorted({*self._applied, *self._refused} - objects.keys()):
            self._applied.pop(identity, None)
            self._refused.pop(identity, None)
            yield Removed(Kind(identity[0]), identity[1])

    # Telling people

    def _report(self, objects: dict[Identity, Manifest]) -> None:
        problems = tuple(self._find_problems(objects))
        known, self.problems, self._reported = frozenset(self.problems), problems, problems
        if self._lines:
            return
        for problem in problems:
            if problem not in known:
                extra = {
                    "source": str(problem.source),
                    "object": f"{problem.kind} {problem.name}",
                    "field": problem.field,
                }
                log.warning(problem.reason, extra=extra)
        for skipped in self._skipped():
            if not skipped.quiet and skipped.what not in self._noted:
                self._noted.add(skipped.what)
                log.info("skipped: %s is not read here", skipped.what, extra={"source": str(skipped.source)})

    def _find_problems(self, objects: dict[Identity, Manifest]) -> Iterator[FileProblem]:
        for file in self._files.values():
            yield from file.contents.problems
        for manifest in self._all_manifests():
            first = objects[manifest.identity]
            if first is manifest:
                yield from manifest.problems
            else:
                yield manifest.problem("metadata.name", f"is already at {first.source}; that one is used")

    def _skipped(self) -> Iterator[Skipped]:
        for file in self._files.values():
            yield from file.contents.skipped


def _walk(directory: Path, prefix: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Manifest files below a directory, through links, each directory once; with their paths, in the order of these."""
    try:
        status = directory.stat()
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        return  # it went away after its parent was listed
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", seen)
        elif entry.name.endswith(SUFFIXES) and (entry.is_file() or entry.is_symlink()):
            yield prefix + entry.name, entry


def _signature(entry: os.DirEntry[str]) -> Signature | None:
    try:
        status = entry.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _text(path: Path, name: PurePath) -> str | Contents:
    """What a file says, or contents that only say what is wrong with it."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            return _unknown(name, f"the file is larger than {FILE_BYTES_MAX} bytes")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return _unknown(name, "the file is not UTF-8 text")
    except OSError as error:
        return _unknown(name, f"the file cannot be read: {error.strerror or error}")


def _is_good(found: Contents) -> bool:
    """Everything in the file can be used, and there is something."""
    usable = all(isinstance(each.result, Parsed) for each in found.manifests)
    return usable and not found.problems and found != Contents()


def _without_lines(manifest: Manifest) -> Manifest:
    return manifest if manifest.problems else replace(manifest, node=None)


def _unknown(name: PurePath, reason: str) -> Contents:
    return Contents(problems=(FileProblem(Source(name), "", "", "", reason),))
