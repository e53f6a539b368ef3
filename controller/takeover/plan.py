"""Pure: what to do next so that the callers of a Service reach the gateway, or what they reached before.

Theory
------
Kubernetes sends callers of a Service to the union of its EndpointSlices, whoever wrote them. While the Service has a
selector its controller writes them; without one nobody does, but nobody removes them either: the last ones stay, stale
for ever, and so does the Endpoints object, which another controller then copies into one more slice.

    free     selector, the controller's slices
    beside   the same, and ours: callers reach pods and gateway
    cut      no selector (an annotation keeps it); stale slices and ours
    taken    no selector; only ours

    free -> beside    a shadow Service with the same selector collects the pods; from its slices ours are written
    beside -> cut     one patch moves the selector into the annotation; not before all slices of ours are there, and the
                      shadow's have every endpoint that the Service's own have ready
    cut -> taken      Endpoints first, or its copy would come back; then every slice of the two controllers, for as long
                      as the Service is taken: a controller with a stale cache may write one more
    taken -> beside   one patch puts the selector back
    beside -> free    ours go, not before the controller's slices have every endpoint that the shadow's have ready; then
                      the shadow, then the annotations

A shadow that was just made shows its pods bit by bit. Until it has settled, only what it shows counts, not what it does
not show: an endpoint of which it says nothing stays, stale slices stay unless all they have is shown, and nothing is
given back. So a shadow that somebody deletes is made anew without any harm, even while a Service is given back.

No step removes an endpoint unless another that serves is there, so no order of stops and starts loses a caller. Nothing
is remembered of what was done (but how often somebody else undid it, see `contest`): each plan starts from what is
there, so a crash after any action, a lost answer, or somebody's edit is just another beginning. What is there is always
enough to go back: the selector stands in the Service, else in the annotation, else in the shadow; our slices and the
shadow are known by their labels, and the annotations go last.

A stale slice that was written only just now is emptied at first, and deleted later. Its controller notes what it wrote
when it has the answer; if the slice is gone by then, it waits for it for ever and writes no more slices of that
Service.

Patches hold only for the very version of what was seen, and a stale slice is deleted in no other. A cache may still
show slices that are gone: what is planned on one is done only if it `is_routine`, else planned once more on what the
API server says.

A Service that its user wrote without selector, with the annotation in its place, is `cut` from the beginning; nobody
will ever put a selector back. When such a Service is given back it gets the selector, since its callers should
be served; the annotation, being the user's, stays.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

from controller.events import Exposure
from controller.objects import MANAGER, SELECTOR_ANNOTATION, ServicePort, shadow_key
from controller.takeover.actions import (
    Action,
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
from controller.takeover.contest import Contest, Hold, watch
from controller.takeover.obstacles import Obstacle, obstacle_of, port_of, selector_behind
from controller.takeover.slices import covers, desired_slices, unshown
from controller.takeover.world import (
    BY_SELECTOR,
    MIRRORED,
    MODEL_ANNOTATION,
    SETTLE_S,
    ServiceView,
    World,
    managed_by,
    selector_of,
    selector_text,
)

_LACKS = "has not yet all of its ready endpoints"


@dataclass(frozen=True, slots=True)
class Condition:
    """Of the type ServiceTakenOver. `status`: 'True' or 'False'."""

    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now, in this order and only while each succeeds; then plan again. `conditions`: by model. `wake_at`:
    when time alone changes the plan. Without actions, it is done, or waits for Kubernetes or for time.
    """

    actions: tuple[Action, ...] = ()
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    contest: Contest = field(default_factory=Contest)
    wake_at: float | None = None


def is_routine(step: Step, seen: World, contest: Contest) -> bool:
    """Whether a step that was planned on what a cache shows may be taken: it does nothing, or endpoints come and go in
    slices of ours; and it does not hold anybody to have put a selector back.
    """
    ports = {each.key: each.ports for each in seen.ours}
    accuses = step.contest.hold is Hold.LOST and step.contest != contest
    return not accuses and all(
        isinstance(action, PutSlice) and ports.get(action.slice.key) == action.slice.ports for action in step.actions
    )


