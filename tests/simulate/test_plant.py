"""Replicas with a queue, and gateways that do with a route what Envoy does."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.simulate.plant import Plant, spread
from controller.simulate.workload import Arrival, Timing
from xds import ir

SECOND = Timing(0.0, 0.0, 1.0)
"""A server that takes a second for each token it generates."""
FAR = Timing(0.5, 0.0, 1.0)
REMOTE = ir.Remote(ir.Backend("remote.example.com", 443), "remote.example.com")
FALLBACK = (ir.remote_slot(0),)


def route(
    *chains: ir.Chain, limit: int = ir.UNLIMITED, endpoints: int = 1, remote_limit: int = ir.UNLIMITED
) -> ir.Route:
    local = ir.Local(tuple(ir.Endpoint(f"10.0.0.{number}", 80) for number in range(1, endpoints + 1)), limit=limit)
    remote = replace(REMOTE, backend=replace(REMOTE.backend, limit=remote_limit))
    return ir.Route("default/m", ("m",), local, (remote,), chains or (ir.Chain(ir.LOCAL, ir.PPM, FALLBACK),))


def plant(programmed: ir.Route | None, *, replicas: int = 1, slots: int = 1, gateways: int = 1) -> Plant:
    made = Plant(replicas, slots, gateways, SECOND, FAR, random.Random(1).random)
    for gateway in made.gateways:
        gateway.route = programmed
    return made


def ask(made: Plant, at_s: float, tokens: int = 1, gateway: int = 0) -> tuple[str, float]:
    served = made.serve(Arrival(at_s, 0, tokens), gateway)
    return served.destination, served.first_byte_s


def test_requests_wait_in_the_order_of_arrival_and_no_slot_is_idle_meanwhile() -> None:
    made = plant(route(), slots=2)

    assert [ask(made, 0.0, tokens)[1] for tokens in (4, 2, 1, 1)] == [0.0, 0.0, 2.0, 3.0]
    made.settle(2.5)
    assert (made.replicas[0].running, made.replicas[0].waiting, made.replicas[0].completed) == (2, 1, 1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=60), st.integers(1, 5))
def test_a_replica_serves_as_a_queue_does_that_is_looked_at_second_by_second(
    jobs: list[tuple[int, int]], slots: int
) -> None:
    jobs = sorted(jobs, key=lambda job: job[0])
    waiting, ends, began = list(enumerate(jobs)), list[int](), dict[int, int]()
    for second in range(1000):
        ends = [end for end in ends if end > second]
        while waiting and waiting[0][1][0] <= second and len(ends) < slots:
            number, (_, tokens) = waiting.pop(0)
            began[number] = second
            ends.append(second + tokens)
    made = plant(route(), slots=slots)

    waits = [ask(made, at_s, tokens)[1] for at_s, tokens in jobs]
    assert waits == [began[number] - at_s for number, (at_s, _) in enumerate(jobs)]


def test_a_gateway_counts_its_own_requests_against_its_own_limit() -> None:
    made = plant(route(limit=2), slots=8, gateways=2)

    assert [ask(made, 0.0)[0] for _ in range(3)] == ["local", "local", "remote-0"]
    assert ask(made, 0.0, gateway=1)[0] == "local"
    assert ask(made, 0.9)[0] == "remote-0"
    assert ask(made, 1.0)[0] == "local"
    assert (made.gateways[0].issued, made.gateways[0].refused) == (3, 2)


def test_a_lease_stands_for_the_limit_of_the_route() -> None:
    made = plant(route(limit=2), slots=8)
    made.gateways[0].limit = 1

    assert [ask(made, 0.0)[0] for _ in range(2)] == ["local", "remote-0"]


def test_without_an_endpoint_everything_goes_on_along_the_chain() -> None:
    assert ask(plant(route(endpoints=0)), 0.0) == ("remote-0", 0.5)


@pytest.mark.parametrize("programmed", [None, replace(route(), chains=()), route(ir.Chain(ir.LOCAL, ir.PPM), limit=0)])
def test_what_no_destination_takes_fails(programmed: ir.Route | None) -> None:
    assert ask(plant(programmed), 0.0) == ("", math.inf)


def test_a_remote_has_a_limit_too_and_retries_are_bounded() -> None:
    away = ir.Chain(ir.remote_slot(0), ir.PPM, (ir.LOCAL,))
    made = plant(route(away, remote_limit=1))
    assert [ask(made, 0.0)[0] for _ in range(2)] == ["remote-0", "local"]

    made = plant(replace(route(away, remote_limit=1), retry=ir.Retry(attempts=0)))
    assert [ask(made, 0.0)[0] for _ in range(2)] == ["remote-0", ""]


def test_requests_start_where_the_weights_say() -> None:
    made = plant(route(ir.Chain(ir.LOCAL, 700_000, FALLBACK), ir.Chain("remote-0", 300_000, (ir.LOCAL,))), slots=100)
    places = Counter(ask(made, float(second))[0] for second in range(10_000))

    assert places["remote-0"] / 10_000 == pytest.approx(0.3, abs=0.02)
    assert places["local"] + places["remote-0"] == 10_000


def test_replicas_are_filled_evenly_if_not_perfectly() -> None:
    made = plant(route(endpoints=4), replicas=4, slots=100)
    for _ in range(200):
        ask(made, 0.0)

    assert sum(replica.in_progress for replica in made.replicas) == 200
    assert all(40 <= replica.in_progress <= 60 for replica in made.replicas)


def test_arrivals_are_spread_over_the_gateways_by_their_parts() -> None:
    counts = Counter(islice(spread((40, 30, 20, 10), random.Random(3).random), 10_000))

    assert [round(counts[number] / 10_000, 1) for number in range(4)] == [0.4, 0.3, 0.2, 0.1]
