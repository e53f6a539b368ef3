"""Shell: what must survive a restart, in two JSON files: all of it, and a journal of what has changed since.

A change costs what changed, however many models there are: it is one more line of the journal. When the journal is as
long as the whole, and at the end, the whole is written anew, by atomic replace. It names the journal that continues
it, so that an older one is never taken for that. Files are written in a thread, at once, but at most every
`WRITE_EVERY_S`: a slow disk holds up no decision.

A file that cannot be read is put aside, never overwritten: starting without memory is better than not starting.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

VERSION = 1
WRITE_EVERY_S = 0.2
JOURNAL_MIN = 1_000
"""Changes that a journal may hold however few models there are."""

log = logging.getLogger(__name__)

State = Mapping[str, object]


class StateFile:
    """Model key -> saved state. `save` only marks; `run` writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._states: dict[str, State] = {}
        self._pending: dict[str, State | None] = {}
        self._changed = asyncio.Event()
        self._generation = 0
        """Part of the journal's name; never the same twice."""
        self._room = 0
        """Changes that the journal may still take; 0: the whole is to be written first."""

    def load(self) -> dict[str, State]:
        """The saved states, in the order they were first saved; empty if there are none."""
        try:
            stored = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            return self._put_aside(str(error))
        if not isinstance(stored, dict) or stored.get("version") != VERSION:
            return self._put_aside("written by another version")
        states, journal = stored.get("models"), stored.get("journal")
        if not isinstance(states, dict) or not all(isinstance(state, dict) for state in states.values()):
            return self._put_aside("it does not hold models")
        self._states = dict(states)
        if isinstance(journal, int):
            self._generation = journal
            self._replay()
        return dict(self._states)

    @property
    def order(self) -> list[str]:
        """The keys, in the order they were first saved."""
        return list(self._states)

    def save(self, changes: Mapping[str, State | None]) -> None:
        """Takes changed states; None where a model is gone."""
        for key, state in changes.items():
            self._set(key, state)
            self._pending[key] = state
        self._changed.set()

    async def run(self) -> None:
        """Writes changes until cancelled, then all there is."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                changes, self._pending = self._pending, {}
                self._room -= len(changes)
                whole = None if self._room >= 0 else dict(self._states)
                writing = asyncio.create_task(asyncio.to_thread(self._write, changes, whole))
                try:
                    await asyncio.shield(writing)
                finally:
                    await writing
                await asyncio.sleep(WRITE_EVERY_S)
        finally:
            if self._pending or self._journal.exists():
                self._write({}, self._states)

    def _set(self, key: str, state: State | None) -> None:
        if state is None:
            self._states.pop(key, None)
        else:
            self._states[key] = state

    @property
    def _journal(self) -> Path:
        return self._path.with_suffix(f".journal-{self._generation}")

    def _write(self, changes: Mapping[str, State | None], whole: Mapping[str, State] | None) -> None:
        """Adds changes to the journal, or writes the whole. What fails is made good by writing the whole next time."""
        try:
            if whole is None:
                _write(self._journal, "".join(json.dumps({key: state}) + "\n" for key, state in changes.items()), "a")
                return
            before, generation = self._journal, time.time_ns()
            temporary = self._path.with_suffix(".tmp")
            models = ",\n".join(f"{json.dumps(key)}: {json.dumps(state)}" for key, state in whole.items())
            head = f'"version": {VERSION}, "journal": {generation}'
            _write(temporary, f'{{{head}, "models": {{\n{models}\n}}}}\n', "w")
            temporary.replace(self._path)
            self._generation = generation
            self._room = max(JOURNAL_MIN, len(whole))
            before.unlink(missing_ok=True)
        except OSError as error:
            self._room = 0
            log.error("the state file could not be written", extra={"path": str(self._path), "error": str(error)})

    def _replay(self) -> None:
        """Takes in the journal, up to a line that was not finished when the machine stopped."""
        try:
            for line in self._journal.read_text().splitlines():
                for key, state in json.loads(line).items():
                    self._set(key, state)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError) as error:
            extra = {"path": str(self._journal), "error": str(error)}
            log.warning("the end of the state's journal cannot be used", extra=extra)

    def _put_aside(self, why: str) -> dict[str, State]:
        aside = self._path.with_suffix(".unreadable")
        log.warning("the state file cannot be used and was put aside", extra={"path": str(aside), "error": why})
        try:
            self._path.replace(aside)
        except OSError as error:
            log.warning("the state file could not be moved", extra={"path": str(self._path), "error": str(error)})
        return {}


def _write(path: Path, text: str, mode: str) -> None:
    with path.open(mode) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
