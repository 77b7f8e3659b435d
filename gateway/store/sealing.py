"""Seals what an app entrusts to the gateway (credentials of notifiers, webhook secrets) before it reaches the disk;
must never write any of it in the clear.

AES-256-GCM under a key derived from the server's own, with the app's name as associated data, so that one app's sealed
settings can not be put in another's place. The key file lies beside the store: a copy of the store alone tells nothing.
"""

from __future__ import annotations

import hmac
import secrets
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec.structs import replace

from gateway.model.errors import ConfigError
from gateway.model.registration import App

_NONCE_BYTES = 12


class _Entrusted(NamedTuple):
    notifiers: dict[str, dict[str, str]]
    receipts_secret: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Entrusted).decode


class Sealer:
    """`key`: a server key of at least 16 bytes."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(hmac.digest(key, b"heliograph sealed settings", "sha256"))

    def seal(self, app: App) -> App:
        """The app as it may be stored."""
        if not app.notifiers and not app.receipts_secret:
            return replace(app, sealed=b"")
        nonce = secrets.token_bytes(_NONCE_BYTES)
        plain = _encode(_Entrusted(app.notifiers, app.receipts_secret))
        sealed = nonce + self._cipher.encrypt(nonce, plain, app.name.encode())
        return replace(app, notifiers={}, receipts_secret="", sealed=sealed)

    def open(self, app: App) -> App:
        """The app as it is used; one of an older store is not sealed. ConfigError where the key is another's."""
        if not app.sealed:
            return app
        nonce, sealed = app.sealed[:_NONCE_BYTES], app.sealed[_NONCE_BYTES:]
        try:
            entrusted = _decode(self._cipher.decrypt(nonce, sealed, app.name.encode()))
        except (InvalidTag, ValueError, msgspec.DecodeError):
            raise ConfigError(
                "the settings of an app can not be opened: keys.json belongs to another store; put the right one back",
                field="store.path",
            ) from None
        return replace(app, notifiers=entrusted.notifiers, receipts_secret=entrusted.receipts_secret, sealed=b"")
