"""HTTP to one homeserver, bounded in time and bytes; connects to addresses that were looked at and to nothing else;
raises AuthFailed, Transient and Rejected alone."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from gateway.im.connectors.hosts import resolve
from gateway.im.connectors.matrix.refusals import classify
from gateway.model.im import Rejected, Transient

#: of one answer, media aside
MAX_ANSWER_BYTES = 8 * 1_048_576
#: of an answer that is no success
MAX_REFUSAL_BYTES = 16_384
#: one that waits for news, and files that somebody takes slowly; past it a request waits its time
MAX_CONNECTIONS = 8
#: of a connection that nobody uses: servers cut them after a minute or so
KEEP_S = 30.0
#: addresses of a host that are tried
MAX_ADDRESSES = 4
#: what a file moves at least, or it is given up
SLOWEST_BYTES_PER_S = 32_768
PIECE_BYTES = 65_536


class AnswerTooLarge(Rejected):
    """More than MAX_ANSWER_BYTES."""


class PinnedTransport(httpx.AsyncBaseTransport):
    """Connects to what a host's name led to when it was looked up and allowed; TLS and Host keep the name."""

    def __init__(self, context: ssl.SSLContext, *, allows_private: bool, allows_plain: bool, keeps: int) -> None:
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=keeps, keepalive_expiry=KEEP_S)
        self._inner = httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits)
        self._allows_private = allows_private
        self._allows_plain = allows_plain
        self._addresses: dict[tuple[str, int], list[str]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme != "https" and not self._allows_plain:
            raise Rejected("homeserver: https alone, but where tls is never")
        host = request.url.host
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        if (host, port) not in self._addresses:
            found = await resolve(host, port, allows_private=self._allows_private)
            self._addresses[host, port] = found[:MAX_ADDRESSES]
        trouble: httpx.TransportError = httpx.ConnectError("no address")
        for address in self._addresses[host, port]:
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
                trouble = exc
        raise trouble

    async def aclose(self) -> None:
        await self._inner.aclose()


class Wire:
    """As a context manager. `token` goes with every call, once it is set."""

    def __init__(
        self,
        base: str,
        *,
        context: ssl.SSLContext,
        allows_private: bool,
        request_s: float,
        keeps: int = 2,
        redirects: int = 0,
    ) -> None:
        self._base = base
        self._request_s = request_s
        self.token = ""
        self._client = httpx.AsyncClient(
            transport=PinnedTransport(
                context, allows_private=allows_private, allows_plain=base.startswith("http://"), keeps=keeps
            ),
            timeout=httpx.Timeout(None, connect=request_s),
            # no compression: a small answer must not unpack to a large one
            headers={"accept-encoding": "identity", "user-agent": "heliograph"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=redirects > 0,
            max_redirects=redirects,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception):  # a connection that breaks while it is closed is closed
            await self._client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        more_s: float = 0.0,
    ) -> dict[str, Any]:
        """The JSON object of an answer. `more_s`: how much longer than others it may take."""
        try:
            content = None if body is None else msgspec.json.encode(body)
        except ValueError:
            raise Rejected("this is no text") from None
        headers = {"content-type": "application/json"} if body is not None else {}
        async with (
            self._within(self._request_s + more_s),
            self._request(method, path, query, content, headers) as response,
        ):
            return _parse(await _read(response, MAX_ANSWER_BYTES))

    async def upload(self, path: str, chunks: AsyncIterator[bytes], size: int, mime: str, name: str) -> dict[str, Any]:
        headers = {"content-type": mime, "content-length": str(size)}
        query = {"filename": name} if name else None
        async with (
            self._within(self._request_s + size / SLOWEST_BYTES_PER_S),
            self._request("POST", path, query, chunks, headers) as response,
        ):
            return _parse(await _read(response, MAX_REFUSAL_BYTES))

    async def download(self, path: str, most_bytes: int) -> AsyncGenerator[bytes, None]:
        """In pieces. Rejected past `most_bytes`; each piece has the time of a request, and all together what the
        slowest line may take. What the reader does in between counts for nothing."""
        left_s = self._request_s + most_bytes / SLOWEST_BYTES_PER_S
        loop = asyncio.get_running_loop()
        async with self._translated(), AsyncExitStack() as stack:
            async with asyncio.timeout(self._request_s):
                response = await stack.enter_async_context(self._request("GET", path))
            size = response.headers.get("content-length", "")
            if size.isascii() and size.isdigit() and int(size[:20]) > most_bytes:
                raise Rejected("the file is larger than im.media_bytes")
            pieces, taken = response.aiter_raw(PIECE_BYTES), 0
            while True:
                began_s = loop.time()
                try:
                    async with asyncio.timeout(min(self._request_s, left_s)):
                        piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                left_s = max(0.0, left_s - (loop.time() - began_s))
                taken += len(piece)
                if taken > most_bytes:
                    raise Rejected("the file is larger than im.media_bytes")
                yield piece

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        token = {"authorization": f"Bearer {self.token}"} if self.token else {}
        request = self._client.build_request(
            method, self._base + path, params=query, content=content, headers={**(headers or {}), **token}
        )
        response = await self._client.send(request, stream=True)
        try:
            if not response.is_success:
                data = b""
                with suppress(AnswerTooLarge):
                    data = await _read(response, MAX_REFUSAL_BYTES)
                raise classify(response.status_code, response.headers, data)
            yield response
        finally:
            with suppress(Exception):
                await response.aclose()

    @asynccontextmanager
    async def _within(self, seconds: float) -> AsyncIterator[None]:
        async with self._translated(), asyncio.timeout(seconds):
            yield

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """Whatever the network does is Transient, without its words."""
        if self._client.is_closed:
            raise Transient("the session is over")
        try:
            yield
        except TimeoutError:
            raise Transient("the server did not answer in time", is_in_doubt=True) from None
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise Transient("the server can not be reached") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError):
            raise Transient("the connection to the server failed", is_in_doubt=True) from None
        except (UnicodeError, ValueError):  # headers that are none
            raise Transient("the server's answer is not what was asked for", is_in_doubt=True) from None


def _parse(data: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise Transient("the server's answer is no JSON", is_in_doubt=True) from None
    if not isinstance(answer, dict):
        raise Transient("the server's answer is not what was asked for", is_in_doubt=True)
    return answer


async def _read(response: httpx.Response, most_bytes: int) -> bytes:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise Transient("the server compresses what it was asked not to")
    data = bytearray()
    async for piece in response.aiter_raw():
        data += piece
        if len(data) > most_bytes:
            raise AnswerTooLarge("the server's answer is too large")
    return bytes(data)
