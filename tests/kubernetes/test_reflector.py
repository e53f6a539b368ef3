"""Lists and watches against a server that cuts, forgets, refuses and lies."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from controller.adapters.kubernetes import reflector as reflector_module
from controller.adapters.kubernetes.client import Cluster
from controller.adapters.kubernetes.reflector import (
    Handler,
    Reflector,
    Reflectors,
    Selection,
    UnusableError,
    as_events,
    selections,
)
from controller.events import Applied, Event, Kind, Refused, Removed
from controller.objects import Secret
from controller.parsing import Problem
from controller.refresh import Pace
from tests.kubernetes.fake_api import TOO_DEEP, FakeApi, status
from tests.kubernetes.tasks import running, until

PATH = "/api/v1/configmaps"
ALL = Selection(PATH)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector_module, "PACE", Pace(first_retry_s=0.01, longest_retry_s=0.02))


class Seen:
    """What a reflector has told, as a log and as what there is."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now: dict[str, object] = {}

    @property
    def handler(self) -> Handler[tuple[str, object]]:
        return Handler(self._decode, self._change, self._remove, self._refuse)

    def _decode(self, body: bytes) -> tuple[str, object]:
        obj = json.loads(body)
        if "bad" in obj:
            raise UnusableError(Problem("data", "it is bad"))
        return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}", obj.get("data")

    def _change(self, decoded: tuple[str, object]) -> None:
        key, data = decoded
        self.now[key] = data
        self.log.append(f"{key}={data}")

    def _remove(self, key: str) -> None:
        del self.now[key]
        self.log.append(f"{key} gone")

    def _refuse(self, key: str, problems: tuple[Problem, ...]) -> None:
        self.log.append(f"{key}: {problems[0]}")


@asynccontextmanager
async def reflecting(
    cluster: Cluster, seen: Seen, selection: Selection = ALL
) -> AsyncIterator[Reflector[tuple[str, object]]]:
    reflector = Reflector(cluster, selection, seen.handler, jitter=lambda: 0.0)
    async with running(reflector.run()):
        yield reflector


async def test_all_there_is_comes_in_pages_and_then_what_changes(api: FakeApi, cluster: Cluster) -> None:
    api.page = 2
    for number in range(5):
        api.put(f"a{number}", data=number)
    seen = Seen()

    async with reflecting(cluster, seen) as reflector:
        await reflector.synced.wait()
        assert seen.now == {f"shop/a{number}": number for number in range(5)}
        await until(lambda: api.watches)
        api.put("a1", data="new")
        api.delete("a2")
        api.put("b", data="b")
        await until(lambda: "shop/b" in seen.now)

    assert seen.log[5:] == ["shop/a1=new", "shop/a2 gone", "shop/b=b"]
    assert [target.partition("?")[2] for target in api.lists] == [
        "limit=500",
        "limit=500&continue=2",
        "limit=500&continue=4",
    ]
    assert api.watched == [f"{PATH}?allowWatchBookmarks=true&resourceVersion=105&timeoutSeconds=240&watch=true"]


async def test_an_empty_list_is_complete(api: FakeApi, cluster: Cluster) -> None:
    async with reflecting(cluster, Seen()) as reflector:
        await asyncio.wait_for(reflector.synced.wait(), 30)


async def test_a_watch_that_breaks_off_goes_on_where_it_was(api: FakeApi, cluster: Cluster) -> None:
    api.put("a", data=1)
    seen = Seen()
    async with reflecting(cluster, seen):
        await until(lambda: api.watches)
        api.put("a", data=2)
        await until(lambda: seen.now["shop/a"] == 2)
        api.cut()
        await until(lambda: not api.watches)
        api.put("a", data=3)
        api.put("b", data=1)
        await until(lambda: "shop/b" in seen.now)

    assert seen.log == ["shop/a=1", "shop/a=2", "shop/a=3", "shop/b=1"]
    assert len(api.lists) == 1
    assert "resourceVersion=102&" in api.watched[1]


async def test_a_bookmark_is_where_the_next_watch_begins(api: FakeApi, cluster: Cluster) -> None:
    async with reflecting(cluster, Seen()):
        await until(lambda: api.watches)
        api.version = 900
        api.bookmark()
        api.compact()
        api.cut()
        await until(lambda: len(api.watched) == 2)

    assert "resourceVersion=901&" in api.watched[1]
    assert len(api.lists) == 1


