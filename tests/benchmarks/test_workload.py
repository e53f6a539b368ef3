"""The simulated servers and the callers of `benchmarks.workload`: slots, queue, timing, and what is seen of them."""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

import pytest

from benchmarks.workload import player, process, server, wire
from benchmarks.workload.play import Model, decided, manifests, served
from benchmarks.workload.server import ModelServer, ServerOptions
from controller.simulate.score import Decided, Served
from controller.simulate.workload import Arrival, Timing

TIMING = Timing(base_s=0.0, context_token_s=0.1, generated_token_s=1.0)


class VirtualClock:
    """Time passes in `run_until` only, and what is due then runs `late_s` late."""

    def __init__(self, late_s: float = 0.0) -> None:
        self._now_s = 0.0
        self._late_s = late_s
        self._due: list[tuple[float, int, VirtualTimer]] = []
        self._made = 0

    def time(self) -> float:
        return self._now_s

    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> VirtualTimer:
        timer = VirtualTimer(callback, args)
        self._made += 1
        heapq.heappush(self._due, (when, self._made, timer))
        return timer

    def run_until(self, at_s: float) -> None:
        while self._due and self._due[0][0] + self._late_s <= at_s:
            when, _, timer = heapq.heappop(self._due)
            self._now_s = max(self._now_s, when + self._late_s)
            if not timer.cancelled:
                timer.callback(*timer.args)
        self._now_s = at_s


@dataclass
class VirtualTimer:
    callback: Callable[..., object]
    args: tuple[object, ...]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass(eq=False)
class Asker:
    """Notes when its answer came."""

    clock: VirtualClock
    times_s: list[float] = field(default_factory=list)

    def first_byte(self) -> None:
        self.times_s.append(round(self.clock.time(), 6))

    last_byte = first_byte


def model_server(slots: int | None, clock: VirtualClock) -> ModelServer:
    return ModelServer(ServerOptions("llama", slots, TIMING), clock)


def asks(model: ModelServer, clock: VirtualClock, context: int, generated: int) -> Asker:
    asker = Asker(clock)
    model.take(asker, context, generated)
    return asker


def test_the_first_byte_comes_after_the_context_and_the_last_one_after_all_tokens() -> None:
    clock = VirtualClock()
    asker = asks(model_server(1, clock), clock, context=10, generated=4)
    clock.run_until(100)
    assert asker.times_s == [1.0, 5.0]


def test_what_finds_all_slots_taken_waits_in_the_order_of_arrival() -> None:
    clock = VirtualClock()
    model = model_server(2, clock)
    askers = [asks(model, clock, context=10, generated=generated) for generated in (1, 5, 1, 1)]
    assert (model.running, model.waiting) == (2, 2)
    clock.run_until(100)
    assert [asker.times_s for asker in askers] == [[1.0, 2.0], [1.0, 6.0], [3.0, 4.0], [5.0, 6.0]]
    assert (model.running, model.waiting) == (0, 0)


def test_a_remote_without_slots_takes_everything_at_once() -> None:
    clock = VirtualClock()
    model = model_server(None, clock)
    askers = [asks(model, clock, context=10, generated=1) for _ in range(50)]
    clock.run_until(100)
    assert all(asker.times_s == [1.0, 2.0] for asker in askers)


def test_a_late_loop_does_not_make_the_model_slower() -> None:
    clock = VirtualClock(late_s=0.5)
    model = model_server(1, clock)
    askers = [asks(model, clock, context=10, generated=1) for _ in range(10)]
    clock.run_until(100)
    assert askers[-1].times_s == [19.5, 20.5]


@pytest.mark.parametrize(("gone", "last_times_s"), [(0, [3.5, 4.5]), (1, [3.0, 4.0])])
def test_a_caller_that_goes_away_gives_back_its_slot_or_its_place(gone: int, last_times_s: list[float]) -> None:
    clock = VirtualClock()
    model = model_server(1, clock)
    askers = [asks(model, clock, context=10, generated=1) for _ in range(3)]
    clock.run_until(0.5)
    model.drop(askers[gone])
    clock.run_until(100)
    assert askers[gone].times_s == []
    assert askers[2].times_s == last_times_s
    assert model.running == 0


def test_its_page_has_the_metrics_of_vllm() -> None:
    clock = VirtualClock()
    model = model_server(2, clock)
    for _ in range(5):
        asks(model, clock, context=1, generated=1)
    assert 'vllm:num_requests_running{model_name="llama"} 2\n' in model.metrics
    assert 'vllm:num_requests_waiting{model_name="llama"} 3\n' in model.metrics


