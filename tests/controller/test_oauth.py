"""Tokens from a real OAuth2 issuer, and from ones that misbehave."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import trustme

from controller.adapters.oauth import TokenKeeper
from controller.destinations import LOCAL_ONLY, Destinations
from controller.events import OAuthClient, TokenFailed, TokenIssued
from controller.refresh import ASSUMED_LIFETIME_S, Pace
from tests.support.issuer import CLIENT_ID, CLIENT_SECRET, Answer, Issuer, server_context
from tests.support.outside import Heard, refusing_port, running, tcp_server

QUICK = Pace(shortest_s=0.05, first_retry_s=0.05, longest_retry_s=0.1)
NEVER = Pace(shortest_s=3600, first_retry_s=3600, longest_retry_s=3600)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer({CLIENT_ID: CLIENT_SECRET}, scopes=["models:read", "models:call"]) as running_issuer:
        yield running_issuer


def client(token_url: str, **others: Any) -> OAuthClient:
    fields: dict[str, Any] = {"name": "oauth/one", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, **others}
    return OAuthClient(token_url=token_url, **fields)


def keeper(heard: Heard, pace: Pace = NEVER, **options: Any) -> TokenKeeper:
    return TokenKeeper(heard.append, pace=pace, jitter=lambda: 0.5, **{"timeout_s": 30.0, **options})


def issued(heard: Heard, name: str = "oauth/one") -> list[TokenIssued]:
    return [event for event in heard if isinstance(event, TokenIssued) and event.name == name]


def failed(heard: Heard) -> list[TokenFailed]:
    return [event for event in heard if isinstance(event, TokenFailed)]


async def ask(wanted: OAuthClient, **options: Any) -> TokenIssued | TokenFailed:
    """The first answer."""
    heard = Heard()
    tokens = keeper(heard, **options)
    tokens.keep(wanted)
    async with running(tokens.run()):
        await heard.until(len)
    event = heard[0]
    assert isinstance(event, TokenIssued | TokenFailed)
    return event


async def refusal(wanted: OAuthClient, **options: Any) -> str:
    event = await ask(wanted, **options)
    assert isinstance(event, TokenFailed), event
    assert wanted.client_secret not in event.reason
    return event.reason


# Asking


@pytest.mark.parametrize("style", ["basic", "post"])
async def test_a_client_shows_its_secret_in_the_configured_style(issuer: Issuer, style: str) -> None:
    event = await ask(client(issuer.token_url, auth_style=style))
    assert isinstance(event, TokenIssued)
    assert issuer.valid(event.token)
    assert issuer.grants[event.token].auth_style == style


async def test_scopes_and_audience_are_asked_for(issuer: Issuer) -> None:
    wanted = client(
        issuer.token_url, scopes=("models:read", "models:call"), audience="https://remote.example.com/v1?a=b"
    )
    event = await ask(wanted)

    assert isinstance(event, TokenIssued)
    assert issuer.valid(event.token, scope="models:call", audience="https://remote.example.com/v1?a=b")
    assert issuer.grants[event.token].scopes == {"models:read", "models:call"}


@pytest.mark.parametrize("style", ["basic", "post"])
@pytest.mark.parametrize("secret", ["with:colon", "a+b/c=d&e f%20", "größe", "日本語", "'\""])
async def test_any_secret_arrives_as_it_is(secret: str, style: str) -> None:
    with Issuer({CLIENT_ID: secret}) as issuer:
        assert isinstance(await ask(client(issuer.token_url, client_secret=secret, auth_style=style)), TokenIssued)


async def test_an_issuer_behind_tls_is_trusted_if_its_authority_is() -> None:
    authority = trustme.CA()
    with (
        Issuer({CLIENT_ID: CLIENT_SECRET}, tls=server_context(authority, "localhost"), host="localhost") as issuer,
        authority.cert_pem.tempfile() as ca_file,
    ):
        assert isinstance(await ask(client(issuer.token_url), ca_file=ca_file), TokenIssued)
        assert "certificate is not trusted" in await refusal(client(issuer.token_url))
        elsewhere = issuer.token_url.replace("localhost", "127.0.0.1")
        assert "certificate is not trusted" in await refusal(client(elsewhere), ca_file=ca_file)


# How long a token lives


@pytest.mark.parametrize(
    ("expires_in", "lifetime_s"),
    [("3600", 3600), ('"3600"', 3600), ("0.5", 0.5), ("86400000", 86_400_000), ("null", ASSUMED_LIFETIME_S)],
)
async def test_expiry_counts_from_when_the_token_was_asked_for(
    issuer: Issuer, expires_in: str, lifetime_s: float
) -> None:
    issuer.answer = Answer(200, f'{{"access_token": "t", "token_type": "bearer", "expires_in": {expires_in}}}')
    event = await ask(client(issuer.token_url), clock=lambda: 1000.0)

    assert event == TokenIssued("oauth/one", "t", 1000.0 + lifetime_s)


async def test_without_expires_in_a_token_is_taken_to_live_five_minutes() -> None:
    with Issuer({CLIENT_ID: CLIENT_SECRET}, lifetime_s=None) as issuer:
        event = await ask(client(issuer.token_url), clock=lambda: 0.0)
    assert isinstance(event, TokenIssued)
    assert event.expires_at_s == 300


async def test_a_token_is_refreshed_before_it_expires() -> None:
    heard = Heard()
    with Issuer({CLIENT_ID: CLIENT_SECRET}, lifetime_s=2) as issuer:
        tokens = keeper(heard, QUICK)
        tokens.keep(client(issuer.token_url))
        async with running(tokens.run()):
            await heard.until(lambda _: len(issued(heard)) == 2)

    assert len({event.token for event in issued(heard)}) == 2
    assert failed(heard) == []


async def test_defect_9_a_token_that_is_good_is_not_asked_for_again(issuer: Issuer) -> None:
    heard = Heard()
    tokens = keeper(heard, QUICK)
    one = client(issuer.token_url)
    short = client(issuer.token_url, name="oauth/other", client_secret="wrong")
    tokens.keep(one)
    tokens.keep(short)
    async with running(tokens.run()):
        # The other client's failures are the clock: many of its attempts, still one of ours.
        await heard.until(lambda _: issued(heard) and len(failed(heard)) >= 10)
    assert len(issued(heard)) == 1
    assert len(issuer.grants) == 1


# Issuers that refuse, or worse


async def test_defect_9_a_wrong_secret_is_told_in_the_issuers_words(issuer: Issuer) -> None:
    reason = await refusal(client(issuer.token_url, client_secret="not-the-secret"))
    assert "invalid_client" in reason
    assert "cannot authenticate" in reason


async def test_a_scope_that_the_client_may_not_have_is_told(issuer: Issuer) -> None:
    assert "invalid_scope" in await refusal(client(issuer.token_url, scopes=("models:delete",)))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(500, "oops", "text/plain"), "HTTP 500"),
        (Answer(503, '{"error": "temporarily_unavailable"}'), "HTTP 503"),
        (Answer(404, "<html>not here</html>", "text/html"), "HTTP 404"),
        (Answer(200, "<html>log in</html>", "text/html"), "not a JSON object"),
        (Answer(200, ""), "not a JSON object"),
        (Answer(200, "[]"), "not a JSON object"),
        (Answer(200, "[" * 100_000), "cannot be used"),
        (Answer(200, "{}"), "no usable access_token"),
        (Answer(200, '{"access_token": ""}'), "no usable access_token"),
        (Answer(200, '{"access_token": 7}'), "no usable access_token"),
        (Answer(200, '{"access_token": "a\\r\\nx-evil: 1"}'), "no usable access_token"),
        (Answer(200, '{"access_token": "t\u00f6k"}'), "no usable access_token"),
        (Answer(200, '{"access_token": "t", "token_type": "mac"}'), "token_type"),
        (Answer(200, '{"access_token": "t", "token_type": "bearer", "expires_in": 0}'), "expires_in"),
        (Answer(200, '{"access_token": "t", "token_type": "bearer", "expires_in": -5}'), "expires_in"),
        (Answer(200, '{"access_token": "t", "token_type": "bearer", "expires_in": "soon"}'), "soon"),
        (Answer(200, '{"access_token": "t", "token_type": "bearer", "expires_in": [1]}'), "cannot be used"),
        (Answer(200, '{"access_token": "t", "token_type": "bearer", "expires_in": 1e999}'), "cannot be used"),
        (Answer(200, '{"access_token": "t", "token_type": "bearer", "expires_in": NaN}'), "cannot be used"),
        (Answer(200, '{"access_token": "t", "token_type": "bearer", "expires_at": {}}'), "cannot be used"),
        (Answer(400, '{"error": {"code": 7}, "error_description": null}'), "code"),
        (Answer(400, '{"error": "x", "error_description": "' + "long " * 1000 + '"}'), "long"),
        (Answer(200, '{"access_token": "' + "x" * 2_000_000 + '"}'), "more than"),
        (Answer(401), "HTTP 401"),
    ],
)
async def test_whatever_is_no_token_is_a_failure_with_its_reason(issuer: Issuer, answer: Answer, expected: str) -> None:
    issuer.answer = answer
    reason = await refusal(client(issuer.token_url))
    assert expected in reason
    assert len(reason) < 400
    assert reason.isprintable()


@pytest.mark.parametrize(
    "echo",
    [
        lambda secret: secret,
        quote_plus,
        lambda secret: base64.b64encode(f"{CLIENT_ID}:{quote(secret, safe='')}".encode()).decode(),
    ],
    ids=["plain", "in a form", "basic"],
)
async def test_a_secret_that_the_issuer_repeats_is_not_repeated_by_us(
    issuer: Issuer, echo: Callable[[str], str]
) -> None:
    secret = "pa ss/w&rd"
    issuer.answer = Answer(400, f'{{"error": "invalid_client", "error_description": "got {echo(secret)}!"}}')
    reason = await refusal(client(issuer.token_url, client_secret=secret))

    assert reason == "the issuer refuses: invalid_client: got ***!"


async def test_the_secret_does_not_follow_a_redirect(issuer: Issuer) -> None:
    with Issuer({CLIENT_ID: CLIENT_SECRET}) as other:
        for status in (301, 302, 303, 307, 308):
            issuer.answer = Answer(status, headers={"Location": other.token_url})
            assert f"HTTP {status}" in await refusal(client(issuer.token_url))
        assert other.requests == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_defect_19_nothing_is_sent_where_a_name_leads_if_that_is_denied(scheme: str) -> None:
    sent: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.append(await reader.read())
        writer.close()

    async with tcp_server(take) as port:
        denied = Destinations(deny=LOCAL_ONLY).denies
        reason = await refusal(client(f"{scheme}://localhost:{port}/token"), obstacle=denied)
    assert "a destination that the settings deny (127.0.0.0/8)" in reason or "(::1/128)" in reason
    assert not any(sent)


async def test_an_issuer_that_is_not_there_is_a_failure() -> None:
    with refusing_port() as port:
        reason = await refusal(client(f"http://127.0.0.1:{port}/token?key=hidden"))
    assert reason == "the issuer cannot be reached: Connection refused"


@pytest.mark.parametrize(
    "url", ["http://a..b/token", "http://" + "x" * 70 + ".invalid/token", "http://nowhere.invalid/"]
)
async def test_an_issuer_whose_name_leads_nowhere_is_a_failure(url: str) -> None:
    assert "cannot be reached" in await refusal(client(url))


async def test_a_slow_issuer_is_a_timeout() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        await asyncio.sleep(3600)

    async with tcp_server(talk) as port:
        assert "no answer in time" in await refusal(client(f"http://127.0.0.1:{port}/token"), timeout_s=0.2)


# Over time


async def test_an_issuer_that_is_down_at_start_is_asked_until_it_is_up(issuer: Issuer) -> None:
    heard = Heard()
    issuer.down()
    tokens = keeper(heard, QUICK)
    tokens.keep(client(issuer.token_url))
    async with running(tokens.run()):
        await heard.until(lambda _: len(failed(heard)) >= 3)
        assert issued(heard) == []
        issuer.up()
        await heard.until(lambda _: issued(heard))
    assert issuer.valid(issued(heard)[0].token)


async def test_the_last_token_is_good_to_its_real_expiry_while_the_issuer_is_down() -> None:
    heard = Heard()
    with Issuer({CLIENT_ID: CLIENT_SECRET}, lifetime_s=2) as issuer:
        tokens = keeper(heard, QUICK, clock=lambda: 1000.0)
        tokens.keep(client(issuer.token_url))
        async with running(tokens.run()):
            await heard.until(lambda _: issued(heard))
            issuer.down()
            await heard.until(lambda _: len(failed(heard)) >= 3)
            assert [event.expires_at_s for event in issued(heard)] == [1002.0]
            issuer.up()
            await heard.until(lambda _: len(issued(heard)) == 2)


async def test_a_slow_issuer_has_one_request_at_a_time(issuer: Issuer) -> None:
    heard = Heard()
    issuer.delay_s = 3600
    slow, other = client(issuer.token_url), client("http://127.0.0.1:1/", name="oauth/other")
    tokens = keeper(heard, QUICK)
    tokens.keep(slow)
    tokens.keep(other)
    async with running(tokens.run()):
        await heard.until(lambda _: issuer.requests and len(failed(heard)) >= 10)
        assert issuer.requests == 1


async def test_a_slow_issuer_does_not_hold_up_another(issuer: Issuer) -> None:
    heard = Heard()
    issuer.delay_s = 3600
    with Issuer({CLIENT_ID: CLIENT_SECRET}) as quick:
        tokens = keeper(heard)
        tokens.keep(client(issuer.token_url))
        tokens.keep(client(quick.token_url, name="oauth/quick"))
        async with running(tokens.run()):
            await heard.until(lambda _: issued(heard, "oauth/quick"))


async def test_a_client_that_is_kept_again_replaces_the_one_of_its_name(issuer: Issuer) -> None:
    heard = Heard()
    tokens = keeper(heard, QUICK)
    tokens.keep(client(issuer.token_url, client_secret="old-secret"))
    async with running(tokens.run()):
        await heard.until(lambda _: failed(heard))
        tokens.keep(client(issuer.token_url))
        heard.clear()
        await heard.until(lambda _: issued(heard))
        assert failed(heard) == []


async def test_a_dropped_client_is_not_asked_for_any_more(issuer: Issuer) -> None:
    heard = Heard()
    tokens = keeper(heard, QUICK)
    tokens.keep(client(issuer.token_url, client_secret="wrong"))
    tokens.keep(client("http://127.0.0.1:1/", name="oauth/other"))
    async with running(tokens.run()):
        await heard.until(lambda _: {event.name for event in failed(heard)} == {"oauth/one", "oauth/other"})
        tokens.drop("oauth/one")
        tokens.drop("oauth/never-there")
        heard.clear()
        await heard.until(lambda _: len(failed(heard)) >= 5)
    assert {event.name for event in failed(heard)} == {"oauth/other"}


async def test_the_end_does_not_wait_for_a_silent_issuer(issuer: Issuer) -> None:
    issuer.delay_s = 3600
    tokens = keeper(Heard(), timeout_s=3600)
    tokens.keep(client(issuer.token_url))
    async with running(tokens.run()) as task:
        await Heard().until(lambda _: issuer.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 30)


async def test_no_repr_shows_a_secret_or_a_token(issuer: Issuer) -> None:
    wanted = client(issuer.token_url)
    event = await ask(wanted)
    assert isinstance(event, TokenIssued)
    assert event.token not in repr(event)
    assert CLIENT_SECRET not in repr(wanted)
