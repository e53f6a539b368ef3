"""When statuses are handed on, and when they are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.adapters.kubernetes.source import Seen
from controller.events import Kind, Refused
from controller.parsing import Problem
from controller.reporter import ANSWER_S, RESTLESS_AT_ONCE, RESTLESS_EVERY_S, Reporter, time_text
from tests.controller.cluster_world import ClusterWorld, leader, manifest, served, workload
from tests.controller.manifests import endpoint_slice, model_from
from xds.events import Rejected

KEY = "default/llama"


class Desk:
    """A reporter, its engine, and what it handed on."""

    def __init__(self) -> None:
        self.world: ClusterWorld = leader()
        self.world.give(workload(), *served("llama"))
        self.models = {KEY: Seen("uid-1", ())}
        self.written: list[Mapping[str, object]] = []
        self.reporter = Reporter(self.world.engine, self.models, self, None, lambda: self.world.now)

    def put(self, key: str, uid: str, status: Mapping[str, object]) -> None:
        assert uid == self.models[key].uid
        self.written.append(status)

    def forget(self, key: str) -> None:
        pass

    def report(self) -> int:
        """How many statuses are handed on now."""
        before = len(self.written)
        self.reporter.mark(self.world.engine.take_touched())
        self.reporter.report()
        return len(self.written) - before


def at_work() -> Desk:
    desk = Desk()
    desk.reporter.resume()
    assert desk.report() == 1
    return desk


def test_who_does_not_lead_reports_nothing() -> None:
    desk = Desk()
    assert desk.report() == 0
    desk.reporter.resume()
    desk.reporter.pause()
    assert desk.report() == 0


def test_the_same_is_not_handed_on_twice() -> None:
    desk = at_work()
    desk.reporter.mark([KEY])
    assert desk.report() == 0


def test_a_change_of_state_is_handed_on_at_once() -> None:
    desk = at_work()
    desk.world.read(100.0, every=1.0, times=10)
    assert desk.report() == 1
    assert desk.written[-1]["state"] == "Overflowing"


def test_values_of_metrics_wait_their_turn() -> None:
    desk = at_work()
    desk.world.read(1.0)
    assert desk.report() == 1, "the metric is known from now on"
    desk.world.read(1.5)
    assert desk.report() == 0
    desk.world.wait(RESTLESS_EVERY_S)
    desk.world.read(1.5, every=0.0)
    assert desk.report() == 1
    assert desk.written[-1]["metric"] == "queue_length: 1.5"


def test_a_replica_more_or_less_waits_its_turn_too() -> None:
    desk = at_work()
    desk.world.give(endpoint_slice("10.0.0.1"))
    assert desk.report() == 0
    desk.world.wait(RESTLESS_EVERY_S)
    desk.reporter.mark([KEY])
    assert desk.report() == 1
    assert desk.written[-1]["readyReplicas"] == 1


def test_what_is_restless_takes_turns() -> None:
    desk = Desk()
    names = [f"llama-{number}" for number in range(2 * RESTLESS_AT_ONCE)]
    for name in names:
        desk.models[f"default/{name}"] = Seen("uid-1", ())
        desk.world.give(*served(name))
    desk.reporter.resume()
    assert desk.report() == len(names) + 1
    for name in names:
        desk.world.give(endpoint_slice("10.0.0.1", of=name))
    assert desk.report() == 0
    desk.world.wait(RESTLESS_EVERY_S)
    assert [desk.report(), desk.report(), desk.report()] == [RESTLESS_AT_ONCE, RESTLESS_AT_ONCE, 0]


def test_what_matters_does_not_wait_for_its_turn() -> None:
    desk = at_work()
    desk.world.give(endpoint_slice("10.0.0.1"))
    assert desk.report() == 0
    desk.world.read(100.0, every=0.5, times=20)
    assert desk.report() == 1
    desk.world.wait(RESTLESS_EVERY_S)
    assert desk.report() == 0, "its turn has passed with it"


def programmed(desk: Desk) -> tuple[object, object]:
    """What was told last: is it ready, and what gateways make of it."""
    listed: Any = desk.written[-1]["conditions"]
    found = {each["type"]: each for each in listed}
    return found["Ready"]["status"], found["Programmed"]["reason"]


def served_by_a_gateway() -> Desk:
    desk = at_work()
    desk.world.connect("a").accept("a")
    assert desk.report() == 1
    assert programmed(desk) == ("True", "Programmed")
    return desk


def test_that_a_gateway_has_not_answered_yet_is_not_told() -> None:
    desk = served_by_a_gateway()
    desk.world.give(endpoint_slice("10.0.0.1", "10.0.0.3"))
    assert desk.report() == 0
    desk.world.wait(ANSWER_S / 2)
    desk.world.accept("a")
    assert desk.report() == 0
    desk.world.give(endpoint_slice("10.0.0.1", "10.0.0.4"))
    desk.world.wait(ANSWER_S / 2)
    assert desk.report() == 0, "this one has all the time again"


def test_a_gateway_that_answers_late_is_told_of_once() -> None:
    desk = served_by_a_gateway()
    desk.world.give(endpoint_slice("10.0.0.1", "10.0.0.3"))
    desk.report()
    desk.world.now += ANSWER_S
    assert [desk.report(), desk.report()] == [1, 0]
    assert programmed(desk) == ("False", "Pending")
    desk.world.accept("a")
    assert desk.report() == 1
    assert programmed(desk) == ("True", "Programmed")


def test_gateways_that_come_back_soon_were_not_away() -> None:
    desk = served_by_a_gateway()
    desk.world.disconnect("a")
    assert desk.report() == 0
    desk.world.now += ANSWER_S
    assert desk.report() == 1
    assert programmed(desk) == ("Unknown", "NoGateway")


def test_other_news_do_not_wait_for_gateways() -> None:
    desk = served_by_a_gateway()
    desk.world.read(100.0, every=1.0, times=10)
    assert desk.report() == 1
    assert desk.written[-1]["state"] == "Overflowing"
    assert programmed(desk) == ("True", "Programmed")


def test_of_a_new_manifest_it_is_told_at_once_that_gateways_lack_it() -> None:
    desk = served_by_a_gateway()
    made = manifest(behavior={"percentage": 10, "mode": "Force"})
    made["metadata"]["generation"] = 2
    desk.world.give(model_from(made))
    assert desk.report() == 1
    assert programmed(desk) == ("False", "Pending")


def test_a_refusal_is_told_at_once() -> None:
    desk = served_by_a_gateway()
    desk.world.give(Rejected("a", "", frozenset(), frozenset({KEY}), "no"))
    assert desk.report() == 1
    assert programmed(desk) == ("False", "ProxyRejected")


def test_a_new_leader_reports_everything_once_more() -> None:
    desk = at_work()
    desk.reporter.pause()
    desk.reporter.resume()
    assert desk.report() == 1


def test_a_model_that_was_made_anew_does_not_inherit_times() -> None:
    desk = at_work()
    desk.models[KEY] = Seen("uid-2", ())
    desk.reporter.mark([KEY])
    desk.world.now += 3_600
    assert desk.report() == 1
    conditions = desk.written[-1]["conditions"]
    assert isinstance(conditions, list)
    assert {each["lastTransitionTime"] for each in conditions} == {time_text(desk.world.now)}


def test_one_that_cannot_be_used_is_told_why() -> None:
    desk = Desk()
    desk.models["default/bad"] = Seen("uid-3", ())
    desk.world.give(Refused(Kind.MODEL_DEPLOYMENT, "default/bad", (Problem("spec.model", "is missing"),)))
    written: dict[str, Mapping[str, object]] = {}
    desk.put = lambda key, uid, status: written.update({key: status})  # type: ignore[method-assign]
    desk.reporter.resume()
    desk.reporter.report()
    assert "spec.model: is missing" in str(written["default/bad"])
    assert KEY in written
