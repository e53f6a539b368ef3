"""Shell: OAuth2 access tokens by client credentials, one flight per credential, refreshed ahead.

While an issuer is down, its last token is good until it really expires: `TokenIssued.expires_at_s` says when, and a
`TokenFailed` takes nothing back. A token is printable text, since it goes into a header. An issuer's words of refusal
never repeat the secret, even if the issuer does.
"""

from __future__ import annotations

import asyncio
import base64
import math
import random
import re
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import quote, quote_plus

import requests
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.auth import ClientAuth

from controller.adapters.keyed_tasks import KeyedTasks
from controller.adapters.requesting import BoundedAdapter, in_thread, words_of
from controller.events import OAuthClient, TokenFailed, TokenIssued
from controller.refresh import ASSUMED_LIFETIME_S, PACE, Pace, next_refresh_s, next_retry_s

FLIGHTS = 16
"""Token requests on their way at once, over all credentials."""

_ANSWER_BYTES = 1_048_576
_WORDS_MAX = 300
_PRINTABLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class _Granted:
    token: str = field(repr=False)
    lifetime_s: float


@dataclass(frozen=True, slots=True)
class _Denied:
    reason: str


class TokenKeeper:
    """Keeps a token for each client. `timeout_s`: for one request. `ca_file` None: the system's authorities.

    `clock` gives seconds since the epoch, `jitter` numbers from 0 to 1. `obstacle` says why an IP address may not be
    sent anything, '' if it may.
    """

    def __init__(
        self,
        emit: Callable[[TokenIssued | TokenFailed], None],
        *,
        pace: Pace = PACE,
        timeout_s: float = 10.0,
        ca_file: str | None = None,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        obstacle: Callable[[str], str] = lambda address: "",
    ) -> None:
        self._emit = emit
        self._pace = pace
        self._timeout_s = timeout_s
        self._ca_file = ca_file
        self._clock = clock
        self._jitter = jitter
        self._obstacle = obstacle
        self._flights = asyncio.Semaphore(FLIGHTS)
        self._tasks: KeyedTasks[str] = KeyedTasks()

    def keep(self, client: OAuthClient) -> None:
        """Gets a token now and then before each one expires. A client of the same name is replaced."""
        self._tasks.start(client.name, partial(self._keep_fresh, client))

    def drop(self, name: str) -> None:
        self._tasks.stop(name)

    async def run(self) -> None:
        await self._tasks.run()

    async def _keep_fresh(self, client: OAuthClient) -> None:
        failures = 0
        while True:
            asked_at_s = self._clock()
            answer = await self._ask(client)
            if isinstance(answer, _Granted):
                failures = 0
                self._emit(TokenIssued(client.name, answer.token, asked_at_s + answer.lifetime_s))
                pause_s = next_refresh_s(self._pace, answer.lifetime_s, self._jitter())
            else:
                failures += 1
                self._emit(TokenFailed(client.name, answer.reason))
                pause_s = next_retry_s(self._pace, failures, self._jitter())
            await asyncio.sleep(pause_s)

    async def _ask(self, client: OAuthClient) -> _Granted | _Denied:
        async with self._flights:
            try:
                # Twice: the adapter's own end comes first and knows more.
                return await in_thread(lambda: self._request(client), 2 * self._timeout_s)
            except TimeoutError:
                return _Denied("the issuer gives no answer in time")

    def _request(self, client: OAuthClient) -> _Granted | _Denied:
        """One request, in a thread."""
        extra = {"audience": client.audience} if client.audience else {}
        with OAuth2Session(
            client.client_id,
            client.client_secret,
            token_endpoint_auth_method=_basic if client.auth_style == "basic" else "client_secret_post",
            scope=list(client.scopes) or None,
        ) as session:
            for scheme in ("https://", "http://"):
                session.mount(scheme, BoundedAdapter(_ANSWER_BYTES, self._timeout_s, self._obstacle))
            try:
                answer = session.fetch_token(
                    client.token_url,
                    grant_type="client_credentials",
                    allow_redirects=False,  # the secret goes to the configured issuer and nowhere else
                    verify=self._ca_file or True,
                    **extra,
                )
            except OAuthError as error:
                words = f"{error.error}: {error.description}" if error.description else f"{error.error}"
                return _Denied(f"the issuer refuses: {_harmless(words, client)}")
            except requests.HTTPError as error:
                return _Denied(f"the issuer answers HTTP {error.response.status_code}")
            except OSError as error:
                return _Denied(f"the issuer cannot be reached: {words_of(error)}")
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                # authlib reads the answer: not JSON, or numbers that are none.
                return _Denied(f"the issuer's answer cannot be used: {_harmless(str(error), client)}")
        return _read(answer)


def _basic_credentials(client_id: str, client_secret: str) -> str:
    """Percent-encoded first, as RFC 6749 (2.3.1) asks and authlib's own method does not."""
    return base64.b64encode(f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}".encode()).decode()


def _basic(
    client: ClientAuth, method: str, uri: str, headers: MutableMapping[str, str], body: str
) -> tuple[str, MutableMapping[str, str], str]:
    """A method of client authentication, in authlib's form."""
    headers["Authorization"] = f"Basic {_basic_credentials(client.client_id, client.client_secret)}"
    return uri, headers, body


def _read(answer: dict[str, object]) -> _Granted | _Denied:
    token, kind, expires_in = (answer.get(name) for name in ("access_token", "token_type", "expires_in"))
    if not isinstance(token, str) or not _PRINTABLE.fullmatch(token):
        return _Denied("the issuer's answer has no usable access_token")
    if kind is not None and str(kind).lower() != "bearer":
        return _Denied("the issuer's answer has a token_type other than Bearer")
    lifetime_s = ASSUMED_LIFETIME_S
    if expires_in is not None:
        try:
            lifetime_s = float(str(expires_in))
        except ValueError:
            lifetime_s = math.nan
    if not 0 < lifetime_s < math.inf:
        return _Denied("the issuer's answer has an expires_in that is no time from now")
    return _Granted(token, lifetime_s)


def _harmless(text: str, client: OAuthClient) -> str:
    """Words from outside as one short line, without the secret in any form in which it was sent."""
    secret = client.client_secret
    for form in (_basic_credentials(client.client_id, secret), secret, quote_plus(secret), quote(secret, safe="")):
        text = text.replace(form, "***") if form else text
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _WORDS_MAX else line[: _WORDS_MAX - 3] + "..."
