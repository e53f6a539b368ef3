"""Callers of a model by its Service's name lose no request, whatever happens: on a real node, with real kube-proxy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from tests.cluster.harness.node import Node, ProxyMode
from tests.cluster.on_node import (
    RATE_PER_S,
    VALUES,
    Callers,
    Installed,
    Model,
    add_model,
    add_workloads,
    calling_all_the_time,
    is_half,
)
from tests.cluster.release import Release

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
OUTAGE_REQUESTS = 30 * RATE_PER_S


@pytest.fixture(scope="module")
def installed(node: Node) -> Iterator[Installed]:
    """For the models of all namespaces."""
    node.control_plane.kubectl("create", "namespace", "spillway")
    release = Release(node.control_plane, "spillway")
    release.install(*VALUES, "--set", "config.namespaces=", "--wait", "--timeout=120s")
    yield Installed(node, release)
    release.helm("uninstall", "--wait", "--timeout=180s")
    node.control_plane.kubectl("delete", "namespace", "spillway")


@pytest.fixture
def model(installed: Installed, node_namespace: str) -> Iterator[Model]:
    """A model whose Service is taken over. Half of its requests leave."""
    add_workloads(installed, node_namespace)
    model = add_model(installed, node_namespace, mode="Force")
    yield model
    model.delete()


@pytest.fixture
def callers(model: Model) -> Iterator[Callers]:
    with calling_all_the_time(model) as callers:
        callers.until_served_by("local", "remote")
        model.until_state("Overflowing")
        yield callers


def half_leaves(callers: Callers) -> bool:
    return is_half("remote", callers.served_by(50))


@pytest.mark.parametrize("mode", get_args(ProxyMode))
def test_over_takeover_overflow_return_and_delete(
    node: Node, installed: Installed, node_namespace: str, mode: ProxyMode
) -> None:
    node.use_proxy_mode(mode)
    add_workloads(installed, node_namespace)
    model = Model(installed, node_namespace)
    before = model.service
    with calling_all_the_time(model) as callers:
        add_model(installed, node_namespace, mode="Off")
        callers.until_served_by("local")
        model.behave(mode="Force")
        callers.until_served_by("local", "remote")
        model.behave(mode="Off")
        callers.until_served_by("local")
        model.delete()
        assert model.service == before
        callers.until_served_by("local")


def test_over_scale_to_zero_and_back(model: Model, callers: Callers) -> None:
    model.behave(mode="Auto")
    callers.until_served_by("local")
    model.kubectl("scale", "deployment/local", "--replicas=0")
    callers.until_served_by("remote")
    model.until_state("Failover")
    model.kubectl("scale", "deployment/local", "--replicas=2")
    callers.until_served_by("local")
    model.until_state("Standby")


def test_over_a_rollout_of_the_workload(model: Model, callers: Callers) -> None:
    model.kubectl("rollout", "restart", "deployment/local")
    model.node.rolled_out(model.namespace, "local")
    assert half_leaves(callers)


def test_over_restart_and_rollout_of_the_gateway(installed: Installed, model: Model, callers: Callers) -> None:
    installed.kubectl("delete", "pod", installed.pods("gateway")[0])
    model.until_taken_over()
    assert half_leaves(callers)
    installed.roll_out("gateway")
    model.until_taken_over()
    assert half_leaves(callers)


def test_without_any_gateway(installed: Installed, model: Model, callers: Callers) -> None:
    installed.scale("gateway", 0)
    model.until(lambda: model.condition("ServiceTakenOver") == "NoGateway", "there is no gateway")
    callers.until_served_by("local")
    installed.scale("gateway", 2)
    model.until_taken_over()
    callers.until_served_by("local", "remote")


def test_while_controllers_are_killed(installed: Installed, model: Model, callers: Callers) -> None:
    since = model.status["since"]
    installed.kill("controller")
    assert half_leaves(callers)
    model.behave(percentage=100)
    callers.until_served_by("remote")
    assert model.status["since"] == since


def test_over_a_change_of_leader(installed: Installed, model: Model, callers: Callers) -> None:
    before, since = installed.leader, model.status["since"]
    installed.kubectl("delete", "pod", before)
    model.until(lambda: installed.leader not in ("", before), "another one leads")
    assert half_leaves(callers)
    model.behave(percentage=100)
    callers.until_served_by("remote")
    assert model.status["since"] == since


async def test_while_the_api_server_is_gone(node: Node, model: Model, callers: Callers) -> None:
    since = model.status["since"]
    node.control_plane.kill_apiserver()
    served = callers.served_by(OUTAGE_REQUESTS)
    await node.control_plane.start_apiserver()
    assert {*served} == {"local", "remote"}
    model.behave(percentage=100)
    callers.until_served_by("remote")
    assert model.status["since"] == since
    assert model.condition("ServiceTakenOver") == "TakenOver"
    node.restart_proxy()  # the next test makes Services


def test_over_restore_without_a_controller(installed: Installed, model: Model, callers: Callers) -> None:
    """Connections that callers keep lead to a gateway until it ends, since nobody tells it anything any more."""
    where = ("--kubeconfig", model.node.control_plane.kubeconfig, "--namespace", installed.release.namespace)
    installed.scale("controller", 0)
    try:
        subprocess.run([sys.executable, "-m", "controller", "restore", "--all", *where], check=True, cwd=ROOT)
        assert model.service["selector"] == {"app": "local"}
        installed.scale("gateway", 0)
        callers.until_served_by("local")
    finally:
        installed.kubectl("delete", "lease", "spillway")  # which keeps controllers away for a minute
        installed.scale("controller", 2)
        installed.scale("gateway", 2)
    model.until_taken_over()
    callers.until_served_by("local", "remote")
