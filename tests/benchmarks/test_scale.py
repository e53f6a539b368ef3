"""The benchmarks of the control plane run: every step, with the smallest sizes, whose numbers mean nothing."""

from pathlib import Path

import pytest

from benchmarks import cold_start, engine, share_change
from benchmarks.figures import Report
from benchmarks.scale.fleet import Fleet
from controller.adapters.files import ManifestDirectory


@pytest.mark.integration
async def test_a_changed_share_is_followed_to_the_first_request() -> None:
    report = Report("share_change", quick=True)
    await share_change.run(report, quick=True)
    result = report.result(0.0)
    assert {each.count for each in result.find("sample to first request")} == {6}
    assert all(each.minimum > 0 for each in result.find("sent on the wire"))
    assert share_change.plot(result).axes


@pytest.mark.integration
async def test_a_cold_start_is_followed_to_the_last_model() -> None:
    report = Report("cold_start", quick=True)
    await cold_start.run(report, quick=True)
    result = report.result(0.0)
    forms = [each.case["from"] for each in result.find("start to everything served")]
    assert forms == ["YAML", "YAML", "JSON"]
    assert len(result.find("Envoy's start to all models answer")) == 2
    assert cold_start.plot(result).axes


@pytest.mark.integration
async def test_the_engine_takes_samples_of_every_model() -> None:
    report = Report("engine", quick=True)
    await engine.run(report, quick=True)
    assert report.result(0.0).find("lag")[0].minimum > 0


def test_both_forms_of_a_fleet_are_the_same_models(tmp_path: Path) -> None:
    fleet = Fleet(30)
    fleet.write_yaml(tmp_path / "yaml")
    fleet.write_json(tmp_path / "json")
    for form in ("yaml", "json"):
        directory = ManifestDirectory(tmp_path / form)
        directory.load()
        assert directory.problems == ()
        found = [each.key for each in directory.manifests if each.kind == "ModelDeployment"]
        assert sorted(found) == sorted(fleet.keys)
