"""Whole inputs and what they become. After a wanted change, rewrite the outputs and read the difference:

SPILLWAY_UPDATE_GOLDEN=1 pytest tests/xds/translate
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
import yaml

from tests.xds.translate import static
from tests.xds.translate.cases import INPUTS, TESTDATA, resources
from xds.snapshot import Resource
from xds.translate import Gateway

UPDATE = os.environ.get("SPILLWAY_UPDATE_GOLDEN") == "1"


def rendered(made: tuple[Resource, ...]) -> str:
    """One YAML document for each resource: what it is, what it needs, and its fields."""
    return yaml.safe_dump_all(
        (
            {
                "type": resource.type_url.rpartition(".")[2],
                "name": resource.name,
                "refs": [f"{type_url.rpartition('.')[2]} {name}" for type_url, name in resource.refs],
                "resource": static.decoded(resource),
            }
            for resource in made
        ),
        sort_keys=True,
        width=120,
    )


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.stem)
def test_an_input_becomes_exactly_these_resources(path: Path) -> None:
    golden = TESTDATA / "out" / path.name
    found = rendered(resources(path))
    if UPDATE:
        golden.write_text(found)

    assert found == golden.read_text()


def test_every_output_has_an_input() -> None:
    assert {path.name for path in (TESTDATA / "out").glob("*.yaml")} <= {path.name for path in INPUTS}


@pytest.mark.integration
def test_envoy_accepts_every_output(tmp_path: Path) -> None:
    """All models on one gateway, and the gateway with settings of its own."""
    authorities = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(authorities)
    settings = [path for path in INPUTS if path.stem == "gateway-settings"]
    for number, inputs in enumerate(([path for path in INPUTS if path not in settings], settings)):
        made = [resource for path in inputs for resource in resources(path)]
        assert len({(resource.type_url, resource.name) for resource in made}) == len(made)

        bootstrap = json.dumps(static.bootstrap(made))
        for place in (Gateway().system_ca_path, "/etc/ssl/cert.pem"):
            bootstrap = bootstrap.replace(place, str(authorities))
        assert static.validate(json.loads(bootstrap), tmp_path / f"{number}.json") == ""


def test_bytes_are_the_same_in_every_process() -> None:
    """Whatever the seed of Python's hashes: replicas must agree on versions."""
    script = (
        "from tests.xds.translate.cases import INPUTS, resources\n"
        "print([(r.name, r.version) for path in INPUTS for r in resources(path)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert "front" in outputs.pop()
