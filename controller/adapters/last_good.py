"""Shell: manifest files as they last were without a mistake, kept for the next start.

A file that is bad when the controller starts must take down nothing that ran before. So whenever all of a file is
good, its text is kept, and a bad one is read beside its last good text. Files may hold Secrets: nobody else may read
what is kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path, PurePath

from controller.manifests import Manifest, read

log = logging.getLogger(__name__)


class LastGood:
    """Texts by file name, in `directory`. What cannot be kept is said, and keeps nothing from working."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, name: PurePath, text: str) -> None:
        """Keeps a text in which everything is good."""
        path = self._path(name)
        raw = text.encode()
        try:
            try:
                known = path.read_bytes()
            except FileNotFoundError:
                self._make(path, raw)  # if this is never finished it is junk, which counts as nothing
                return
            if known != raw:
                temporary = path.with_suffix(".new")
                temporary.unlink(missing_ok=True)
                self._make(temporary, raw)
                temporary.replace(path)
        except OSError as error:
            log.warning("a good manifest cannot be kept for the next start", extra={"error": str(error)})

    def manifests(self, name: PurePath) -> tuple[Manifest, ...]:
        """The good objects of the text that was kept; none if there is no such text."""
        try:
            text = self._path(name).read_bytes().decode()
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            log.warning("what was kept of a manifest cannot be read", extra={"source": str(name), "error": str(error)})
            return ()
        return tuple(each for each in read(name, text).manifests if each.value is not None)

    def forget_others(self, names: Iterable[PurePath]) -> None:
        """Drops the texts of files that are no more."""
        wanted = {self._path(name) for name in names}
        for path in self._directory.glob("*"):
            if path not in wanted:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    log.warning("an old manifest that was kept cannot be removed", extra={"error": str(error)})

    def _make(self, path: Path, raw: bytes) -> None:
        """A new file that only we may read."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
        except FileNotFoundError:
            self._directory.mkdir(parents=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)

    def _path(self, name: PurePath) -> Path:
        return self._directory / hashlib.sha256(bytes(name)).hexdigest()[:32]
