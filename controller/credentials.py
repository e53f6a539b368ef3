"""Pure: the credentials of remotes: what each one needs, whether a gateway already holds it, and until when it is good.

A remote may be given traffic once a gateway has acknowledged its credential, and until the credential expires. A new
value does not take that back: the old one is still good. What is known before any gateway connects waits for none,
since a gateway that connects is sent secrets before the routes that use them. Models that name the same client of the
same issuer, with the secret from the same place, share one credential, so one token.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from controller.api import ApiKeyConfig, ModelDeployment, OAuthConfig, RemoteBackend, SecretKeyRef
from controller.events import DropToken, Effect, KeepToken, OAuthClient
from controller.objects import Secret
from xds import ir

_KEYS = frozenset({"authorization", "api-key", "x-api-key"})
"""Headers whose value is a secret."""

EXPIRY_MARGIN_S = 1.0
"""A remote loses its share this long before its token expires, so that no request leaves with an expired one."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a remote needs before it may be used. `missing` says what is not there; then `source` is None."""

    credential: ir.Credential
    source: OAuthClient | ir.Secret | None = None
    missing: str = ""


def need_of(remote: RemoteBackend, model: ModelDeployment, owner: str, secrets: Mapping[str, Secret]) -> Need | None:
    """The credential of a remote, None if it has none. `owner` names where an inline secret stands: a model's remote,
    or the config.
    """
    auth = remote.auth_config
    if auth is None:
        return None
    if auth.api_key_config is not None:
        return _api_key(auth.api_key_config, model.metadata.namespace, secrets)
    if auth.oauth_config is not None:
        return _oauth(auth.oauth_config, model.metadata.namespace, owner, secrets)
    return None


def certificate_authority(
    remote: RemoteBackend, namespace: str, secrets: Mapping[str, Secret]
) -> tuple[str | None, str]:
    """The remote's own authority in PEM, None if the system's are trusted; and what is missing of it."""
    if remote.tls is None or remote.tls.ca_ref is None:
        return None, ""
    ref = remote.tls.ca_ref
    value, missing = secret_value(ref, namespace, secrets)
    if value is not None and not _holds_certificates(value):
        return None, f"Secret {ref.object_key(namespace)} key {ref.key!r} holds no PEM certificate that can be read"
    return value, missing


def secret_refs(remote: RemoteBackend) -> dict[str, SecretKeyRef]:
    """All Secrets that a remote refers to, existing or not, by the field that names them."""
    auth, tls = remote.auth_config, remote.tls
    refs = {
        "tls.caRef": tls.ca_ref if tls else None,
        "authConfig.apiKeyConfig.secretRef": auth.api_key_config.secret_ref if auth and auth.api_key_config else None,
        "authConfig.oauthConfig.clientSecretRef": (
            auth.oauth_config.client_secret_ref if auth and auth.oauth_config else None
        ),
    }
    return {field_: ref for field_, ref in refs.items() if ref is not None}


def secret_keys(remote: RemoteBackend, namespace: str) -> set[str]:
    """The keys of all Secrets that a remote refers to, existing or not."""
    return {ref.object_key(namespace) for ref in secret_refs(remote).values()}


def inline_secrets(remote: RemoteBackend) -> dict[str, str]:
    """The fields of a remote that hold a secret in clear, and the field to write instead."""
    auth = remote.auth_config
    oauth = auth.oauth_config if auth else None
    found = {
        f"headersToAdd[{name}]": "authConfig.apiKeyConfig" for name in remote.headers_to_add if name.lower() in _KEYS
    }
    if oauth and oauth.client_secret is not None:
        found["authConfig.oauthConfig.clientSecret"] = "authConfig.oauthConfig.clientSecretRef"
    return found


def secret_value(ref: SecretKeyRef, namespace: str, secrets: Mapping[str, Secret]) -> tuple[str | None, str]:
    """The value a reference points at, or None and what is missing."""
    key = ref.object_key(namespace)
    secret = secrets.get(key)
    if secret is None:
        return None, f"Secret {key} does not exist"
    raw = secret.data.get(ref.key)
    if raw is None:
        return None, f"Secret {key} has no key {ref.key!r}"
    try:
        return raw.decode().strip(), ""
    except UnicodeDecodeError:
        return None, f"Secret {key} key {ref.key!r} is not text"


@lru_cache(maxsize=256)
def _holds_certificates(pem: str) -> bool:
    """Whether there is a certificate, and each is whole. What stands between them, a comment say, does not matter."""
    try:
        text = pem.encode("ascii", "replace").decode()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        return False
    return True


def _api_key(config: ApiKeyConfig, namespace: str, secrets: Mapping[str, Secret]) -> Need:
    ref = config.secret_ref
    key = ref.object_key(namespace)
    name = f"apikey/{key}/{ref.key}"
    credential = ir.Credential(name, header=config.header.lower(), value_prefix=config.prefix)
    value, missing = secret_value(ref, namespace, secrets)
    if value is not None and not (value.isascii() and value.isprintable() and value):
        value, missing = None, f"Secret {key} key {ref.key!r} is not one line of printable ASCII text"
    return Need(credential, None if value is None else ir.Secret(name, value), missing)


