"""Provider keys: made, read and checked; only the SHA-256 of a secret is kept, and no message or log ever holds one.

A key reads `hk_<id>_<secret>`: the id (8 characters) finds the record, the secret (256 bit, base64url) is compared by
its hash in constant time. A fast hash is right here: the secret is random, so there is no dictionary to try.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from gateway.model.errors import Forbidden, Unauthorized
from gateway.model.registration import ApiKey, App

PREFIX = "hk"
ID_CHARS = 8
SECRET_BYTES = 32
SECRET_CHARS = 43  # base64url of 32 bytes without padding
#: id of the operator's key; no app's key ever gets it
OPERATOR_ID = "operator"
#: what an app is told whose key is not enough
OPERATOR_ONLY = "This takes the operator's key; what was sent is a key of an app."
_ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
#: an unknown key id makes the index look at the apps again, at most this often
_RESCAN_S = 1.0
_NO_HASH = bytes(32)


class Apps(Protocol):
    """The part of model.ports.Directory needed here."""

    def app(self, name: str) -> App | None: ...

    def app_names(self) -> list[str]: ...


class KeyText(NamedTuple):
    """A key as presented, taken apart; `secret` must not be kept."""

    id: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyText(id={self.id!r})"


class Operator(NamedTuple):
    """The caller holds the admin key: may manage apps, may not push."""


class Provider(NamedTuple):
    """The caller holds a key of this app."""

    app: App
    key_id: str


Principal = Operator | Provider


def hash_secret(secret: str) -> bytes:
    """SHA-256 of the secret part of a key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def build_key_text(key_id: str) -> str:
    """A new key with this id and a fresh secret."""
    return f"{PREFIX}_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"


def parse_key(text: str) -> KeyText | None:
    """The parts of a well-formed key, else None."""
    prefix, _, rest = text.partition("_")
    key_id, _, secret = rest.partition("_")  # the secret itself may hold "_"
    if prefix != PREFIX or len(key_id) != ID_CHARS or len(secret) != SECRET_CHARS or not text.isascii():
        return None
    return KeyText(key_id, secret)


def issue_key(label: str = "", *, now_s: int | None = None) -> tuple[ApiKey, str]:
    """A new provider key: the record to keep and the text to show once."""
    key_id = OPERATOR_ID
    while key_id == OPERATOR_ID:
        key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(ID_CHARS))
    text = build_key_text(key_id)
    parsed = parse_key(text)
    assert parsed is not None
    created_at = int(time.time()) if now_s is None else now_s
    return ApiKey(id=key_id, hash=hash_secret(parsed.secret), created_at=created_at, label=label), text


class ApiKeys:
    """Finds who presents a key. Control thread only; the index is by key id, so that a check does not depend on the
    number of apps."""

    def __init__(self, apps: Apps, operator_hash: bytes, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._apps = apps
        self._operator_hash = operator_hash
        self._clock = clock
        self._app_of: dict[str, str] = {}
        self._scanned_at = float("-inf")

    def _scan(self) -> None:
        self._scanned_at = self._clock()
        self._app_of = {}
        for name in self._apps.app_names():
            app = self._apps.app(name)
            self._app_of.update((key.id, name) for key in (app.keys if app is not None else ()))

    def update(self, app: App) -> None:
        """The keys of this app changed."""
        for key_id in [k for k, name in self._app_of.items() if name == app.name]:
            del self._app_of[key_id]
        self._app_of.update((key.id, app.name) for key in app.keys)

    def _find(self, key_id: str) -> tuple[App | None, bytes]:
        if key_id not in self._app_of and self._clock() - self._scanned_at >= _RESCAN_S:
            self._scan()
        app = self._apps.app(self._app_of.get(key_id, ""))
        for key in app.keys if app is not None else ():
            if key.id == key_id:
                return app, key.hash
        return None, _NO_HASH

    def authenticate(self, authorization: str | None) -> Principal:
        """Who sent this Authorization header; raises Unauthorized with the same words for every kind of wrong key."""
        scheme, _, text = (authorization or "").partition(" ")
        if not text:
            raise Unauthorized("Send your API key: Authorization: Bearer hk_…")
        key = parse_key(text.strip())
        if scheme.lower() != "bearer" or key is None:
            raise Unauthorized("This is not an API key; expected: Authorization: Bearer hk_…")
        presented = hash_secret(key.secret)
        if key.id == OPERATOR_ID:
            if hmac.compare_digest(presented, self._operator_hash):
                return Operator()
        else:
            app, stored = self._find(key.id)
            if hmac.compare_digest(presented, stored) and app is not None:
                return Provider(app, key.id)
        raise Unauthorized("The API key is wrong or no longer valid.")

    def operator(self, authorization: str | None) -> Operator:
        """Raises Forbidden for a valid key of an app."""
        principal = self.authenticate(authorization)
        if not isinstance(principal, Operator):
            raise Forbidden(OPERATOR_ONLY)
        return principal

    def provider(self, authorization: str | None) -> Provider:
        """Raises Forbidden for the operator's key: it belongs to no app."""
        principal = self.authenticate(authorization)
        if not isinstance(principal, Provider):
            raise Forbidden("The operator's key belongs to no app; use a key of the app.")
        return principal
