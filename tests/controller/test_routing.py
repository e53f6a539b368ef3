"""From a model and a decision to a route: shares, fallbacks, hosts, remotes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.offload import PPM, Decision, State
from controller.routing import RemoteState, divide, hosts_of, policy_of, remote_of, route, service_key_of
from tests.controller.manifests import Json, model, model_from, model_manifest
from xds import ir

HALF = Decision(State.OVERFLOWING, share_ppm=PPM // 2)
STANDBY = Decision(State.STANDBY)
FAILOVER = Decision(State.FAILOVER, share_ppm=PPM)
LOCAL = ir.Local((ir.Endpoint("10.0.0.1", 8000),))


def resting(decision: Decision, *rests: bool, **offloading: Any) -> list[tuple[str, int, tuple[str, ...]]]:
    """The chains when these remotes rest and the others are ready."""
    spec = model(**offloading)
    remotes = [replace(r, ready=not rest, rests=rest) for r, rest in zip(remotes_of(spec), rests, strict=True)]
    return chains(route(spec, decision, hosts_of(spec, service_key_of(spec)), LOCAL, remotes))


def remotes_of(spec: Any, *ready: bool) -> list[RemoteState]:
    configured = spec.spec.offloading_config.remotes
    flags = ready or (True,) * len(configured)
    return [RemoteState(r, remote_of(r, spec, "ws", None, None), ok) for r, ok in zip(configured, flags, strict=True)]


def made(decision: Decision, *ready: bool, **offloading: Any) -> ir.Route:
    spec = model(**offloading)
    return route(spec, decision, hosts_of(spec, service_key_of(spec)), LOCAL, remotes_of(spec, *ready))


def hosts(manifest: Json) -> tuple[str, ...]:
    spec = model_from(manifest)
    return hosts_of(spec, service_key_of(spec))


def chains(found: ir.Route) -> list[tuple[str, int, tuple[str, ...]]]:
    return [(chain.first, chain.weight_ppm, chain.fallbacks) for chain in found.chains]


TWO = [{"name": "a", "host": "a.example.com", "weight": 3}, {"name": "b", "host": "b.example.com"}]
BACKUP = [{"name": "a", "host": "a.example.com"}, {"name": "b", "host": "b.example.com", "priority": 1}]


@given(st.integers(0, PPM), st.lists(st.integers(1, 1000), min_size=1, max_size=8))
def test_parts_add_up_and_are_proportional(total: int, weights: list[int]) -> None:
    parts = divide(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * weight / sum(weights)) < 1


def test_standby_sends_everything_to_local_and_falls_back_to_the_remote() -> None:
    assert chains(made(STANDBY)) == [("local", PPM, ("remote-0",))]


def test_a_share_is_divided_by_weight_and_each_falls_back_to_the_others() -> None:
    assert chains(made(HALF, remoteBackends=TWO)) == [
        ("local", 500_000, ("remote-0", "remote-1")),
        ("remote-0", 375_000, ("remote-1", "local")),
        ("remote-1", 125_000, ("remote-0", "local")),
    ]


def test_a_backup_remote_gets_no_share_while_a_preferred_one_is_ready() -> None:
    assert chains(made(HALF, remoteBackends=BACKUP)) == [
        ("local", 500_000, ("remote-0", "remote-1")),
        ("remote-0", 500_000, ("remote-1", "local")),
    ]


def test_a_backup_remote_takes_the_share_when_the_preferred_one_is_not_ready() -> None:
    assert chains(made(HALF, False, True, remoteBackends=BACKUP)) == [
        ("local", 500_000, ("remote-1",)),
        ("remote-1", 500_000, ("local",)),
    ]


def test_weight_0_makes_a_remote_a_fallback_only() -> None:
    zero = [{"name": "a", "host": "a.example.com", "weight": 0}, {"name": "b", "host": "b.example.com"}]
    assert chains(made(HALF, remoteBackends=zero)) == [
        ("local", 500_000, ("remote-1", "remote-0")),
        ("remote-1", 500_000, ("remote-0", "local")),
    ]


def test_a_remote_of_weight_0_takes_the_share_when_it_is_the_only_ready_one() -> None:
    only = [{"name": "a", "host": "a.example.com", "weight": 0}]
    assert chains(made(HALF, remoteBackends=only))[1] == ("remote-0", 500_000, ("local",))


def test_no_ready_remote_keeps_everything_local_whatever_the_decision_says() -> None:
    assert chains(made(FAILOVER, False)) == [("local", PPM, ())]


def test_failover_leaves_local_out() -> None:
    assert chains(made(FAILOVER)) == [("remote-0", PPM, ())]
    assert chains(made(FAILOVER, remoteBackends=TWO)) == [
        ("remote-0", 750_000, ("remote-1",)),
        ("remote-1", 250_000, ("remote-0",)),
    ]


def test_a_remote_that_rests_comes_behind_everything_else() -> None:
    assert resting(STANDBY, True) == [("local", PPM, ("remote-0",))]
    assert resting(HALF, True) == [("local", PPM, ("remote-0",))]
    assert resting(HALF, True, False, remoteBackends=TWO) == [
        ("local", 500_000, ("remote-1", "remote-0")),
        ("remote-1", 500_000, ("local", "remote-0")),
    ]


def test_in_failover_resting_remotes_share_the_traffic_only_when_no_other_is_ready() -> None:
    assert resting(FAILOVER, True, False, remoteBackends=TWO) == [("remote-1", PPM, ("remote-0",))]
    assert resting(FAILOVER, True, True, remoteBackends=TWO) == [
        ("remote-0", 750_000, ("remote-1",)),
        ("remote-1", 250_000, ("remote-0",)),
    ]


def test_a_mode_that_moves_nothing_has_no_last_resort_either() -> None:
    assert resting(STANDBY, True, behavior={"mode": "Off"}) == [("local", PPM, ())]


@pytest.mark.parametrize("mode", ["Off", "DryRun"])
def test_modes_that_move_nothing_have_no_fallbacks_either(mode: str) -> None:
    assert chains(made(STANDBY, behavior={"mode": mode})) == [("local", PPM, ())]


def test_defect_16_a_disabled_model_keeps_all_its_traffic_local() -> None:
    manifest = model_manifest()
    manifest["spec"]["enabled"] = False
    spec = model_from(manifest)
    assert policy_of(spec).mode == "Off"
    assert chains(route(spec, STANDBY, (), LOCAL, remotes_of(spec))) == [("local", PPM, ())]


def test_defect_16_percentage_0_stays_0() -> None:
    assert policy_of(model(behavior={"percentage": 0})).ceiling_ppm == 0


def test_callers_may_use_every_name_of_the_service_and_the_models_own() -> None:
    manifest = model_manifest(namespace="Prod".lower())
    manifest["spec"]["model"] = "Llama-3"
    assert hosts(manifest) == (
        "llama",
        "llama-3",
        "llama.prod",
        "llama.prod.svc",
        "llama.prod.svc.cluster.local",
    )


def test_a_model_name_that_cannot_be_a_host_is_left_out() -> None:
    manifest = model_manifest()
    manifest["spec"]["model"] = "meta-llama/Llama-3"
    assert "llama" in hosts(manifest)
    assert not any("/" in host for host in hosts(manifest))


def test_the_path_prefix_knows_workspace_and_model() -> None:
    spec = model(remoteBackend={"host": "run.example.com", "scheme": "https", "pathPrefix": "/$workspace/$model/"})
    remote = remote_of(spec.spec.offloading_config.remotes[0], spec, "team", None, None)
    assert remote.path_prefix == "/team/llama"
    assert remote.authority == "run.example.com"
    assert remote.backend.port == 443
    assert remote.backend.tls == ir.Tls(sni="run.example.com", san="run.example.com")
    assert remote.backend.protocol is ir.Protocol.AUTO


def test_what_a_name_brings_into_the_path_cannot_end_it() -> None:
    manifest = model_manifest(remoteBackend={"host": "r.example.com", "pathPrefix": "/v1/$model"})
    manifest["spec"]["model"] = "org/my model?x=1 #2\n$workspace"
    spec = model_from(manifest)
    remote = remote_of(spec.spec.offloading_config.remotes[0], spec, "team", None, None)
    assert remote.path_prefix == "/v1/org/my%20model%3Fx%3D1%20%232%0A%24workspace"


def test_headers_are_lower_case_and_in_a_fixed_order() -> None:
    spec = model(remoteBackend={"host": "r.example.com", "headersToAdd": {"X-B": "2", "X-A": "1"}})
    remote = remote_of(spec.spec.offloading_config.remotes[0], spec, "ws", None, None)
    assert remote.backend.headers == (("x-a", "1"), ("x-b", "2"))


def test_retry_and_affinity_are_taken_over() -> None:
    found = made(STANDBY, retry={"attempts": 0, "statusCodes": [429, 503]}, sessionAffinity={"header": "X-Session"})
    assert found.retry == ir.Retry(attempts=0, status_codes=(429, 503))
    assert found.affinity_header == "x-session"
