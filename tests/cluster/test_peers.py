"""Replicas that tell each other of their gateways, through a real API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.kubernetes import reflector
from controller.adapters.kubernetes.client import Cluster, path_of
from controller.adapters.kubernetes.peers import REPORT_ANNOTATION, Peers, Timing
from controller.events import Event, PeerReported
from controller.peers import PeerReport
from controller.refresh import Pace
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.relay import relayed
from tests.kubernetes.tasks import DEADLINE_S, running, until

pytestmark = pytest.mark.integration

QUICK = Timing(look_s=0.1, renew_s=1.0, duration_s=5, forget_s=3_600.0)
ELECTION = "spillway"
FIRST, SECOND = frozenset({20_000}), frozenset({20_000, 20_001})


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "PACE", Pace(first_retry_s=0.05, longest_retry_s=0.2))


class Replica:
    """One that has a gateway of its own name. `heard`: of each other one, what it said last. `order`: who came and who
    went, '-' before the name.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        timing: Timing = QUICK,
        *,
        leads: bool = False,
        election: str = ELECTION,
    ) -> None:
        self.name = name
        self.leads = leads
        self.ports = FIRST
        self.looks = 0
        self.runs: set[str] = set()
        self.heard: dict[str, PeerReport] = {}
        self.order: list[str] = []
        self.peers = Peers(cluster, namespace, election, name, self._report, self._hear, self._is_leader, timing=timing)

    def _is_leader(self) -> bool:
        """Asked at each look."""
        self.looks += 1
        return self.leads

    def _report(self, run: str) -> PeerReport:
        self.runs.add(run)
        return PeerReport(run, {f"gateway-of-{self.name}": self.ports})

    def _hear(self, event: Event) -> None:
        assert isinstance(event, PeerReported)
        if event.report is None:
            del self.heard[event.replica]
            self.order.append(f"-{event.replica}")
            return
        if event.replica not in self.heard:
            self.order.append(event.replica)
        self.heard[event.replica] = event.report

    def knows(self, *others: Replica) -> bool:
        """Exactly these, with what they have to tell now."""
        gateways = {name: report.gateways for name, report in self.heard.items()}
        return gateways == {other.name: {f"gateway-of-{other.name}": other.ports} for other in others}


def leases(namespace: str, name: str = "") -> str:
    return path_of("coordination.k8s.io/v1", "leases", namespace, name)


async def names_of_leases(cluster: Cluster, namespace: str) -> list[str]:
    found = await cluster.get(leases(namespace))
    return sorted(item["metadata"]["name"] for item in found["items"])


