"""From manifests to what the production engine would have done."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import pytest

from controller.manifests import Manifest, read
from controller.metrics import Source
from controller.offload import State
from controller.settings import MetricInformer, Settings
from controller.simulate.meter import Signal
from controller.simulate.scenario import Outcome, Scenario, ScenarioError, Servers, all_local, scenario_of, simulate
from controller.simulate.score import score
from controller.simulate.trace import bursty
from controller.simulate.workload import Arrival

ENDPOINTS = Settings(metric_informer=MetricInformer(type=Source.ENDPOINTS))
PROMETHEUS = Settings(metric_informer=MetricInformer(type=Source.PROMETHEUS))
RUNNING = "vllm:num_requests_running"
REMOTE = {"host": "remote.example.com"}
SECRET = {"secretRef": {"name": "nowhere", "key": "key"}}
LOAD = bursty(5, 1800, 2.0, ratio=4.0)
"""Needs 11 slots on average and about twice as many in a burst."""


def pods(name: str, target: float) -> dict[str, Any]:
    wanted = {"type": "AverageValue", "averageValue": str(target)}
    return {"type": "Pods", "pods": {"metric": {"name": name}, "target": wanted}}


def external(name: str, target: float) -> dict[str, Any]:
    wanted = {"type": "Value", "value": str(target)}
    return {"type": "External", "external": {"metric": {"name": name}, "target": wanted}}


def model(name: str = "llama", **offloading: Any) -> dict[str, Any]:
    spec = {
        "model": name,
        "modelSourceRef": {"kind": "Deployment", "name": name},
        "serviceRef": {"name": name, "targetPort": 80},
        "offloadingConfig": {"remoteBackend": REMOTE, **offloading},
    }
    api_version = "deployment.beamlit.com/v1alpha1"
    return {"apiVersion": api_version, "kind": "ModelDeployment", "metadata": {"name": name}, "spec": spec}


def endpoints(*ready: bool) -> list[dict[str, Any]]:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "llama"}, "spec": {"ports": [{"port": 80}]}}
    addresses = [{"addresses": [f"10.0.0.{n}"], "conditions": {"ready": each}} for n, each in enumerate(ready, 1)]
    metadata = {"name": "llama-1", "labels": {"kubernetes.io/service-name": "llama"}}
    endpoint_slice = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata}
    return [service, {**endpoint_slice, "addressType": "IPv4", "ports": [{"port": 8000}], "endpoints": addresses}]


def manifests(*objects: Mapping[str, Any]) -> tuple[Manifest, ...]:
    return read(PurePath("policy.json"), json.dumps({"kind": "List", "apiVersion": "v1", "items": objects})).manifests


def scenario(*objects: Mapping[str, Any], settings: Settings = ENDPOINTS, **servers: Any) -> Scenario:
    return scenario_of(manifests(*objects), settings, Servers(**servers))


def run(made: Scenario, load: list[Arrival] = LOAD) -> Outcome:
    return simulate(made, load, random.Random(1).random)


# What happens


def test_a_limit_sends_away_what_finds_local_full() -> None:
    outcome = run(scenario(model(localLimit={"maxConcurrentRequestsPerReplica": 18}), slots=16))
    result = score(outcome.served, outcome.decided)

    assert result.slo_attainment > 0.99
    assert 0.05 < result.remote_share < 0.25
    assert result.shifts_per_hour == result.moves_per_hour == 0


def test_a_metric_moves_a_share_and_takes_it_back() -> None:
    behavior = {"strategy": "Proportional", "activationSeconds": 1, "bufferSeconds": 5, "intervalSeconds": 1}
    outcome = run(scenario(model(metrics=[pods(RUNNING, 14)], behavior=behavior), slots=16))
    result = score(outcome.served, outcome.decided)

    assert {decided.state for decided in outcome.decided} == {State.STANDBY, State.OVERFLOWING}
    assert 0.1 < result.remote_share < 0.5
    assert result.slo_attainment > score(run(all_local(scenario(model(), slots=16))).served).slo_attainment + 0.2


def test_prometheus_tells_the_same_later() -> None:
    calm = [Arrival(float(second), 100, 100) for second in range(100)]
    load = [*calm, *(Arrival(100 + number / 10, 100, 100) for number in range(1000))]
    first = []
    for settings, metric in ((ENDPOINTS, RUNNING), (PROMETHEUS, f'sum({RUNNING}{{a="b"}})')):
        made = scenario(model(metrics=[external(metric, 14)], behavior={"percentage": 50}), settings=settings, slots=16)
        first.append(run(made, load).decided[1])

    direct, late = first
    assert direct.share_ppm == late.share_ppm == 500_000
    assert 100 + 5 < direct.at_s < late.at_s < direct.at_s + 15 + 5


def test_nothing_leaves_without_spillway() -> None:
    made = all_local(scenario(model(localLimit={"maxConcurrentRequestsPerReplica": 4}, behavior={"mode": "Force"})))

    assert score(run(made).served).remote_share == 0


def test_a_gateway_that_is_short_borrows_from_one_that_is_not() -> None:
    limited = model(localLimit={"maxConcurrentRequestsPerReplica": 18})
    one, lent, static = (
        score(run(scenario(limited, slots=16, **servers)).served)
        for servers in ({}, {"split": (9.0, 1.0)}, {"split": (9.0, 1.0), "leases": False})
    )

    assert one.remote_share < lent.remote_share < static.remote_share - 0.05
    assert min(lent.slo_attainment, static.slo_attainment) > 0.99


def test_the_same_dice_give_the_same_outcome() -> None:
    made = scenario(model(metrics=[pods(RUNNING, 14)], behavior={"percentage": 30}), slots=16, split=(1.0, 2.0))

    assert run(made) == run(made)


def test_what_a_real_remote_asks_for_is_taken_for_granted() -> None:
    remote = {**REMOTE, "scheme": "https", "authConfig": {"type": "apiKey", "apiKeyConfig": SECRET}}
    made = scenario(model(remoteBackend=remote, behavior={"mode": "Force", "percentage": 100}), slots=16)

    assert score(run(made).served).remote_share == 1


# What is given


@pytest.mark.parametrize(
    ("objects", "servers", "replicas"),
    [
        ([], {}, 1),
        ([], {"replicas": 3}, 3),
        (endpoints(True, True, False), {}, 2),
        (endpoints(True, True), {"replicas": 5}, 5),
        (endpoints(False), {}, 0),
    ],
)
def test_replicas_are_those_that_are_asked_for_or_ready(
    objects: list[dict[str, Any]], servers: dict[str, Any], replicas: int
) -> None:
    assert scenario(model(), *objects, slots=4, **servers).replicas == replicas


def test_without_a_ready_replica_everything_fails_over() -> None:
    outcome = run(scenario(model(), *endpoints(False), slots=4))

    assert outcome.decided[-1].state is State.FAILOVER
    assert score(outcome.served).remote_share == 1


def test_a_replica_has_as_many_slots_as_it_is_given_requests_if_nobody_says() -> None:
    limited = model(localLimit={"maxConcurrentRequestsPerReplica": 12})

    assert scenario(limited).slots == 12
    assert scenario(limited, slots=10).slots == 10
    with pytest.raises(ScenarioError, match="--slots: is needed"):
        scenario(model())


def test_there_must_be_exactly_one_model() -> None:
    with pytest.raises(ScenarioError, match="one ModelDeployment; found: none"):
        scenario(*endpoints(True))
    with pytest.raises(ScenarioError, match="found: default/llama, default/other"):
        scenario(model(), model("other"))


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (pods("my_queue", 3), "metrics[0]: a simulated server has no my_queue; say what it means: --signal my_queue="),
        (external("histogram_quantile(0.9, x)", 3), "metrics[0]: the simulation cannot evaluate histogram_quantile()"),
    ],
)
def test_a_metric_that_cannot_be_simulated_is_named(metric: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError) as raised:
        scenario(model(metrics=[metric]), settings=PROMETHEUS, slots=4)

    assert words in str(raised.value)


def test_a_metric_of_ones_own_can_be_given_a_meaning() -> None:
    made = scenario(model(metrics=[pods("my_load", 14)]), slots=16, meanings={"my_load": Signal.IN_PROGRESS})

    assert State.OVERFLOWING in {decided.state for decided in run(made).decided}


def test_a_metric_that_spillway_could_not_read_either_is_noted() -> None:
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    made = scenario(model(metrics=[{"type": "Resource", "resource": cpu}]), slots=4)

    assert len(made.notes) == 1
    assert "metrics[0]: stays unknown" in made.notes[0]


def test_a_model_without_a_remote_is_noted_unless_there_is_a_default() -> None:
    alone = model()
    del alone["spec"]["offloadingConfig"]["remoteBackend"]

    assert "nothing can leave" in scenario(alone, slots=4).notes[0]
    default = Settings.model_validate({"defaultRemoteBackend": REMOTE})
    assert scenario(alone, settings=default, slots=4).notes == ()


def test_policies_restrict_the_remotes_as_they_would_in_earnest() -> None:
    location = {"host": "remote.example.com", "location": {"country": "us"}}
    governed = model(remoteBackend=location, behavior={"mode": "Force"})
    governed["spec"]["policies"] = [{"refType": "localPolicy", "name": "where"}]

    def left(*countries: str) -> bool:
        locations = [{"type": "country", "name": each} for each in countries]
        policy = {"apiVersion": "authorization.beamlit.com/v1alpha1", "kind": "Policy", "metadata": {"name": "where"}}
        made = scenario(governed, {**policy, "spec": {"type": "location", "locations": locations}}, slots=4)
        return any(decided.share_ppm for decided in run(made).decided)

    assert (left("us"), left("fr")) == (True, False)
    assert "Policy default/where is in no file here" in scenario(governed, slots=4).notes[0]


def test_intervals_are_the_settings_unless_they_are_given() -> None:
    sampling = scenario(model(), slots=4).sampling
    assert (sampling.prometheus_s, sampling.endpoints_s) == (5.0, 1.0)

    sampling = scenario(model(), slots=4, interval_s=2.0).sampling
    assert sampling == replace(sampling, prometheus_s=2.0, endpoints_s=2.0)
