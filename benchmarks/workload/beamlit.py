"""The predecessor's loop, as it was promised, around a real gateway: its orders go out as `mode` in the manifests.

So they take what it takes `spillway run` to see a changed file, about 0.1 s of the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp

from benchmarks.overflow_simulated import PERCENTAGE, TARGET, BeamlitRule
from benchmarks.workload.play import Model, Stage, manifests
from controller.exposition import Page
from controller.metrics import ScrapeQuery, Value

RUNNING = "vllm:num_requests_running"


def offloading() -> dict[str, object]:
    """What its models begin with: all local, and no way on from where a request starts."""
    return {"behavior": {"mode": "Off", "percentage": PERCENTAGE}, "retry": {"attempts": 0}}


async def steer(stage: Stage, models: Sequence[Model]) -> None:
    """Decides for these models, for ever."""
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for model in models:
            group.create_task(_steer(stage, model, session))


async def _steer(stage: Stage, model: Model, session: aiohttp.ClientSession) -> None:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    rule = BeamlitRule(round(TARGET * model.slots))
    scraped, scrape_at_s, poll_at_s, active = 0.0, 0.0, rule.POLL_S / 2, False
    while True:
        now_s = min(scrape_at_s, poll_at_s)
        await asyncio.sleep(began_s + now_s / stage.speed - loop.time())
        if scrape_at_s <= now_s:
            scraped = await _running(session, stage.ports[model.name])
            scrape_at_s += rule.SCRAPE_S
        if poll_at_s <= now_s:
            poll_at_s += rule.POLL_S
            before, active = active, rule.active(scraped, now_s)
            if active != before:
                changed = manifests(model, stage.ports, stage.speed, mode="Force" if active else "Off")
                stage.stack.write(f"{model.name}.yaml", *changed)


async def _running(session: aiohttp.ClientSession, port: int) -> float:
    async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
        page = Page(await response.text(), [RUNNING])
    reading = page.read(ScrapeQuery("", None, RUNNING))
    assert isinstance(reading, Value), "a simulated server has this metric"
    return reading.value
