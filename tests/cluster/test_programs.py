"""Where the programs of a test cluster are found, and what is not taken for them."""

from pathlib import Path

import pytest

from tests.cluster.harness import programs
from tests.cluster.harness.programs import DEBIAN_PROGRAMS, PROGRAMS

APISERVER = PROGRAMS["kube-apiserver"]


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SPILLWAY_KUBE_BIN", "CI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(programs, "_FOLDER", tmp_path / "built")
    monkeypatch.setattr(programs, "_DEBIAN", tmp_path / "debian")


def apiserver(folder: Path, version: str = "1.33.0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "kube-apiserver"
    path.write_text(f"#!/bin/sh\necho 'Kubernetes v{version}'\n")
    path.chmod(0o755)
    return path


def test_a_named_folder_wins_over_the_path_and_the_path_over_what_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = apiserver(APISERVER.built.parent)
    assert programs.program("kube-apiserver") == built

    on_path = apiserver(tmp_path / "bin")
    assert programs.program("kube-apiserver") == on_path

    named = apiserver(tmp_path / "named")
    monkeypatch.setenv("SPILLWAY_KUBE_BIN", str(named.parent))
    assert programs.program("kube-apiserver") == named


def test_a_named_folder_need_not_have_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPILLWAY_KUBE_BIN", str(tmp_path / "named"))
    on_path = apiserver(tmp_path / "bin")
    assert programs.program("kube-apiserver") == on_path


@pytest.mark.parametrize("version", ["1.32.13", "1.34.0", "11.33.1", "1.33.4-dispatcher", "unknown"])
def test_another_version_on_the_path_is_passed_over(tmp_path: Path, version: str) -> None:
    apiserver(tmp_path / "bin", version)
    assert programs.found(APISERVER) is None


def test_another_version_in_a_named_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = apiserver(tmp_path / "named", "1.32.1")
    monkeypatch.setenv("SPILLWAY_KUBE_BIN", str(named.parent))
    with pytest.raises(
        pytest.UsageError, match=r"SPILLWAY_KUBE_BIN: .*kube-apiserver is not of the minor version of 1\."
    ):
        programs.found(APISERVER)


def test_what_debian_has_may_be_unpacked_only(tmp_path: Path) -> None:
    unpacked = tmp_path / "debian/usr/sbin/runc"
    unpacked.parent.mkdir(parents=True)
    unpacked.touch(mode=0o755)
    assert programs.program("runc") == unpacked


@pytest.mark.parametrize("name", ["kube-apiserver", "etcd"])
def test_a_missing_program_skips_a_test_and_says_what_to_do(name: str) -> None:
    with pytest.raises(pytest.skip.Exception, match=rf"{name} is not here: .*`make cluster-tools`"):
        programs.program(name)


@pytest.mark.parametrize("name", ["kube-apiserver", "etcd"])
def test_a_missing_program_is_a_failure_in_ci(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=f"{name} is not here"):
        programs.program(name)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_a_pinned_version(name: str) -> None:
    assert PROGRAMS[name].version[0].isdigit()
    assert name not in DEBIAN_PROGRAMS
