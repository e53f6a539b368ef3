"""Shell: takes Services over and gives them back, as `controller.takeover.plan` says.

Watches show what there is, the engine says what is wanted, and each change of either has its Service planned anew. Most
plans do nothing. One that does more than what is safe on a watch's word (`is_routine`) is made again on what the API
server says at that moment, then followed, then made again until nothing is left to do.

Only who leads acts. A new leader leaves a Service alone until the engine has said what is wanted of all models it was
taken over for. A model that is gone wants nothing, nor does one of which nothing has been said for `OPEN_S`: it cannot
be used, so no gateway serves it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NamedTuple

from controller.adapters.host import steady_clock
from controller.adapters.kubernetes.client import ApiError, Cluster
from controller.adapters.kubernetes.service_access import OVERTAKEN, carry_out, hold_model, read_world
from controller.adapters.kubernetes.work_queue import WorkQueue
from controller.events import RELEASED, Event, Exposed, Exposure
from controller.objects import EndpointSlice, key_of
from controller.refresh import Pace, next_retry_s
from controller.takeover import finalizer
from controller.takeover.actions import Action, DeleteSlice, PutSlice, words_of
from controller.takeover.contest import Contest
from controller.takeover.plan import Step, is_routine, plan
from controller.takeover.watched import Watched
from controller.takeover.world import World, models_of

WORKERS = 8
STEPS_MAX = 20
"""Of one Service in a row; more means that what is written is not what is read."""
PACE = Pace(first_retry_s=0.25, longest_retry_s=60.0)
OPEN_S = 30.0
"""Longer than the engine waits for the gateways to say what they listen to."""
LINGER_S = 5.0
"""How long it may take until nobody is led any more to where an EndpointSlice led that is gone. For as long a model is
not let go, since gateways listen at its port until then.
"""
TELL_AFTER = 3
"""Failures in a row that may be nothing but somebody else's edit at the same time."""

log = logging.getLogger(__name__)


class _Job(NamedTuple):
    """`is_model`: else a Service."""

    key: str
    is_model: bool = False


@dataclass(slots=True)
class _Site:
    """What is remembered about a Service. `models`: those it is taken over for, or may still be. `left_at_s`: when an
    EndpointSlice of it was deleted last.
    """

    contest: Contest = field(default_factory=Contest)
    models: set[str] = field(default_factory=set)
    left_at_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class _Model:
    """A ModelDeployment that exists."""

    is_held: bool
    is_leaving: bool


