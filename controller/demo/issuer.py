"""Shell: a real OAuth2 issuer for the demo and for tests: authlib's server side, client credentials grant, in a thread.

It can be told to be down, slow, or to give any answer, and it knows which tokens are good.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from flask import Flask, Response
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

TOKEN_PATH = "/oauth/token"
_ADDRESS = "127.0.0.1"
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Answer:
    """What the token endpoint says instead of a token."""

    status: int
    body: str = ""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grant:
    """A token that was issued. `auth_style`: how the client showed its secret, 'basic' or 'post'."""

    client_id: str
    scopes: frozenset[str]
    audience: str | None
    auth_style: str
    expires_at_s: float
    """On the monotonic clock."""


class Issuer:
    """Listens while the `with` block lasts, on a free port that stays its own while it is down.

    `clients`: id -> secret. `scopes`: what clients may ask for. `lifetime_s` None: the answer does not tell it, and the
    token never expires. `tls`: serve HTTPS with this context, as `host`, which has to lead to 127.0.0.1.
    """

    def __init__(
        self,
        clients: Mapping[str, str],
        *,
        scopes: Iterable[str] = (),
        lifetime_s: int | None = 60,
        tls: ssl.SSLContext | None = None,
        host: str = _ADDRESS,
    ) -> None:
        self.clients = dict(clients)
        self.scopes = frozenset(scopes)
        self.lifetime_s = lifetime_s
        self.delay_s = 0.0
        self.answer: Answer | None = None
        """Given to every request while it is set."""
        self.requests = 0
        self.grants: dict[str, Grant] = {}
        self._tls = tls
        self._host = host
        self._counting = threading.Lock()
        self._going_down = threading.Event()
        self._reserved: socket.socket | None = None
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def token_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}{TOKEN_PATH}"

    @property
    def port(self) -> int:
        if self._reserved is None:
            raise RuntimeError("the issuer is not running")
        port: int = self._reserved.getsockname()[1]
        return port

    def valid(self, token: str, *, scope: str | None = None, audience: str | None = None) -> bool:
        """Whether the token is ours and has not expired, and is for this scope and audience if they are given."""
        grant = self.grants.get(token)
        return (
            grant is not None
            and time.monotonic() < grant.expires_at_s
            and (scope is None or scope in grant.scopes)
            and (audience is None or audience == grant.audience)
        )

    def __enter__(self) -> Self:
        self._reserved = _bound(0)
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        if self._reserved is not None:
            self._reserved.close()

    def up(self) -> None:
        """Accepts connections."""
        with _bound(self.port) as listener:
            listener.listen(128)
            self._server = make_server(
                _ADDRESS,
                self.port,
                _app(self),
                threaded=True,
                request_handler=_Handler,
                ssl_context=self._tls,
                fd=listener.fileno(),
            )
        self._going_down.clear()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), daemon=True)
        self._thread.start()

    def down(self) -> None:
        """Refuses connections. Requests that are waiting for a slow answer get it at once."""
        if self._server is None or self._thread is None:
            return
        self._going_down.set()
        self._server.shutdown()
        self._thread.join()
        self._server = self._thread = None

    def arrived(self) -> Answer | None:
        """Counts a request, makes it wait, and returns what it gets instead of a token."""
        with self._counting:
            self.requests += 1
        self._going_down.wait(self.delay_s)
        return self.answer

    def remember(self, token: Mapping[str, Any], request: Any) -> None:
        """Remembers a token that was issued to an OAuth2 request of authlib's."""
        lifetime_s = token.get("expires_in")
        self.grants[token["access_token"]] = Grant(
            client_id=request.client.client_id,
            scopes=frozenset(token.get("scope", "").split()),
            audience=request.payload.data.get("audience"),
            auth_style=request.auth_method.removeprefix("client_secret_"),
            expires_at_s=time.monotonic() + lifetime_s if lifetime_s else float("inf"),
        )


@dataclass(frozen=True, slots=True)
class _Client(ClientMixin):  # type: ignore[misc] # authlib has no types
    client_id: str
    secret: str = field(repr=False)
    scopes: frozenset[str]

    def get_client_id(self) -> str:
        return self.client_id

    def get_allowed_scope(self, scope: str | None) -> str | None:
        """All that is asked for, or None, which becomes invalid_scope."""
        return (scope or "") if self.scopes.issuperset((scope or "").split()) else None

    def check_client_secret(self, client_secret: str) -> bool:
        return hmac.compare_digest(client_secret.encode(), self.secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return endpoint == "token" and method in _ClientCredentials.TOKEN_ENDPOINT_AUTH_METHODS

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "client_credentials"


class _ClientCredentials(ClientCredentialsGrant):  # type: ignore[misc] # authlib has no types
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.0"
    """One request a connection: one that a client keeps open would be answered while the issuer is down."""

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: the terminal belongs to the demo."""


def _app(issuer: Issuer) -> Callable[..., Any]:
    app = Flask(__name__, static_folder=None)

    def client(client_id: str) -> _Client | None:
        secret = issuer.clients.get(client_id)
        return None if secret is None else _Client(client_id, secret, issuer.scopes)

    def new_token(**_: Any) -> str:
        return secrets.token_urlsafe(32)

    def lifetime_s(*_: Any) -> int | None:
        return issuer.lifetime_s

    server = AuthorizationServer(app, client, issuer.remember)
    server.register_token_generator("default", BearerTokenGenerator(new_token, expires_generator=lifetime_s))
    server.register_grant(_ClientCredentials)

    def token() -> Response:
        if answer := issuer.arrived():
            return Response(answer.body, answer.status, dict(answer.headers), content_type=answer.content_type)
        response: Response = server.create_token_response()
        return response

    app.add_url_rule(TOKEN_PATH, view_func=token, methods=["POST"])

    def as_behind_tls(environ: dict[str, Any], start_response: Any) -> Any:
        """authlib refuses plain HTTP, rightly, but this one never leaves the loopback."""
        return app(environ | {"wsgi.url_scheme": "https"}, start_response)

    return as_behind_tls


def _bound(port: int) -> socket.socket:
    """A bound socket that does not listen yet. It shares its port, so that one of two can stay while the other goes."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((_ADDRESS, port))
    return sock
