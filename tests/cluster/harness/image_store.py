"""Container images made of files of this machine, as a registry keeps them: blobs by digest, and a manifest by name.

A layer is built once: it is remembered by the names, sizes, modes and times of its files.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_KEPT_S = 7 * 24 * 3600
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
OPEN_TO_ALL = "tmp"  # the folder of an image where every user may write

Files = Mapping[str, Path | bytes]  # absolute path in the image -> a file here, or its contents


@dataclass(frozen=True)
class Blob:
    digest: str
    size: int

    def describe(self, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self.digest, "size": self.size}


class ImageStore:
    """`blobs`: may be shared by runs and kept. `tags`: one file for each image, TAGS/NAME/TAG."""

    def __init__(self, blobs: Path, tags: Path) -> None:
        self.blobs = blobs
        self.tags = tags
        blobs.mkdir(parents=True, exist_ok=True)

    def layer(self, files: Files, more: Callable[[Files], Files] = lambda _: {}) -> Blob:
        """`more`: further files that follow from these, and take long to find."""
        note = self.blobs / f"layer-{_fingerprint(files)}.json"
        if note.exists():
            known = Blob(**json.loads(note.read_text()))
            if self.path(known.digest).exists():
                note.touch()
                self.path(known.digest).touch()
                return known
        partial = self.blobs / f"partial-{os.getpid()}"
        with partial.open("wb") as output, tarfile.open(fileobj=output, mode="w") as tar:
            _add(tar, {**more(files), **files})
        with partial.open("rb") as layer:
            digest = hashlib.file_digest(layer, "sha256").hexdigest()
        built = Blob(f"sha256:{digest}", partial.stat().st_size)
        partial.rename(self.path(built.digest))
        note.write_text(json.dumps(vars(built)))
        return built

    def image(self, name: str, tag: str, layers: Sequence[Blob], **config: Any) -> None:
        """`config`: Entrypoint, Cmd, Env, WorkingDir ..., as the image's configuration has them."""
        root = {"type": "layers", "diff_ids": [layer.digest for layer in layers]}
        machine = {"architecture": _ARCHITECTURES[platform.machine()], "os": "linux"}
        described = self._json({**machine, "config": config, "rootfs": root}).describe(_CONFIG)
        manifest = self._json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": described,
                "layers": [layer.describe(_LAYER) for layer in layers],
            }
        )
        (self.tags / name).mkdir(parents=True, exist_ok=True)
        (self.tags / name / tag).write_text(manifest.digest)

    def prune(self) -> None:
        """Removes what no run of the last week has used."""
        for path in self.blobs.iterdir():
            with suppress(FileNotFoundError):  # another run does the same
                if path.stat().st_mtime < time.time() - _KEPT_S:
                    path.unlink()

    def path(self, digest: str) -> Path:
        """Where a blob is."""
        return self.blobs / digest.removeprefix("sha256:")

    def _json(self, value: object) -> Blob:
        encoded = json.dumps(value).encode()
        blob = Blob("sha256:" + hashlib.sha256(encoded).hexdigest(), len(encoded))
        self.path(blob.digest).write_bytes(encoded)
        return blob


def _fingerprint(files: Files) -> str:
    digest = hashlib.sha256()
    for name, source in sorted(files.items()):
        if isinstance(source, bytes):
            digest.update(f"{name}\0{source!r}\n".encode())
        else:
            status = source.stat()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_mode}\n".encode())
    return digest.hexdigest()


def _add(tar: tarfile.TarFile, files: Files) -> None:
    """Folders readable by everybody, files of root, times as they are: compiled Python is checked against them."""
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    for folder in sorted(folders - {"/"}):
        entry = tarfile.TarInfo(folder.lstrip("/"))
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == f"/{OPEN_TO_ALL}" else 0o755
        tar.addfile(entry)
    for name, source in sorted(files.items()):
        entry = tarfile.TarInfo(name.lstrip("/"))
        if isinstance(source, bytes):
            entry.size, entry.mode = len(source), 0o644
            tar.addfile(entry, io.BytesIO(source))
        else:
            status = source.stat()
            entry.size, entry.mtime = status.st_size, int(status.st_mtime)
            entry.mode = 0o755 if status.st_mode & 0o111 else 0o644
            with source.open("rb") as content:
                tar.addfile(entry, content)