def _oauth(config: OAuthConfig, namespace: str, owner: str, secrets: Mapping[str, Secret]) -> Need:
    ref = config.client_secret_ref
    if ref is not None:
        value, missing = secret_value(ref, namespace, secrets)
        place = f"{ref.object_key(namespace)}/{ref.key}"
    else:
        value = config.client_secret.get_secret_value() if config.client_secret else None
        missing, place = "no client secret is given", owner
    identity = (config.token_url, config.client_id, *config.scopes, config.audience or "", config.auth_style, place)
    digest = hashlib.blake2b("\0".join(identity).encode(), digest_size=6).hexdigest()
    credential = ir.Credential(f"oauth/{config.client_id}/{digest}")
    if value is None:
        return Need(credential, None, missing)
    client = OAuthClient(
        name=credential.secret,
        token_url=config.token_url,
        client_id=config.client_id,
        client_secret=value,
        scopes=config.scopes,
        audience=config.audience,
        auth_style=config.auth_style,
    )
    return Need(credential, client)


@dataclass(slots=True)
class _Held:
    source: OAuthClient | ir.Secret | None
    users: set[str] = field(default_factory=set)
    value: ir.Secret | None = None
    expires_at_s: float | None = None
    delivered: bool = False
    failure: str = ""


class Vault:
    """Every credential in use: who uses it, its value, and whether a gateway has it. Owned by the engine.

    `restored`: credential name -> expiry (seconds since the epoch, None: never), of credentials that a gateway held
    before a restart.
    """

    def __init__(self, restored: Mapping[str, float | None]) -> None:
        self._held: dict[str, _Held] = {}
        self._used: dict[str, frozenset[str]] = {}
        self._restored = dict(restored)

    def use(self, user: str, needs: Iterable[Need]) -> tuple[list[Effect], dict[str, ir.Secret | None]]:
        """Sets what a model uses, all of it. Returns effects, and the secrets to publish (None: nobody uses it any
        more).
        """
        effects: list[Effect] = []
        changed: dict[str, ir.Secret | None] = {}
        wanted = {need.credential.secret: need for need in needs}
        for name in self._used.get(user, frozenset()) - wanted.keys():
            held = self._held[name]
            held.users.discard(user)
            if not held.users:
                del self._held[name]
                changed[name] = None
                if isinstance(held.source, OAuthClient):
                    effects.append(DropToken(name))
        for name, need in wanted.items():
            held = self._held.setdefault(name, self._restore(name))
            held.users.add(user)
            if need.source is None or need.source == held.source:
                continue
            held.source = need.source
            if isinstance(need.source, OAuthClient):
                effects.append(KeepToken(need.source))
            else:
                held.value = changed[name] = need.source
        self._used[user] = frozenset(wanted)
        if not wanted:
            del self._used[user]
        return effects, changed

    def issued(self, name: str, token: str, expires_at_s: float) -> ir.Secret | None:
        """A new token: the secret to publish, None if nobody wants it any more."""
        held = self._held.get(name)
        if held is None:
            return None
        held.value, held.expires_at_s, held.failure = ir.Secret(name, token), expires_at_s, ""
        return held.value

    def failed(self, name: str, reason: str) -> bool:
        """No token could be had. True if that is news."""
        held = self._held.get(name)
        if held is None or held.failure == reason:
            return False
        held.failure = reason
        return True

    def delivered(self, name: str) -> bool:
        """A gateway acknowledged the secret. True if it was the first to."""
        held = self._held.get(name)
        if held is None or held.delivered:
            return False
        held.delivered = True
        return True

    def adopt(self, held: Mapping[str, float | None]) -> None:
        """Takes what another controller says that gateways hold, with its expiry, for what is not known here."""
        self._restored.update({name: at for name, at in held.items() if name not in self._held})

    def is_delivered(self, name: str) -> bool:
        held = self._held.get(name)
        return held is not None and held.delivered

    def users(self, name: str) -> frozenset[str]:
        held = self._held.get(name)
        return frozenset(held.users) if held else frozenset()

    def expires_at_s(self, name: str) -> float | None:
        held = self._held.get(name)
        return held.expires_at_s if held else None

    def usable_until_s(self, name: str) -> float | None:
        """Until when a remote may be used with the value at hand; None: for ever, or there is no value."""
        expires_at_s = self.expires_at_s(name)
        return None if expires_at_s is None else expires_at_s - EXPIRY_MARGIN_S

    def obstacle(self, name: str, now: float) -> str:
        """Why a remote with this credential may not be used now; empty if it may."""
        held = self._held[name]
        until_s = self.usable_until_s(name)
        if until_s is not None and now >= until_s:
            failure = held.failure or "still waiting for the issuer"
            return f"its token expires or has expired, and no new one could be had: {failure}"
        if held.delivered:
            return ""
        if held.value is None:
            return f"no token yet: {held.failure or 'waiting for the issuer'}"
        return "no gateway has acknowledged its credential yet"

    def _restore(self, name: str) -> _Held:
        if name not in self._restored:
            return _Held(None)
        return _Held(None, delivered=True, expires_at_s=self._restored.pop(name))
