"""Events: what is written, and that nothing waits for them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from aiohttp import web

from controller.adapters.kubernetes import recorder
from controller.adapters.kubernetes.client import Cluster
from controller.adapters.kubernetes.recorder import Recorder, event_of
from controller.correlation import Happening
from controller.events import Announce
from controller.refresh import Pace
from tests.kubernetes.fake_api import FakeApi, status
from tests.kubernetes.tasks import running, until

OUT = Announce("shop/php", "ThresholdReached", "cpu is at 80 % of 50 %.", warning=True)
BACK = Announce("shop/php", "Returned", "Everything is local again.")
NOW_S = 1_795_290_000.25


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "PACE", Pace(first_retry_s=0.01, longest_retry_s=0.02))


class Events:
    """Keeps Events. `refusals`: answers in place of the next ones."""

    def __init__(self, api: FakeApi) -> None:
        self.refusals: list[web.Response] = []
        self._api = api
        api.answer = lambda request: self.refusals.pop(0) if self.refusals else web.json_response({})

    @property
    def written(self) -> list[tuple[str, Any]]:
        return [(f"{method} {target.partition('?')[0]}", body) for method, target, body in self._api.requests]


def recording(cluster: Cluster) -> Recorder:
    return Recorder(cluster, clock=lambda: NOW_S, jitter=lambda: 0.0)


def test_an_event_is_what_describe_looks_for() -> None:
    event = event_of(Happening("u-1", OUT, NOW_S - 60.0, NOW_S, 3))
    name = event["metadata"].pop("name")

    assert name.startswith("php.")
    assert event == {
        "metadata": {"namespace": "shop"},
        "involvedObject": {
            "apiVersion": "deployment.beamlit.com/v1alpha1",
            "kind": "ModelDeployment",
            "namespace": "shop",
            "name": "php",
            "uid": "u-1",
        },
        "type": "Warning",
        "reason": "ThresholdReached",
        "message": "cpu is at 80 % of 50 %.",
        "count": 3,
        "firstTimestamp": "2026-11-21T19:39:00.250000Z",
        "lastTimestamp": "2026-11-21T19:40:00.250000Z",
        "source": {"component": "spillway"},
        "reportingComponent": "spillway",
    }


def test_names_are_one_for_each_event_and_fit() -> None:
    long = "m" * 253
    happenings = [
        Happening("u", OUT, 1.0, 1.0),
        Happening("u", OUT, 2.0, 2.0),
        Happening("u", BACK, 1.0, 1.0),
        Happening("v", OUT, 1.0, 1.0),
        Happening("u", Announce(f"shop/{long}", "A", "b"), 1.0, 1.0),
    ]
    names = [event_of(happening)["metadata"]["name"] for happening in happenings]

    assert len(set(names)) == len(names)
    assert len(names[-1]) == 253
    assert event_of(Happening("u", OUT, 1.0, 9.0, 5))["metadata"]["name"] == names[0]


def test_a_message_is_cut_between_characters() -> None:
    event = event_of(Happening("u", Announce("shop/php", "A", "ü" * 1_000), 1.0, 1.0))

    assert event["message"] == "ü" * 500


async def test_the_same_again_is_counted_up(api: FakeApi, cluster: Cluster) -> None:
    events = Events(api)
    writing = recording(cluster)
    async with running(writing.run()):
        for what in (OUT, BACK, OUT):
            writing.record("u-1", what)
        await until(lambda: len(events.written) == 3)

    path = "/api/v1/namespaces/shop/events"
    (first, event), (second, _), (third, news) = events.written
    assert (first, second) == (f"POST {path}", f"POST {path}")
    assert (third, news) == (
        f"PATCH {path}/{event['metadata']['name']}",
        {"count": 2, "lastTimestamp": "2026-11-21T19:40:00.250000Z"},
    )


async def test_an_event_that_is_gone_is_written_anew(api: FakeApi, cluster: Cluster) -> None:
    events = Events(api)
    writing = recording(cluster)
    async with running(writing.run()):
        writing.record("u-1", OUT)
        await until(lambda: len(events.written) == 1)
        events.refusals.append(status(404, "NotFound"))
        writing.record("u-1", OUT)
        await until(lambda: len(events.written) == 3)

    assert [what.split()[0] for what, _ in events.written] == ["POST", "PATCH", "POST"]
    assert events.written[2][1]["count"] == 2


async def test_what_fails_for_now_is_tried_again_and_said_once(
    api: FakeApi, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, recorder.__name__)
    events = Events(api)
    events.refusals += [status(503, "ServiceUnavailable", "starting") for _ in range(3)]
    writing = recording(cluster)
    async with running(writing.run()):
        writing.record("u-1", OUT)
        writing.record("u-1", BACK)
        await until(lambda: len(events.written) == 5)

    assert [body["reason"] for _, body in events.written] == ["ThresholdReached"] * 4 + ["Returned"]
    assert [record.getMessage() for record in caplog.records] == [
        "an Event could not be written: ServiceUnavailable: starting"
    ]


async def test_what_is_refused_is_given_up_and_the_next_goes_on(api: FakeApi, cluster: Cluster) -> None:
    events = Events(api)
    events.refusals += [status(422, "Invalid", "not like that")]
    events.refusals += [status(503, "ServiceUnavailable") for _ in range(recorder.ATTEMPTS)]
    writing = recording(cluster)
    async with running(writing.run()):
        for what in (OUT, BACK, Announce("shop/php", "Third", "The end.")):
            writing.record("u-1", what)
        await until(lambda: events.written and events.written[-1][1]["reason"] == "Third")

    reasons = [body["reason"] for _, body in events.written]
    assert reasons == ["ThresholdReached", *["Returned"] * recorder.ATTEMPTS, "Third"]


async def test_an_attempt_whose_answer_was_lost_is_no_failure(
    api: FakeApi, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    events = Events(api)
    events.refusals.append(status(409, "AlreadyExists"))
    writing = recording(cluster)
    async with running(writing.run()):
        writing.record("u-1", OUT)
        writing.record("u-1", BACK)
        await until(lambda: len(events.written) == 2)

    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_of_too_many_the_oldest_are_dropped(
    api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "WAITING", 2)
    events = Events(api)
    writing = recording(cluster)
    for number in range(5):
        writing.record("u-1", Announce("shop/php", f"Reason{number}", "It is so."))
    async with running(writing.run()):
        await until(lambda: len(events.written) == 2)

    assert [body["reason"] for _, body in events.written] == ["Reason3", "Reason4"]
