"""HTTP clients of the notifiers, one a lane, so that no lane waits for another's connections; must never keep one that
does not answer.

A connection that the network has cut without a word looks alive for as long as the kernel likes: a call that ended in
trouble, or was cut off while nothing else came back, gives the client up. Calls under way on it go on; it is closed
when the last of them is done.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import NamedTuple

import httpx
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, StreamReset

from gateway.delivery.no_cookies import build_no_cookies

#: an idle connection is closed after this time (Apple asks for connections that are kept)
KEEP_S = 600.0
#: connections of one client; HTTP/2 needs one or two
MAX_CONNECTIONS = 8
#: of an answer's body at most this much is read
MAX_ANSWER_BYTES = 65_536


@cache
def _public_context() -> ssl.SSLContext:
    """The usual authorities; loading them takes tens of milliseconds, so once a process."""
    return httpx.create_ssl_context()


class EncryptedKey(ValueError):
    """A private key behind a pass phrase, and there is nobody to give it."""


def _give_no_phrase() -> str:
    raise EncryptedKey


def load_certificate(context: ssl.SSLContext, pem: str) -> None:
    """Our certificate and key, as PEM. OpenSSL reads files only: one that is memory, so that no key gets to disk.
    Raises ssl.SSLError where they do not fit, EncryptedKey where the key wants a pass phrase."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "w") as file:
            file.write(pem)
        # Without `password` OpenSSL would ask at the terminal, and the loop would wait for who sits there.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_give_no_phrase)
    finally:
        os.close(descriptor)


def build_context(ca: str = "", certificate: str = "", certificate_key: str = "") -> ssl.SSLContext:
    """Trusts `ca` (PEM) alone, or the usual authorities where it is empty; shows the certificate where there is one.
    Raises ssl.SSLError or ValueError for a bad PEM."""
    if not ca and not certificate:
        return _public_context()
    context = ssl.create_default_context(cadata=ca) if ca else httpx.create_ssl_context()
    if certificate:
        load_certificate(context, f"{certificate.strip()}\n{certificate_key.strip()}\n")
    return context


def build_client(context: ssl.SSLContext, *, connections: int = MAX_CONNECTIONS) -> httpx.AsyncClient:
    """HTTP/2 or HTTP/1.1, as the upstream chooses (ALPN). No redirects, no proxies of the environment. Reading has no
    limit of its own: on HTTP/2 one stream reads for all, so its limit would end the others; who calls bounds the whole
    call."""
    return httpx.AsyncClient(
        http2=True,
        verify=context,
        timeout=httpx.Timeout(None, connect=10.0),
        limits=httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEP_S
        ),
        follow_redirects=False,
        trust_env=False,
        cookies=build_no_cookies(),
    )


async def read_answer(response: httpx.Response) -> bytes:
    """The body, cut off past MAX_ANSWER_BYTES. Raises httpx.HTTPError."""
    body = b""
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            break
    return body[:MAX_ANSWER_BYTES]


Read = Callable[[httpx.Response], Awaitable[bytes]]


class Exchange(NamedTuple):
    """One answer."""

    status: int
    headers: httpx.Headers
    body: bytes
    version: str  # "HTTP/2", or what the upstream speaks instead


def may_repeat(error: httpx.TransportError, *, was_kept: bool) -> bool:
    """Is it the connection that failed, and no word about the call? Upstreams send connections away for their own
    upkeep (GOAWAY, RFC 9113 §6.8), and what lies between cuts those that were idle."""
    cause = error.__cause__
    event = cause.args[0] if cause is not None and cause.args else None
    if isinstance(event, ConnectionTerminated) and event.error_code == ErrorCodes.NO_ERROR:
        return True
    if isinstance(event, StreamReset) or isinstance(error, httpx.TimeoutException | httpx.ConnectError):
        return False
    return was_kept


class _Kept:
    __slots__ = ("answered", "client", "is_given_up", "used_s", "users")

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.used_s = 0.0  # the loop's time of its last call
        self.users = 0
        self.answered = 0  # calls that came back
        self.is_given_up = False


class Connections:
    """Clients by lane. One that was not used for `keep_s` is closed, and past `most` the one unused for
    longest; those in use never are."""

    def __init__(self, most: int, keep_s: float = KEEP_S) -> None:
        self._most = most
        self._keep_s = keep_s
        self._kept: dict[str, _Kept] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._kept)

    @asynccontextmanager
    async def borrow(self, key: str, build: Callable[[], httpx.AsyncClient]) -> AsyncIterator[httpx.AsyncClient]:
        """The client kept under the key, or a new one, for one call."""
        kept = self._kept.pop(key, None) or _Kept(build())
        self._kept[key] = kept  # newest last
        kept.users += 1
        kept.used_s = asyncio.get_running_loop().time()
        self._trim(kept.used_s)
        answered = kept.answered
        try:
            yield kept.client
            kept.answered += 1
        except Exception:
            self._give_up(key, kept)
            raise
        except BaseException:
            if kept.answered == answered:
                self._give_up(key, kept)
            raise
        finally:
            kept.users -= 1
            if kept.is_given_up and not kept.users:
                self._close(kept.client)

    async def post(
        self,
        key: str,
        build: Callable[[], httpx.AsyncClient],
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes,
        extensions: Mapping[str, str] | None = None,
        read: Read = read_answer,
    ) -> Exchange:
        """`request` with POST."""
        return await self.request(
            "POST", key, build, url, headers=headers, content=content, extensions=extensions, read=read
        )

    async def request(
        self,
        method: str,
        key: str,
        build: Callable[[], httpx.AsyncClient],
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes,
        extensions: Mapping[str, str] | None = None,
        read: Read = read_answer,
    ) -> Exchange:
        """A call on the client kept under the key. One whose connection was sent away or broke after it had served
        before is made once more on a new one: nobody can say whether it was seen, so the upstream may get it twice.
        `read` reads the body. Raises httpx.HTTPError."""
        for is_last in (False, True):
            was_kept = self._has_answered(key)
            try:
                async with (
                    self.borrow(key, build) as client,
                    client.stream(method, url, headers=headers, content=content, extensions=extensions) as response,
                ):
                    return Exchange(response.status_code, response.headers, await read(response), response.http_version)
            except httpx.TransportError as error:
                if is_last or not may_repeat(error, was_kept=was_kept):
                    raise
        raise AssertionError

    def _has_answered(self, key: str) -> bool:
        kept = self._kept.get(key)
        return kept is not None and kept.answered > 0

    def _give_up(self, key: str, kept: _Kept) -> None:
        kept.is_given_up = True
        if self._kept.get(key) is kept:
            del self._kept[key]

    def _trim(self, now_s: float) -> None:
        """Close what is too old, or one too many: a client looks after its idle connections only when it is used."""
        while True:
            found = next(((key, kept) for key, kept in self._kept.items() if not kept.users), None)
            if found is None:
                return
            key, kept = found
            if len(self._kept) <= self._most and now_s - kept.used_s < self._keep_s:
                return
            self._give_up(key, kept)
            self._close(kept.client)

    def _close(self, client: httpx.AsyncClient) -> None:
        task = asyncio.get_running_loop().create_task(client.aclose())
        self._closing.add(task)
        task.add_done_callback(self._on_closed)

    def _on_closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled():
            task.exception()  # a connection that breaks while it is closed is closed

    async def close(self) -> None:
        kept, self._kept = list(self._kept.values()), {}
        for each in kept:
            self._close(each.client)
        await asyncio.gather(*self._closing, return_exceptions=True)
