"""The chart as Helm renders it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.harness.programs import program

CHART = Path(__file__).parents[2] / "helm/spillway"
KUBERNETES = "1.33.13"

Json = dict[str, Any]


class ChartError(Exception):
    """Helm's complaint."""


def rendered(*arguments: str, release: str = "sw", namespace: str = "spillway") -> str:
    """What `helm template` prints. `arguments`: as a user gives them (--set ...). Raises ChartError."""
    where = ["--namespace", namespace, "--kube-version", KUBERNETES]
    command = [str(program("helm")), "template", release, str(CHART), *where, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise ChartError(ran.stderr)
    return ran.stdout


def objects(*arguments: str, release: str = "sw", namespace: str = "spillway") -> list[Json]:
    """The objects in it."""
    text = rendered(*arguments, release=release, namespace=namespace)
    return [each for each in yaml.safe_load_all(text) if each]
