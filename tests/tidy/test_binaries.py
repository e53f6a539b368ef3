"""How tests find the programs they run."""

from pathlib import Path

import pytest

from tests.support import binaries


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("SPILLWAY_PROMETHEUS", "CI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(binaries, "CACHE", tmp_path)
    return tmp_path


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


def test_the_pinned_envoy_is_always_there() -> None:
    assert binaries.envoy_path().is_file()


def test_a_named_prometheus_wins_over_the_path_and_the_path_over_the_cache(
    nothing_installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = program(nothing_installed / "prometheus/usr/bin/prometheus")
    assert binaries.prometheus_path() == cached

    on_path = program(nothing_installed / "bin/prometheus")
    assert binaries.prometheus_path() == on_path

    monkeypatch.setenv("SPILLWAY_PROMETHEUS", "/opt/prometheus")
    assert binaries.prometheus_path() == Path("/opt/prometheus")


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("find", [binaries.prometheus_path, binaries.old_envoy_path])
def test_a_missing_program_skips_a_test_and_says_what_to_do(find: object) -> None:
    assert callable(find)
    with pytest.raises(pytest.skip.Exception, match="make test-tools"):
        find()


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_program_is_a_failure_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="Prometheus is not here"):
        binaries.prometheus_path()
