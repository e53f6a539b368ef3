"""Shell: manifest files as they last were without a mistake, kept for the next start.

A file that is bad when the controller starts must take down nothing that ran before. So whenever all of a file is
good, its text is kept, and a bad one is read beside its last good text. Files may hold Secrets: nobody else may read
what is kept.

It is an SQLite database: ten thousand texts are one file, written in one transaction, and only what differs is written.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path, PurePath

from controller.manifests import Manifest, read

log = logging.getLogger(__name__)

_CREATE = "CREATE TABLE IF NOT EXISTS texts (file BLOB PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID"
_KEEP = """\
INSERT INTO texts VALUES (?, ?)
ON CONFLICT (file) DO UPDATE SET text = excluded.text WHERE text <> excluded.text"""


class LastGood:
    """Texts by file name, in the database at `path`. What cannot be kept is said, and keeps nothing from working."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new: dict[PurePath, str] = {}

    def keep(self, name: PurePath, text: str) -> None:
        """Keeps a text in which everything is good, once `save` is called."""
        self._new[name] = text

    def manifests(self, name: PurePath) -> tuple[Manifest, ...]:
        """The good objects of the text that was kept; none if there is no such text."""
        if not self._path.exists():
            return ()
        try:
            with closing(sqlite3.connect(self._path)) as database:
                row = database.execute("SELECT text FROM texts WHERE file = ?", (bytes(name),)).fetchone()
        except sqlite3.Error as error:
            log.warning("what was kept of a manifest cannot be read", extra={"source": str(name), "error": str(error)})
            return ()
        return tuple(each for each in read(name, row[0]).manifests if each.value is not None) if row else ()

    def save(self, names: Iterable[PurePath]) -> None:
        """Writes what is to be kept, and drops the texts of files other than these."""
        new, self._new = self._new, {}
        try:
            try:
                self._write(new, names)
            except sqlite3.DatabaseError:
                self._path.unlink()  # junk, which counts as nothing
                self._write(new, names)
        except (OSError, sqlite3.Error) as error:
            log.warning("good manifests cannot be kept for the next start", extra={"error": str(error)})

    def _write(self, new: dict[PurePath, str], names: Iterable[PurePath]) -> None:
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL, mode=0o600))
        with closing(sqlite3.connect(self._path)) as database, database:
            database.execute(_CREATE)
            gone = {row[0] for row in database.execute("SELECT file FROM texts")}.difference(map(bytes, names))
            database.executemany("DELETE FROM texts WHERE file = ?", ((file,) for file in gone))
            database.executemany(_KEEP, ((bytes(name), text) for name, text in new.items()))
