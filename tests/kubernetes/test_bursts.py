"""Events that come one by one, told together."""

from __future__ import annotations

import asyncio

from controller.adapters.kubernetes.bursts import GAP_S, Bursts
from controller.events import Event, Kind, Removed
from tests.kubernetes.tasks import until


def slices(*names: str) -> list[Event]:
    return [Removed(Kind.ENDPOINT_SLICE, f"shop/{name}") for name in names]


async def test_what_comes_alone_is_told_at_once() -> None:
    told: list[Event] = []
    bursts = Bursts(told.append)
    for number, event in enumerate(slices("a", "b")):
        bursts.add(event)
        assert len(told) == number + 1
        await asyncio.sleep(4 * GAP_S)


async def test_what_comes_soon_after_is_told_together_and_in_order() -> None:
    told: list[Event] = []
    bursts = Bursts(told.append)
    for event in slices("c", "b", "a"):
        bursts.add(event)
    assert told == slices("c")
    await until(lambda: len(told) > 1)
    assert told == slices("c", "b", "a")


async def test_who_cannot_wait_is_told_what_there_is() -> None:
    told: list[Event] = []
    bursts = Bursts(told.append)
    for event in slices("a", "b"):
        bursts.add(event)
    bursts.tell()
    assert told == slices("a", "b")