def plan(seen: World, wanted: Mapping[str, Exposure], contest: Contest, now: float) -> Step:
    """The next step for one Service. `wanted`: by model, what is wanted of it; empty: that it is as it was before.
    `contest`: that of the last plan. `now`: seconds since the epoch.
    """
    service = seen.service
    if service is None:
        return _without_service(seen, wanted)
    obstacles = {model: obstacle_of(seen, exposure) for model, exposure in sorted(wanted.items())}
    conditions = {model: _refused(obstacle) for model, obstacle in obstacles.items() if obstacle is not None}
    granted = {model: wanted[model] for model, obstacle in obstacles.items() if obstacle is None}
    if not granted:
        return Step(_give_back(seen, now), conditions, wake_at=seen.settles_at_s(now))
    contest = watch(contest, service, _terms(seen, granted), now)
    retake_at = contest.retake_at_s if contest.retake_at_s > now else None
    waiting: Condition | None
    if contest.is_given_up(now):
        actions, waiting = _give_back(seen, now), _contested(service, contest)
    elif service.selector and retake_at is not None:
        actions, waiting = _stand_beside(seen, granted, now)[0], _put_back(service, contest, retake_at - now)
    else:
        actions, waiting = _take(seen, granted, now)
    if actions and waiting is None:
        waiting = _in_progress(service)
    for model, exposure in granted.items():
        conditions[model] = waiting or _taken(service, exposure)
    ages = [each.written_s + SETTLE_S for each in seen.fresh(now)]
    wake_at = min((at for at in (retake_at, seen.settles_at_s(now), *ages) if at is not None), default=None)
    return Step(actions, conditions, contest, wake_at)


def _without_service(seen: World, wanted: Mapping[str, Exposure]) -> Step:
    conditions = {
        model: Condition("False", "ServiceNotFound", f"There is no Service {exposure.service}.")
        for model, exposure in wanted.items()
    }
    makes = [MakeService(each.service, each.make) for _, each in sorted(wanted.items()) if each.make is not None]
    return Step((*_remove(seen), *makes[:1]), conditions)


def _take(seen: World, granted: Mapping[str, Exposure], now: float) -> tuple[tuple[Action, ...], Condition | None]:
    """One step towards `taken`, and what it waits for."""
    service = _service(seen)
    actions, waiting = _stand_beside(seen, granted, now)
    if actions or waiting is not None:
        return actions, waiting
    if service.selector and not covers(seen.pods, seen.selected):
        return (), _in_progress(service, f"{shadow_key(service.key)} {_LACKS}")
    selector = selector_behind(seen)
    annotations: dict[str, str | None] = {}
    if service.kept is None or selector_of(service.kept) != selector:
        annotations[SELECTOR_ANNOTATION] = selector_text(selector or {})
    if service.models != (models := ",".join(granted)):
        annotations[MODEL_ANNOTATION] = models
    if service.selector or annotations:
        return (EditService(service, {} if service.selector else None, annotations),), None
    stale = managed_by(seen.slices, BY_SELECTOR, MIRRORED)
    if not seen.is_settled(now) and not covers(seen.pods, stale):
        return (), _in_progress(service, f"{shadow_key(service.key)} {_LACKS}")
    endpoints = (DeleteEndpoints(service.key),) if seen.endpoints else ()
    fresh = seen.fresh(now)
    empties = (EmptySlice(each.key, each.version) for each in fresh if each.endpoints)
    deletes = (DeleteSlice(each.key, each.version) for each in stale if each not in fresh)
    return (*endpoints, *empties, *deletes), _in_progress(service) if fresh else None


def _stand_beside(
    seen: World, granted: Mapping[str, Exposure], now: float
) -> tuple[tuple[Action, ...], Condition | None]:
    """One step towards `beside`, or towards what is to be there once it is left, and what it waits for."""
    service, shadow, selector = _service(seen), seen.shadow, selector_behind(seen) or {}
    if actions := _as_made(service, granted):
        return actions, None
    if shadow is not None and shadow.owners - {service.uid}:
        return (DeleteShadow(shadow.key, shadow.uid),), None
    models = ",".join(granted)
    if shadow is None or not _follows(shadow, service, selector, models):
        return (PutShadow(service, selector, models),), None
    taken = {port: each for each in granted.values() if isinstance(port := port_of(service, each), ServicePort)}
    desired = {each.key: each for each in desired_slices(service, seen.pods, taken)}
    ours = {each.key: each for each in seen.ours}
    leaving = [each for key, each in ours.items() if key not in desired]
    held = {} if seen.is_settled(now) else {each.key: each for each in unshown(leaving, seen.pods)}
    desired |= held
    puts = tuple(PutSlice(service, each) for key, each in desired.items() if ours.get(key) != each)
    deletes = tuple(DeleteSlice(key) for key in ours if key not in desired)
    lacks = "has no EndpointSlice yet" if not seen.pods else _LACKS if held else ""
    return (*puts, *deletes), _in_progress(service, f"{shadow.key} {lacks}") if lacks else None


