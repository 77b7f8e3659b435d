"""Access tokens for FCM: fetched with a signed assertion, kept, renewed before they end; must never be shown or logged.

Source: RFC 7523 §2.1, as in Google, "Using OAuth 2.0 for Server to Server Applications".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

import jwt

from gateway.notifiers.connections import Exchange
from gateway.notifiers.fcm.errors import parse_token
from gateway.notifiers.fcm.settings import AppSettings
from gateway.notifiers.upstream import Answer, parse_trouble

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
#: a token is renewed so long before its end, or at half its time where that is sooner
MARGIN_MS = 300_000
ASSERTION_S = 3_600

Post = Callable[[AppSettings, bytes], Awaitable[Exchange]]


class _Token:
    __slots__ = ("renew_ms", "text")

    def __init__(self, text: str, renew_ms: int) -> None:
        self.text = text
        self.renew_ms = renew_ms


def build_assertion(settings: AppSettings, now_s: int) -> str:
    """Raises ValueError or TypeError for a key that is none."""
    claims = {
        "iss": settings.email,
        "scope": SCOPE,
        "aud": settings.token_url,
        "iat": now_s,
        "exp": now_s + ASSERTION_S,
    }
    headers = {"kid": settings.key_id} if settings.key_id else None
    return jwt.encode(claims, settings.key, algorithm="RS256", headers=headers)


class AccessTokens:
    """Tokens by settings. However many calls wait for one, it is fetched once."""

    def __init__(
        self, most: int, *, post: Post, timeout_s: float, clock: Callable[[], int], on_fetched: Callable[[], None]
    ) -> None:
        self._most = most
        self._post = post
        # Shorter than a call's: else a call that comes as the first ones are cut off would join a fetch that hangs.
        self._timeout_s = timeout_s * 0.8
        self._clock = clock
        self._on_fetched = on_fetched
        self._tokens: dict[str, _Token] = {}
        self._fetching: dict[str, asyncio.Task[str | Answer]] = {}

    async def current(self, settings: AppSettings) -> str | Answer:
        """The token to use now, or why there is none."""
        token = self._tokens.get(settings.fingerprint)
        if token is not None and self._clock() < token.renew_ms:
            return token.text
        return await self._fetched(settings)

    async def renew(self, settings: AppSettings, refused: str) -> str | Answer:
        """FCM refused this one: another."""
        token = self._tokens.get(settings.fingerprint)
        if token is not None and token.text == refused:
            del self._tokens[settings.fingerprint]
        return await self.current(settings)

    async def _fetched(self, settings: AppSettings) -> str | Answer:
        name = settings.fingerprint
        task = self._fetching.get(name)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch(settings))
            self._fetching[name] = task
            task.add_done_callback(lambda _: self._fetching.pop(name, None))
        # One who is cut off must not end it for the others.
        return await asyncio.shield(task)

    async def _fetch(self, settings: AppSettings) -> str | Answer:
        now_ms = self._clock()
        assertion = build_assertion(settings, now_ms // 1000)
        body = urlencode({"grant_type": GRANT_TYPE, "assertion": assertion}).encode()
        try:
            async with asyncio.timeout(self._timeout_s):
                got = await self._post(settings, body)
        except Exception as error:
            trouble = parse_trouble(error)
            return trouble._replace(detail=f"token endpoint: {trouble.detail}")
        found = parse_token(got.status, got.headers, got.body, now_ms)
        if isinstance(found, Answer):
            return found
        text, seconds = found
        if len(self._tokens) >= self._most:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[settings.fingerprint] = _Token(text, now_ms + max(seconds * 1000 - MARGIN_MS, seconds * 500))
        self._on_fetched()
        return text

    async def close(self) -> None:
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
