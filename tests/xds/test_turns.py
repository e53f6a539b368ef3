"""Who goes first, when there are many."""

import asyncio

import pytest

from xds import turns
from xds.turns import Turns


@pytest.fixture(autouse=True)
def _two_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MANY", 2)
    monkeypatch.setattr(turns, "FEW", 1)


async def comes_round() -> None:
    await asyncio.sleep(0)


async def test_a_few_are_woken_each_time_in_the_order_they_came() -> None:
    woken: list[str] = []
    waiting = Turns(woken.append)
    waiting.wake_all("abcde")
    rounds = []
    for _ in range(4):
        await comes_round()
        rounds.append("".join(woken))
    assert rounds == ["ab", "abcd", "abcde", "abcde"]


async def test_it_is_fewer_while_gateways_come(monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[str] = []
    waiting = Turns(woken.append)
    waiting.come()
    waiting.wake_all("abcdef")
    await comes_round()
    assert woken == ["a"]
    monkeypatch.setattr(waiting, "_coming_until_s", 0.0)
    await comes_round()
    assert woken == ["a", "b", "c"]


async def test_who_is_up_to_date_waits_for_no_one_who_is_late() -> None:
    woken: list[str] = []
    waiting = Turns(woken.append)
    waiting.wake_all("abcdef")
    await comes_round()
    waiting.wake_all("abcdef")
    await comes_round()
    assert woken == ["a", "b", "a", "b", "c", "d"]


async def test_who_is_late_has_its_turn_however_often_something_changes() -> None:
    woken: list[str] = []
    waiting = Turns(woken.append)
    for _ in range(10):
        waiting.wake_all("abcdefgh")
        await comes_round()
    assert set(woken) == set("abcdefgh")


async def test_who_has_ended_is_not_woken() -> None:
    woken: list[str] = []
    waiting = Turns(woken.append)
    waiting.wake_all("abcd")
    waiting.wake_all("abcde")
    waiting.forget("b")
    waiting.forget("e")
    for _ in range(3):
        await comes_round()
    assert sorted(woken) == ["a", "c", "d"]


async def test_one_large_request_is_worked_on_each_time() -> None:
    waiting, done = Turns[str](lambda stream: None), 0

    async def work(size: int) -> None:
        nonlocal done
        await waiting.wait(size)
        done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(work(turns.LARGE_BYTES + 1))
        counts = []
        while done < 10:
            await comes_round()
            counts.append(done)
    assert max(after - before for before, after in zip([0, *counts], counts, strict=False)) == 1
    with pytest.raises(StopIteration):
        work(turns.LARGE_BYTES).send(None)  # it waits for nothing


async def test_few_come_in_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "COME_IN", 3)
    waiting, inside, most = Turns[str](lambda stream: None), 0, 0

    async def comes_in() -> None:
        nonlocal inside, most
        async with waiting.door():
            inside += 1
            most = max(most, inside)
            await comes_round()
            inside -= 1

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(comes_in())
    assert (inside, most) == (0, 3)


async def test_one_that_says_nothing_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "COME_IN", 1)
    monkeypatch.setattr(turns, "COME_IN_S", 0.01)
    waiting, silence = Turns[str](lambda stream: None), asyncio.Event()

    async def says_nothing() -> None:
        async with waiting.door():
            await silence.wait()

    silent = asyncio.create_task(says_nothing())
    await comes_round()
    async with asyncio.timeout(30):
        async with waiting.door():
            silence.set()
            await silent
            assert waiting._door.locked(), "one left once"
