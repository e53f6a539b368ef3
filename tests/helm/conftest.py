"""Helm is found, or built, as the programs of the tests that need Kubernetes are."""

from __future__ import annotations

import pytest

from tests.cluster.harness.programs import program


@pytest.fixture(autouse=True, scope="session")
def helm() -> None:
    """Skips where it is not; fails in CI."""
    program("helm")