def test_a_request_is_read_as_it_was_written_however_it_is_cut() -> None:
    whole = wire.request("llama", 374, 44)
    for cut in range(len(whole)):
        received = wire.read(whole[:cut])
        assert received is None or not received.complete
    received = wire.read(whole + b"more")
    assert received is not None
    assert wire.tokens(received.body) == (374, 44)
    assert received.rest == b"more"


def test_an_answers_head_says_who_answered() -> None:
    assert wire.answer_head(b"HTTP/1.1 200 OK\r\nx-spillway-destination: remote-0\r\na: b") == (200, "remote-0")
    assert wire.answer_head(b"HTTP/1.1 503 Service Unavailable\r\na: b") == (503, "")
    with pytest.raises(ValueError, match="not an HTTP"):
        wire.answer_head(b"hello")


async def test_callers_play_a_load_against_servers_as_if_these_were_gateways() -> None:
    quick = Timing(base_s=0.0, context_token_s=0.0001, generated_token_s=0.0001)
    arrivals = tuple(Arrival(0.002 * number, 10, 20) for number in range(50))
    async with process.running(server.serve, (ServerOptions("llama", 2, quick),)) as servers:
        gateway = player.Gateway("127.0.0.1", (await servers.receive())["llama"], 1.0)
        hosts = (player.Host("one", 0.0), player.Host("two", 0.001))
        load = player.Play((gateway,), hosts, arrivals, tail_s=5.0, connections=1)
        async with process.running(player.run, load) as callers:
            await callers.receive()
            begin_s = time.monotonic()
            servers.send((begin_s, begin_s + 0.1))
            callers.send(begin_s)
            answered: player.PlayerReport = await callers.receive()
        report: server.ServersReport = await servers.receive()
    assert list(answered.answers) == ["one", "two"]
    for answers in answered.answers.values():
        assert [answer.status for answer in answers] == [200] * 50
        assert all(0 <= each.sent_s <= each.first_byte_s <= each.done_s < inf for each in answers)
    assert len(report.in_progress["llama"]) == len(report.late_s) >= 10


def test_manifests_are_as_many_times_faster_as_the_load_defaults_too() -> None:
    behavior = {"percentage": 50, "bufferSeconds": 90}
    made = manifests(Model("m", 8, {"behavior": behavior}), {"m": 1, "remote": 2}, 10, mode="Force")
    offloading = made[0]["spec"]["offloadingConfig"]
    assert offloading["behavior"] == {
        "percentage": 50,
        "bufferSeconds": 9,
        "mode": "Force",
        "activationSeconds": 0.5,
        "intervalSeconds": 0.5,
        "staleSeconds": 6,
        "strategy": "Fixed",
        "maxStepPercentage": 25,
        "metricScope": "Local",
        "onMetricsUnavailable": "Hold",
    }
    assert offloading["remoteBackend"] == {"host": "127.0.0.1:2"}
    assert made[2]["ports"] == [{"port": 1}]


def test_a_run_that_was_faster_is_told_in_the_loads_own_time() -> None:
    arrivals = [Arrival(0.1, 7, 8), Arrival(0.2, 7, 8), Arrival(0.3, 7, 8)]
    answers = [
        player.Answer(0.001, 0.02, 0.5, 200, "local"),
        player.Answer(0.001, 0.02, 0.02, 503, ""),
        player.Answer(0.001, inf, inf, 0, ""),
    ]
    one, refused, unanswered = served(arrivals, answers, speed=10)
    assert one == Served(1.0, "local", 0.2, 6.0, 7, 8)
    assert (refused.destination, refused.first_byte_s) == ("", inf)
    assert (unanswered.destination, unanswered.first_byte_s) == ("", inf)


def test_decisions_are_read_from_the_controllers_log() -> None:
    def line(at: str, state: str, share_ppm: int, model: str = "default/m") -> str:
        fields = {"time": f"2026-01-01T00:00:{at}Z", "model": model, "state": state, "share_ppm": str(share_ppm)}
        return json.dumps(fields)

    log = "\n".join(
        [
            line("01.000", "Standby", 0),
            "not JSON",
            line("12.000", "Overflowing", 500_000),
            line("12.000", "Overflowing", 1, model="default/other"),
            json.dumps({"message": "no model"}),
            line("15.500", "Standby", 0),
        ]
    )
    begin_s = 1_767_225_610.0  # 2026-01-01T00:00:10Z
    assert decided(log, "default/m", begin_s, speed=10) == [
        Decided(0.0, "Standby", 0),
        Decided(20.0, "Overflowing", 500_000),
        Decided(55.0, "Standby", 0),
    ]
