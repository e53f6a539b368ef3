"""Fixtures of the tests that need Kubernetes; harness/ makes it."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import pytest_asyncio

from controller.adapters.kubernetes.client import Cluster
from tests.cluster.harness import control_plane as harness
from tests.cluster.harness import node as real_node
from tests.cluster.harness.api import Api, wait_until
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.node import Node
from tests.cluster.harness.paper_node import PaperNode
from tests.cluster.harness.programs import build_missing
from tests.cluster.operator import Operator, operating

CRDS = Path(__file__).parents[2] / "helm/spillway/crds"
GROUPS = ("apis/deployment.beamlit.com/v1alpha1", "apis/authorization.beamlit.com/v1alpha1")
KINDS = (f"/{GROUPS[0]}/modeldeployments", f"/{GROUPS[1]}/policies")
DESCRIBED = tuple(f"{prefix}/{group}" for group in GROUPS for prefix in ("", "/openapi/v3"))
"""What kubectl reads to know short names and fields; it is there a while after the kinds themselves."""
_names = (f"test-{number}" for number in itertools.count(1))
_TIMEOUT_S = 300  # the first test of a session also waits for the control plane, or the node, to start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in _cluster_tests(items):
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds the programs that are nowhere, before a clock runs: minutes, once."""
    if session.config.option.collectonly or not any(_cluster_tests(session.items)):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled(), suppress(subprocess.CalledProcessError):
        build_missing()  # what fails says why, and is found missing by the test that needs it


def _cluster_tests(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    return (item for item in items if {"control_plane", "node"} & set(getattr(item, "fixturenames", ())))


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd, API server and controller manager, shared by all tests of a session."""
    with harness.running() as plane:
        yield plane


@pytest.fixture(scope="session")
def crds(control_plane: ControlPlane) -> None:
    """The custom resources, as the chart installs them."""
    control_plane.kubectl("apply", "--server-side", "-f", str(CRDS))
    wait_until(lambda: all(map(control_plane.api.serves, (*KINDS, *DESCRIBED))), 60, "the custom resources are served")


@pytest_asyncio.fixture
async def cluster(control_plane: ControlPlane) -> AsyncIterator[Cluster]:
    """The product's client, as administrator, in the test's own loop."""
    client = await Cluster.connect(control_plane.kubeconfig)
    yield client
    await client.close()


@pytest.fixture(scope="session")
def paper_node(control_plane: ControlPlane) -> PaperNode:
    """Runs pods by hand, where there is no real node."""
    return PaperNode(control_plane.api)


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh one; deleted afterwards without waiting for it."""
    with _fresh_namespace(control_plane.api) as name:
        yield name
        control_plane.api.delete(f"/api/v1/namespaces/{name}/pods", grace_s=0)  # nobody else ends those of a paper node


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A cluster of its own, with a node that runs pods: for what needs traffic."""
    with real_node.running() as running:
        yield running


@pytest.fixture
def node_namespace(node: Node) -> Iterator[str]:
    """As `namespace`, on the node's cluster."""
    with _fresh_namespace(node.control_plane.api) as name:
        yield name


@pytest.fixture(scope="session")
def metrics_server(node: Node) -> None:
    """metrics.k8s.io on the node's cluster."""
    node.add_metrics_server()


@pytest_asyncio.fixture
async def operator(
    control_plane: ControlPlane, paper_node: PaperNode, crds: None, namespace: str, tmp_path: Path
) -> AsyncIterator[Operator]:
    """Controllers and gateways of a namespace; the test starts them."""
    async with operating(control_plane, paper_node, namespace, tmp_path) as operator:
        yield operator


@contextmanager
def _fresh_namespace(api: Api) -> Iterator[str]:
    name = next(_names)
    path = f"/api/v1/namespaces/{name}"
    api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    wait_until(lambda: api.exists(f"{path}/serviceaccounts/default"), 60, f"pods can be created in {name}")
    yield name
    api.delete(path)