def _give_back(seen: World, now: float) -> tuple[Action, ...]:
    """One step towards `free`; none if it is, or has to wait for Kubernetes."""
    service = _service(seen)
    if not seen.is_touched:
        return ()
    if service.type != "ExternalName":  # whose slices nobody writes
        if not service.selector and (selector := selector_behind(seen)):
            return (EditService(service, selector),)
        if service.selector and seen.ours and (waits := _wait_for_pods(seen, now)) is not None:
            return waits
    annotations: dict[str, str | None] = {}
    if service.models is not None:
        annotations[MODEL_ANNOTATION] = None
    if service.kept_by_us:
        annotations[SELECTOR_ANNOTATION] = None
    wrote = annotations or MANAGER in service.writers
    edit = (EditService(service, annotations=annotations, disown=True),) if wrote else ()
    return (*_remove(seen), *edit)


def _wait_for_pods(seen: World, now: float) -> tuple[Action, ...] | None:
    """None once the Service's own slices have what its shadow's have."""
    service, shadow = _service(seen), seen.shadow
    if shadow is not None and not seen.owns_shadow:
        return None if seen.selected else ()  # and nobody can say whether these are all
    if shadow is None or (shadow.selector, shadow.ports) != (service.selector, service.ports):
        return (PutShadow(service, service.selector, (shadow or service).models or ""),)
    return None if seen.selected and seen.is_settled(now) and covers(seen.selected, seen.pods) else ()


def _remove(seen: World) -> tuple[Action, ...]:
    shadow = (DeleteShadow(seen.shadow.key, seen.shadow.uid),) if seen.shadow and seen.owns_shadow else ()
    return (*(DeleteSlice(each.key) for each in seen.ours), *shadow)


def _as_made(service: ServiceView, granted: Mapping[str, Exposure]) -> tuple[Action, ...]:
    """What a Service of our own making lacks."""
    for new in (each.make for each in granted.values() if each.make is not None):
        ports = tuple(replace(port, target_port=port.target_port or port.port) for port in new.ports)
        if service.ports != ports:
            return (EditPorts(service, ports),)
        if service.selector and service.selector != new.selector:
            return (EditService(service, new.selector),)
        if not service.selector and selector_of(service.kept or "") != new.selector:
            return (EditService(service, annotations={SELECTOR_ANNOTATION: selector_text(new.selector)}),)
    return ()


def _follows(shadow: ServiceView, service: ServiceView, selector: Mapping[str, str], models: str) -> bool:
    """Whether it collects the pods of the Service, as the Service itself would, and says for whom."""
    return (
        shadow.selector == selector
        and shadow.models == models
        and shadow.ports == service.ports
        and shadow.owners == {service.uid}
        and shadow.shadow_of == service.name
        and shadow.families == service.families
        and shadow.not_ready_too == service.not_ready_too
    )


def _terms(seen: World, granted: Mapping[str, Exposure]) -> Hashable:
    """What, once it changes, makes it worth taking over a Service that was given up."""
    service = _service(seen)
    ports = tuple((model, exposure.port) for model, exposure in granted.items())
    return service.uid, selector_text(selector_behind(seen) or {}), service.ports, ports


def _service(seen: World) -> ServiceView:
    assert seen.service is not None
    return seen.service


def _refused(obstacle: Obstacle) -> Condition:
    return Condition("False", obstacle.reason, obstacle.message)


def _taken(service: ServiceView, exposure: Exposure) -> Condition:
    if not exposure.gateways:
        words = f"No gateway is ready for this model, so callers of Service {service.key} reach its pods directly."
        return Condition("True", "NoGateway", words)
    port = port_of(service, exposure)
    number = port.port if isinstance(port, ServicePort) else exposure.port
    return Condition("True", "TakenOver", f"Callers of Service {service.key}, port {number}, reach the gateway.")


def _in_progress(service: ServiceView, waits_for: str = "") -> Condition:
    words = f"Service {service.key} is being taken over" + (f": Service {waits_for}." if waits_for else ".")
    return Condition("False", "InProgress", words)


def _put_back(service: ServiceView, contest: Contest, in_s: float) -> Condition:
    words = f"{contest.by} put spec.selector of Service {service.key} back; it is taken over again in {in_s:.0f} s."
    return Condition("False", "SelectorPutBack", words)


def _contested(service: ServiceView, contest: Contest) -> Condition:
    words = (
        f"{contest.by} keeps putting spec.selector of Service {service.key} back, so its callers reach the pods. "
        "Either have it ignore that field (Argo CD: ignoreDifferences for /spec/selector, and the sync option "
        "RespectIgnoreDifferences=true), or write into the manifest, in place of the selector, the annotation "
        f'{SELECTOR_ANNOTATION}: "{selector_text(service.selector)}", or set spec.takeover: Manual in the model.'
    )
    return Condition("False", "Contested", words)
