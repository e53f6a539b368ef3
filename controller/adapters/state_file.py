"""Shell: what must survive a restart, in one JSON file. Written by atomic replace, at once, but at most every
`WRITE_EVERY_S`, and once more at the end.

A file that cannot be read is put aside, never overwritten: starting without memory is better than not starting.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

VERSION = 1
WRITE_EVERY_S = 0.2

log = logging.getLogger(__name__)

State = Mapping[str, object]


class StateFile:
    """Model key -> saved state. `save` only marks; `run` writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._states: dict[str, State] = {}
        self._changed = asyncio.Event()

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
        states = stored.get("models")
        if not isinstance(states, dict) or not all(isinstance(state, dict) for state in states.values()):
            return self._put_aside("it does not hold models")
        self._states = dict(states)
        return dict(states)

    @property
    def order(self) -> list[str]:
        """The keys, in the order they were first saved."""
        return list(self._states)

    def save(self, changes: Mapping[str, State | None]) -> None:
        """Takes changed states; None where a model is gone."""
        for key, state in changes.items():
            if state is None:
                self._states.pop(key, None)
            else:
                self._states[key] = state
        self._changed.set()

    async def run(self) -> None:
        """Writes changes until cancelled, then the last ones."""
        try:
            while True:
                await self._changed.wait()
                self._flush()
                await asyncio.sleep(WRITE_EVERY_S)
        finally:
            self._flush()

    def _flush(self) -> None:
        if not self._changed.is_set():
            return
        self._changed.clear()
        text = json.dumps({"version": VERSION, "models": self._states}, indent=1)
        temporary = self._path.with_suffix(".tmp")
        try:
            with temporary.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            log.error("the state file could not be written", extra={"path": str(self._path), "error": str(error)})

    def _put_aside(self, why: str) -> dict[str, State]:
        aside = self._path.with_suffix(".unreadable")
        log.warning("the state file cannot be used and was put aside", extra={"path": str(aside), "error": why})
        try:
            self._path.replace(aside)
        except OSError as error:
            log.warning("the state file could not be moved", extra={"path": str(self._path), "error": str(error)})
        return {}
