"""One request on its way through the door: who asks, with what parameters, and how to answer; holds no key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.media import build_response, parse_body
from gateway.auth.api_keys import Provider
from gateway.model.errors import AcceptTimeout, BadRequest, Forbidden
from gateway.model.registration import App

_T = TypeVar("_T")


class Call:
    """What a handler gets. `provider` is set where an app's key came."""

    __slots__ = ("max_body_bytes", "provider", "request", "timeout_s")

    def __init__(self, request: Request, provider: Provider | None, max_body_bytes: int, timeout_s: float) -> None:
        self.request = request
        self.provider = provider
        self.max_body_bytes = max_body_bytes
        self.timeout_s = timeout_s

    @property
    def app(self) -> App:
        """The caller's app."""
        if self.provider is None:
            raise Forbidden
        return self.provider.app

    def path(self, name: str) -> str:
        value: str = self.request.path_params[name]
        return value

    def query(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number from the query string; raises BadRequest outside low…high."""
        text = self.request.query_params.get(name)
        if text is None:
            return default
        value = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
        if not low <= value <= high:
            raise BadRequest(f"expected a whole number from {low} to {high}", field=name)
        return value

    async def body(self, as_type: type[_T], *, optional: bool = False) -> _T:
        return await parse_body(self.request, as_type, self.max_body_bytes, optional=optional)

    async def committed(self, work: Awaitable[_T]) -> _T:
        """Wait for a store write; AcceptTimeout where it takes too long (it goes on without us)."""
        task = asyncio.ensure_future(work)
        await asyncio.wait((task,), timeout=self.timeout_s)
        if not task.done():
            task.add_done_callback(_retrieve)
            raise AcceptTimeout("The store did not confirm the change in time; it may still be made.")
        return task.result()

    def answer(self, value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        return build_response(self.request, value, status=status, headers=headers)


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
