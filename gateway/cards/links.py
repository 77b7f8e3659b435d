"""The CAT_TP server as the control thread has it (E3, E8): its socket, its thread, its mailboxes, and whose events are
whose; must never show an identification, an address or a byte of an SDU.

The server itself is compiled (`ext/cattp*.pyx`, docs/ota.md). What it is told of a card is the identification that the
card was asked to say, which is as unguessable as the caller made it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import structlog

from gateway._native import cattp as native
from gateway.config.ota_section import Ota
from gateway.metrics import Metric, Metrics
from gateway.model.cards import LinkClosed, LinkDelivered, LinkEvent, LinkOpened, LinkReceived
from gateway.model.errors import ConfigError

_log = structlog.get_logger(__name__)

#: a full mailbox is tried again after this
AGAIN_S = 0.005
#: events taken before the loop serves others
EVENTS_A_TURN = 1024
#: of a RST: the link was fine, nobody wants it any more; try again later
_NORMAL, _TEMPORARY = 0, 2
#: Linux: a receive buffer past the system's limit, where one may; the socket's own figures
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE, _SO_MEMINFO = 33, 32, 55
_MEMINFO = struct.Struct("9I")
_MEMINFO_DROPS = 8

#: what became of a datagram that came; the counters of the server with these names add up to all of them
ARRIVALS = (
    "linked", "malformed", "foreign", "version", "stray", "not_admitted", "illegal", "half_open_full", "full",
)  # fmt: skip
#: what happened on links, and to what has none
_STEPS = (
    "duplicate", "outside", "impossible", "held", "no_room", "late", "resent", "probes", "refusals",
    "refusals_withheld", "withheld", "unsent", "unproved", "unexpected",
)  # fmt: skip


class _Expected:
    """One identification that was told to a card."""

    __slots__ = ("cookie", "links", "on_event")

    def __init__(self, cookie: int, on_event: Callable[[LinkEvent], None]) -> None:
        self.cookie, self.on_event = cookie, on_event
        #: open ones; two for a moment where a newer takes the place of an older
        self.links: set[int] = set()


class _Link:
    __slots__ = ("bytes", "closing", "expected", "max_sdu", "outstanding", "refused")

    def __init__(self, expected: _Expected, max_sdu: int) -> None:
        self.expected, self.max_sdu = expected, max_sdu
        #: sizes of SDUs that are not known to be there, oldest first
        self.outstanding: deque[int] = deque()
        self.bytes = 0
        self.closing = False
        #: the server did not take an SDU though it was given it: the link ends, for a gap nobody would see
        self.refused = False


class CattpLinks:
    """`gateway.model.cards.CardLinks`. Handlers are called on the loop's thread."""

    def __init__(self, config: Ota, metrics: Metrics) -> None:
        self._config, self._metrics = config, metrics
        #: the UDP port that was bound
        self.port = config.port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._server: native.CattpServer | None = None
        self._thread: threading.Thread | None = None
        self._event_fds: list[int] = []
        self._cookies = count(1)
        self._expected: dict[bytes, _Expected] = {}
        self._by_cookie: dict[int, _Expected] = {}
        self._links: dict[int, _Link] = {}
        #: commands that found the mailbox full and must not get lost; at most two for each that is expected
        self._unsent: deque[tuple[Callable[..., bool], tuple[Any, ...]]] = deque()
        self._sending_again: asyncio.TimerHandle | None = None
        self._last: dict[str, int] = {}
        self._last_drops = 0
        metrics.add_source(self._figures)

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """ConfigError where the address can not be had, or a limit makes no sense."""
        config = self._config
        self._loop = loop
        self._socket = self._bind()
        self.port = self._socket.getsockname()[1]
        self._event_fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]
        try:
            self._server = server = native.CattpServer(
                self._socket.fileno(),
                *self._event_fds,
                local_port=config.cattp_port,
                max_links=config.max_links,
                max_half_open=config.max_half_open,
                # those that were forgotten keep their place until their links are over
                max_expected=config.max_expected + config.max_links,
                max_pdu=config.max_pdu_bytes,
                max_sdu=config.max_sdu_bytes,
                window=config.window,
                flight=config.flight,
                queued_bytes=config.queued_bytes,
                rto_first_ms=config.rto_first_ms,
                rto_least_ms=config.rto_least_ms,
                rto_most_ms=config.rto_most_ms,
                retries=config.retries,
                opening_retries=config.opening_retries,
                keep_alive_ms=round(config.keep_alive_s * 1000),
                idle_ms=round(config.idle_s * 1000),
                zero_window_ms=max(1, round(config.zero_window_s * 1000)),
                close_wait_ms=round(config.close_wait_s * 1000),
                busy_bytes=config.busy_bytes,
                refusals_per_s=config.refusals_per_s,
                amplification=config.amplification,
                mailbox_bytes=config.mailbox_bytes,
                seed=int.from_bytes(os.urandom(8), "little"),
            )
        except ValueError as exc:
            self._close_descriptors()
            raise ConfigError(f"the CAT_TP server can not start: {exc}", field="ota") from exc
        self._thread = threading.Thread(target=server.run, name="cattp", daemon=True)
        self._thread.start()
        loop.add_reader(self._event_fds[0], self._take)
        self._take()  # puts the mailbox to sleep, so that the first event wakes the loop

    def _bind(self) -> socket.socket:
        """`::` takes IPv4 too."""
        config = self._config
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_DGRAM)
        try:
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
                try:
                    bound.setsockopt(socket.SOL_SOCKET, forced, config.socket_buffer_bytes)
                except OSError:  # past net.core.rmem_max only with a privilege
                    bound.setsockopt(socket.SOL_SOCKET, plain, config.socket_buffer_bytes)
            bound.setblocking(False)
            bound.bind((config.host, config.port))
        except OSError as exc:
            bound.close()
            raise ConfigError(
                f"the CAT_TP server can not bind {config.host}:{config.port}: {exc.strerror or exc}; "
                "take another with ota.port, 0 for a free one",
                field="ota.port",
            ) from exc
        return bound

    async def stop(self) -> None:
        """Every link ends, its card is told; handlers hear LinkClosed(`stopped`)."""
        server, thread = self._server, self._thread
        if server is None or thread is None:
            return
        while thread.is_alive() and not server.stop():
            self._take()
            await asyncio.sleep(0.001)
        while thread.is_alive():
            self._take()
            await asyncio.sleep(0.002)
        while self._take():
            pass
        self._server = self._thread = None
        self._unsent.clear()
        if self._sending_again is not None:
            self._sending_again.cancel()
        if self._loop is not None:
            self._loop.remove_reader(self._event_fds[0])
        self._last = server.counters()
        self._last_drops = self._drops()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        for fd in self._event_fds:
            os.close(fd)
        self._event_fds = []
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # --- the port --------------------------------------------------------------------------------------------------

    def expect(self, identification: bytes, on_event: Callable[[LinkEvent], None], valid_ms: int) -> bool:
        """Take a SYN with this identification (1 to 16 bytes) within this time. While the link lives, and until
        `forget`, a fresh SYN with it takes the link over. False: too many are expected."""
        if self._server is None:
            return False
        expected = self._expected.get(identification)
        if expected is None:
            if len(self._expected) >= self._config.max_expected:
                return False
            expected = _Expected(next(self._cookies), on_event)
        if not self._sent(self._server.expect(identification, expected.cookie, max(1, valid_ms))):
            return False
        expected.on_event = on_event
        self._expected[identification] = expected
        self._by_cookie[expected.cookie] = expected
        return True

    def forget(self, identification: bytes) -> None:
        """No SYN with it any more, and no event; a link that lives is aborted."""
        expected = self._expected.pop(identification, None)
        if expected is None or self._server is None:
            return
        del self._by_cookie[expected.cookie]
        self._insist(self._server.forget, identification)
        for link in expected.links:
            self._links.pop(link, None)
            self._insist(self._server.abort, link, _NORMAL)

    def send(self, link: int, sdu: bytes) -> bool:
        """False: not taken (the link is over, or too much is queued). LinkDelivered says when it is there."""
        known = self._links.get(link)
        if known is None or known.closing or self._server is None:
            return False
        if not 0 < len(sdu) <= known.max_sdu or known.bytes + len(sdu) > self._config.queued_bytes:
            return False
        if not self._sent(self._server.send(link, sdu, known.expected.cookie)):
            return False
        known.outstanding.append(len(sdu))
        known.bytes += len(sdu)
        return True

    def close(self, link: int) -> None:
        """Once all that was sent is there; LinkClosed comes."""
        known = self._links.get(link)
        if known is not None and not known.closing and self._server is not None:
            known.closing = True
            self._insist(self._server.close, link)

    @property
    def is_served(self) -> bool:
        """False: its thread is gone, and no card is heard, nor will be before the next start."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def count(self) -> int:
        """Open links."""
        return len(self._links)

    # --- commands --------------------------------------------------------------------------------------------------

    def _sent(self, queued: bool) -> bool:
        if not queued:
            self._metrics.count(Metric.MAILBOX_FULL, label="cards_down")
        return queued

    def _insist(self, command: Callable[..., bool], *args: Any) -> None:
        """Where the mailbox is full it is given again, before any later one of its kind."""
        if self._unsent or not self._sent(command(*args)):
            self._unsent.append((command, args))
            if self._sending_again is None and self._loop is not None:
                self._sending_again = self._loop.call_later(AGAIN_S, self._send_again)

    def _send_again(self) -> None:
        self._sending_again = None
        while self._unsent:
            command, args = self._unsent[0]
            if not self._sent(command(*args)):
                assert self._loop is not None
                self._sending_again = self._loop.call_later(AGAIN_S, self._send_again)
                return
            self._unsent.popleft()

    # --- events ----------------------------------------------------------------------------------------------------

    def _take(self) -> bool:
        """Whether there is more."""
        if self._server is None:
            return False
        events, more = self._server.drain(EVENTS_A_TURN)
        for event in events:
            self._handle(*event)
        if more and self._loop is not None:
            # one batch a turn: the loop serves others between batches of a storm
            self._loop.call_soon(self._take)
        return more

    def _handle(self, kind: int, link: int, cookie: int, a: Any, b: Any, _undelivered: Any) -> None:
        expected = self._by_cookie.get(cookie)
        if expected is None:
            # forgotten: a link that was known is being aborted; one that opened before the server heard of it is not
            if kind == native.EVENT_OPENED and self._server is not None:
                self._insist(self._server.abort, link, _NORMAL)
            return
        if kind == native.EVENT_OPENED:
            self._links[link] = _Link(expected, b)
            expected.links.add(link)
            self._tell(expected, LinkOpened(link, a, b))
            return
        known = self._links.get(link)
        if known is None:
            return  # `unexpected`, counted; or an SDU refused after the end, which `undelivered` told of
        if kind == native.EVENT_RECEIVED:
            self._tell(expected, LinkReceived(link, a))
        elif kind == native.EVENT_DELIVERED:
            for _ in range(a):
                known.bytes -= known.outstanding.popleft()
            self._tell(expected, LinkDelivered(link, a))
        elif kind == native.EVENT_CLOSED:
            del self._links[link]
            expected.links.discard(link)
            cause = "refused" if known.refused and a == "asked" else a
            self._tell(expected, LinkClosed(link, cause, b, len(known.outstanding)))
        elif kind == native.EVENT_REFUSED and not known.refused and self._server is not None:
            known.refused = known.closing = True
            self._insist(self._server.abort, link, _TEMPORARY)

    def _tell(self, expected: _Expected, event: LinkEvent) -> None:
        try:
            expected.on_event(event)
        except Exception as exc:  # the other cards' events come after it
            _log.error("link_event_failed", what=type(event).__name__, error=type(exc).__name__)

    # --- figures ---------------------------------------------------------------------------------------------------

    def _drops(self) -> int:
        """Datagrams that found the socket's buffer full."""
        if self._socket is None:
            return self._last_drops
        try:
            figures = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        except OSError:
            return 0
        return int(_MEMINFO.unpack(figures)[_MEMINFO_DROPS]) if len(figures) == _MEMINFO.size else 0

    def _figures(self) -> Iterable[tuple[Metric, str, float]]:
        counters = self._server.counters() if self._server is not None else self._last
        if not counters:
            return
        for state in ("open", "half_open"):
            yield Metric.OTA_LINKS, state, counters[state]
        yield Metric.OTA_LINKS, "closing", counters["links"] - counters["open"] - counters["half_open"]
        yield Metric.OTA_EXPECTED, "", counters["expected"]
        yield Metric.OTA_BUSY_BYTES, "", counters["busy_bytes"]
        yield Metric.OTA_LINKS_OPENED, "", counters["opened"]
        for cause in native.CAUSES:
            yield Metric.OTA_LINKS_CLOSED, cause, counters[f"closed:{cause}"]
        for name in ARRIVALS:
            yield Metric.OTA_DATAGRAMS, name, counters[name]
        yield Metric.OTA_DATAGRAMS, "kernel_dropped", self._drops()
        yield Metric.OTA_DATAGRAMS_SENT, "", counters["sent"]
        for name in _STEPS:
            yield Metric.OTA_LINK_STEPS, name, counters[name]
        for label, name in (("in", "sdus_in"), ("out", "sdus_out"), ("delivered", "delivered")):
            yield Metric.OTA_SDUS, label, counters[name]
        for label, name in (("in", "bytes_in"), ("out", "bytes_out")):
            yield Metric.OTA_BYTES, label, counters[name]
        yield Metric.MAILBOX_FULL, "cards_up", counters["mailbox_full"]
