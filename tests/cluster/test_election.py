"""Contenders for a Lease of a real API server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.kubernetes.client import Cluster, path_of
from controller.adapters.kubernetes.election import Election
from controller.election import Terms
from tests.cluster import contender
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.relay import relayed
from tests.kubernetes.tasks import running, until

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
QUICK = Terms(duration_s=3, deadline_s=1.5, retry_s=0.2)
NEVER_RUNS_OUT = Terms(duration_s=3_600, deadline_s=3_000.0, retry_s=0.1)


class Contest:
    """Who leads, as told; that two do is an error. `order`: all who led, one after the other."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.leader = ""
        self.order: list[str] = []

    def enter(self, cluster: Cluster, identity: str, terms: Terms) -> Election:
        def tell(leads: bool) -> None:
            assert self.leader == ("" if leads else identity)
            self.leader = identity if leads else ""
            if leads:
                self.order.append(identity)

        return Election(cluster, self.namespace, "leader", identity, tell, terms=terms)

    async def has_had(self, leaders: int) -> None:
        await until(lambda: len(self.order) == leaders)

    async def lease(self, cluster: Cluster) -> dict[str, Any]:
        obj = await cluster.get(path_of("coordination.k8s.io/v1", "leases", self.namespace, "leader"))
        spec: dict[str, Any] = obj["spec"]
        return spec


async def test_one_of_three_leads_and_the_next_follows_as_soon_as_it_stops(cluster: Cluster, namespace: str) -> None:
    contest = Contest(namespace)
    async with AsyncExitStack() as stack:
        tasks = {
            name: await stack.enter_async_context(running(contest.enter(cluster, name, NEVER_RUNS_OUT).run()))
            for name in ("a", "b", "c")
        }
        for transitions in range(3):
            await contest.has_had(transitions + 1)
            leader, lease = contest.order[-1], await contest.lease(cluster)
            assert lease["leaseDurationSeconds"] == 3_600
            assert (lease["holderIdentity"], lease["leaseTransitions"]) == (leader, transitions)
            if transitions < 2:  # the last one is stopped with all the rest
                tasks[leader].cancel()

    assert sorted(contest.order) == ["a", "b", "c"]
    freed = await contest.lease(cluster)
    assert freed.get("holderIdentity") is None


async def test_a_leader_that_loses_the_server_stops_before_another_begins(
    control_plane: ControlPlane, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    contest = Contest(namespace)
    async with relayed(control_plane, tmp_path) as (relay, kubeconfig):
        behind = await Cluster.connect(kubeconfig)
        async with running(contest.enter(behind, "cut-off", QUICK).run()):
            await until(lambda: contest.leader == "cut-off")
            async with running(contest.enter(cluster, "other", QUICK).run()):
                relay.cut()
                await until(lambda: contest.leader == "other")
                relay.open = True
            await until(lambda: contest.leader == "cut-off")
        await behind.close()

    assert contest.order == ["cut-off", "other", "cut-off"]


async def test_a_lease_given_to_somebody_else_ends_the_lead(cluster: Cluster, namespace: str) -> None:
    contest = Contest(namespace)
    path = path_of("coordination.k8s.io/v1", "leases", namespace, "leader")
    async with running(contest.enter(cluster, "a", NEVER_RUNS_OUT).run()):
        await until(lambda: contest.leader == "a")
        await cluster.merge_patch(path, {"spec": {"holderIdentity": "somebody"}})
        await until(lambda: contest.leader == "")

    assert (await contest.lease(cluster))["holderIdentity"] == "somebody"


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    command = (sys.executable, "-m", contender.__name__, *arguments)
    started = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def test_a_leader_that_is_killed_is_followed_once_its_lease_ran_out(
    control_plane: ControlPlane, cluster: Cluster, namespace: str
) -> None:
    contest = Contest(namespace)
    async with process(str(control_plane.kubeconfig), namespace, "killed", "3", "2") as killed:
        assert killed.stdout is not None
        assert await asyncio.wait_for(killed.stdout.readline(), 60) == b"True\n"
        async with running(contest.enter(cluster, "next", QUICK).run()):
            killed.kill()
            await until(lambda: contest.leader == "next")
            lease = await contest.lease(cluster)

    assert (lease["holderIdentity"], lease["leaseTransitions"]) == ("next", 1)


async def test_who_is_killed_and_starts_again_under_its_name_leads_at_once(
    control_plane: ControlPlane, cluster: Cluster, namespace: str
) -> None:
    contest = Contest(namespace)
    async with process(str(control_plane.kubeconfig), namespace, "same", "3600", "3000") as killed:
        assert killed.stdout is not None
        assert await asyncio.wait_for(killed.stdout.readline(), 60) == b"True\n"
    async with running(contest.enter(cluster, "same", NEVER_RUNS_OUT).run()):
        await until(lambda: contest.leader == "same")
        lease = await contest.lease(cluster)

    assert lease["leaseTransitions"] == 0
