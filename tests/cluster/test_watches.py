"""Watches of a real API server, also while it is away, forgets, and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from controller.adapters.kubernetes import decode, reflector
from controller.adapters.kubernetes.client import Cluster, path_of
from controller.adapters.kubernetes.reflector import Handler, Reflector, Selection, as_events, selections
from controller.events import Applied, Event, Kind, Object, Removed
from controller.objects import SERVICE_LABEL, EndpointSlice, Secret
from controller.refresh import Pace
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.paper_node import PaperNode
from tests.cluster.relay import relayed
from tests.kubernetes.tasks import running, until

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "PACE", Pace(first_retry_s=0.05, longest_retry_s=0.2))


class Known:
    """What a reflector has told there is, by key. `told`: in which order."""

    def __init__(self, kind: Kind, decoder: Callable[[bytes], Object]) -> None:
        self.now: dict[str, Object] = {}
        self.told: list[str] = []
        self.handler: Handler[Object] = as_events(kind, decoder, self._take)

    def _take(self, event: Event) -> None:
        match event:
            case Applied(object=Secret() | EndpointSlice() as changed):
                self.now[changed.key] = changed
                self.told.append(changed.key)
            case Removed(key=key):
                del self.now[key]
                self.told.append(f"-{key}")
            case _:
                raise AssertionError(event)


def secrets() -> Known:
    return Known(Kind.SECRET, decode.secret)


def in_namespace(namespace: str, field_selector: str = "") -> Selection:
    return Selection(path_of("v1", "secrets", namespace), field_selector=field_selector)


def secret(name: str, value: str = "x") -> dict[str, object]:
    return {"metadata": {"name": name}, "stringData": {"token": value}}


async def test_slices_of_a_service_follow_its_pods(
    control_plane: ControlPlane, cluster: Cluster, paper_node: PaperNode, namespace: str
) -> None:
    known = Known(Kind.ENDPOINT_SLICE, decode.endpoint_slice)
    selection = selections("discovery.k8s.io/v1", "endpointslices", (namespace,), SERVICE_LABEL)[0]

    def readiness() -> dict[str, bool]:
        slices = [each for each in known.now.values() if isinstance(each, EndpointSlice)]
        assert all(each.service_key == f"{namespace}/web" for each in slices)
        return {endpoint.pod: endpoint.ready for each in slices for endpoint in each.endpoints}

    async with running(Reflector(cluster, selection, known.handler).run()):
        spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}
        await cluster.create(path_of("v1", "services", namespace), {"metadata": {"name": "web"}, "spec": spec})
        for name in ("web-1", "web-2"):
            paper_node.run(namespace, name, labels={"app": "web"}, ports=[{"name": "http", "containerPort": 8080}])
        await until(lambda: readiness() == {"web-1": True, "web-2": True})
        paper_node.set(namespace, "web-1", ready=False)
        await until(lambda: readiness() == {"web-1": False, "web-2": True})
        paper_node.remove(namespace, "web-1")
        await until(lambda: readiness() == {"web-2": True})


async def test_a_list_comes_in_pages(cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "PAGE", 3)
    names = [f"s{number}" for number in range(8)]
    for name in names:
        await cluster.create(path_of("v1", "secrets", namespace), secret(name))
    known = secrets()
    told = Reflector(cluster, in_namespace(namespace), known.handler)

    async with running(told.run()):
        await told.synced.wait()

    assert known.told == [f"{namespace}/{name}" for name in names]


async def test_one_secret_is_watched_by_its_name(cluster: Cluster, namespace: str) -> None:
    path = path_of("v1", "secrets", namespace)
    known = secrets()
    told = Reflector(cluster, in_namespace(namespace, "metadata.name=wanted"), known.handler)
    async with running(told.run()):
        await told.synced.wait()
        await cluster.create(path, secret("other"))
        await cluster.create(path, secret("wanted", "1"))
        await cluster.merge_patch(f"{path}/wanted", {"stringData": {"token": "2"}})
        await until(lambda: known.now == {f"{namespace}/wanted": Secret(f"{namespace}/wanted", {"token": b"2"})})
        await cluster.delete(f"{path}/wanted")
        await until(lambda: not known.now)


async def test_what_happens_while_the_server_cannot_be_reached_is_told_afterwards(
    control_plane: ControlPlane, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    path = path_of("v1", "secrets", namespace)
    for name in ("same", "changes", "goes"):
        await cluster.create(path, secret(name))
    known = secrets()
    async with relayed(control_plane, tmp_path) as (relay, kubeconfig):
        behind = await Cluster.connect(kubeconfig)
        told = Reflector(behind, in_namespace(namespace), known.handler)
        async with running(told.run()):
            await told.synced.wait()
            del known.told[:]
            relay.cut()
            await until(lambda: told.trouble)
            await cluster.merge_patch(f"{path}/changes", {"stringData": {"token": "new"}})
            await cluster.delete(f"{path}/goes")
            await cluster.create(path, secret("comes"))
            assert known.told == []
            relay.open = True
            await until(lambda: len(known.told) == 3)
        await behind.close()

    assert known.told == [f"{namespace}/changes", f"-{namespace}/goes", f"{namespace}/comes"]


async def test_a_server_that_forgot_the_version_is_listed_again(
    control_plane: ControlPlane, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """A restarted API server begins its history with its start, so it answers 410 to what was before."""
    path = path_of("v1", "secrets", namespace)
    for name in ("same", "changes", "goes"):
        await cluster.create(path, secret(name))
    known = secrets()
    async with relayed(control_plane, tmp_path) as (relay, kubeconfig):
        behind = await Cluster.connect(kubeconfig)
        told = Reflector(behind, in_namespace(namespace), known.handler)
        async with running(told.run()):
            await told.synced.wait()
            del known.told[:]
            relay.cut()
            await until(lambda: told.trouble)
            await cluster.merge_patch(f"{path}/changes", {"stringData": {"token": "new"}})
            await cluster.delete(f"{path}/goes")
            await control_plane.restart_apiserver()
            relay.open = True
            await until(lambda: len(known.told) == 2)
            await cluster.create(path, secret("comes"))
            await until(lambda: len(known.told) == 3)
        await behind.close()

    assert known.told == [f"{namespace}/changes", f"-{namespace}/goes", f"{namespace}/comes"]


async def test_a_watch_goes_on_after_the_server_restarts(
    control_plane: ControlPlane, cluster: Cluster, namespace: str
) -> None:
    path = path_of("v1", "secrets", namespace)
    await cluster.create(path, secret("a"))
    known = secrets()
    told = Reflector(cluster, in_namespace(namespace), known.handler)
    async with running(told.run()):
        await told.synced.wait()
        control_plane.kill_apiserver()
        await until(lambda: told.trouble)
        assert known.told == [f"{namespace}/a"]
        await control_plane.start_apiserver()
        await cluster.create(path, secret("b"))
        await until(lambda: f"{namespace}/b" in known.now)

    assert known.told == [f"{namespace}/a", f"{namespace}/b"]
    assert told.trouble == ""


async def test_a_kind_that_is_not_there_yet_is_read_once_it_is(cluster: Cluster, namespace: str) -> None:
    group = f"{namespace}.example.com"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    crd = {
        "metadata": {"name": f"things.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }
    names: list[bytes] = []
    handler = Handler(lambda body: body, names.append, lambda key: None, lambda key, problems: None)
    told = Reflector(cluster, Selection(path_of(f"{group}/v1", "things")), handler)
    definitions = path_of("apiextensions.k8s.io/v1", "customresourcedefinitions")
    async with running(told.run()):
        await until(lambda: "is its CRD installed?" in told.trouble)
        await cluster.create(definitions, crd)
        await told.synced.wait()
        thing = {"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": "one"}}
        await cluster.create(path_of(f"{group}/v1", "things", namespace), thing)
        await until(lambda: names)
    await cluster.delete(f"{definitions}/things.{group}")

    assert b'"name":"one"' in names[0]
    assert told.trouble == ""


async def test_what_may_not_be_read_is_read_once_it_may(
    control_plane: ControlPlane, cluster: Cluster, namespace: str
) -> None:
    await cluster.create(path_of("v1", "serviceaccounts", namespace), {"metadata": {"name": "reader"}})
    reader = await Cluster.connect(control_plane.service_account_kubeconfig(namespace, "reader"))
    told = Reflector(reader, in_namespace(namespace), secrets().handler)
    async with running(told.run()):
        await until(lambda: "may not be read by this controller (RBAC)" in told.trouble)
        subject = {"kind": "ServiceAccount", "name": "reader", "namespace": namespace}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}
        binding = {"metadata": {"name": "reader"}, "roleRef": role, "subjects": [subject]}
        await cluster.create(path_of("rbac.authorization.k8s.io/v1", "rolebindings", namespace), binding)
        await told.synced.wait()
    await reader.close()

    assert told.trouble == ""
