"""The state file: atomic, debounced, in proportion to what changed, and never in the way of starting."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from controller.adapters import state_file
from controller.adapters.state_file import StateFile


async def written(path: Path, *changes: dict[str, dict[str, object] | None]) -> None:
    """Saves changes and stops: the last ones are written at the end."""
    state = StateFile(path)
    state.load()
    task = asyncio.create_task(state.run())
    for change in changes:
        state.save(change)
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_was_saved_is_loaded_again_in_the_same_order(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    await written(path, {"b/two": {"n": 1}}, {"a/one": {"n": 2}}, {"b/two": {"n": 3}})
    again = StateFile(path)
    assert again.load() == {"b/two": {"n": 3}, "a/one": {"n": 2}}
    assert again.order == ["b/two", "a/one"]


async def test_a_model_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    await written(path, {"a/one": {"n": 1}, "a/two": {"n": 1}}, {"a/one": None})
    assert StateFile(path).load() == {"a/two": {"n": 1}}


async def test_changes_are_written_while_running(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = StateFile(path)
    task = asyncio.create_task(state.run())
    state.save({"a/one": {"n": 1}})
    async with asyncio.timeout(20):
        while not path.exists():
            await asyncio.sleep(0.01)
    assert json.loads(path.read_text())["models"] == {"a/one": {"n": 1}}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("junk", ["", "{", "[]", '{"version": 99, "models": {}}', '{"version": 1, "models": {"a": 7}}'])
def test_a_file_that_cannot_be_used_is_put_aside_and_named(
    tmp_path: Path, junk: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.json"
    path.write_text(junk)
    assert StateFile(path).load() == {}
    assert path.with_suffix(".unreadable").read_text() == junk
    assert "put aside" in caplog.text


async def test_a_directory_that_cannot_be_written_is_said_and_not_fatal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await written(tmp_path / "missing" / "state.json", {"a/one": {"n": 1}})
    assert "could not be written" in caplog.text


async def killed(path: Path, *changes: dict[str, dict[str, object] | None]) -> Path:
    """Saves changes, each when the one before has been written, and gives the files as a process that is killed then
    leaves them.
    """
    state = StateFile(path)
    state.load()
    task = asyncio.create_task(state.run())
    for change in changes:
        before = written_bytes(path)
        state.save(change)
        async with asyncio.timeout(20):
            while written_bytes(path) == before:
                await asyncio.sleep(0.01)
    left = path.parent.with_name("left")
    shutil.copytree(path.parent, left)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return left / path.name


def written_bytes(path: Path) -> list[bytes]:
    return [each.read_bytes() for each in sorted(path.parent.glob("state.j*"))]


@pytest.fixture(name="path")
def _path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(state_file, "WRITE_EVERY_S", 0)
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "state.json"


async def test_what_changed_since_the_whole_was_written_survives_a_kill(path: Path) -> None:
    first: dict[str, dict[str, object] | None] = {"a/one": {"n": 1}, "a/two": {"n": 1}}
    left = await killed(path, first, {"a/one": {"n": 2}}, {"a/two": None, "b/three": {"n": 3}})
    assert json.loads(left.read_text())["models"] == first
    again = StateFile(left)
    assert again.load() == {"a/one": {"n": 2}, "b/three": {"n": 3}}
    assert again.order == ["a/one", "b/three"]


async def test_a_line_that_was_not_finished_loses_only_itself(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left = await killed(path, {"a/one": {"n": 1}}, {"a/one": {"n": 2}}, {"a/one": {"n": 3}})
    (journal,) = left.parent.glob("*.journal-*")
    journal.write_text(journal.read_text()[:-5])
    assert StateFile(left).load() == {"a/one": {"n": 2}}
    assert "journal cannot be used" in caplog.text


async def test_a_long_journal_is_folded_into_the_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_file, "JOURNAL_MIN", 2)
    changes: list[dict[str, dict[str, object] | None]] = [{"a/one": {"n": number}} for number in range(4)]
    left = await killed(path, *changes)
    assert json.loads(left.read_text())["models"] == {"a/one": {"n": 3}}
    assert list(left.parent.glob("*.journal-*")) == []
