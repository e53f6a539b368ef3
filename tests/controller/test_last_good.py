"""What a file held before the controller started counts where the file is bad now."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from controller.adapters.files import ManifestDirectory
from controller.adapters.last_good import LastGood
from controller.api import ModelDeployment
from controller.events import Applied, Kind, Refused, Removed
from controller.objects import Service
from tests.controller.manifests import Json, model_manifest


def service(port: int) -> Json:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "llama"}, "spec": {"ports": [{"port": port}]}}


class Place:
    """A directory of manifests, and a state directory that outlives the controllers on it."""

    def __init__(self, root: Path) -> None:
        self.manifests = root / "manifests"
        self.manifests.mkdir()
        self.kept = root / "state" / "last-good.db"

    def write(self, name: str, *objects: Json) -> None:
        (self.manifests / name).write_text(yaml.safe_dump_all(objects))

    def start(self) -> ManifestDirectory:
        return ManifestDirectory(self.manifests, last_good=LastGood(self.kept))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def bad_model() -> Json:
    return model_manifest(behavior={"percentage": 101})


def test_a_model_that_is_bad_at_the_start_goes_on_as_it_was_and_is_reported(place: Place) -> None:
    place.write("a.yaml", service(80), model_manifest(behavior={"percentage": 50}))
    place.start().load()
    place.write("a.yaml", service(81), bad_model())
    directory = place.start()
    events = directory.load()
    applied = [event.object for event in events if isinstance(event, Applied)]
    (model,) = (each for each in applied if isinstance(each, ModelDeployment))
    (found,) = (each for each in applied if isinstance(each, Service))
    assert model.spec.offloading_config.behavior.percentage == 50
    assert found.ports[0].port == 81
    refused = [event for event in events if isinstance(event, Refused)]
    assert [each.key for each in refused] == ["default/llama"]
    assert "101" in str(directory.problems[0])


@pytest.mark.parametrize("junk", ["kind: [", "\x00", "kind: x\n\tname: y\n", ""])
def test_a_file_that_says_nothing_at_the_start_keeps_what_it_held(place: Place, junk: str) -> None:
    place.write("a.yaml", service(80), model_manifest())
    place.start().load()
    (place.manifests / "a.yaml").write_text(junk)
    directory = place.start()
    assert [type(event) for event in directory.load()] == [Applied, Applied]
    assert directory.problems


def test_repairing_the_file_puts_it_in_force(place: Place) -> None:
    place.write("a.yaml", model_manifest(behavior={"percentage": 50}))
    place.start().load()
    place.write("a.yaml", bad_model())
    directory = place.start()
    directory.load()
    place.write("a.yaml", model_manifest(behavior={"percentage": 7}))
    (event,) = directory.load()
    assert isinstance(event, Applied)
    assert isinstance(event.object, ModelDeployment)
    assert event.object.spec.offloading_config.behavior.percentage == 7


def test_what_is_deleted_while_the_controller_is_down_stays_deleted(place: Place) -> None:
    place.write("a.yaml", service(80), model_manifest())
    place.start().load()
    place.write("a.yaml", service(80))
    assert [type(event) for event in place.start().load()] == [Applied]
    (place.manifests / "a.yaml").unlink()
    assert place.start().load() == []
    with closing(sqlite3.connect(place.kept)) as database:
        assert database.execute("SELECT * FROM texts").fetchall() == []


def test_deleting_a_bad_object_removes_what_was_remembered_of_it(place: Place) -> None:
    place.write("a.yaml", service(80), model_manifest())
    place.start().load()
    place.write("a.yaml", service(80), bad_model())
    directory = place.start()
    directory.load()
    place.write("a.yaml", service(80))
    assert directory.load() == [Removed(Kind.MODEL_DEPLOYMENT, "default/llama")]


def test_nobody_else_may_read_what_is_kept(place: Place) -> None:
    place.write("a.yaml", service(80))
    place.start().load()
    assert place.kept.stat().st_mode & 0o077 == 0


def test_junk_in_what_is_kept_is_as_if_there_were_nothing(place: Place) -> None:
    place.write("a.yaml", model_manifest())
    place.start().load()
    place.kept.write_bytes(b"\xff\xfe[")
    place.write("a.yaml", bad_model())
    assert [type(event) for event in place.start().load()] == [Refused]


def test_a_good_file_takes_the_place_of_junk_in_what_is_kept(place: Place) -> None:
    place.write("a.yaml", model_manifest())
    place.start().load()
    place.kept.write_bytes(b"\xff\xfe[")
    assert [type(event) for event in place.start().load()] == [Applied]
    place.write("a.yaml", bad_model())
    assert [type(event) for event in place.start().load()] == [Applied, Refused]


def test_only_what_differs_is_written(place: Place) -> None:
    place.write("a.yaml", service(80))
    place.write("b.yaml", model_manifest())
    directory = place.start()
    directory.load()
    before = place.kept.stat().st_mtime_ns
    directory.load()
    place.start().load()
    assert place.kept.stat().st_mtime_ns == before
    (place.manifests / "b.yaml").unlink()
    directory.load()
    assert place.kept.stat().st_mtime_ns > before


def test_a_place_that_cannot_be_written_keeps_nothing_from_working(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(tmp_path)
    place.kept.parent.write_text("")
    place.write("a.yaml", service(80))
    assert [type(event) for event in place.start().load()] == [Applied]
    assert "cannot be kept" in caplog.text