async def test_a_forgotten_version_tells_what_differs_and_what_is_gone(api: FakeApi, cluster: Cluster) -> None:
    for name in ("same", "changes", "goes"):
        api.put(name, data=1)
    seen = Seen()
    async with reflecting(cluster, seen):
        await until(lambda: api.watches)
        del seen.log[:]
        api.cut()
        api.watches.clear()  # what happens now is not heard
        api.put("changes", data=2)
        api.delete("goes")
        api.put("comes", data=1)
        api.compact()
        await until(lambda: "shop/comes" in seen.now)
        await until(lambda: api.watches)

    assert seen.log == ["shop/changes=2", "shop/comes=1", "shop/goes gone"]
    assert seen.now == {"shop/same": 1, "shop/changes": 2, "shop/comes": 1}


async def test_an_error_within_the_watch_lists_again(api: FakeApi, cluster: Cluster) -> None:
    seen = Seen()
    async with reflecting(cluster, seen):
        await until(lambda: api.watches)
        api.send("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
        await until(lambda: len(api.lists) == 2)
        await until(lambda: api.watches)
        api.put("a", data=1)
        await until(lambda: "shop/a" in seen.now)


async def test_an_object_that_cannot_be_used_is_told_and_the_others_go_on(api: FakeApi, cluster: Cluster) -> None:
    api.put("a", bad=True)
    api.put("b", data=1)
    seen = Seen()
    async with reflecting(cluster, seen):
        await until(lambda: api.watches)
        api.put("b", bad=True)
        api.put("a", data=2)
        await until(lambda: "shop/a" in seen.now)

    assert seen.log == ["shop/a: data: it is bad", "shop/b=1", "shop/b: data: it is bad", "shop/a=2"]
    assert seen.now["shop/b"] == 1  # its last good version


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: status(403, "Forbidden", "no"), f"{PATH} may not be read by this controller (RBAC): no"),
        (lambda: status(404, "NotFound"), f"{PATH} is not served (is its CRD installed?): NotFound"),
        (lambda: status(500, "InternalError", "oh"), f"{PATH} cannot be read: oh"),
        (lambda: web.Response(text="[]"), f"{PATH} cannot be read: not what the Kubernetes API says: "),
        (lambda: web.Response(text=TOO_DEEP), f"{PATH} cannot be read: not what the Kubernetes API says: "),
    ],
)
async def test_what_cannot_be_read_is_told_once_and_tried_on(
    api: FakeApi,
    cluster: Cluster,
    caplog: pytest.LogCaptureFixture,
    answer: Callable[[], web.Response],
    words: str,
) -> None:
    caplog.set_level(logging.INFO, reflector_module.__name__)
    api.answer = lambda request: answer()
    seen = Seen()
    async with reflecting(cluster, seen) as reflector:
        await until(lambda: len(api.requests) > 4)
        assert reflector.trouble.startswith(words)
        assert not reflector.synced.is_set()
        api.put("a", data=1)
        api.answer = lambda request: None
        await reflector.synced.wait()
        assert reflector.trouble == ""

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert seen.now == {"shop/a": 1}


async def test_what_is_known_stays_while_the_server_is_away(api: FakeApi, cluster: Cluster) -> None:
    api.put("a", data=1)
    seen = Seen()
    async with reflecting(cluster, seen) as reflector:
        await until(lambda: api.watches)
        api.answer = lambda request: status(503, "ServiceUnavailable", "starting")
        api.cut()
        await until(lambda: reflector.trouble)
        assert seen.log == ["shop/a=1"]
        api.answer = lambda request: None
        await until(lambda: not reflector.trouble)

    assert seen.log == ["shop/a=1"]
    assert len(api.lists) == 1


@pytest.mark.parametrize("within", [True, False])
async def test_a_server_that_is_back_and_has_forgotten_is_listed_at_once(
    api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, within: bool
) -> None:
    away = True
    monkeypatch.setattr(reflector_module, "next_retry_s", lambda pace, failures, jitter: 0.01 if away else 3_600.0)
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}

    def answer(request: web.Request) -> web.Response | None:
        nonlocal away
        if "watch" not in request.query:
            return None
        if len(refused) < 3:
            refused.append(request)
            return status(503, "ServiceUnavailable", "starting")
        away = False
        if not within:
            return status(410, "Expired", "too old")
        return web.Response(text=json.dumps({"type": "ERROR", "object": gone}) + "\n")

    refused: list[web.Request] = []
    seen = Seen()
    async with reflecting(cluster, seen):
        await until(lambda: api.watches)
        api.answer = answer
        api.put("a", data=1)
        api.cut()
        await until(lambda: not away)
        await until(lambda: len(api.lists) == 2)


async def test_a_list_whose_pages_expire_begins_anew(api: FakeApi, cluster: Cluster) -> None:
    api.page = 1
    for name in ("a", "b"):
        api.put(name, data=1)
    expired = iter([status(410, "Expired", "the continue token is too old")])
    api.answer = lambda request: next(expired, None) if "continue" in request.query else None
    seen = Seen()
    async with reflecting(cluster, seen) as reflector:
        await reflector.synced.wait()

    assert seen.log == ["shop/a=1", "shop/b=1"]
    assert len(api.lists) == 4


