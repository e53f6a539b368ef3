"""What is done next about one Service, case by case; test_takeover_properties has what no order of events may break."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.events import Exposure, NewService
from controller.objects import MANAGER, EndpointSlice, GatewayPod, ServicePort, SliceEndpoint, SlicePort
from controller.takeover.actions import (
    DeleteEndpoints,
    DeleteShadow,
    DeleteSlice,
    EditPorts,
    EditService,
    EmptySlice,
    MakeService,
    PutShadow,
    PutSlice,
)
from controller.takeover.contest import PAUSE_S, Contest, Hold
from controller.takeover.plan import Condition, Step, is_routine, plan
from controller.takeover.world import BY_SELECTOR, MIRRORED, SETTLE_S, ServiceView, World

KEY, SHADOW = "ns/php", "ns/php-spillway-pods"
SELECTOR = {"app": "php"}
HTTP, METRICS = ServicePort(80, "http", "web"), ServicePort(9090, "metrics", 9090)
GATEWAY = GatewayPod("gateway-0", ("10.0.1.1",))
EXPOSURE = Exposure(KEY, 80, 20_000, (GATEWAY,))
NOW = 1_000.0

SERVICE = ServiceView(KEY, "uid-1", "7", (HTTP, METRICS), SELECTOR, writers=frozenset({"kubectl"}))
FOLLOWS = ServiceView(
    SHADOW,
    "uid-2",
    "8",
    (HTTP, METRICS),
    SELECTOR,
    headless=True,
    models="ns/model",
    shadow_of="php",
    owners=frozenset({"uid-1"}),
)


def slice_of(service: str, name: str, *pods: str, manager: str = BY_SELECTOR, ready: bool = True) -> EndpointSlice:
    ports = (SlicePort(8080, "http"), SlicePort(9090, "metrics"))
    endpoints = tuple(SliceEndpoint((pod,), ready=ready) for pod in pods)
    return EndpointSlice(f"{service}-{name}", service, "IPv4", ports, endpoints, manager)


OF_SERVICE = slice_of(KEY, "abc", "10.0.0.1")
OF_SHADOW = slice_of(SHADOW, "xyz", "10.0.0.1")
BEFORE = World(SERVICE, slices=(OF_SERVICE,), endpoints=True)


def next_step(seen: World, exposure: Exposure | None = EXPOSURE, contest: Contest | None = None) -> Step:
    wanted = {"ns/model": exposure} if exposure else {}
    return plan(seen, wanted, contest or Contest(), NOW)


def condition(step: Step) -> Condition:
    (only,) = step.conditions.values()
    return only


def ours(seen: World, exposure: Exposure = EXPOSURE) -> tuple[EndpointSlice, ...]:
    """The slices that are written next."""
    puts = [action for action in next_step(seen, exposure).actions if isinstance(action, PutSlice)]
    return tuple(put.slice for put in puts)


BESIDE = replace(BEFORE, shadow=FOLLOWS, shadow_slices=(OF_SHADOW,))
BESIDE = replace(BESIDE, slices=(OF_SERVICE, *ours(BESIDE)))
KEPT = replace(SERVICE, selector={}, writers=frozenset(), annotated=True, kept="app=php", kept_by_us=True)
MARKED = replace(KEPT, models="ns/model")
CUT = replace(BESIDE, service=MARKED)
TAKEN = replace(CUT, slices=CUT.ours, endpoints=False)


def test_first_a_shadow_collects_the_pods() -> None:
    step = next_step(BEFORE)
    assert step.actions == (PutShadow(SERVICE, SELECTOR, "ns/model"),)
    assert condition(step) == Condition("False", "InProgress", "Service ns/php is being taken over.")


def test_nothing_more_is_done_about_pods_until_kubernetes_has_looked_at_the_shadow() -> None:
    step = next_step(replace(BEFORE, shadow=FOLLOWS))
    assert [type(action) for action in step.actions] == [PutSlice]  # of gateways
    assert "php-spillway-pods has no EndpointSlice yet" in condition(step).message


def test_then_slices_of_ours_are_written_those_of_gateways_first() -> None:
    first, second = ours(replace(BEFORE, shadow=FOLLOWS, shadow_slices=(OF_SHADOW,)))
    assert (first.ports, first.endpoints) == ((SlicePort(20_000, "http"),), (SliceEndpoint(("10.0.1.1",)),))
    assert (second.ports, second.endpoints) == ((SlicePort(9090, "metrics"),), OF_SHADOW.endpoints)
    assert {first.managed_by, second.managed_by} == {MANAGER}


def test_the_selector_stays_until_the_shadow_has_what_the_service_has() -> None:
    late = replace(BESIDE, slices=(slice_of(KEY, "abc", "10.0.0.1", "10.0.0.2"), *BESIDE.ours))
    step = next_step(late)
    assert step.actions == ()
    assert "has not yet all of its ready endpoints" in condition(step).message
    unready = slice_of(KEY, "def", "10.0.0.2", ready=False)
    assert next_step(replace(BESIDE, slices=(*BESIDE.slices, unready))).actions != ()


def test_then_the_selector_goes_into_the_annotation() -> None:
    annotations = {"spillway.dev/selector": "app=php", "spillway.dev/model": "ns/model"}
    assert next_step(BESIDE).actions == (EditService(SERVICE, {}, annotations),)


def test_then_what_kubernetes_left_goes_endpoints_first() -> None:
    mirrored = slice_of(KEY, "mirrored", "10.0.0.1", manager=MIRRORED)
    seen = replace(CUT, slices=(*CUT.slices, mirrored))
    assert next_step(seen).actions == (DeleteEndpoints(KEY), DeleteSlice(OF_SERVICE.key), DeleteSlice(mirrored.key))


def test_a_slice_that_kubernetes_has_just_written_is_only_emptied_until_its_writer_knows_of_it() -> None:
    """Else its controller waits for it for ever, and writes no more slices of that Service."""
    fresh = replace(OF_SERVICE, version="41", written_s=NOW - 1.0)
    step = next_step(replace(CUT, slices=(fresh, *CUT.ours)))
    assert step.actions == (DeleteEndpoints(KEY), EmptySlice(OF_SERVICE.key, "41"))
    assert condition(step).reason == "InProgress"

    seen = replace(TAKEN, slices=(replace(fresh, version="42", endpoints=(), written_s=NOW), *CUT.ours))
    step = next_step(seen)
    assert (step.actions, condition(step).reason, step.wake_at) == ((), "InProgress", NOW + SETTLE_S)
    later = plan(seen, {"ns/model": EXPOSURE}, Contest(), NOW + SETTLE_S)
    assert later.actions == (DeleteSlice(OF_SERVICE.key, "42"),)


def test_a_copy_of_the_endpoints_goes_at_once() -> None:
    """Its controller forgets what it waits for when the Endpoints go."""
    copied = replace(slice_of(KEY, "mirrored", "10.0.0.1", manager=MIRRORED), written_s=NOW)
    assert next_step(replace(TAKEN, slices=(copied, *TAKEN.slices))).actions == (DeleteSlice(copied.key),)


def test_then_there_is_nothing_to_do() -> None:
    step = next_step(TAKEN)
    assert step.actions == ()
    assert step.wake_at is None
    words = "Callers of Service ns/php, port 80, reach the gateway."
    assert condition(step) == Condition("True", "TakenOver", words)


def test_without_a_gateway_callers_reach_the_pods_on_all_ports() -> None:
    nobody = replace(EXPOSURE, gateways=())
    (written,) = ours(TAKEN, nobody)
    assert written.ports == OF_SHADOW.ports
    step = next_step(TAKEN, nobody)
    assert [type(action) for action in step.actions] == [PutSlice, DeleteSlice]
    done = replace(TAKEN, slices=(written,))
    assert (condition(next_step(done, nobody)).status, condition(next_step(done, nobody)).reason) == (
        "True",
        "NoGateway",
    )


def test_a_changed_pod_changes_one_slice() -> None:
    seen = replace(TAKEN, shadow_slices=(slice_of(SHADOW, "xyz", "10.0.0.1", "10.0.0.9"),))
    step = next_step(seen)
    (put,) = step.actions
    assert isinstance(put, PutSlice)
    assert [endpoint.addresses for endpoint in put.slice.endpoints] == [("10.0.0.1",), ("10.0.0.9",)]
    assert is_routine(step, seen, step.contest)


def test_only_endpoints_that_come_and_go_are_routine() -> None:
    contest = next_step(TAKEN).contest
    assert is_routine(next_step(TAKEN, contest=contest), TAKEN, contest)
    assert is_routine(next_step(TAKEN), TAKEN, Contest())
    assert not is_routine(next_step(TAKEN, replace(EXPOSURE, gateways=()), contest), TAKEN, contest)
    assert not is_routine(next_step(CUT, contest=contest), CUT, contest)


def test_two_models_may_have_a_port_each() -> None:
    wanted = {"ns/a": EXPOSURE, "ns/b": Exposure(KEY, 9090, 20_001, (GATEWAY,))}
    shadow = replace(FOLLOWS, models="ns/a,ns/b")
    step = plan(replace(BESIDE, shadow=shadow), wanted, Contest(), NOW)
    written = {each.slice.ports for each in step.actions if isinstance(each, PutSlice)}
    assert written == {(SlicePort(20_001, "metrics"),)}
    assert set(step.conditions) == {"ns/a", "ns/b"}


def test_a_model_that_cannot_have_its_port_does_not_keep_another_from_its_own() -> None:
    wanted = {"ns/model": EXPOSURE, "ns/other": replace(EXPOSURE, port=99)}
    step = plan(TAKEN, wanted, Contest(), NOW)
    assert step.actions == ()
    assert {key: each.reason for key, each in step.conditions.items()} == {
        "ns/model": "TakenOver",
        "ns/other": "PortNotFound",
    }


# Giving it back


def test_back_comes_the_selector_first() -> None:
    assert next_step(TAKEN, None).actions == (EditService(MARKED, SELECTOR),)


@pytest.mark.parametrize("slices", [(), (slice_of(KEY, "abc"),), (slice_of(KEY, "abc", "10.0.0.1", ready=False),)])
def test_ours_stay_until_kubernetes_has_written_its_own(slices: tuple[EndpointSlice, ...]) -> None:
    service = replace(MARKED, selector=SELECTOR, writers=frozenset({MANAGER}))
    assert next_step(replace(TAKEN, service=service, slices=(*slices, *TAKEN.ours)), None).actions == ()


def test_then_everything_of_ours_goes_the_annotations_last() -> None:
    service = replace(MARKED, selector=SELECTOR, writers=frozenset({MANAGER}))
    seen = replace(TAKEN, service=service, slices=(OF_SERVICE, *TAKEN.ours))
    *slices, shadow, edit = next_step(seen, None).actions
    assert slices == [DeleteSlice(each.key) for each in TAKEN.ours]
    assert shadow == DeleteShadow(SHADOW, "uid-2")
    annotations = {"spillway.dev/model": None, "spillway.dev/selector": None}
    assert edit == EditService(service, annotations=annotations, disown=True)


def test_a_service_that_nothing_is_wanted_of_and_nothing_was_done_to_is_left_alone() -> None:
    assert next_step(BEFORE, None) == Step()
    declared = replace(KEPT, kept_by_us=False)
    assert next_step(replace(BEFORE, service=declared), None) == Step()


def test_what_the_user_wrote_in_the_annotation_stays() -> None:
    service = replace(SERVICE, kept="app=php", models="ns/model")
    (edit,) = next_step(replace(BEFORE, service=service), None).actions
    assert edit == EditService(service, annotations={"spillway.dev/model": None}, disown=True)


def test_that_we_wrote_the_selector_is_forgotten_last() -> None:
    service = replace(SERVICE, writers=frozenset({MANAGER}))
    assert next_step(replace(BEFORE, service=service), None).actions == (EditService(service, disown=True),)


def test_slices_of_somebody_elses_service_are_not_waited_for() -> None:
    stranger = replace(FOLLOWS, shadow_of=None)
    seen = replace(BESIDE, shadow=stranger, shadow_slices=(slice_of(SHADOW, "xyz", "10.0.0.77"),))
    assert next_step(seen, None).actions == tuple(DeleteSlice(each.key) for each in BESIDE.ours)


def test_a_service_that_became_a_name_in_dns_gets_no_selector_back() -> None:
    service = replace(MARKED, type="ExternalName")
    assert not any(
        isinstance(each, EditService) and each.selector for each in next_step(replace(TAKEN, service=service)).actions
    )


def test_what_a_service_that_is_gone_left_behind_goes_too() -> None:
    step = next_step(replace(TAKEN, service=None))
    assert step.actions == (*(DeleteSlice(each.key) for each in TAKEN.ours), DeleteShadow(SHADOW, "uid-2"))
    assert condition(step) == Condition("False", "ServiceNotFound", "There is no Service ns/php.")


# A shadow that was just made


NEW_SHADOW = replace(FOLLOWS, uid="uid-3", created_s=NOW - 1)
FEWER = slice_of(SHADOW, "uvw", "10.0.0.2")
ANEW = replace(TAKEN, shadow=NEW_SHADOW, shadow_slices=(FEWER,))
"""Of the pods 10.0.0.1 and 10.0.0.2 it shows one."""


def test_what_a_new_shadow_does_not_show_stays_until_it_has_settled() -> None:
    step = next_step(ANEW)
    (put,) = step.actions
    assert isinstance(put, PutSlice)
    assert put.slice.endpoints == FEWER.endpoints
    assert "has not yet all of its ready endpoints" in condition(step).message
    seen = replace(ANEW, slices=(*ANEW.slices, put.slice))
    assert next_step(seen).actions == ()
    assert next_step(seen).wake_at == NEW_SHADOW.created_s + SETTLE_S
    gone = next(each.key for each in TAKEN.ours if each.endpoints == OF_SHADOW.endpoints)
    assert next_step(replace(seen, shadow=FOLLOWS)).actions == (DeleteSlice(gone),)
    moved = slice_of(SHADOW, "rst", "10.0.0.1")
    *_, delete = next_step(replace(seen, shadow_slices=(FEWER, moved))).actions
    assert delete == DeleteSlice(gone)


def test_what_it_shows_counts_at_once() -> None:
    unready = slice_of(SHADOW, "rst", "10.0.0.1", ready=False)
    deleted = [each for each in next_step(replace(ANEW, shadow_slices=(unready,))).actions if type(each) is DeleteSlice]
    assert len(deleted) == 1
    another = GatewayPod("gateway-1", ("10.0.1.2",))
    gateways, _ = next_step(ANEW, replace(EXPOSURE, gateways=(another,))).actions
    assert isinstance(gateways, PutSlice)
    assert gateways.slice.endpoints == (SliceEndpoint(another.addresses),)


def test_the_last_gateways_stay_until_it_has_settled() -> None:
    step = next_step(ANEW, replace(EXPOSURE, gateways=()))
    assert [type(each) for each in step.actions] == [PutSlice]


def test_stale_slices_stay_unless_it_shows_all_they_have() -> None:
    seen = replace(CUT, shadow=NEW_SHADOW, slices=(slice_of(KEY, "abc", "10.0.0.1", "10.0.0.2"), *CUT.ours))
    assert next_step(seen).actions == ()
    assert next_step(replace(seen, shadow=FOLLOWS)).actions != ()
    assert next_step(replace(CUT, shadow=NEW_SHADOW)).actions != ()


@pytest.mark.parametrize("shadow_slices", [(), (OF_SHADOW,)])
def test_nothing_is_given_back_before_it_has_settled(shadow_slices: tuple[EndpointSlice, ...]) -> None:
    service = replace(MARKED, selector=SELECTOR, writers=frozenset({MANAGER}))
    seen = replace(TAKEN, service=service, slices=(OF_SERVICE, *TAKEN.ours), shadow=NEW_SHADOW)
    seen = replace(seen, shadow_slices=shadow_slices)
    step = next_step(seen, None)
    assert step.actions == ()
    assert step.wake_at == (NEW_SHADOW.created_s + SETTLE_S if shadow_slices else None)
    assert bool(next_step(replace(seen, shadow=FOLLOWS), None).actions) == bool(shadow_slices)


def test_one_that_was_deleted_while_a_service_is_given_back_is_made_anew() -> None:
    service = replace(MARKED, selector=SELECTOR, writers=frozenset({MANAGER}))
    seen = replace(TAKEN, service=service, slices=(OF_SERVICE, *TAKEN.ours), shadow=None, shadow_slices=())
    assert next_step(seen, None).actions == (PutShadow(service, SELECTOR, "ns/model"),)


@pytest.mark.parametrize("ahead_s", [-3_600, 3_600])
def test_clocks_that_differ_hold_nothing_up(ahead_s: float) -> None:
    seen = replace(ANEW, shadow=replace(NEW_SHADOW, created_s=NOW + ahead_s))
    assert any(isinstance(each, DeleteSlice) for each in next_step(seen).actions)
    assert next_step(seen).wake_at is None


# What is different meanwhile


def test_the_shadow_of_a_service_that_was_made_anew_is_made_anew() -> None:
    seen = replace(BESIDE, shadow=replace(FOLLOWS, owners=frozenset({"uid-0"})))
    assert next_step(seen).actions == (DeleteShadow(SHADOW, "uid-2"),)


@pytest.mark.parametrize(
    "different",
    [
        {"selector": {"app": "other"}},
        {"ports": (HTTP,)},
        {"owners": frozenset[str]()},
        {"families": ("IPv6",)},
        {"not_ready_too": True},
        {"shadow_of": "another"},
        {"models": "ns/another"},
    ],
)
def test_a_shadow_that_is_not_as_it_should_be_is_put_right(different: dict[str, object]) -> None:
    shadow = replace(FOLLOWS, **different)  # type: ignore[arg-type]
    assert next_step(replace(TAKEN, shadow=shadow)).actions == (PutShadow(MARKED, SELECTOR, "ns/model"),)


def test_the_selector_is_known_as_long_as_one_place_has_it() -> None:
    bare = replace(SERVICE, selector={}, writers=frozenset())
    (edit,) = next_step(replace(TAKEN, service=bare)).actions
    assert isinstance(edit, EditService)
    assert edit.annotations["spillway.dev/selector"] == "app=php"
    assert next_step(replace(TAKEN, service=bare), None).actions == (EditService(bare, SELECTOR),)
    assert next_step(replace(TAKEN, shadow=None, shadow_slices=())).actions == (
        PutShadow(MARKED, SELECTOR, "ns/model"),
    )


def test_a_shadow_of_another_life_knows_nothing() -> None:
    bare = replace(SERVICE, selector={}, writers=frozenset())
    seen = replace(TAKEN, service=bare, shadow=replace(FOLLOWS, owners=frozenset({"uid-0"})))
    assert condition(next_step(seen)).reason == "NoSelector"


def test_a_selector_put_back_is_taken_after_a_pause_that_names_who_did_it() -> None:
    held = next_step(TAKEN).contest
    assert held.hold is Hold.OURS
    service = replace(SERVICE, writers=frozenset({"argocd-controller"}), kept="app=php", models="ns/model")
    step = next_step(replace(BESIDE, service=service), contest=held)
    assert step.actions == ()
    assert not is_routine(step, BESIDE, held)
    assert step.wake_at == NOW + PAUSE_S
    words = "argocd-controller put spec.selector of Service ns/php back; it is taken over again in 5 s."
    assert condition(step) == Condition("False", "SelectorPutBack", words)


# Services of our own making


NEW = NewService("model", "uid-m", SELECTOR, (ServicePort(80, "http", "web"), ServicePort(9090, "metrics")))
TO_MAKE = replace(EXPOSURE, make=NEW, owner_uid="uid-m")


def test_a_service_is_made_where_none_is_named() -> None:
    assert next_step(World(), TO_MAKE).actions == (MakeService(KEY, NEW),)
    assert next_step(World()).actions == ()


def test_one_that_is_there_and_not_ours_is_not_touched() -> None:
    step = next_step(BEFORE, TO_MAKE)
    assert step.actions == ()
    assert condition(step).reason == "ServiceExists"


def test_one_of_ours_is_kept_as_the_workload_has_it() -> None:
    made = replace(SERVICE, owners=frozenset({"uid-m"}), writers=frozenset({MANAGER}))
    assert next_step(replace(BEFORE, service=made), TO_MAKE).actions == (PutShadow(made, SELECTOR, "ns/model"),)
    fewer = replace(NEW, ports=(HTTP,))
    assert next_step(replace(BEFORE, service=made), replace(TO_MAKE, make=fewer)).actions == (EditPorts(made, (HTTP,)),)
    other = replace(TO_MAKE, make=replace(NEW, selector={"app": "new"}))
    assert next_step(replace(BEFORE, service=made), other).actions == (EditService(made, {"app": "new"}),)
    kept = replace(made, selector={}, kept="app=php", kept_by_us=True, models="ns/model")
    assert next_step(replace(TAKEN, service=kept), other).actions == (
        EditService(kept, annotations={"spillway.dev/selector": "app=new"}),
    )
