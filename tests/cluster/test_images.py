"""Images made of files: what a layer holds, and when it is made anew."""

import os
import tarfile
from pathlib import Path

import pytest

from tests.cluster.harness.image_store import ImageStore


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "blobs", tmp_path / "tags")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_text("one")
    path.chmod(0o700)
    return path


def test_everybody_may_run_what_its_owner_may(store: ImageStore, program: Path) -> None:
    layer = store.layer({"/bin/program": program, "/etc/passwd": b"nobody"})
    with tarfile.open(store.path(layer.digest)) as tar:
        modes = {entry.name: (entry.mode, entry.uid) for entry in tar}
    assert modes == {"bin": (0o755, 0), "etc": (0o755, 0), "bin/program": (0o755, 0), "etc/passwd": (0o644, 0)}


def test_a_layer_is_made_once(store: ImageStore, program: Path) -> None:
    layer = store.layer({"/program": program})

    def never(_: object) -> dict[str, Path]:
        raise AssertionError

    assert store.layer({"/program": program}, never) == layer


@pytest.mark.parametrize("change", ["content", "mode", "name"])
def test_a_layer_is_made_anew_when_a_file_changes(store: ImageStore, program: Path, change: str) -> None:
    before = store.layer({"/program": program})
    if change == "content":
        program.write_text("other")
    if change == "mode":
        program.chmod(0o600)
    assert store.layer({f"/{'renamed' if change == 'name' else 'program'}": program}) != before


def test_what_is_not_used_for_a_week_goes(store: ImageStore, program: Path) -> None:
    old, new = store.layer({"/old": program}), store.layer({"/new": program})
    for path in store.blobs.iterdir():
        os.utime(path, (0, 0))
    store.layer({"/new": program})
    store.prune()
    assert not store.path(old.digest).exists()
    assert store.path(new.digest).exists()
