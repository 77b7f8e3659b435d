"""An app that was invited connects to its server (C13), and the server asks the gateway whether it was; must never
send anything to a server that the app has not registered.
"""

from __future__ import annotations

import ssl
from typing import NamedTuple

import httpx
import msgspec

from gateway.client.service_pages import Invitation
from gateway.model.service_access import AccessAnswer, BadAccess, is_server, parse_access

TIMEOUT_S = 10.0
#: of a server's answer
MOST_ANSWER_BYTES = 65_536


class AccessFailed(Exception):
    """The server, or the gateway, could not be asked or gave no answer that can be read. It names neither."""


class AccessReply(NamedTuple):
    """What the app's server answers: it is between the two of them."""

    status: int
    body: bytes

    def __repr__(self) -> str:
        return f"AccessReply(status={self.status})"


async def request_access(
    invitation: Invitation, *, tls: ssl.SSLContext | bool = True, timeout_s: float = TIMEOUT_S
) -> AccessReply:
    """POST the service access request (JSON) to the server the invitation names. AccessFailed."""
    if not is_server(invitation.server):
        raise AccessFailed("the invitation names no server; connect as the app knows")
    return await _post(invitation.server, msgspec.json.encode(invitation.request), {}, tls, timeout_s)


class AccessVerifier:
    """For an app's server. `url` of the gateway's provider door, `key` of the app."""

    def __init__(self, url: str, key: str, *, tls: ssl.SSLContext | bool = True, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/") + "/v1/service-access"
        self._headers = {"authorization": f"Bearer {key}"}
        self._tls = tls
        self._timeout_s = timeout_s

    async def verify(self, body: bytes) -> AccessAnswer | None:
        """Who was invited by which push; None where the request is not to be served. Each is good once. AccessFailed
        where the gateway could not be asked: answer 503, the app may come again with the same request."""
        try:
            parse_access(body)
        except BadAccess:
            return None
        reply = await _post(self._url, body, self._headers, self._tls, self._timeout_s)
        if reply.status == 400:
            return None
        if reply.status != 200:
            raise AccessFailed(f"the gateway answered {reply.status}")
        try:
            answer = msgspec.json.decode(reply.body, type=AccessAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise AccessFailed("the gateway's answer can not be read") from None
        return answer if answer.valid else None


async def _post(
    url: str, body: bytes, headers: dict[str, str], tls: ssl.SSLContext | bool, timeout_s: float
) -> AccessReply:
    headers = {"content-type": "application/json", "accept": "application/json", **headers}
    limits = httpx.Timeout(timeout_s)
    try:
        # no proxy and no redirect: nothing but the registered server is spoken to
        async with (
            httpx.AsyncClient(verify=tls, timeout=limits, follow_redirects=False, trust_env=False) as client,
            client.stream("POST", url, content=body, headers=headers) as response,
        ):
            answer = bytearray()
            async for piece in response.aiter_bytes():
                answer += piece
                if len(answer) > MOST_ANSWER_BYTES:
                    raise AccessFailed("the answer is too long")
            return AccessReply(response.status_code, bytes(answer))
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError) as exc:
        raise AccessFailed(f"could not be asked: {type(exc).__name__}") from None
