"""One IMAP connection for asyncio: its blocking commands run in a few threads that all accounts share, one command at a
time, and waiting for news (IDLE) holds no thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from imapclient.exceptions import (  # type: ignore[import-untyped]
    IMAPClientAbortError,
    IMAPClientError,
    LoginError,
)

from gateway.im.connectors.hosts import resolve
from gateway.im.connectors.mail.form import Mailbox
from gateway.im.connectors.mail.wire import ANSWER_BYTES, Client, Wire
from gateway.model.im import AuthFailed, Rejected, Transient

T = TypeVar("T")
#: RFC 5530: a login that failed for another reason than its credentials
_NOT_NOW = ("[UNAVAILABLE]", "[INUSE]", "[LIMIT]", "[SERVERBUG]", "[OVERQUOTA]")
#: a connection that held a thread for longer than this and for more than that part of its time keeps it busy
_HEAVY_S = 3.0
_HEAVY_PART = 0.25


class Refused(Exception):
    """The server said NO or BAD, or what nobody can read; the connection goes on."""


class Threads:
    """Who finds none free in time gets Transient; nobody queues for ever. Those who keep one busy all the time share
    half of them: servers that are slow on purpose leave the others theirs."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._for_heavy = asyncio.Semaphore(max(1, count // 2))
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="im-mail")

    async def run(self, work: Callable[[], T], patience_s: float, *, is_heavy: bool = False) -> T:
        """`work` has a deadline of its own: a cancelled wait does not end it."""
        places = [self._for_heavy, self._free] if is_heavy else [self._free]
        taken: list[asyncio.Semaphore] = []
        try:
            async with asyncio.timeout(patience_s):
                for place in places:
                    await place.acquire()
                    taken.append(place)
        except BaseException as exc:
            _release(taken)
            if isinstance(exc, TimeoutError):
                raise Transient("too many slow mail servers at once") from None
            raise
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        future.add_done_callback(partial(_on_done, taken))
        return await asyncio.shield(future)


def _on_done(taken: list[asyncio.Semaphore], future: asyncio.Future[Any]) -> None:
    _release(taken)
    if not future.cancelled():
        future.exception()  # where nobody waits any more the loop would log it, and with it a server's words


def _release(taken: list[asyncio.Semaphore]) -> None:
    for place in taken:
        place.release()


