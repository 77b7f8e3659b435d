"""Calls to the exposure function's REST APIs (SCEF, NEF): who we are, redirects, where a resource of ours is; must
never send a token, or a device's id, to another origin than the one in the configuration.

Source: 3GPP TS 29.122 §5.2 (URIs, redirection §5.2.10), RFC 9110 §10.2.2 (Location), §15.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin, urlsplit

import msgspec

from gateway.notifiers.connections import Connections, Exchange, build_client
from gateway.notifiers.upstream import Answer
from gateway.paging.trigger.access_token import AccessToken
from gateway.paging.trigger.errors import REDIRECTED, UNAUTHORIZED
from gateway.paging.trigger.settings import Access

TRIGGERING, MONITORING = "3gpp-device-triggering", "3gpp-monitoring-event"
#: a resource's URL is kept, and stands in a path of ours again
MOST_LOCATION_CHARS = 512
MOST_REDIRECTS = 3


def _origin(url: str) -> tuple[str, str, int] | None:
    """None where it is no URL that can be called."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return None
    return (parts.scheme, (parts.hostname or "").lower(), port) if parts.username is None else None


def parse_location(text: str, base: str) -> str:
    """An absolute URL of the same origin as `base`, from a Location that may be relative; empty where it is none."""
    if not text or len(text) > MOST_LOCATION_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        return ""
    try:
        url = urljoin(base, text)
    except ValueError:
        return ""
    return url if _origin(url) is not None and _origin(url) == _origin(base) else ""


def parse_resource(text: str, collection: str) -> str:
    """The URL of one resource right below a collection, from the Location of a 201; empty where it is none: then it can
    not be replaced, and no harm is done."""
    url = parse_location(text, collection)
    name = urlsplit(url).path.removeprefix(urlsplit(collection).path + "/") if url else ""
    is_below = urlsplit(url).path == f"{urlsplit(collection).path}/{name}"
    usable = bool(name) and is_below and "/" not in name and name not in (".", "..") and "?" not in url
    return url if usable and "#" not in url else ""


class Scef:
    """One for all calls. `clock`: Unix ms."""

    def __init__(
        self, access: Access, *, timeout_s: float, clock: Callable[[], int], on_token: Callable[[], None]
    ) -> None:
        self._access = access
        self._connections = Connections(2)
        self._token = (
            AccessToken(access, post=self._post_form, timeout_s=timeout_s, clock=clock, on_fetched=on_token)
            if access.token_url
            else None
        )

    def collection(self, api: str, name: str) -> str:
        return f"{self._access.root}/{api}/v1/{self._access.scs_as_id}/{name}"

    async def call(self, method: str, url: str, body: dict[str, Any]) -> Exchange | Answer:
        """What was answered, or why it could not be asked. Raises httpx.HTTPError, TimeoutError, OSError."""
        token = self._access.bearer
        if self._token is not None:
            current = await self._token.current()
            if isinstance(current, Answer):
                return current
            token = current
        got = await self._follow(method, url, body, token)
        if self._token is None or isinstance(got, Answer) or got.status != UNAUTHORIZED.status:
            return got
        renewed = await self._token.renew(token)
        return renewed if isinstance(renewed, Answer) else await self._follow(method, url, body, renewed)

    async def _follow(self, method: str, url: str, body: dict[str, Any], token: str) -> Exchange | Answer:
        headers = {"content-type": "application/json", "accept": "application/json, application/problem+json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        content = msgspec.json.encode(body)
        for _ in range(MOST_REDIRECTS + 1):
            got = await self._connections.request(
                method, "api", lambda: build_client(self._access.context), url, headers=headers, content=content
            )
            if got.status not in (307, 308):
                return got
            url = parse_location(got.headers.get("location", ""), url)
            if not url:
                break
        return Answer(REDIRECTED, detail="redirected")

    async def _post_form(self, body: bytes) -> Exchange:
        # A connection of its own: what befalls one of the two hosts is not the other's.
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        return await self._connections.post(
            "token", lambda: build_client(self._access.context), self._access.token_url, headers=headers, content=body
        )

    async def close(self) -> None:
        if self._token is not None:
            await self._token.close()
        await self._connections.close()
