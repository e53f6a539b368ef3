"""`spillway controller` beside a real API server: what a user sees of it, and what a restart, another leader or an
outage of the API server does. Real Envoys are the gateways, and the controller has the rights that the chart grants.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.cluster.operator import Operator, Replica
from tests.support.backends import Backend, http_backend
from tests.support.envoy import Envoy
from tests.support.ports import free_port

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("crds"), pytest.mark.timeout(300)]

FORCED: dict[str, Any] = {"mode": "Force", "percentage": 100}


@pytest_asyncio.fixture
async def remote() -> AsyncIterator[Backend]:
    async with http_backend("remote") as running:
        yield running


async def taken_over(operator: Operator, name: str = "llama") -> int:
    """Waits until callers of the model's Service are led to the gateway; its port there."""
    await operator.until(
        lambda: operator.condition("ServiceTakenOver", name)[1] == "TakenOver", f"{name} is taken over"
    )
    await operator.until(lambda: operator.condition("Ready", name)[0] == "True", f"{name} is ready")
    return int(operator.status(name)["gatewayPort"])


async def ask(port: int) -> str:
    """Who answers a request at a model's port on the gateway."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/v1/models") as answer:
        return answer.headers.get("x-backend", f"HTTP {answer.status}")


async def until_answered_by(operator: Operator, port: int, name: str) -> None:
    async with asyncio.timeout(60):
        while await ask(port) != name:
            await asyncio.sleep(0.05)


async def config_reloads(gateway: Envoy) -> dict[str, int | None]:
    """How often a gateway has been given something that differs from what it had."""
    names = ("listener_manager.lds.config_reload", "cluster_manager.cluster_added", "cluster_manager.cluster_modified")
    return {name: await gateway.statistic(name) for name in names}


async def test_a_model_is_taken_over_said_to_be_ready_and_given_back(operator: Operator) -> None:
    operator.serve_model(behavior={"mode": "Off"})
    controller = await operator.start()
    await operator.gateway(controller)

    port = await taken_over(operator)

    status = operator.status()
    assert (status["state"], status["share"], status["servingPort"]) == ("Standby", "0%", 80)
    assert "llama-spillway-pods: " not in controller.log, "the shadow is looked at for its Service only"
    assert [each["port"] for s in operator.service_slices() for each in s["ports"]] == [port]
    assert "selector" not in operator.api.get(f"{operator.path('services')}/llama")["spec"]

    operator.api.delete(f"{operator.models}/llama")
    await operator.until(lambda: not operator.api.exists(f"{operator.models}/llama"), "the model is gone")
    service = operator.api.get(f"{operator.path('services')}/llama")
    assert service["spec"]["selector"] == {"app": "llama"}
    assert "annotations" not in service["metadata"]


async def test_defect_22_an_overflow_is_seen_in_the_columns_the_conditions_and_the_events(
    operator: Operator, remote: Backend
) -> None:
    operator.serve_model(behavior={"mode": "Off"}, remoteBackend={"host": f"127.0.0.1:{remote.port}"})
    await operator.gateway(await operator.start())
    port = await taken_over(operator)

    operator.offload(**FORCED)
    await operator.until(lambda: operator.status().get("state") == "Overflowing", "it overflows")
    await until_answered_by(operator, port, "remote")

    table = operator.control_plane.kubectl("get", "md", "-n", operator.namespace, "--no-headers").split()
    assert table[:4] == ["llama", "llama", "Overflowing", "100%"]
    assert f"127.0.0.1:{remote.port}" in table
    assert operator.condition("Overflowing")[:2] == ("True", "Forced")
    await operator.until(lambda: "Forced" in operator.events(), "there is an Event")
    described = operator.control_plane.kubectl("describe", "md", "llama", "-n", operator.namespace)
    assert "Forced" in described.partition("Events:")[2]


async def test_false_and_zero_stay_what_they_are(operator: Operator) -> None:
    operator.serve_model(behavior={"mode": "Off", "percentage": 0})
    await operator.gateway(await operator.start())
    await taken_over(operator)

    operator.edit_model(enabled=False)
    await operator.until(lambda: operator.condition("ServiceTakenOver")[1] == "Released", "it is given back")

    spec = operator.model()["spec"]
    assert (spec["enabled"], spec["offloadingConfig"]["behavior"]["percentage"]) == (False, 0)
    assert operator.api.get(f"{operator.path('services')}/llama")["spec"]["selector"] == {"app": "llama"}


async def test_a_controller_that_is_killed_and_starts_again_moves_nothing(operator: Operator, remote: Backend) -> None:
    operator.serve_model(behavior=FORCED, remoteBackend={"host": f"127.0.0.1:{remote.port}"})
    controller = await operator.start()
    gateway = await operator.gateway(controller)
    port = await taken_over(operator)
    await until_answered_by(operator, port, "remote")
    decided, slices = operator.status()["decision"], operator.service_slices()
    reloads = await config_reloads(gateway)

    controller.kill()
    assert await ask(port) == "remote"
    again = await operator.start("controller-2", xds=controller.addresses["xds"])
    assert await ask(port) == "remote"
    await operator.until(lambda: again.leads, "it leads")
    await operator.until(lambda: gateway_streams(again) == ["gateway-1"], "the gateway is back")
    await operator.until(lambda: operator.condition("Programmed")[0] == "True", "the gateway has everything")

    assert await ask(port) == "remote"
    assert operator.status()["decision"] == decided
    assert operator.service_slices() == slices
    assert await config_reloads(gateway) == reloads


async def test_a_model_deleted_while_no_controller_runs_is_given_back_later(operator: Operator) -> None:
    operator.serve_model(behavior={"mode": "Off"})
    controller = await operator.start()
    await operator.gateway(controller)
    await taken_over(operator)

    controller.kill()
    operator.api.delete(f"{operator.models}/llama")
    assert operator.api.exists(f"{operator.models}/llama"), "its finalizer keeps it"
    await operator.start("controller-2")

    await operator.until(lambda: not operator.api.exists(f"{operator.models}/llama"), "the model is gone")
    assert operator.api.get(f"{operator.path('services')}/llama")["spec"]["selector"] == {"app": "llama"}


async def test_another_replica_takes_over_at_once_and_nothing_moves(operator: Operator, remote: Backend) -> None:
    operator.serve_model(behavior=FORCED, remoteBackend={"host": f"127.0.0.1:{remote.port}"})
    first = await operator.start("controller-1")
    await operator.until(lambda: first.leads, "the first one leads")
    second = await operator.start("controller-2")
    gateway = await operator.gateway(second)
    port = await taken_over(operator)
    await until_answered_by(operator, port, "remote")
    reloads, slices = await config_reloads(gateway), operator.service_slices()

    first.stop()
    await operator.until(lambda: second.leads, "the other one leads")
    operator.offload(mode="Force", percentage=50)
    await operator.until(lambda: operator.status().get("share") == "50%", "the other one decides")

    assert operator.service_slices() == slices
    assert await config_reloads(gateway) == reloads


async def test_of_three_one_leads_and_the_next_one_when_it_is_killed(operator: Operator) -> None:
    replicas = [await operator.start(f"controller-{number}") for number in (1, 2, 3)]

    def leader() -> Replica | None:
        """The one that all who are left name, itself included."""
        left = {each.identity: each for each in replicas if each.process.poll() is None}
        named = {each.status()["replica"]["leader"] for each in left.values()}
        return left.get(named.pop()) if len(named) == 1 else None

    for _ in (3, 2):
        await operator.until(leader, "all know one leader")
        first = leader()
        assert first is not None
        first.kill()
    await operator.until(leader, "the last one leads")


async def test_a_status_that_somebody_edits_is_written_again(operator: Operator) -> None:
    operator.serve_model(behavior={"mode": "Off"})
    await operator.gateway(await operator.start())
    port = await taken_over(operator)
    decided = operator.status()["decision"]

    edit = {"status": {"decision": {"gateway_port": 1, "decision": {"state": "Overflowing"}}, "gatewayPort": 1}}
    operator.api.merge(f"{operator.models}/llama/status", edit)
    await operator.until(lambda: operator.status()["decision"] == decided, "the decision is back")
    assert operator.status()["gatewayPort"] == port


async def test_while_the_cluster_cannot_be_read_the_probe_says_why(operator: Operator) -> None:
    probe = f"127.0.0.1:{free_port()}"
    stranger = operator.control_plane.kubeconfig_for("stranger")
    replica = operator.launch("stranger", stranger, probeAddr=probe)

    async def says(path: str) -> tuple[int, str]:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://{probe}{path}") as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientConnectionError:
            return 0, ""

    async with asyncio.timeout(60):
        while "may not be read" not in (await says("/readyz"))[1]:
            await asyncio.sleep(0.1)
    assert (await says("/readyz"))[0] == 503
    assert (await says("/healthz"))[0] == 200
    assert replica.process.poll() is None


async def test_without_an_api_server_everything_goes_on(operator: Operator, remote: Backend) -> None:
    operator.serve_model(behavior=FORCED, remoteBackend={"host": f"127.0.0.1:{remote.port}"})
    controller = await operator.start()
    gateway = await operator.gateway(controller)
    port = await taken_over(operator)
    await until_answered_by(operator, port, "remote")
    reloads = await config_reloads(gateway)

    operator.control_plane.kill_apiserver()
    try:
        for _ in range(50):  # longer than the lease
            assert await ask(port) == "remote"
            await asyncio.sleep(0.1)
        assert controller.status()["models"][0]["state"] == "Overflowing"
    finally:
        await operator.control_plane.start_apiserver()
    operator.offload(mode="Off")
    await operator.until(lambda: operator.status().get("state") == "Standby", "it is heard again")

    reloads_after = await config_reloads(gateway)
    assert reloads_after == reloads


async def test_zero_replicas_are_a_failover_and_no_error(operator: Operator, remote: Backend) -> None:
    operator.serve_model(remoteBackend={"host": f"127.0.0.1:{remote.port}"})
    await operator.gateway(await operator.start())
    port = await taken_over(operator)

    operator.api.merge(operator.path("deployments", "apis/apps/v1") + "/llama", {"spec": {"replicas": 0}})
    for pod in operator.api.get(f"{operator.path('pods')}?labelSelector=app=llama")["items"]:
        operator.node.remove(operator.namespace, pod["metadata"]["name"])
    await operator.until(lambda: operator.status().get("state") == "Failover", "it fails over")
    await until_answered_by(operator, port, "remote")
    assert operator.condition("ResolvedRefs")[0] == "True"

    operator.api.merge(operator.path("deployments", "apis/apps/v1") + "/llama", {"spec": {"replicas": 1}})
    operator.run_pods("llama", 1)
    await operator.until(lambda: operator.status().get("state") == "Standby", "it comes back")


async def test_a_secret_that_comes_late_makes_its_remote_ready(operator: Operator) -> None:
    key = {"secretRef": {"name": "provider", "key": "key"}}
    remote = {"host": "127.0.0.1:9", "authConfig": {"type": "apiKey", "apiKeyConfig": key}}
    operator.serve_model(remoteBackend=remote)
    controller = await operator.start()
    await operator.gateway(controller)
    await operator.until(lambda: operator.condition("RemoteReady")[0] == "False", "the remote waits for its key")
    assert "Secret" in operator.condition("RemoteReady")[2]

    operator.create("secrets", "provider", stringData={"key": "very-secret"})
    await operator.until(lambda: operator.condition("RemoteReady")[0] == "True", "the remote is ready")

    assert "very-secret" not in controller.log
    assert "very-secret" not in str(operator.model())


async def test_a_model_that_names_no_service_gets_one_that_goes_with_it(operator: Operator) -> None:
    operator.serve_model("other", behavior={"mode": "Off"})
    operator.api.delete(f"{operator.models}/other")
    operator.api.delete(f"{operator.path('services')}/other")
    operator.apply_model("other", service=None, behavior={"mode": "Off"})
    await operator.gateway(await operator.start())

    await taken_over(operator, "other")

    service = operator.api.get(f"{operator.path('services')}/other")
    assert [each["port"] for each in service["spec"]["ports"]] == [8000]
    assert [each["kind"] for each in service["metadata"]["ownerReferences"]] == ["ModelDeployment"]
    operator.api.delete(f"{operator.models}/other")
    await operator.until(lambda: not operator.api.exists(f"{operator.path('services')}/other"), "the Service is gone")


async def test_with_takeover_manual_nothing_is_touched_and_the_host_leads_to_the_model(
    operator: Operator, remote: Backend
) -> None:
    operator.serve_model(behavior=FORCED, remoteBackend={"host": f"127.0.0.1:{remote.port}"})
    await operator.gateway(await operator.start(takeover="Manual"))
    await operator.until(lambda: operator.condition("Ready")[0] == "True", "the model is ready")

    async with aiohttp.ClientSession() as session:
        url, host = f"http://127.0.0.1:{operator.listen}/v1/models", {"Host": f"llama.{operator.namespace}.svc"}
        async with session.get(url, headers=host) as answer:
            assert answer.headers["x-backend"] == "remote"
    assert operator.api.get(f"{operator.path('services')}/llama")["spec"]["selector"] == {"app": "llama"}
    assert "finalizers" not in operator.model()["metadata"]
    assert "gatewayPort" not in operator.status()


async def test_a_policy_keeps_a_model_from_a_remote_for_as_long_as_it_says_so(operator: Operator) -> None:
    operator.serve_model(remoteBackend={"host": "127.0.0.1:9", "location": {"country": "us"}}, behavior={"mode": "Off"})
    operator.edit_model(policies=[{"refType": "localPolicy", "name": "at-home"}])
    await operator.gateway(await operator.start())
    await operator.until(lambda: "does not exist" in operator.condition("RemoteReady")[2], "the Policy is missed")

    policies = operator.path("policies", "apis/authorization.beamlit.com/v1alpha1")
    spec = {"type": "location", "locations": [{"type": "country", "name": "fr"}]}
    body = {"apiVersion": "authorization.beamlit.com/v1alpha1", "kind": "Policy", "metadata": {"name": "at-home"}}
    operator.api.create(policies, {**body, "spec": spec})
    await operator.until(lambda: "country us" in operator.condition("RemoteReady")[2], "the Policy forbids the remote")
    spec["locations"] = [{"type": "country", "name": "us"}]
    operator.api.merge(f"{policies}/at-home", {"spec": spec})
    await operator.until(lambda: operator.condition("RemoteReady")[0] == "True", "the Policy allows it")


async def test_while_no_gateway_is_ready_callers_reach_the_pods(operator: Operator) -> None:
    operator.serve_model(behavior={"mode": "Off"})
    await operator.gateway(await operator.start())
    port = await taken_over(operator)

    operator.node.set(operator.namespace, "gateway-1", ready=False)
    await operator.until(lambda: operator.condition("ServiceTakenOver")[1] == "NoGateway", "no gateway is left")
    assert [each["port"] for s in operator.service_slices() for each in s["ports"]] == [8000]

    operator.node.set(operator.namespace, "gateway-1", ready=True)
    await operator.until(lambda: operator.condition("ServiceTakenOver")[1] == "TakenOver", "the gateway is back")
    assert [each["port"] for s in operator.service_slices() for each in s["ports"]] == [port]


async def test_what_only_the_node_can_reach_is_no_destination_unless_the_settings_say_so(operator: Operator) -> None:
    operator.serve_model(remoteBackend={"host": "169.254.169.254:80"}, behavior={"mode": "Off"})
    controller = await operator.start(destinations={})
    gateway = await operator.gateway(controller)

    await operator.until(lambda: "deny" in operator.condition("RemoteReady")[2], "the remote is refused")
    assert "169.254.169.254" not in await gateway.ask("/config_dump")


async def test_two_models_on_one_port_of_a_service(operator: Operator) -> None:
    operator.serve_model(behavior={"mode": "Off"})
    await operator.gateway(await operator.start())
    await taken_over(operator)

    second = operator.model()
    body: dict[str, Any] = {key: second[key] for key in ("apiVersion", "kind", "spec")}
    body["spec"]["model"] = "another"
    operator.api.create(operator.models, {**body, "metadata": {"name": "another"}})

    await operator.until(lambda: operator.condition("Accepted", "another")[:2] == ("False", "Conflict"), "a conflict")
    assert operator.condition("ServiceTakenOver")[1] == "TakenOver"


def gateway_streams(replica: Replica) -> list[str]:
    """The gateways that are connected to a controller."""
    return sorted(each["gateway"] for each in replica.status()["gateways"])
