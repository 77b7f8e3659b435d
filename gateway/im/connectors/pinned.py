"""HTTP to servers that users name, for httpx: only to addresses that `hosts.resolve` allows, no redirects, and answers
that are bounded. Must never log: a URL names people."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Mapping

import httpx

from gateway.im.connectors.hosts import resolve
from gateway.model.im import Rejected, Transient

#: servers one account leads to: where it logs in, and where it is kept
_MOST_HOSTS = 8
_PIECE_BYTES = 65_536

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


async def fetch_file(
    client: httpx.AsyncClient, url: str, *, request_s: float, params: Mapping[str, str] | None = None
) -> AsyncIterator[bytes]:
    """The bytes of a file; each piece has a deadline. Rejected, Transient."""
    try:
        async with asyncio.timeout(request_s):
            response = await client.send(client.build_request("GET", url, params=params), stream=True)
        try:
            if response.status_code != 200:
                is_ours = response.status_code < 500 and response.status_code != 429
                raise Rejected("the file is not there") if is_ours else Transient("the file is not to be had now")
            pieces = response.aiter_bytes(_PIECE_BYTES)
            while True:
                # not around the yield: who reads may take as long as they want
                async with asyncio.timeout(request_s):
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                yield piece
        finally:
            await response.aclose()
    except TimeoutError:
        raise Transient("the server does not answer in time") from None
    except TooLarge:
        raise Rejected("the file is too large") from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
        raise Rejected("this is no file that may be fetched") from None
    except (httpx.HTTPError, OSError):
        raise Transient("the server does not answer as it should") from None
