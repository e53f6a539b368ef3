"""`spillway restore` where it takes long. On a real API server: tests/cluster/test_restore.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from controller import restore as module
from controller.objects import MANAGED_BY_LABEL, MANAGER, SERVICE_LABEL
from controller.restore import RestoreOptions, restore
from controller.settings import Settings
from tests.kubernetes.fake_api import FakeApi, kubeconfig, status

RENEWALS = 3


class Slow:
    """A slice of ours that cannot be deleted before the controllers' Lease was renewed a few times. `refusal`: the
    status code until then.
    """

    def __init__(self, api: FakeApi, refusal: int) -> None:
        self.refusal = refusal
        labels = {SERVICE_LABEL: "gone", MANAGED_BY_LABEL: MANAGER}
        metadata = {"name": "gone-1", "namespace": "shop", "labels": labels}
        self.slices: list[dict[str, Any]] = [{"metadata": metadata, "addressType": "IPv4"}]
        self.lease_writes = 0
        api.answer = self.answer

    def answer(self, request: web.Request) -> web.Response:
        kind = request.path.removesuffix("/spillway").rpartition("/")[2]
        if kind == "leases":
            self.lease_writes += request.method == "PATCH"
            return web.json_response({"metadata": {"resourceVersion": "1"}, "spec": {}})
        if request.method == "DELETE":
            if self.lease_writes <= RENEWALS:
                return status(self.refusal, "NotNow")
            self.slices.clear()
        if request.path.endswith("/gone") or request.path.endswith("/gone-spillway-pods"):
            return status(404, "NotFound")
        return web.json_response({"metadata": {}, "items": self.slices if kind == "endpointslices" else []})


@pytest.mark.parametrize("refusal", [409, 429, 500, 504])
async def test_controllers_stand_back_as_long_as_it_lasts_and_what_may_pass_is_waited_for(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    monkeypatch.setattr(module, "WORKING_S", 0.05)
    slow, lines = Slow(api, refusal), list[str]()
    options = RestoreOptions(kubeconfig(tmp_path / "kubeconfig", api.url), "shop", Settings(namespaces="shop"))
    assert await restore(options, lines.append)
    assert lines == ["Service shop/gone: is as it was"]
    assert slow.lease_writes > RENEWALS


async def test_a_refusal_for_good_ends_it(api: FakeApi, tmp_path: Path) -> None:
    Slow(api, 403)
    lines = list[str]()
    options = RestoreOptions(kubeconfig(tmp_path / "kubeconfig", api.url), "shop", Settings(namespaces="shop"))
    assert not await restore(options, lines.append)
    assert lines == ["Service shop/gone: NotNow"]
