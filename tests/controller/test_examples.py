"""The examples: nothing is wrong in them, they are what users of the predecessor have, and they run as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.adapters.files import ManifestDirectory
from controller.api import ModelDeployment
from controller.settings import Settings, load
from controller.validate import validate
from tests.controller.test_api import TUTORIAL
from tests.support.binaries import envoy_path
from tests.support.stack import Stack

EXAMPLES = Path(__file__).parents[2] / "examples"
MODELS = {"concurrency-limit": "default/llama", "oauth": "default/mistral", "php-apache": "default/my-model"}


def settings_of(name: str) -> Settings:
    """The example's own settings, which give no warning; the default ones if it has none."""
    file = EXAMPLES / name / "config.yaml"
    loaded = load(file.name, file.read_text() if file.exists() else "", {})
    assert loaded.warnings == ()
    return loaded.settings


def model_of(name: str) -> ModelDeployment:
    directory = ManifestDirectory(EXAMPLES / name)
    directory.load()
    (model,) = (manifest.value for manifest in directory.manifests if manifest.kind == "ModelDeployment")
    assert isinstance(model, ModelDeployment)
    return model


def test_every_example_is_tested_and_has_a_readme() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == set(MODELS)
    assert all((EXAMPLES / name / "README.md").exists() for name in MODELS)


def test_all_together_have_no_problem() -> None:
    assert [str(problem) for problem in validate(EXAMPLES, Settings()) if not problem.warning] == []


@pytest.mark.parametrize("name", ["concurrency-limit", "oauth"])
def test_with_its_own_settings_an_example_has_not_even_a_warning(name: str) -> None:
    assert [str(problem) for problem in validate(EXAMPLES / name, settings_of(name))] == []


def test_the_tutorials_only_warning_is_its_metric_which_needs_a_cluster() -> None:
    (warning,) = validate(EXAMPLES / "php-apache", Settings())
    assert (warning.field, warning.warning) == ("spec.offloadingConfig.metrics[0]", True)


def test_the_tutorials_manifests_are_unchanged() -> None:
    def documents(file: str) -> list[Any]:
        return list(yaml.safe_load_all((EXAMPLES / "php-apache" / file).read_text()))

    assert documents("model.yaml") == [TUTORIAL]
    deployment, service = documents("workload.yaml")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.k8s.io/hpa-example"
    assert service["spec"] == {"ports": [{"port": 80}], "selector": {"run": "php-apache"}}


def test_one_has_oauth_and_the_default_remote() -> None:
    assert model_of("oauth").spec.offloading_config.remotes == ()
    default = settings_of("oauth").default_remote_backend
    assert default is not None
    assert default.auth_config is not None
    assert default.auth_config.oauth_config is not None


def test_one_has_a_limit_and_two_remotes() -> None:
    offloading = model_of("concurrency-limit").spec.offloading_config
    assert offloading.local_limit is not None
    assert len(offloading.remotes) == 2


def test_the_paths_in_the_readmes_are_there() -> None:
    for readme in EXAMPLES.rglob("README.md"):
        for path in re.findall(r"examples/[\w./-]+", readme.read_text()):
            assert (EXAMPLES.parent / path).exists(), f"{readme}: {path}"


def test_no_example_holds_a_real_secret() -> None:
    for file in EXAMPLES.rglob("*.yaml"):
        for value in re.findall(r"(?:clientId|clientSecret|api-key): *(\S+)", file.read_text()):
            assert value.strip('"') == "REPLACE_ME", file


@pytest.mark.integration
@pytest.mark.parametrize(("name", "key"), sorted(MODELS.items()))
async def test_each_runs_as_it_is(name: str, key: str, tmp_path: Path) -> None:
    envoy_path()
    config = EXAMPLES / name / "config.yaml"
    stack = Stack(tmp_path, ["--config", str(config)] if config.exists() else [])
    stack.manifests.symlink_to(EXAMPLES / name)
    stack.start()
    try:
        await stack.ready()
        model = await stack.until_programmed(key)
        assert model["state"] in ("Standby", "Overflowing")
        assert (await stack.status())["problems"] == []
    finally:
        assert await stack.stop() == 0
