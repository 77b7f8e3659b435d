"""Provider tokens for APNs (JWT, ES256), made seldom enough; must never be shown or logged.

Source: Apple, "Establishing a token-based connection to APNs": a token is refused past an hour (ExpiredProviderToken),
and so are new ones more often than every 20 minutes (TooManyProviderTokenUpdates).

The limit is the key's, whoever signs: a gateway that was started anew, or another node of the fleet, must not come with
a token of its own. So the time in a token is the begin of a slot, its signature is deterministic (RFC 6979), and
everybody who has the key makes the same one.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.notifiers.apns.settings import AppSettings

#: a new token for each of these: more than 20 minutes apart, and old at most this and LEAD_S, well inside the hour
SLOT_S = 40 * 60
#: a slot's token is used from this much after its begin, so that a clock a little ahead of Apple's is not in its future
LEAD_S = 60
#: after one was renewed because APNs said so, not again before this time
FORCED_MS = 20 * 60_000


def build_token(settings: AppSettings, issued_s: int) -> str:
    """The same text for the same key and time. Raises ValueError or TypeError for a key that is none."""
    key = load_pem_private_key(settings.key.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TypeError("not P-256")
    header = {"alg": "ES256", "kid": settings.key_id, "typ": "JWT"}
    claims = {"iss": settings.team_id, "iat": issued_s}
    signed = b".".join(_encode(msgspec.json.encode(part)) for part in (header, claims))
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(SHA256(), deterministic_signing=True)))
    return (signed + b"." + _encode(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _slot_s(now_ms: int) -> int:
    """Begin of the slot whose token is used now, Unix seconds."""
    return (now_ms // 1000 - LEAD_S) // SLOT_S * SLOT_S


class _Token:
    __slots__ = ("ends_ms", "forced_ms", "slot_s", "text")

    def __init__(self, text: str, slot_s: int, forced_ms: int, ends_ms: int) -> None:
        self.text = text
        self.slot_s = slot_s  # -1: of no slot, renewed between them
        self.forced_ms = forced_ms
        self.ends_ms = ends_ms  # of one of no slot


class ProviderTokens:
    """Tokens by key: apps that share one share its token too, for the limit is the key's."""

    def __init__(self, most: int, on_made: Callable[[], None]) -> None:
        self._most = most
        self._on_made = on_made
        self._tokens: dict[tuple[str, str, str], _Token] = {}

    def current(self, settings: AppSettings, now_ms: int) -> str:
        """The token to use now. Raises ValueError or TypeError for a key that is none."""
        token, slot_s = self._tokens.get(self._name(settings)), _slot_s(now_ms)
        if token is not None:
            if token.slot_s == slot_s:
                return token.text
            if token.slot_s < 0 and 0 <= token.ends_ms - now_ms <= SLOT_S * 1000:
                return token.text
        forced_ms = token.forced_ms if token is not None else -FORCED_MS
        return self._keep(settings, _Token(build_token(settings, slot_s), slot_s, forced_ms, 0))

    def renew(self, settings: AppSettings, refused: str, now_ms: int) -> str | None:
        """APNs called `refused` expired: the one to repeat with, or None where a new one would be one too many.

        A slot's token is too old for nobody but a gateway whose clock is slow: it has a token of this moment, its own.
        """
        token = self._tokens.get(self._name(settings))
        if token is not None and token.text != refused:
            return token.text  # another call has renewed it meanwhile
        if token is not None and 0 <= now_ms - token.forced_ms < FORCED_MS:
            return None
        return self._keep(settings, _Token(build_token(settings, now_ms // 1000), -1, now_ms, now_ms + SLOT_S * 1000))

    @staticmethod
    def _name(settings: AppSettings) -> tuple[str, str, str]:
        return settings.team_id, settings.key_id, settings.key

    def _keep(self, settings: AppSettings, token: _Token) -> str:
        name = self._name(settings)
        self._tokens.pop(name, None)
        if len(self._tokens) >= self._most:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[name] = token
        self._on_made()
        return token.text
