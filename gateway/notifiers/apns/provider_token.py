"""Provider tokens for APNs (JWT, ES256), made seldom enough; must never be shown or logged.

Source: Apple, "Establishing a token-based connection to APNs": a token is refused past an hour (ExpiredProviderToken),
and so are new ones more often than every 20 minutes (TooManyProviderTokenUpdates).
"""

from __future__ import annotations

from collections.abc import Callable

import jwt

from gateway.notifiers.apns.settings import AppSettings

#: a token is renewed at this age, of 20 to 60 minutes
RENEW_MS = 50 * 60_000
#: after one was renewed because APNs said so, not again before this time
FORCED_MS = 20 * 60_000


class _Token:
    __slots__ = ("forced_ms", "made_ms", "text")

    def __init__(self, text: str, made_ms: int, forced_ms: int) -> None:
        self.text = text
        self.made_ms = made_ms
        self.forced_ms = forced_ms


class ProviderTokens:
    """Tokens by key: apps that share one share its token too, for the limit is the key's."""

    def __init__(self, most: int, on_made: Callable[[], None]) -> None:
        self._most = most
        self._on_made = on_made
        self._tokens: dict[tuple[str, str, str], _Token] = {}

    def current(self, settings: AppSettings, now_ms: int) -> str:
        """The token to use now. Raises ValueError or TypeError for a key that is none."""
        token = self._tokens.get(self._name(settings))
        if token is not None and 0 <= now_ms - token.made_ms < RENEW_MS:
            return token.text
        return self._make(settings, now_ms, token.forced_ms if token is not None else -FORCED_MS)

    def renew(self, settings: AppSettings, refused: str, now_ms: int) -> str | None:
        """APNs called `refused` expired: the one to repeat with, or None where a new one would be one too many."""
        token = self._tokens.get(self._name(settings))
        if token is not None and token.text != refused:
            return token.text  # another call has renewed it meanwhile
        if token is not None and 0 <= now_ms - token.forced_ms < FORCED_MS:
            return None
        return self._make(settings, now_ms, now_ms)

    @staticmethod
    def _name(settings: AppSettings) -> tuple[str, str, str]:
        return settings.team_id, settings.key_id, settings.key

    def _make(self, settings: AppSettings, now_ms: int, forced_ms: int) -> str:
        # Two within one second would be the same claims; their signatures differ all the same (ECDSA).
        text = jwt.encode(
            {"iss": settings.team_id, "iat": now_ms // 1000},
            settings.key,
            algorithm="ES256",
            headers={"kid": settings.key_id},
        )
        name = self._name(settings)
        self._tokens.pop(name, None)
        if len(self._tokens) >= self._most:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[name] = _Token(text, now_ms, forced_ms)
        self._on_made()
        return text
