"""VAPID tokens (RFC 8292): who sends, signed for one push service; must never be sent to another origin."""

from __future__ import annotations

from collections.abc import Callable

import jwt

from gateway.notifiers.webpush.settings import AppSettings

#: §2: at most 24 hours; a token is used for half of its time
LASTS_S = 12 * 3_600
#: tokens remembered; past it the oldest is made again
MAX_TOKENS = 4_096


class VapidTokens:
    """Tokens by settings and origin."""

    def __init__(self, on_made: Callable[[], None]) -> None:
        self._on_made = on_made
        self._tokens: dict[tuple[str, str], tuple[int, str]] = {}

    def header(self, settings: AppSettings, origin: str, now_ms: int) -> str:
        """Value of Authorization (§3)."""
        name = (settings.fingerprint, origin)
        made_ms, token = self._tokens.get(name, (0, ""))
        if not token or not 0 <= now_ms - made_ms < LASTS_S * 500:
            claims = {"aud": origin, "exp": now_ms // 1000 + LASTS_S, "sub": settings.subject}
            token = jwt.encode(claims, settings.key, algorithm="ES256")
            self._tokens.pop(name, None)
            if len(self._tokens) >= MAX_TOKENS:
                del self._tokens[next(iter(self._tokens))]
            self._tokens[name] = (now_ms, token)
            self._on_made()
        return f"vapid t={token}, k={settings.public_key}"
