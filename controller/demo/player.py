"""Shell: plays requests as clients would, each at its own time whatever became of the others (open loop)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from controller.demo.measure import Outcome
from controller.simulate.workload import Arrival

DESTINATION = "x-spillway-destination"
END = b"data: [DONE]"
MAX_IN_FLIGHT = 500
"""Beyond this a request is not sent but noted as an error: a player that queues would hide what users see."""
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask: the front listener's address ('host:port'), the Host, and the model's name."""

    address: str
    host: str
    model: str


class Player:
    """Plays requests once; `outcomes` grows as they end."""

    def __init__(self, target: Target, requests: Sequence[Arrival], max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self.outcomes: list[Outcome] = []
        self.in_flight = 0
        self._target = target
        self._requests = requests
        self._max_in_flight = max_in_flight
        self._start_s = 0.0

    @property
    def now_s(self) -> float:
        """Seconds since the start."""
        return asyncio.get_running_loop().time() - self._start_s

    def start(self) -> None:
        """The clock begins to run."""
        self._start_s = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Returns when the last request has ended."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            for request in self._requests:
                await asyncio.sleep(request.at_s - self.now_s)
                group.create_task(self._play(session, request))

    async def _play(self, session: aiohttp.ClientSession, request: Arrival) -> None:
        if self.in_flight >= self._max_in_flight:
            now_s = self.now_s
            self.outcomes.append(Outcome(request, now_s, None, now_s, 0, "", "not sent: too many requests in flight"))
            return
        self.in_flight += 1
        try:
            self.outcomes.append(await self._ask(session, request))
        finally:
            self.in_flight -= 1

    async def _ask(self, session: aiohttp.ClientSession, request: Arrival) -> Outcome:
        sent_s, first_byte_s, status, destination, tail = self.now_s, None, 0, "", b""
        error = ""
        try:
            async with session.post(
                f"http://{self._target.address}/v1/chat/completions",
                data=chat_request(request, self._target.model),
                headers={"Host": self._target.host, "Content-Type": "application/json"},
            ) as response:
                status, destination = response.status, response.headers.get(DESTINATION, "")
                async for piece in response.content.iter_any():
                    first_byte_s = self.now_s if first_byte_s is None else first_byte_s
                    tail = (tail + piece)[-200:]
        except TimeoutError:
            error = f"no end after {TIMEOUT_S:g} s"
        except aiohttp.ClientError as failed:
            error = f"{type(failed).__name__}: {failed}"
        if not error and status != 200:
            error = f"status {status}"
        if not error and END not in tail:
            error = "the stream broke off"
        return Outcome(request, sent_s, first_byte_s, self.now_s, status, destination, error)


def chat_request(request: Arrival, model: str) -> bytes:
    """A streamed chat completion of the request's size."""
    message = {"role": "user", "content": "word " * request.context_tokens}
    body = {"model": model, "messages": [message], "max_tokens": max(1, request.generated_tokens), "stream": True}
    return json.dumps(body).encode()
