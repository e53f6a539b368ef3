"""Load reports: what is asked of gateways, what is read in their answers, and the service over real connections."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from protos.envoy.config.endpoint.v3.load_report_pb2 import ClusterStats
from protos.envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse
from tests.xds.plane import Plane, eventually, model, serving
from xds import ir, load_service, loads
from xds.events import BackendLoad, LoadReported, LocalLoad
from xds.publisher import Publisher
from xds.snapshot import CLUSTER
from xds.translate import Gateway, backend_cluster_name

METHOD = f"/{load_service.SERVICE}/{load_service.METHOD}"
FIRST, SECOND = (ir.Remote(ir.Backend("127.0.0.66", port), "x.test") for port in (1, 2))


def stats(cluster: str, *localities: tuple[int, int], dropped: int = 0) -> ClusterStats:
    """Of a cluster with these numbers of successes and errors in each locality."""
    counts = [{"total_successful_requests": ok, "total_error_requests": errors} for ok, errors in localities]
    return ClusterStats(cluster_name=cluster, upstream_locality_stats=counts, total_dropped_requests=dropped)


def read(*clusters: ClusterStats) -> list[BackendLoad]:
    found = loads.read("g", LoadStatsRequest(cluster_stats=clusters))
    return list(found.backends) if found else []


@pytest.mark.parametrize("name", ["remote-0", "local/default/m", "xds", "remotely"])
def test_only_remotes_are_read(name: str) -> None:
    assert read(stats(name, (1, 1))) == []


def test_localities_are_added_up() -> None:
    assert read(stats("remote/x", (1, 2), (3, 4))) == [BackendLoad("remote/x", 4, 6)]


def test_where_nothing_finished_nothing_is_reported() -> None:
    assert read(stats("remote/x"), stats("remote/y", (0, 0)), stats("remote/z", (0, 1))) == [
        BackendLoad("remote/z", 0, 1)
    ]
    assert loads.read("g", LoadStatsRequest()) is None


def test_a_request_that_the_limit_kept_from_a_remote_is_no_failure_of_the_remote() -> None:
    assert read(stats("remote/x", (0, 3), dropped=2)) == [BackendLoad("remote/x", 0, 1)]
    assert read(stats("remote/x", (0, 2), dropped=2)) == []
    assert read(stats("remote/x", (0, 1), dropped=2)) == []


class Reporter:
    """A gateway that speaks LRS only."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        open_stream: Any = channel.stream_stream  # its stubs want serializers
        self.call = open_stream(METHOD)()

    async def says(self, *clusters: ClusterStats, node: dict[str, Any] | None = None) -> None:
        report = LoadStatsRequest(node=node or {"id": "g"}, cluster_stats=clusters)
        await self.call.write(report.SerializeToString())

    async def asked(self) -> LoadStatsResponse:
        async with asyncio.timeout(30):
            return LoadStatsResponse.FromString(await self.call.read())

    async def end(self) -> tuple[grpc.StatusCode, str]:
        async with asyncio.timeout(30):
            return await self.call.code(), await self.call.details()


def dial(plane: Plane) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{plane.port}")


async def test_a_gateway_is_asked_for_the_remotes_there_are_and_again_when_others_are() -> None:
    first, second = (backend_cluster_name(each.backend) for each in (FIRST, SECOND))
    async with serving() as plane, dial(plane) as channel:
        plane.publish(model("m", 1, remotes=(FIRST,)))
        gateway = Reporter(channel)
        await gateway.says()
        asked = await gateway.asked()
        assert (list(asked.clusters), asked.load_reporting_interval.ToMilliseconds()) == ([first], loads.INTERVAL_MS)

        plane.publish(model("local-only", 1))
        await gateway.says(stats(first, (1, 0)))
        await eventually(lambda: bool(plane.saw(LoadReported)))
        plane.publish(model("m", 1, remotes=(SECOND,)))
        await gateway.says()
        assert list((await gateway.asked()).clusters) == [second]


async def test_local_clusters_are_asked_for_by_survey_and_more_often_when_it_is_urgent() -> None:
    async with serving() as plane, dial(plane) as channel:
        plane.publish(model("a", 1), model("b", 1))
        plane.publisher.survey(ir.Survey(frozenset(["default/a", "default/unknown"])))
        gateway = Reporter(channel)
        await gateway.says()
        asked = await gateway.asked()
        assert (list(asked.clusters), asked.load_reporting_interval.ToMilliseconds()) == (["local/default/a"], 1_000)

        plane.publisher.survey(ir.Survey(frozenset(["default/a", "default/b"]), urgent=True))
        await gateway.says()
        asked = await gateway.asked()
        assert list(asked.clusters) == ["local/default/a", "local/default/b"]
        assert asked.load_reporting_interval.ToMilliseconds() == loads.URGENT_INTERVAL_MS


def test_with_very_many_clusters_reports_keep_to_the_usual_interval() -> None:
    publisher = Publisher(Gateway("127.0.0.1", 80), lambda _: None)
    routes = [model(str(number), 1) for number in range(loads.URGENT_MAX + 1)]
    publisher.publish(ir.Update({route.name: route for route in routes}))
    survey = ir.Survey(frozenset(route.name for route in routes), urgent=True)
    assert loads.wanted(publisher.snapshot, survey).interval_ms == loads.INTERVAL_MS