async def open_socket(host: str, port: int, *, allows_private: bool, request_s: float) -> socket.socket:
    """Connected to one of the host's addresses, which is public unless private ones are allowed."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(request_s):
            for address in await resolve(host, port, allows_private=allows_private):
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                sock = socket.socket(family, socket.SOCK_STREAM)
                try:
                    sock.setblocking(False)
                    await loop.sock_connect(sock, (address, port))
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return sock
                except OSError:
                    sock.close()
                except BaseException:
                    sock.close()
                    raise
    except TimeoutError:
        raise Transient("the server could not be reached in time") from None
    raise Transient("the server can not be reached")


class Link:
    """All commands stand inside a `turn`."""

    def __init__(self, threads: Threads, request_s: float) -> None:
        self._lock = asyncio.Lock()
        self._called = asyncio.Event()
        self._wanted = 0
        self._threads = threads
        self._request_s = request_s
        self._client: Client | None = None
        self._is_idling = False
        self._is_broken = False
        self._busy = threading.Lock()
        self._since = time.monotonic()
        #: seconds for which it held a thread
        self._held_s = 0.0

    async def open(self, mailbox: Mailbox, context: ssl.SSLContext | None, *, allows_private: bool) -> None:
        sock = await open_socket(
            mailbox.imap_host, mailbox.imap_port, allows_private=allows_private, request_s=self._request_s
        )

        begun: list[bool] = []

        def work() -> None:
            begun.append(True)
            try:
                client = _connect(sock, mailbox, context, self._request_s)
            except BaseException:
                sock.close()
                raise
            self._client = client  # `close` has to find it, whoever waits for it or not
            if self._is_broken:  # nobody waits for it any more
                client.wire.shutdown()
                raise IMAPClientAbortError("given up")

        try:
            await self._threads.run(work, self._request_s)
        except BaseException as exc:
            self._is_broken = True
            if begun:  # the thread closes it, at once
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            else:
                sock.close()
            if isinstance(exc, Exception):
                raise _classify_login(exc) from None
            raise

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around commands that belong together; who waits for news is called off."""
        self._wanted += 1
        self._called.set()
        try:
            await self._lock.acquire()
        finally:
            self._wanted -= 1
        try:
            yield
        finally:
            self._lock.release()

    async def run(self, work: Callable[[Client], T], budget: int = ANSWER_BYTES) -> T:
        """One or more commands. Refused, Transient."""

        def fresh(client: Client) -> T:
            if self._is_idling:  # who waited for news was cancelled
                self._is_idling = False
                client.idle_done()
            # what came unasked is kept by imaplib for ever, and would be taken for a part of the answer
            client.wire.untagged_responses.clear()
            return work(client)

        return await self._run(fresh, budget)

    async def _run(self, work: Callable[[Client], T], budget: int) -> T:
        client = self._client
        if self._is_broken or client is None:
            raise Transient("the connection to the mail server is lost")

        def job() -> T:
            with self._busy:
                begun = time.monotonic()
                try:
                    client.wire.begin(self._request_s, budget)
                    return work(client)
                finally:
                    self._held_s += time.monotonic() - begun

        try:
            return await self._threads.run(job, self._request_s, is_heavy=self._is_heavy)
        except asyncio.CancelledError:
            self.break_off()  # a command is under way, and nobody would take its answer
            raise
        except (Transient, Rejected):
            raise
        except (IMAPClientAbortError, OSError):
            self.break_off()
            raise Transient("the connection to the mail server is lost") from None
        except (IMAPClientError, ValueError, LookupError, TypeError, AttributeError, RecursionError, AssertionError):
            raise Refused from None
        except Exception:
            self.break_off()
            raise Transient("the mail server answers what is no IMAP") from None

    @property
    def _is_heavy(self) -> bool:
        return self._held_s > max(_HEAVY_S, _HEAVY_PART * (time.monotonic() - self._since))

    async def idle(self, longest_s: float) -> list[Any]:
        """What the server tells meanwhile. Returns when it tells something, when somebody wants a turn, or after the
        time."""

        def begin(client: Client) -> bool:
            client.idle()
            self._is_idling = True
            return client.wire.has_more()

        def end(client: Client) -> list[Any]:
            self._is_idling = False
            return list(client.idle_done()[1])

        if not await self.run(begin):
            await self._wait_readable(longest_s)
        return await self._run(end, ANSWER_BYTES)

    async def rest(self, longest_s: float) -> None:
        """For a server without IDLE: until the time is over, or somebody wants a turn."""
        if not self._wanted:
            self._called.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(longest_s):
                    await self._called.wait()

    async def _wait_readable(self, longest_s: float) -> None:
        client = self._client
        if self._wanted or self._is_broken or client is None:
            return
        self._called.clear()
        loop = asyncio.get_running_loop()
        number = client.wire.sock.fileno()
        loop.add_reader(number, self._called.set)
        try:
            async with asyncio.timeout(longest_s):
                await self._called.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(number)

    def break_off(self) -> None:
        """Whatever thread is at it comes back at once."""
        self._is_broken = True
        if self._client is not None:
            self._client.wire.hang_up()

    async def close(self) -> None:
        self.break_off()
        client = self._client
        if client is None:
            return

        def last() -> None:
            with self._busy:
                client.wire.shutdown()

        if self._busy.acquire(blocking=False):
            self._busy.release()
            last()
        else:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, last))


def _connect(sock: socket.socket, mailbox: Mailbox, context: ssl.SSLContext | None, request_s: float) -> Client:
    at_once = context if mailbox.imap_tls == "tls" else None
    client = Client(lambda: Wire(sock, mailbox.imap_host, at_once, request_s), mailbox.imap_host)
    try:
        wire = client.wire
        if mailbox.imap_tls == "starttls":
            assert context is not None
            wire.upgrade(context)
            client.forget_capabilities()
            wire._get_capabilities()
        capabilities = client.capabilities()
        if b"AUTH=PLAIN" in capabilities:
            client.plain_login(mailbox.user, mailbox.password)
        elif b"LOGINDISABLED" in capabilities:
            raise Rejected("tls: this server takes no password in the clear")
        else:
            quoted = mailbox.user.replace("\\", "\\\\").replace('"', '\\"')
            client.login(f'"{quoted}"', mailbox.password)
        return client
    except BaseException:
        client.wire.shutdown()
        raise


def _classify_login(exc: Exception) -> Exception:
    if isinstance(exc, AuthFailed | Transient | Rejected):
        return exc
    if isinstance(exc, LoginError) and not isinstance(exc.__context__, IMAPClientAbortError):
        text = str(exc).upper()
        if any(code in text for code in _NOT_NOW):
            return Transient("the mail server can not check credentials now")
        if "[PRIVACYREQUIRED]" in text:
            return Rejected("tls: this server takes no password in the clear")
        return AuthFailed("the mail server does not take these credentials")
    if isinstance(exc, UnicodeError):
        return Rejected("password: this server takes ASCII only")
    if isinstance(exc, ssl.SSLCertVerificationError):
        return Transient("the certificate of the mail server is not good for its name")
    if isinstance(exc, ssl.SSLError):
        return Transient("no TLS with the mail server: it speaks none on this port, or none that is safe")
    if isinstance(exc, TimeoutError):
        return Transient("the mail server did not answer in time")
    return Transient("the mail server hung up, or speaks no IMAP")
