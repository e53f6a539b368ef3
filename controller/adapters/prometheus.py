"""Shell: asks Prometheus, in threads, since its client blocks.

The client drops the type of a result, so a scalar and a text look alike, [time, "value"]. Nothing is lost by it: a text
that is no number is refused when it is read. Its failures are Python values printed into a sentence, so Prometheus' own
words are taken from the response before the client sees it.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import requests
from prometheus_api_client import PrometheusConnect
from requests.auth import AuthBase

from controller.adapters.keyed_tasks import KeyedTasks
from controller.adapters.requesting import BoundedAdapter, in_thread, words_of
from controller.events import Observed
from controller.metrics import PromQuery, Reading, Unknown, read_prometheus
from controller.settings import PrometheusSettings

AT_ONCE = 8
"""Queries on their way at once. The rest wait, so that Prometheus never meets a herd."""

_ANSWER_BYTES = 16 * 1_048_576
_WORDS_MAX = 300


class PrometheusSource:
    """Asks each query once per interval, at its own moment within it. `jitter` gives numbers from 0 to 1."""

    def __init__(
        self,
        settings: PrometheusSettings,
        emit: Callable[[Observed], None],
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._emit = emit
        self._jitter = jitter
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._idle: list[PrometheusConnect] = []
        self._tasks: KeyedTasks[PromQuery] = KeyedTasks()

    def watch(self, query: PromQuery) -> None:
        self._tasks.start(query, partial(self._ask_for_ever, query))

    def unwatch(self, query: PromQuery) -> None:
        self._tasks.stop(query)

    async def run(self) -> None:
        """Asks until it is cancelled."""
        try:
            await self._tasks.run()
        finally:
            while self._idle:
                self._idle.pop().close()

    async def _ask_for_ever(self, query: PromQuery) -> None:
        """The first answer at once; after a pause that sets the queries apart, one in each interval."""
        loop = asyncio.get_running_loop()
        interval_s = self._settings.interval_seconds
        due_s = loop.time() - interval_s * self._jitter()
        while True:
            self._emit(Observed(query, await self._ask(query)))
            due_s = max(due_s + interval_s, loop.time())
            await asyncio.sleep(due_s - loop.time())

    async def _ask(self, query: PromQuery) -> Reading:
        if not self._settings.address:
            return Unknown("NoAddress", "metricInformer.prometheus.address is missing")
        timeout_s = self._settings.timeout_seconds
        async with self._slots:
            client = self._idle.pop() if self._idle else _connect(self._settings)
            try:
                # Twice: the adapter's own end comes first and knows more.
                reading = await in_thread(lambda: _answer(client, query, timeout_s), 2 * timeout_s)
            except TimeoutError:
                return Unknown("Timeout", "Prometheus gives no answer in time")
            self._idle.append(client)
            return reading


def base_url(address: str) -> str:
    """'host:9090' or 'https://host/prefix/' -> a URL to which API paths are added."""
    return (address if "://" in address else f"http://{address}").rstrip("/")


def _connect(settings: PrometheusSettings) -> PrometheusConnect:
    url = base_url(settings.address or "")
    session = requests.Session()
    session.verify = settings.ca_file or True
    session.hooks["response"].append(_refuse_errors)
    client = PrometheusConnect(url, session=session, auth=_Credentials(settings))
    # In place of the client's own, which would repeat a failed query three times with pauses.
    session.mount(url, BoundedAdapter(_ANSWER_BYTES, settings.timeout_seconds))
    return client


def _answer(client: PrometheusConnect, query: PromQuery, timeout_s: float) -> Reading:
    """One query, in a thread. `timeout` makes Prometheus give up when we do."""
    try:
        result = client.custom_query(query.promql, {"timeout": f"{round(timeout_s * 1000)}ms"})
    except _RefusedError as error:
        return Unknown("Refused", f"Prometheus refuses the query: {error}")
    except _CredentialsError as error:
        return Unknown("Credentials", str(error))
    except requests.Timeout:
        return Unknown("Timeout", f"Prometheus gives no answer within {timeout_s:g} s")
    except (requests.JSONDecodeError, KeyError, TypeError, RecursionError):
        return Unknown("BadAnswer", "the answer is not Prometheus' JSON; is metricInformer.prometheus.address right?")
    except OSError as error:
        return Unknown("Unreachable", f"Prometheus cannot be asked: {words_of(error)}")
    return read_prometheus(result)


class _RefusedError(Exception):
    """Prometheus' own words, or a status."""


def _refuse_errors(response: requests.Response, **_: object) -> None:
    if response.status_code < 400:
        return
    words = f"HTTP {response.status_code}"
    try:
        answer = response.json()
        words += f", {answer['errorType']}: {answer['error']}"
    except (requests.JSONDecodeError, KeyError, TypeError, RecursionError):
        pass  # a proxy's page, not Prometheus' words
    raise _RefusedError(words[:_WORDS_MAX])


class _CredentialsError(Exception):
    """The credentials cannot be read. The message names the file, never what is in it."""


class _Credentials(AuthBase):
    """Reads the configured files and adds the header they make. An Authorization header of our own also keeps requests
    from looking for one in ~/.netrc.
    """

    def __init__(self, settings: PrometheusSettings) -> None:
        self._settings = settings

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        settings = self._settings
        if settings.bearer_token_file is not None:
            token = _secret_in(settings.bearer_token_file)
            if not (token.isascii() and token.isprintable()):
                raise _CredentialsError(f"{settings.bearer_token_file} holds more than one line of plain text")
            request.headers["Authorization"] = f"Bearer {token}"
        elif settings.username is not None and settings.password_file is not None:
            login = f"{settings.username}:{_secret_in(settings.password_file)}"
            basic = base64.b64encode(login.encode()).decode()
            request.headers["Authorization"] = f"Basic {basic}"
        return request


def _secret_in(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except UnicodeDecodeError:
        raise _CredentialsError(f"{file} is not text") from None
    except OSError as error:
        raise _CredentialsError(f"{file} cannot be read: {error.strerror}") from None
