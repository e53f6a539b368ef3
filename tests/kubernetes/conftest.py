"""A fake API server, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.adapters.kubernetes.client import Cluster
from tests.kubernetes.fake_api import FakeApi, connected, serving


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with serving(FakeApi()) as api:
        yield api


@pytest.fixture
async def cluster(api: FakeApi, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with connected(api, tmp_path) as cluster:
        yield cluster
