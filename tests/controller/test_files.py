"""A directory of manifests: what changed comes out, and nothing done to a file takes away more than it says."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.adapters import files
from controller.adapters.files import ManifestDirectory, ManifestError
from controller.events import Applied, Event, Kind, Refused, Removed
from controller.objects import Service
from tests.support.stack import eventually

Json = dict[str, Any]
BROKEN = "apiVersion: [unclosed\n"


def service(name: str = "llama", port: int = 80) -> Json:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": port}]}}


def write(path: Path, *manifests: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump_all(manifests))


def replace_atomically(path: Path, *manifests: Json) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary, *manifests)
    temporary.replace(path)


def ports(events: list[Event]) -> dict[str, int]:
    """Key -> first port of each Service that was applied; nothing else may have happened."""
    found = {}
    for event in events:
        assert isinstance(event, Applied), event
        assert isinstance(event.object, Service)
        found[event.object.key] = event.object.ports[0].port
    return found


def words(directory: ManifestDirectory) -> str:
    return "\n".join(map(str, directory.problems))


# What is read


def test_files_are_found_at_any_depth_by_their_suffix(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", service("a"))
    write(tmp_path / "deep" / "er" / "b.yml", service("b"))
    (tmp_path / "c.json").write_text(json.dumps(service("c")))
    (tmp_path / "d.txt").write_text("no: manifest")
    assert ports(ManifestDirectory(tmp_path).load()) == {"default/a": 80, "default/b": 80, "default/c": 80}


@pytest.mark.parametrize(
    "name",
    [".a.yaml.swp", ".#a.yaml", "#a.yaml#", "a.yaml~", "4913", ".a.yaml.x8Yz", "a.yaml.tmp", "sedXc3s", ".git/a.yaml"],
)
def test_editors_files_are_passed_over(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, service())
    directory = ManifestDirectory(tmp_path)
    assert directory.load() == []
    assert directory.problems == ()


def test_links_are_followed_and_a_directory_that_links_to_itself_ends(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.yaml", service("a"))
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "real")
    (root / "linked" / "loop").symlink_to(root)
    assert ports(ManifestDirectory(root).load()) == {"default/a": 80}


@pytest.mark.parametrize(("make", "reason"), [(False, "does not exist"), (True, "is not a directory")])
def test_a_directory_that_is_none_is_said(tmp_path: Path, make: bool, reason: str) -> None:
    path = tmp_path / "manifests"
    if make:
        path.write_text("")
    with pytest.raises(ManifestError, match=f"manifests: {reason}"):
        ManifestDirectory(path).load()


def test_another_kind_is_skipped_with_one_note_and_workloads_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    write(tmp_path / "a.yaml", config_map, config_map, {"apiVersion": "apps/v1", "kind": "Deployment"})
    write(tmp_path / "b.yaml", config_map)
    directory = ManifestDirectory(tmp_path)
    assert (directory.load(), directory.load(), directory.problems) == ([], [], ())
    assert [record.message for record in caplog.records] == ["skipped: ConfigMap (v1) is not read here"]


def test_a_policy_is_an_object_like_any_other(tmp_path: Path) -> None:
    """A model whose Policies are not there has no remote."""
    policy = {"apiVersion": "authorization.beamlit.com/v1alpha1", "kind": "Policy", "metadata": {"name": "eu"}}
    write(tmp_path / "a.yaml", service(), {**policy, "spec": {"type": "location"}})
    directory = ManifestDirectory(tmp_path)
    assert [event.object.key for event in directory.load() if isinstance(event, Applied)] == [
        "default/llama",
        "default/eu",
    ]
    write(tmp_path / "a.yaml", service())
    assert directory.load() == [Removed(Kind.POLICY, "default/eu")]


# What changes


def test_only_what_changed_comes_out(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", service("a"), service("b"))
    write(tmp_path / "c.yaml", service("c"))
    directory = ManifestDirectory(tmp_path)
    assert len(directory.load()) == 3
    assert directory.load() == []
    write(tmp_path / "a.yaml", service("a"), service("b", port=81))
    assert ports(directory.load()) == {"default/b": 81}


def test_an_object_that_disappears_from_its_file_is_removed(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", service("a"), service("b"))
    directory = ManifestDirectory(tmp_path)
    directory.load()
    write(tmp_path / "a.yaml", service("a"))
    assert directory.load() == [Removed(Kind.SERVICE, "default/b")]


def test_the_last_object_goes_although_its_workload_stays_in_the_file(tmp_path: Path) -> None:
    workload = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "llama"}}
    write(tmp_path / "a.yaml", workload, service())
    directory = ManifestDirectory(tmp_path)
    directory.load()
    write(tmp_path / "a.yaml", workload)
    assert directory.load() == [Removed(Kind.SERVICE, "default/llama")]


def test_a_file_that_is_deleted_takes_its_objects_with_it(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", service("a"))
    directory = ManifestDirectory(tmp_path)
    directory.load()
    (tmp_path / "a.yaml").unlink()
    assert directory.load() == [Removed(Kind.SERVICE, "default/a")]


def test_an_object_that_moves_to_another_file_does_not_change(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", service())
    directory = ManifestDirectory(tmp_path)
    directory.load()
    (tmp_path / "a.yaml").rename(tmp_path / "z.yaml")
    assert directory.load() == []
    assert directory.problems == ()


def test_a_file_that_is_renamed_away_before_it_is_written_anew_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.yaml", service())
    directory = ManifestDirectory(tmp_path)
    directory.load()
    (tmp_path / "a.yaml").rename(tmp_path / "a.yaml~")
    monkeypatch.setattr("controller.adapters.files.time.sleep", lambda _: write(tmp_path / "a.yaml", service(port=81)))
    assert ports(directory.load()) == {"default/llama": 81}


def test_a_mounted_config_map_is_swapped_as_a_whole(tmp_path: Path) -> None:
    for version, port in (("..1", 80), ("..2", 81)):
        write(tmp_path / version / "a.yaml", service(port=port))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    directory = ManifestDirectory(tmp_path)
    assert ports(directory.load()) == {"default/llama": 80}
    (tmp_path / "..next").symlink_to("..2")
    (tmp_path / "..next").replace(tmp_path / "..data")
    assert ports(directory.load()) == {"default/llama": 81}


# What is wrong


@pytest.mark.parametrize("text", [BROKEN, "", "# soon\n", "just text", "kind: Service\n", "\xff"])
def test_a_file_that_turns_bad_keeps_its_objects_and_says_why(tmp_path: Path, text: str) -> None:
    write(tmp_path / "a.yaml", service("a"), service("b"))
    directory = ManifestDirectory(tmp_path)
    directory.load()
    (tmp_path / "a.yaml").write_bytes(text.encode("latin-1"))
    assert directory.load() == []
    (problem,) = directory.problems
    assert problem.source.file == Path("a.yaml")
    write(tmp_path / "a.yaml", service("a"), service("b", port=81))
    assert ports(directory.load()) == {"default/b": 81}
    assert directory.problems == ()


def test_a_link_that_leads_nowhere_keeps_its_objects(tmp_path: Path) -> None:
    write(tmp_path / "real", service())
    (tmp_path / "a.yaml").symlink_to("real")
    directory = ManifestDirectory(tmp_path)
    directory.load()
    (tmp_path / "real").unlink()
    assert directory.load() == []
    assert "a.yaml:1: the file cannot be read: No such file or directory" in words(directory)


def test_a_file_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILE_BYTES_MAX", 1_000)
    (tmp_path / "a.yaml").write_text("a: " + "b" * 1_000)
    directory = ManifestDirectory(tmp_path)
    assert directory.load() == []
    assert "larger than 1000 bytes" in words(directory)


def test_one_bad_file_does_not_hold_up_another(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BROKEN)
    write(tmp_path / "b.yaml", service("b"))
    directory = ManifestDirectory(tmp_path)
    assert ports(directory.load()) == {"default/b": 80}
    write(tmp_path / "b.yaml", service("b", port=81))
    assert ports(directory.load()) == {"default/b": 81}


def test_beside_a_document_that_is_bad_the_good_ones_move_and_none_is_lost(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", service("a"), service("b"), service("c"))
    directory = ManifestDirectory(tmp_path)
    directory.load()
    write(tmp_path / "a.yaml", service("a", port=81), {"apiVersion": "v1", "kind": "Service"}, service("d"))
    assert ports(directory.load()) == {"default/a": 81, "default/d": 80}
    assert len(directory.problems) == 1


def test_an_object_that_turns_wrong_keeps_its_last_good_version_and_is_refused_once(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", service("a"), service("b"))
    directory = ManifestDirectory(tmp_path)
    directory.load()
    write(tmp_path / "a.yaml", service("a", port=0), service("b", port=81))
    refused, applied = directory.load()
    assert isinstance(refused, Refused)
    assert (refused.kind, refused.key) == (Kind.SERVICE, "default/a")
    assert refused.sentence == "spec.ports[0].port: must be a number from 1 to 65535."
    assert ports([applied]) == {"default/b": 81}
    write(tmp_path / "a.yaml", service("b", port=81), service("a", port=0))
    assert directory.load() == []


def test_an_object_that_is_right_again_is_applied_even_if_it_is_what_it_was(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", service())
    directory = ManifestDirectory(tmp_path)
    directory.load()
    write(tmp_path / "a.yaml", service(port=0))
    directory.load()
    write(tmp_path / "a.yaml", service())
    assert ports(directory.load()) == {"default/llama": 80}


def test_an_object_that_never_was_right_is_removed_too(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", service(port=0))
    directory = ManifestDirectory(tmp_path)
    directory.load()
    (tmp_path / "a.yaml").unlink()
    assert directory.load() == [Removed(Kind.SERVICE, "default/llama")]


def test_files_are_taken_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.yaml", "a/z.yaml", "a.yaml", "a/b/c.yaml"):
        write(tmp_path / name, service(name.replace("/", "-")))
    directory = ManifestDirectory(tmp_path)
    directory.load()
    found = [str(each.source.file) for each in directory.manifests]
    assert found == ["a/b/c.yaml", "a/z.yaml", "a.yaml", "b.yaml"]


def test_nothing_is_gone_through_again_as_long_as_no_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.yaml", service())
    directory = ManifestDirectory(tmp_path)
    directory.load()
    monkeypatch.setattr(directory, "_objects", None)
    assert directory.load() == []


def test_of_an_object_in_two_files_the_first_counts_and_the_second_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", service(port=80))
    write(tmp_path / "b.yaml", service(port=81))
    directory = ManifestDirectory(tmp_path, lines=True)
    assert ports(directory.load()) == {"default/llama": 80}
    assert "b.yaml:4: Service default/llama: metadata.name: is already at a.yaml:1; that one is used" in words(
        directory
    )
    (tmp_path / "a.yaml").unlink()
    assert ports(directory.load()) == {"default/llama": 81}
    assert directory.problems == ()


def test_each_problem_is_logged_once_with_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.yaml", service(port=0))
    directory = ManifestDirectory(tmp_path)
    directory.load()
    write(tmp_path / "b.yaml", service("b"))
    directory.load()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message == "must be a number from 1 to 65535"
    shown = {name: getattr(record, name) for name in ("source", "object", "field")}
    assert shown == {"source": "a.yaml:7", "object": "Service default/llama", "field": "spec.ports[0].port"}


def test_defect_19_no_problem_and_no_log_line_shows_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": {"password": "s3cret!"}}
    write(tmp_path / "a.yaml", secret)
    (tmp_path / "b.yaml").write_text("kind: Secret\nstringData:\n  password: s3cret!: [\n")
    directory = ManifestDirectory(tmp_path)
    directory.load()
    assert len(directory.problems) == 2
    assert "s3cret!" not in words(directory) + caplog.text


# Watching


@asynccontextmanager
async def watching(path: Path) -> AsyncIterator[tuple[ManifestDirectory, list[Event]]]:
    directory = ManifestDirectory(path)
    found: list[Event] = directory.load()
    task = asyncio.create_task(directory.watch(found.append))
    try:
        yield directory, found
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        return condition()

    await eventually(holds)


@pytest.mark.parametrize("way", [write, replace_atomically])
async def test_a_changed_file_is_noticed_however_it_was_written(
    tmp_path: Path, way: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RESCAN_S", 0.2)
    write(tmp_path / "a.yaml", service())
    async with watching(tmp_path) as (_, found):
        for port in (81, 82):
            way(tmp_path / "a.yaml", service(port=port))
            await until(lambda port=port: ports(found) == {"default/llama": port})  # type: ignore[misc]
        assert len(found) == 3


async def test_changes_are_notified_and_stopping_does_not_wait_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RESCAN_S", 3_600)
    write(tmp_path / "a.yaml", service())
    async with watching(tmp_path) as (_, found):
        port = itertools.count(81)

        def changed_again() -> bool:  # more than once, as the first change may come before the watch
            write(tmp_path / "a.yaml", service(port=next(port)))
            return len(found) > 1

        await until(changed_again)


async def test_a_new_directory_is_watched_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RESCAN_S", 0.2)
    async with watching(tmp_path) as (_, found):
        write(tmp_path / "new" / "a.yaml", service())
        await until(lambda: ports(found) == {"default/llama": 80})
        write(tmp_path / "new" / "a.yaml", service(port=81))
        await until(lambda: ports(found) == {"default/llama": 81})


async def test_a_directory_that_goes_away_takes_nothing_and_is_read_when_it_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RESCAN_S", 0.2)
    write(tmp_path / "live" / "a.yaml", service())
    async with watching(tmp_path / "live") as (directory, found):
        (tmp_path / "live").rename(tmp_path / "away")
        await until(lambda: "does not exist" in words(directory))
        assert ports(found) == {"default/llama": 80}
        write(tmp_path / "away" / "a.yaml", service(port=81))
        (tmp_path / "away").rename(tmp_path / "live")
        await until(lambda: ports(found) == {"default/llama": 81})
        assert directory.problems == ()