async def test_a_watch_that_ends_at_once_is_not_asked_for_without_pause(api: FakeApi, cluster: Cluster) -> None:
    def end(request: web.Request) -> web.Response | None:
        return web.Response() if "watch" in request.query else None

    api.answer = end
    async with reflecting(cluster, Seen()) as reflector:
        await until(lambda: "ends the watch as soon as it begins" in reflector.trouble)


async def test_pauses_grow_while_lists_succeed_and_watches_do_not(
    api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[int] = []

    def pause_s(pace: Pace, failure: int, jitter: float) -> float:
        failures.append(failure)
        return 0.01

    monkeypatch.setattr(reflector_module, "next_retry_s", pause_s)
    error = {"type": "ERROR", "object": {"kind": "Status", "code": 500, "reason": "InternalError", "message": "oh"}}
    api.answer = lambda request: web.Response(text=json.dumps(error) + "\n") if "watch" in request.query else None
    async with reflecting(cluster, Seen()):
        await until(lambda: len(failures) >= 4)
    assert len(api.lists) >= 4
    assert failures[:4] == [1, 2, 3, 4]


async def test_a_watch_that_lasted_is_no_failure_when_it_breaks_off(
    api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector_module, "GOOD_S", 0.0)
    monkeypatch.setattr(reflector_module, "next_retry_s", lambda pace, failures, jitter: 3_600.0 * (failures - 1))

    async def watched(times: int) -> None:
        await until(lambda: len(api.watched) == times and api.watches)

    async with reflecting(cluster, Seen()) as reflector:
        for times in range(1, 5):
            await watched(times)
            api.cut()
        assert reflector.trouble == ""


async def test_selectors_and_metadata_only_are_asked_for(api: FakeApi, cluster: Cluster) -> None:
    selection = Selection(PATH, label_selector="app=php", field_selector="metadata.name=x", metadata_only=True)
    async with reflecting(cluster, Seen(), selection):
        await until(lambda: api.watches)

    assert all("labelSelector=app%3Dphp&fieldSelector=metadata.name%3Dx" in target for _, target, _ in api.requests)
    assert "as=PartialObjectMetadataList;" in api.headers[0]["Accept"]
    assert "as=PartialObjectMetadata;" in api.headers[1]["Accept"]


def test_a_kind_is_selected_in_each_namespace_or_in_all() -> None:
    assert [each.path for each in selections("v1", "secrets", ("a", "b"))] == [
        "/api/v1/namespaces/a/secrets",
        "/api/v1/namespaces/b/secrets",
    ]
    assert selections("v1", "secrets", (), "x=y") == [Selection("/api/v1/secrets", "x=y")]


async def test_reflectors_come_and_go_while_they_run(api: FakeApi, cluster: Cluster) -> None:
    api.put("a", data=1)
    first, second = Seen(), Seen()
    reflectors = Reflectors()
    reflectors.start("first", Reflector(cluster, ALL, first.handler))
    async with running(reflectors.run()):
        await reflectors.wait_synced()
        reflectors.start("second", Reflector(cluster, ALL, second.handler))
        await reflectors.wait_synced()
        await until(lambda: len(api.watches) == 2)
        reflectors.stop("first")
        await until(lambda: len(api.watches) == 1)
        api.put("b", data=1)
        await until(lambda: "shop/b" in second.now)

    assert first.now == {"shop/a": 1}
    assert second.now == {"shop/a": 1, "shop/b": 1}
    assert reflectors.troubles == []


async def test_troubles_are_those_of_all(api: FakeApi, cluster: Cluster) -> None:
    api.answer = lambda request: status(403, "Forbidden", "no")
    reflectors = Reflectors()
    for path in ("/b", "/a"):
        reflectors.start(path, Reflector(cluster, Selection(path), Seen().handler))
    async with running(reflectors.run()):
        await until(lambda: len(reflectors.troubles) == 2)

    assert [trouble.split()[0] for trouble in reflectors.troubles] == ["/a", "/b"]


def test_objects_become_events() -> None:
    told: list[Event] = []
    secret = Secret("shop/token", {})
    handler = as_events(Kind.SECRET, lambda body: secret, told.append)

    handler.change(handler.decode(b""))
    handler.refuse("shop/token", (Problem("data", "is bad"),))
    handler.remove("shop/token")

    refused = Refused(Kind.SECRET, "shop/token", (Problem("data", "is bad"),))
    assert told == [Applied(secret), refused, Removed(Kind.SECRET, "shop/token")]
