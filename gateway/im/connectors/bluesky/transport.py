"""HTTP to servers that users name, for httpx: only to addresses that `hosts.resolve` allows, no redirects, and answers
that are bounded. Must never log: a URL names people."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator

import httpx

from gateway.im.connectors.hosts import resolve

#: servers one account leads to: where it logs in, and where it is kept
_MOST_HOSTS = 8

for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # each URL at INFO, each header at DEBUG


class TooLarge(httpx.ReadError):
    """An answer has more bytes than are taken."""


class PinnedTransport(httpx.AsyncBaseTransport):
    """`has_tls`: nothing is sent without it. `most_bytes`: of one answer. Host names are looked up once."""

    def __init__(self, *, tls: ssl.SSLContext, has_tls: bool, allows_private: bool, most_bytes: int) -> None:
        limits = httpx.Limits(max_connections=4, max_keepalive_connections=2)
        self._inner = httpx.AsyncHTTPTransport(verify=tls, limits=limits, trust_env=False)
        self._has_tls, self._allows_private, self._most_bytes = has_tls, allows_private, most_bytes
        self._addresses: dict[tuple[str, int], list[str]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Rejected and Transient of `resolve`; httpx.TransportError."""
        url = request.url
        if url.scheme != "https" and (self._has_tls or url.scheme != "http"):
            raise httpx.UnsupportedProtocol("TLS is required", request=request)
        port = url.port or (443 if url.scheme == "https" else 80)
        place = url.host, port
        if place not in self._addresses:
            if len(self._addresses) == _MOST_HOSTS:
                raise httpx.ConnectError("too many servers", request=request)
            self._addresses[place] = await resolve(url.host, port, allows_private=self._allows_private)
        request.headers["Accept-Encoding"] = "identity"
        request.extensions = {**request.extensions, "sni_hostname": url.host}
        addresses = self._addresses[place]
        for address in addresses:
            request.url = url.copy_with(host=address)  # the Host header stays
            try:
                response = await self._inner.handle_async_request(request)
                break
            except httpx.ConnectError:
                if address == addresses[-1]:
                    raise
        request.url = url
        return await self._check(response, request)

    async def _check(self, response: httpx.Response, request: httpx.Request) -> httpx.Response:
        """No redirects: they would lead credentials elsewhere. Nothing packed: it could unpack to anything."""
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if 300 <= response.status_code < 400 or encoding != "identity":
            await response.aclose()
            raise httpx.RemoteProtocolError("a redirect, or a packed answer", request=request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Bounded(response.stream, self._most_bytes)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, most_bytes: int) -> None:
        self._inner, self._most_bytes = inner, most_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._inner:
            size += len(piece)
            if size > self._most_bytes:
                raise TooLarge("an answer is too large")
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()
