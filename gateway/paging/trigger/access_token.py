"""The access token of the exposure function: fetched with the client's credentials, kept, renewed before it ends; must
never be shown or logged.

Source: RFC 6749 §4.4 and §2.3.1 (credentials in the body, as 3GPP TS 29.222 §8.5.4.2 has it).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from gateway.notifiers.connections import Exchange
from gateway.notifiers.upstream import Answer, parse_trouble
from gateway.paging.trigger.errors import parse_token
from gateway.paging.trigger.settings import Access

#: a token is renewed so long before its end, or at half its time where that is sooner
MARGIN_MS = 60_000

Post = Callable[[bytes], Awaitable[Exchange]]


class AccessToken:
    """One token for all calls. However many wait for it, it is fetched once."""

    def __init__(
        self, access: Access, *, post: Post, timeout_s: float, clock: Callable[[], int], on_fetched: Callable[[], None]
    ) -> None:
        self._access = access
        self._post = post
        # Shorter than a call's: else a call that comes as the first ones are cut off would join a fetch that hangs.
        self._timeout_s = timeout_s * 0.8
        self._clock = clock
        self._on_fetched = on_fetched
        self._text = ""
        self._renew_ms = 0
        self._fetching: asyncio.Task[str | Answer] | None = None

    async def current(self) -> str | Answer:
        """The token to use now, or why there is none."""
        if self._text and self._clock() < self._renew_ms:
            return self._text
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._fetch(), name="trigger-token")
            self._fetching.add_done_callback(self._on_done)
        # One who is cut off must not end it for the others.
        return await asyncio.shield(self._fetching)

    async def renew(self, refused: str) -> str | Answer:
        """This one was refused: another."""
        if self._text == refused:
            self._text = ""
        return await self.current()

    def _on_done(self, _task: asyncio.Task[str | Answer]) -> None:
        self._fetching = None

    async def _fetch(self) -> str | Answer:
        access, now_ms = self._access, self._clock()
        form = {
            "grant_type": "client_credentials",
            "client_id": access.client_id,
            "client_secret": access.client_secret,
        }
        if access.scope:
            form["scope"] = access.scope
        try:
            async with asyncio.timeout(self._timeout_s):
                got = await self._post(urlencode(form).encode())
        except Exception as error:
            trouble = parse_trouble(error)
            return trouble._replace(detail=f"token endpoint: {trouble.detail}")
        found = parse_token(got.status, got.headers, got.body, now_ms)
        if isinstance(found, Answer):
            return found
        self._text, seconds = found
        self._renew_ms = now_ms + max(seconds * 1000 - MARGIN_MS, seconds * 500)
        self._on_fetched()
        return self._text

    async def close(self) -> None:
        if self._fetching is not None:
            task = self._fetching
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