async def until_leases(cluster: Cluster, namespace: str, *names: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await names_of_leases(cluster, namespace) != sorted(names):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def cut_off(control_plane: ControlPlane, folder: Path) -> AsyncIterator[tuple[Any, Cluster]]:
    """A way to the API server that can be cut, and a client that goes by it."""
    async with relayed(control_plane, folder) as (relay, kubeconfig):
        behind = await Cluster.connect(kubeconfig)
        try:
            yield relay, behind
        finally:
            await behind.close()


async def test_two_replicas_hear_what_is_new_and_when_one_stops(cluster: Cluster, namespace: str) -> None:
    slow = Timing(look_s=0.1, renew_s=3_600.0)
    one, two = Replica(cluster, namespace, "one", slow), Replica(cluster, namespace, "two", slow)
    async with running(one.peers.run()):
        async with running(two.peers.run()):
            await until(lambda: one.knows(two) and two.knows(one))
            two.ports = SECOND
            await until(lambda: one.knows(two))
            assert one.peers.names == ["two"]
        await until(one.knows)
        assert one.peers.names == []
    assert one.order == ["two", "-two"]
    assert await names_of_leases(cluster, namespace) == []


async def test_the_lease_of_a_replica_says_who_it_is_and_what_it_tells(cluster: Cluster, namespace: str) -> None:
    one, two = Replica(cluster, namespace, "one", Timing(look_s=0.1)), Replica(cluster, namespace, "two")
    async with running(one.peers.run()), running(two.peers.run()):
        await until(lambda: two.knows(one))
        lease = await cluster.get(leases(namespace, "spillway-one"))
    (run,) = one.runs
    assert lease["metadata"]["labels"] == {"spillway.dev/replica": "spillway"}
    told = json.loads(lease["metadata"]["annotations"][REPORT_ANNOTATION])
    assert told == {"run": run, "gateways": {"gateway-of-one": "20000"}}
    assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseDurationSeconds"]) == ("one", 30)


async def test_who_hears_nobody_writes_only_to_show_that_it_is_there(cluster: Cluster, namespace: str) -> None:
    one = Replica(cluster, namespace, "one", Timing(look_s=0.02, renew_s=3_600.0))
    async with running(one.peers.run()):
        await until(lambda: one.looks == 2)  # the second begins after what the first wrote
        before = await cluster.get(leases(namespace, "spillway-one"))
        one.ports = SECOND
        await until(lambda: one.looks == 5)
        after = await cluster.get(leases(namespace, "spillway-one"))
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_of_three_one_is_cut_off_and_comes_back(
    control_plane: ControlPlane, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    async with cut_off(control_plane, tmp_path) as (relay, behind):
        one, two = Replica(cluster, namespace, "one"), Replica(cluster, namespace, "two")
        three = Replica(behind, namespace, "three")
        async with running(one.peers.run()), running(two.peers.run()), running(three.peers.run()):
            await until(lambda: one.knows(two, three) and two.knows(one, three) and three.knows(one, two))
            relay.cut()
            await until(lambda: one.knows(two) and two.knows(one))
            assert three.knows(one, two), "that it is cut off says nothing of the others"
            two.ports = three.ports = SECOND
            relay.open = True
            await until(lambda: one.knows(two, three) and two.knows(one, three) and three.knows(one, two))
            await until(lambda: not three.peers.troubles)
            assert one.order[-2:] == ["-three", "three"]
            assert sorted(three.order) == ["one", "two"]


async def test_nobody_is_gone_while_the_api_server_is(
    control_plane: ControlPlane, cluster: Cluster, namespace: str
) -> None:
    one, two = Replica(cluster, namespace, "one"), Replica(cluster, namespace, "two")
    async with running(one.peers.run()), running(two.peers.run()):
        await until(lambda: one.knows(two) and two.knows(one))
        control_plane.kill_apiserver()
        await until(lambda: one.peers.troubles and two.peers.troubles)
        await asyncio.sleep(1.5 * QUICK.duration_s)
        await control_plane.start_apiserver()
        two.ports = SECOND
        await until(lambda: one.knows(two) and not one.peers.troubles and not two.peers.troubles)
        assert (one.order, two.order) == (["two"], ["one"])


async def test_the_leader_deletes_what_nobody_writes_any_more(cluster: Cluster, namespace: str) -> None:
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 1, "renewTime": "2026-01-01T00:00:00.000000Z"}
    labels, annotations = {"spillway.dev/replica": "spillway"}, {REPORT_ANNOTATION: "{}"}
    metadata = {"name": "spillway-dead", "labels": labels, "annotations": annotations}
    await cluster.create(leases(namespace), {"metadata": metadata, "spec": spec})
    forgetful = Timing(look_s=0.05, renew_s=1.0, duration_s=60, forget_s=2.0)
    follower = Replica(cluster, namespace, "follower", forgetful)
    async with running(follower.peers.run()):
        await until(lambda: follower.order == ["dead", "-dead"])
        await asyncio.sleep(1.5 * forgetful.forget_s)
        await until_leases(cluster, namespace, "spillway-dead", "spillway-follower")
        async with running(Replica(cluster, namespace, "leader", forgetful, leads=True).peers.run()):
            await until_leases(cluster, namespace, "spillway-follower", "spillway-leader")
    assert follower.order[:3] == ["dead", "-dead", "leader"]


async def test_a_lease_that_is_deleted_by_mistake_is_back_soon(cluster: Cluster, namespace: str) -> None:
    one, two = Replica(cluster, namespace, "one"), Replica(cluster, namespace, "two")
    async with running(one.peers.run()), running(two.peers.run()):
        await until(lambda: one.knows(two))
        await cluster.delete(leases(namespace, "spillway-two"))
        await until(lambda: one.order == ["two", "-two", "two"] and one.knows(two))


async def test_who_starts_again_under_its_name_is_another_run(cluster: Cluster, namespace: str) -> None:
    one, again = Replica(cluster, namespace, "one"), Replica(cluster, namespace, "two")
    two = Replica(cluster, namespace, "two")
    async with running(one.peers.run()), running(two.peers.run()):
        await until(lambda: one.knows(two))
        async with running(again.peers.run()):
            await until(lambda: {report.run for report in one.heard.values()} <= again.runs)
    assert two.runs.isdisjoint(again.runs)


async def test_replicas_of_another_controller_are_none_of_ours(cluster: Cluster, namespace: str) -> None:
    one, two = Replica(cluster, namespace, "one"), Replica(cluster, namespace, "two")
    other = Replica(cluster, namespace, "other", election="spillway-of-another-team")
    async with running(other.peers.run()), running(one.peers.run()), running(two.peers.run()):
        await until(lambda: one.knows(two) and two.knows(one))
        assert await names_of_leases(cluster, namespace) == [
            "spillway-of-another-team-other",
            "spillway-one",
            "spillway-two",
        ]
    assert other.order == []


async def test_what_cannot_be_read_is_said_once_and_takes_nobody_down(
    cluster: Cluster, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = Replica(cluster, namespace, "one")
    spec = {"holderIdentity": "strange", "leaseDurationSeconds": 3_600}
    metadata = {"name": "spillway-strange", "labels": {"spillway.dev/replica": "spillway"}}
    async with running(one.peers.run()):
        for second, text in enumerate(["{", "[]", '{"gateways": {"a": "9-1"}}', '{"run": "good"}']):
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {**metadata, "annotations": {REPORT_ANNOTATION: text}},
                "spec": {**spec, "renewTime": f"2026-01-01T00:00:0{second}.000000Z"},
            }
            await cluster.apply(leases(namespace, "spillway-strange"), lease)
        await until(lambda: one.heard == {"strange": PeerReport("good")})
    assert caplog.text.count("replica strange: its report cannot be read") == 1


async def test_what_is_not_allowed_is_said(control_plane: ControlPlane, namespace: str) -> None:
    nobody = await Cluster.connect(control_plane.service_account_kubeconfig(namespace, "default"))
    one = Replica(nobody, namespace, "one")
    try:
        async with running(one.peers.run()):
            await until(lambda: len(one.peers.troubles) == 2)
            read, write = one.peers.troubles
    finally:
        await nobody.close()
    assert "may not be read by this controller (RBAC)" in read
    assert "the Lease spillway-one cannot be kept: Forbidden" in write
