"""The OAuth2 issuer that the demo and other tests rely on."""

from __future__ import annotations

import time

import pytest
import requests
from authlib.integrations.requests_client import OAuth2Session

from tests.support.issuer import CLIENT_ID, CLIENT_SECRET, Answer, Issuer


def issue(issuer: Issuer, scope: str | None = None, **form: str) -> str:
    with OAuth2Session(CLIENT_ID, CLIENT_SECRET, scope=scope) as session:
        token: str = session.fetch_token(issuer.token_url, grant_type="client_credentials", **form)["access_token"]
    return token


def test_a_token_is_valid_for_what_it_was_asked_for() -> None:
    with Issuer({CLIENT_ID: CLIENT_SECRET}, scopes=["a", "b"]) as issuer:
        token = issue(issuer, "a", audience="here")

        assert issuer.valid(token)
        assert issuer.valid(token, scope="a", audience="here")
        assert not issuer.valid(token, scope="b")
        assert not issuer.valid(token, audience="there")
        assert not issuer.valid("made up")
        assert issuer.requests == 1


def test_a_token_expires() -> None:
    with Issuer({CLIENT_ID: CLIENT_SECRET}, lifetime_s=1) as issuer:
        token = issue(issuer)
        deadline_s = time.monotonic() + 30
        while issuer.valid(token) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert not issuer.valid(token)


def test_an_issuer_that_was_down_is_where_it_was() -> None:
    with Issuer({CLIENT_ID: CLIENT_SECRET}) as issuer:
        url = issuer.token_url
        issuer.down()
        issuer.down()
        with pytest.raises(requests.ConnectionError):
            issue(issuer)
        issuer.up()
        assert issuer.token_url == url
        assert issuer.valid(issue(issuer))


def test_a_client_that_is_added_or_changed_counts_at_once() -> None:
    with Issuer({}) as issuer:
        with pytest.raises(Exception, match="invalid_client"):
            issue(issuer)
        issuer.clients[CLIENT_ID] = CLIENT_SECRET
        assert issuer.valid(issue(issuer))


def test_an_answer_of_ones_own_replaces_the_token() -> None:
    with Issuer({CLIENT_ID: CLIENT_SECRET}) as issuer:
        issuer.answer = Answer(418, "teapot", "text/plain", {"X-Pot": "tea"})
        response = requests.post(issuer.token_url, timeout=30)
        assert (response.status_code, response.text, response.headers["X-Pot"]) == (418, "teapot", "tea")
        assert issuer.requests == 1


def test_an_issuer_that_does_not_run_has_no_address() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        _ = Issuer({}).token_url