def test_the_more_clusters_a_gateway_has_the_rarer_are_its_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Publisher(Gateway("127.0.0.1", 80), lambda _: None)
    publisher.publish(ir.Update({f"default/{name}": model(name, 1) for name in "abcdefgh"}))
    clusters = len(list(publisher.snapshot.logs[CLUSTER].resources()))
    nobody, calm = ir.Survey(), ir.Survey(frozenset(["default/a"]))
    urgent = ir.Survey(frozenset(["default/a"]), urgent=True)

    def intervals_s(clusters_a_second: float) -> list[float]:
        monkeypatch.setattr(loads, "CLUSTERS_A_SECOND", clusters_a_second)
        return [loads.wanted(publisher.snapshot, each).interval_ms / 1_000 for each in (nobody, calm, urgent)]

    assert intervals_s(clusters) == [1, 1, 0.2]
    assert intervals_s(clusters / 1.5) == pytest.approx([1.5, 1.5, 0.3], abs=0.002)
    assert intervals_s(clusters / 1_000) == [4, 2, 2]


def carried(cluster: str, active: int, issued: int, dropped: int) -> ClusterStats:
    localities = [{"total_requests_in_progress": active, "total_issued_requests": issued}]
    return ClusterStats(cluster_name=cluster, upstream_locality_stats=localities, total_dropped_requests=dropped)


def test_a_report_says_what_is_in_progress_and_which_models_it_covers() -> None:
    report = LoadStatsRequest(cluster_stats=[carried("local/default/a", 3, 5, 1), carried("local/default/b", 0, 0, 0)])
    covered = frozenset(["default/a", "default/b"])
    assert loads.read("g", report, covered) == LoadReported("g", (), (LocalLoad("default/a", 3, 5, 1),), covered)
    idle = loads.read("g", LoadStatsRequest(), covered)
    assert idle == LoadReported("g", (), (), covered), "that all are idle is news too"


async def test_a_report_covers_only_what_it_was_asked_for_before() -> None:
    """One that is under way while the question changes answers the old one."""
    async with serving() as plane, dial(plane) as channel:
        plane.publish(model("a", 1), model("b", 1))
        plane.publisher.survey(ir.Survey(frozenset(["default/a"])))
        gateway = Reporter(channel)
        await gateway.says()
        await gateway.asked()
        plane.publisher.survey(ir.Survey(frozenset(["default/a", "default/b"])))
        await gateway.says()
        await gateway.asked()
        await gateway.says()
        await gateway.says()
        await eventually(lambda: len(plane.saw(LoadReported)) == 3)
        covered = [sorted(each.covered) for each in plane.saw(LoadReported)]
        assert covered == [["default/a"], ["default/a"], ["default/a", "default/b"]]


async def test_what_a_gateway_reports_is_passed_on_and_nothing_is_not() -> None:
    async with serving() as plane, dial(plane) as channel:
        gateway = Reporter(channel)
        await gateway.says()
        await gateway.asked()
        await gateway.says(stats("remote/x"))
        await gateway.says(stats("remote/x", (2, 1)), stats("local/default/m", (5, 0)))
        await eventually(lambda: bool(plane.events))
        assert plane.events == [LoadReported("g", (BackendLoad("remote/x", 2, 1),))]


async def test_a_gateway_that_carries_nothing_of_ours_is_turned_away_here_too() -> None:
    async with serving() as plane, dial(plane) as channel:
        gateway = Reporter(channel)
        version = {"version": {"major_number": 1, "minor_number": 36}}
        old = {"id": "g", "user_agent_name": "envoy", "user_agent_build_version": version}
        await gateway.says(node=old)
        code, words = await gateway.end()
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert "1.40 or newer" in words


@pytest.mark.parametrize("good_first", [False, True])
async def test_a_report_that_cannot_be_decoded_ends_the_stream(good_first: bool) -> None:
    async with serving() as plane, dial(plane) as channel:
        gateway = Reporter(channel)
        if good_first:
            await gateway.says()
            await gateway.asked()
        await gateway.call.write(b"\xff\xff\xff")
        assert await gateway.end() == (grpc.StatusCode.INVALID_ARGUMENT, "the report cannot be decoded")


async def accepted(gateway: Reporter) -> bool:
    """Whether there was room for it. A stream that is told that there is none takes room itself until it has heard."""
    try:
        await gateway.says()
        return bool(await gateway.asked())
    except grpc.aio.AioRpcError:
        return False


async def test_streams_are_bounded_and_one_that_ends_makes_room() -> None:
    async with serving(max_streams=1) as plane, dial(plane) as channel:
        first = Reporter(channel)
        await first.says()
        await first.asked()
        assert (await Reporter(channel).end())[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        await first.call.done_writing()
        assert (await first.end())[0] == grpc.StatusCode.OK
        async with asyncio.timeout(30):
            while not await accepted(Reporter(channel)):
                await asyncio.sleep(0.01)


async def test_a_stream_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_service, "FIRST_REPORT_S", 0.05)
    async with serving() as plane, dial(plane) as channel:
        assert (await Reporter(channel).end())[0] == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_stream_that_ends_before_it_began_is_nothing() -> None:
    async with serving() as plane, dial(plane) as channel:
        gateway = Reporter(channel)
        await gateway.call.done_writing()
        assert await gateway.end() == (grpc.StatusCode.OK, "")
        assert plane.events == []


async def test_a_mistake_of_our_own_ends_the_stream_and_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as plane, dial(plane) as channel:
        plane.publish(model("m", 1, remotes=(FIRST,)))

        def fail(_: LoadReported) -> None:
            raise ZeroDivisionError

        vars(plane.publisher).update(hear_load=fail)
        gateway = Reporter(channel)
        await gateway.says()
        await gateway.asked()
        await gateway.says(stats(backend_cluster_name(FIRST.backend), (1, 0)))
        assert (await gateway.end())[0] == grpc.StatusCode.UNKNOWN
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(30):
                await plane.server.run()
        assert "on a stream of gateway 'g'" in caplog.text
