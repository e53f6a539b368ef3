"""Whatever happens, followers publish what the leader publishes, and a change of leader moves nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controller import events
from controller.api import ModelDeployment
from controller.events import Applied, Event, Kind, Observed, Removed
from controller.metrics import Value
from tests.controller.cluster_world import ClusterWorld, leader, manifest, pod, workload
from tests.controller.manifests import Json, endpoint_slice, model_from, service
from xds import events as gateway_events
from xds import ir
from xds.translate import backend_cluster_name

NAMES = ("a", "b", "c")
_name = st.sampled_from(NAMES)
_offloading = st.fixed_dictionaries(
    {
        "behavior": st.fixed_dictionaries(
            {"percentage": st.sampled_from([0, 50, 100])},
            optional={
                "mode": st.sampled_from(["Auto", "Off", "Force", "DryRun"]),
                "strategy": st.just("Proportional"),
                "onMetricsUnavailable": st.sampled_from(["Local", "Remote"]),
            },
        ),
        "remoteBackends": st.lists(st.sampled_from("xyz"), max_size=2, unique=True).map(
            lambda names: [{"name": name, "host": f"{name}.example.com"} for name in names]
        ),
    },
    optional={
        "localLimit": st.fixed_dictionaries({"maxConcurrentRequestsPerReplica": st.integers(1, 3)}),
    },
)
_spec = st.fixed_dictionaries(
    {},
    optional={
        "model": _name,
        "environment": st.sampled_from(["test", "live"]),
        "serviceRef": st.fixed_dictionaries({"name": _name}, optional={"targetPort": st.just(80)}),
        "takeover": st.just("Manual"),
        "enabled": st.just(False),
    },
)


@st.composite
def _models(draw: st.DrawFn) -> Applied:
    offloading: Json = draw(_offloading)
    made = manifest(draw(_name), **offloading)
    made["spec"] |= draw(_spec)
    return Applied(model_from(made))


_slices = st.builds(
    lambda of, addresses: Applied(endpoint_slice(*(f"10.0.0.{n}" for n in addresses), of=of)),
    _name,
    st.lists(st.integers(1, 4), max_size=3, unique=True),
)
_objects = st.one_of(
    _models(),
    _models(),
    _slices,
    st.builds(lambda name, ready: Applied(workload(name, ready=ready, desired=ready)), _name, st.integers(0, 2)),
    st.builds(Removed, st.just(Kind.MODEL_DEPLOYMENT), _name.map("default/{}".format)),
    st.sets(st.sampled_from("gh")).map(
        lambda ready: events.GatewaysSeen(tuple(pod(name, ready=name in ready) for name in "gh"))
    ),
)
_samples = st.floats(0, 30).map(lambda value: ("sample", value))
_pauses = st.sampled_from([1.0, 7.0, 100.0]).map(lambda seconds: ("pause", seconds))
_failures = st.sampled_from("xyz").map(lambda name: ("failure", name))
_steps = st.lists(st.one_of(_objects, _objects, _samples, _samples, _pauses, _failures), max_size=25)


class _Pair:
    """A leader, and what a follower is yet to see."""

    def __init__(self) -> None:
        self.ahead = leader().connect("g")
        self.behind = ClusterWorld().connect("h")
        self.behind.now = self.ahead.now
        self.objects: list[Event] = []
        self.models: list[Event] = []
        # What cannot be resolved leaves what was known, which differs with the order in which things were seen.
        for name in NAMES:
            self.take(Applied(service(name)))
            self.take(Applied(endpoint_slice("10.0.0.9", of=name)))
        self.take(events.GatewaysSeen((pod("g"), pod("h"))))
        self.show_objects()
        self.written: dict[str, Any] = {}

    def take(self, step: Any) -> None:
        match step:
            case ("sample", float() as value):
                for _ in range(7):
                    self.pass_time(1)
                    self.ahead.give(*(Observed(query, Value(value)) for query in list(self.ahead.watched)))
            case ("pause", float() as seconds):
                self.pass_time(seconds)
            case ("failure", name):
                remotes = {remote for route in self.ahead.routes.values() for remote in route.remotes}
                found = [r.backend for r in remotes if r.authority == f"{name}.example.com"]
                loads = tuple(gateway_events.BackendLoad(backend_cluster_name(each), 0, 9) for each in set(found))
                self.ahead.give(gateway_events.LoadReported("g", loads))
            case Applied(object=ModelDeployment() as model) if self._was_another(model):
                pass  # in a conflict, what it was stays in force for those who have seen it
            case _:
                self.ahead.give(step)
                is_model = isinstance(step, Applied) and isinstance(step.object, ModelDeployment)
                is_model |= isinstance(step, Removed) and step.kind is Kind.MODEL_DEPLOYMENT
                (self.models if is_model else self.objects).append(step)

    def _was_another(self, model: ModelDeployment) -> bool:
        record = self.ahead.engine.records.get(model.key)
        return record is not None and record.spec.identity != model.identity

    def pass_time(self, seconds: float) -> None:
        for world in (self.ahead, self.behind):
            world.sleep(seconds)

    def show_objects(self) -> None:
        shown, self.objects = self.objects, []
        self.behind.give(*shown)

    def show_models(self) -> None:
        """Models and their status come by one watch, so in one order."""
        shown, self.models = self.models, []
        self.behind.give(*shown)
        for each in shown:
            if isinstance(each, Removed):
                self.written.pop(each.key, None)
        for word in self.ahead.words():
            if self.written.get(word.key) != word.saved:
                self.written[word.key] = word.saved
                self.behind.give(word)


def comparable(found: ClusterWorld) -> dict[str, ir.Route]:
    """What is published. While there is no replica, a limit is what it was when there was one, if one was seen."""
    replicas = {key: found.engine.records[key].replicas for key in found.routes}
    return {
        key: route if replicas[key] else replace(route, local=replace(route.local, limit=0))
        for key, route in found.routes.items()
    }


@given(steps=st.lists(st.tuples(_steps, st.booleans()), max_size=4))
def test_whatever_happens_followers_agree_and_a_change_of_leader_moves_nothing(steps: list[Any]) -> None:
    pair = _Pair()
    for batch, objects_first in steps:
        for step in batch:
            pair.take(step)
        shows = [pair.show_objects, pair.show_models]
        for show in shows if objects_first else reversed(shows):
            show()
        assert comparable(pair.behind) == comparable(pair.ahead)
    assert (pair.behind.saved, pair.behind.said, pair.behind.exposed) == ({}, [], {})
    routes = dict(pair.behind.routes)
    pair.behind.lead()
    assert pair.behind.routes == routes
    kept = {word.key: word.saved["decision"] for word in pair.ahead.words()}
    anew = {word.key: word.saved["decision"] for word in pair.behind.words()}
    assert {**kept, **anew} == kept