class Takeover:
    """Tells `emit` how far each model is. It does nothing until `resume`, which comes once all has been seen.

    `serves`: whether a namespace's models are ours. What was taken over for others is left to their controller.
    `linger_s`: instead of `LINGER_S`.
    """

    def __init__(
        self,
        cluster: Cluster,
        emit: Callable[[Event], None],
        *,
        serves: Callable[[str], bool] = lambda namespace: True,
        clock: Callable[[], float] | None = None,
        linger_s: float = LINGER_S,
    ) -> None:
        self._cluster = cluster
        self._emit = emit
        self._serves = serves
        self._clock = clock or steady_clock()
        self._linger_s = linger_s
        self._leads = False
        self._open_until_s = 0.0
        self._watched = Watched()
        self._models: dict[str, _Model] = {}
        self._said: dict[str, Exposure | None] = {}
        self._told: dict[str, Exposed] = {}
        self._sites: dict[str, _Site] = {}
        self._sites_of: dict[str, set[str]] = {}
        self._lingers_until_s: dict[str, float] = {}
        self._failures: dict[_Job, int] = {}
        self._queue: WorkQueue[_Job] = WorkQueue(self._work, WORKERS)

    async def run(self) -> None:
        """Until it is cancelled."""
        await self._queue.run()

    # Who leads, and what is wanted

    def resume(self) -> None:
        """From now on it acts; the engine says everything once more."""
        self._leads = True
        self._open_until_s = self._clock() + OPEN_S
        for key in self._watched.touched():
            self._look_at(key)
        for model in self._models:
            self._queue.add(_Job(model, is_model=True))

    def pause(self) -> None:
        """What is there stays as it is."""
        self._leads = False
        for memory in (self._said, self._told, self._sites, self._sites_of, self._lingers_until_s, self._failures):
            memory.clear()
        self._queue.clear()

    def expose(self, model: str, exposure: Exposure | None) -> None:
        """What an Expose effect says. Paused, it forgets that, since everything will be said once more."""
        if not self._leads:
            return
        self._said[model] = exposure
        if exposure is not None:
            self._tie(exposure.service, [model])
            if (told := self._told.get(model)) and told.reason == RELEASED:
                del self._told[model]  # not true for long, and to be said again then
        self._look_at_all_of(model)

    # What there is

    def see_service(self, obj: Mapping[str, Any]) -> None:
        self._look_if_ours(self._watched.see_service(obj))

    def lose_service(self, key: str) -> None:
        self._look_if_ours(self._watched.lose_service(key))

    def see_slice(self, seen: EndpointSlice) -> None:
        self._look_if_ours(self._watched.see_slice(seen))

    def lose_slice(self, key: str) -> None:
        self._look_if_ours(self._watched.lose_slice(key))

    def see_endpoints(self, key: str) -> None:
        self._look_if_ours(self._watched.see_endpoints(key))

    def lose_endpoints(self, key: str) -> None:
        self._look_if_ours(self._watched.lose_endpoints(key))

    def see_model(self, obj: Mapping[str, Any]) -> None:
        key, metadata = key_of(obj), obj["metadata"]
        model = _Model(finalizer.is_held(metadata), finalizer.is_leaving(metadata))
        before, self._models[key] = self._models.get(key), model
        if before != model:
            self._look_at_all_of(key)

    def lose_model(self, key: str) -> None:
        self._models.pop(key, None)
        self._look_at_all_of(key)

    # What is to be looked at

    def _look_if_ours(self, key: str | None) -> None:
        if self._leads and key is not None and (key in self._sites or self._watched.world(key).is_touched):
            self._look_at(key)

    def _look_at(self, key: str) -> None:
        seen = self._watched.world(key)
        self._tie(key, models_of(seen.service, seen.shadow))
        self._queue.add(_Job(key))

    def _look_at_all_of(self, model: str) -> None:
        for key in self._sites_of.get(model, ()):
            self._queue.add(_Job(key))
        self._queue.add(_Job(model, is_model=True))

    def _look_later(self, job: _Job, at_s: float) -> None:
        self._queue.add_later(job, max(0.0, at_s - self._clock()))

    def _tie(self, key: str, models: Iterable[str]) -> None:
        site = self._sites.setdefault(key, _Site())
        for model in models:
            site.models.add(model)
            self._sites_of.setdefault(model, set()).add(key)

    def _untie(self, key: str, models: Iterable[str]) -> None:
        """These models have nothing at this Service any more."""
        site = self._sites[key]
        for model in models:
            site.models.discard(model)
            until_s = site.left_at_s + self._linger_s
            self._lingers_until_s[model] = max(until_s, self._lingers_until_s.get(model, until_s))
            self._sites_of[model].discard(key)
            if not self._sites_of[model]:
                del self._sites_of[model]
            self._queue.add(_Job(model, is_model=True))

    def _wanted(self, key: str, seen: World) -> dict[str, Exposure] | None:
        """What is wanted of a Service, by model; None while that is not known."""
        if not all(self._serves(model.partition("/")[0]) for model in models_of(seen.service, seen.shadow)):
            return None
        wanted = {}
        for model in sorted(self._sites[key].models):
            if self._is_open(model):
                return None
            known, exposure = self._models.get(model), self._said.get(model)
            if exposure is not None and exposure.service == key and not (known and known.is_leaving):
                wanted[model] = exposure
        return wanted

    def _is_open(self, model: str) -> bool:
        """Whether it exists, and nobody has said yet what is wanted of it."""
        known = self._models.get(model)
        is_silent = known is not None and not known.is_leaving and model not in self._said
        return is_silent and self._clock() < self._open_until_s

    # Work

    async def _work(self, job: _Job) -> None:
        if not self._leads:
            return
        try:
            await (self._settle_model(job.key) if job.is_model else self._settle(job.key))
            self._failures.pop(job, None)
        except ApiError as error:
            if not self._leads:
                return
            failures = self._failures[job] = self._failures.get(job, 0) + 1
            self._queue.add_later(job, next_retry_s(PACE, failures, random.random()))
            if error.status not in OVERTAKEN or failures >= TELL_AFTER:
                self._complain(job, error)

    async def _settle(self, key: str) -> None:
        """Makes a Service what is wanted, as far as it can be done now."""
        asks = False
        for _ in range(STEPS_MAX):
            seen = await self._ask(key) if asks else self._watched.world(key)
            if not self._leads or key not in self._sites:
                return
            if (wanted := self._wanted(key, seen)) is None:
                if self._clock() < self._open_until_s:
                    self._look_later(_Job(key), self._open_until_s)
                return
            site = self._sites[key]
            step = plan(seen, wanted, site.contest, self._clock())
            if not asks and not (wanted and is_routine(step, seen, site.contest)):
                asks = True
                continue
            site.contest = step.contest
            self._tell_all(key, seen, step)
            if not step.actions:
                self._rest(key, seen, wanted, step)
                return
            for model in wanted:
                await self._hold(model)
            for action in step.actions:
                if self._leads:
                    await self._carry_out(key, action)
            if any(isinstance(action, DeleteSlice) for action in step.actions):
                site.left_at_s = self._clock()
        raise ApiError(0, "Unsettled", f"Service {key} is not what was written, over and over again")

    async def _ask(self, key: str) -> World:
        """The API server's word. A namespace that is deleted takes the right to ask for it along; then it has to do
        that watches show nothing any more. Raises ApiError.
        """
        try:
            return await read_world(self._cluster, key)
        except ApiError as error:
            seen = self._watched.world(key)
            if error.status != HTTPStatus.FORBIDDEN or seen.service is not None or seen.is_touched:
                raise
            return seen

    def _rest(self, key: str, seen: World, wanted: Mapping[str, Exposure], step: Step) -> None:
        """Nothing can be done now."""
        if step.wake_at is not None:
            self._look_later(_Job(key), step.wake_at)
        if wanted or not seen.is_touched:
            marked = models_of(seen.service, seen.shadow)
            self._untie(key, self._sites[key].models - wanted.keys() - marked)
        if not wanted and not seen.is_touched:
            del self._sites[key]

    async def _settle_model(self, key: str) -> None:
        """Lets a model go that has nothing at any Service."""
        if key in self._sites_of:
            return
        if self._is_open(key):
            self._look_later(_Job(key, is_model=True), self._open_until_s)
            return
        if self._clock() < (until_s := self._lingers_until_s.get(key, 0.0)):
            self._look_later(_Job(key, is_model=True), until_s)
            return
        self._lingers_until_s.pop(key, None)
        known = self._models.get(key)
        if known is not None and known.is_held:
            await hold_model(self._cluster, key, hold=False)
        self._tell(key, "False", RELEASED, "Nothing of this model is at any Service.")
        if known is None:
            self._said.pop(key, None)
            self._told.pop(key, None)

    async def _hold(self, key: str) -> None:
        """Before its Service is touched."""
        known = self._models.get(key)
        if known is not None and not known.is_held:
            await hold_model(self._cluster, key, hold=True)

    async def _carry_out(self, key: str, action: Action) -> None:
        await carry_out(self._cluster, action)
        log.info("Service %s: %s", key, words_of(action))
        match action:
            case PutSlice(_, slice_):
                self._watched.see_slice(slice_)
            case DeleteSlice(slice_key):
                self._watched.lose_slice(slice_key)
            case _:
                pass  # a watch will show it

    def _tell_all(self, key: str, seen: World, step: Step) -> None:
        for model in self._sites[key].models:
            if condition := step.conditions.get(model):
                self._tell(model, condition.status, condition.reason, condition.message)
            elif seen.is_touched and self._said.get(model) is None:
                self._tell(model, "False", "Restoring", f"Service {key} is being given back.")

    def _tell(self, model: str, status: str, reason: str, message: str) -> None:
        exposed = Exposed(model, status, reason, message)
        if self._leads and self._told.get(model) != exposed:
            self._told[model] = exposed
            self._emit(exposed)

    def _complain(self, job: _Job, error: ApiError) -> None:
        log.warning("%s: %s", job.key, error, extra={"reason": error.reason})
        site = self._sites.get(job.key, _Site())
        what = f"{'ModelDeployment' if job.is_model else 'Service'} {job.key}"
        words = f"{what} cannot be changed now: {error.message or error.reason}"
        for model in [job.key] if job.is_model else site.models:
            self._tell(model, "False", error.reason, words)
