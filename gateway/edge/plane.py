"""The data plane as the control thread sees it: reactor threads, their mailboxes and counters; knows no device by name.

Each reactor thread takes a descriptor table of its own before it opens its listener (docs/threads.md).
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, ip_network
from typing import Any, cast

import structlog

from gateway._native import reactor as native
from gateway._native.batches import Batches
from gateway._native.far_records import HomeTable
from gateway._native.proxy import PROXY_FAILURES, PROXY_KINDS
from gateway._native.tls import TLS_FAILURES
from gateway._native.tls_context import TlsContext
from gateway.config.sections import Edge as EdgeConfig
from gateway.metrics import Metric, Metrics
from gateway.model.device_address import DeviceAddress
from gateway.model.errors import (
    ConfigError,
    Draining,
    FrameTooLarge,
    GatewayError,
    HeartbeatTimeout,
    LoginTimeout,
    MalformedFrame,
    OutOfOrder,
    Overloaded,
    SlowConsumer,
)
from gateway.model.frames import Error, FrameType, Goaway, build_frame

_log = structlog.get_logger(__name__)

REACTOR_SHIFT = 56
#: a full mailbox is tried again after this
AGAIN_S = 0.005
#: reasons a reactor closes a link for by itself, with the frame it leaves: ERROR where the peer broke the protocol
_LAST_WORDS: dict[str, tuple[FrameType, type[GatewayError]]] = {
    "login_timeout": (FrameType.GOAWAY, LoginTimeout),
    "heartbeat_timeout": (FrameType.GOAWAY, HeartbeatTimeout),
    "slow_consumer": (FrameType.GOAWAY, SlowConsumer),
    "overloaded": (FrameType.GOAWAY, Overloaded),
    "memory": (FrameType.GOAWAY, Overloaded),
    "draining": (FrameType.GOAWAY, Draining),
    "malformed_frame": (FrameType.ERROR, MalformedFrame),
    "frame_too_large": (FrameType.ERROR, FrameTooLarge),
    "out_of_order": (FrameType.ERROR, OutOfOrder),
}
_REJECTED = {"full"}
_MALFORMED = {"malformed_frame", "frame_too_large", "out_of_order"}
Event = tuple[int, int, Any, Any, Any]
AckEvent = tuple[int, int, int, int, int, int]


def build_goaway(
    error: type[GatewayError],
    *,
    after_ms: int | None = None,
    jitter_ms: int | None = None,
    to: DeviceAddress | None = None,
) -> bytes:
    """Farewell for an error; without a jitter given, up to once more the wait, so that a crowd spreads. `to`: another
    node that takes the device."""
    wait = error.after_ms if after_ms is None else after_ms
    return build_frame(
        FrameType.GOAWAY,
        Goaway(
            code=error.code,
            name=error.name,
            retry=error.retryable,
            after_ms=wait,
            jitter_ms=wait if jitter_ms is None else jitter_ms,
            host="" if to is None else to.host,
            port=0 if to is None else to.port,
            tls_port=0 if to is None else to.tls_port,
        ),
    )


def build_error(error: GatewayError, *, req: int = 0, versions: list[int] | None = None) -> bytes:
    return build_frame(
        FrameType.ERROR,
        Error(
            code=error.code,
            name=error.name,
            message=error.message,
            req=req,
            retry=error.retryable,
            after_ms=error.after_ms,
            versions=versions or [],
        ),
    )


def _last_words() -> dict[str, bytes]:
    return {
        reason: build_goaway(error) if kind == FrameType.GOAWAY else build_error(error())
        for reason, (kind, error) in _LAST_WORDS.items()
    }


def raise_descriptor_limit() -> int:
    """As many descriptors as this process may have (each reactor counts for itself); returns the limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard
    try:
        with open("/proc/sys/fs/nr_open") as f:
            wanted = max(hard, int(f.read()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (OSError, ValueError):
        # Raising the hard limit takes a privilege; without it the soft one goes up to the hard one.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        wanted = hard
    return wanted


def pack_networks(trusted: list[str]) -> list[tuple[bytes, int]]:
    """Addresses and CIDR networks as reactors compare them: (16 bytes, bits), IPv4 as ::ffff:a.b.c.d."""
    packed = []
    for text in trusted:
        network = ip_network(text)
        address, bits = network.network_address.packed, network.prefixlen
        if isinstance(network, IPv4Network):
            address, bits = b"\0" * 10 + b"\xff\xff" + address, bits + 96
        packed.append((address, bits))
    return packed


class _Stopped:
    """In the place of a reactor that has ended: its links are gone, so every command is done with."""

    def __getattr__(self, name: str) -> Callable[..., bool]:
        return _done_with


def _done_with(*_: Any) -> bool:
    return True


_STOPPED = cast(native.Reactor, _Stopped())


class Plane:
    """All reactors of the process. `on_batch(acks, others)` is called on the loop thread with what they report."""

    def __init__(
        self,
        config: EdgeConfig,
        metrics: Metrics,
        on_batch: Callable[[list[AckEvent], list[Event]], None],
        batches: Batches | None = None,
        on_runs: Callable[[list[tuple[int, bytes, int]]], None] = lambda _: None,
        acks_to: HomeTable | None = None,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._on_batch = on_batch
        #: what settles the acks of batches before Python sees them
        self._batches = batches
        self._on_runs = on_runs
        #: what takes all acks instead, and tells of them by itself
        self._acks_to = acks_to
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []
        self._event_fds: list[int] = []
        #: commands that found a mailbox full and must not get lost; at most those of the events taken meanwhile
        self._unsent: deque[tuple[Callable[..., bool], tuple[Any, ...]]] = deque()
        self._sending_again: asyncio.TimerHandle | None = None
        self.reactors: list[native.Reactor] = []
        #: -1: that door stays shut
        self.port = config.port
        self.tls_port = config.tls_port
        metrics.add_source(self._figures)

    def start(self, loop: asyncio.AbstractEventLoop, tls: TlsContext | None = None) -> None:
        """Bind the listeners and start the threads; raises ConfigError where the address can not be had. `tls` is
        needed where there is a TLS port."""
        self._loop = loop
        raise_descriptor_limit()
        config = self._config
        count = config.reactors or max(1, (os.cpu_count() or 1) // 2)
        words = _last_words()
        per_reactor = -(-config.logins_per_s // count)
        for index in range(count):
            up = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            down = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._event_fds += (up, down)
            reactor = native.Reactor(
                index,
                up,
                down,
                words,
                mailbox_bytes=config.mailbox_bytes,
                max_links=config.max_links,
                login_ms=int(config.login_timeout_s * 1000),
                login_frame_bytes=config.login_frame_bytes,
                max_frame_bytes=config.max_frame_bytes,
                provider_frame_bytes=config.provider_frame_bytes,
                outbox_bytes=config.outbox_bytes,
                slow_ms=int(config.slow_timeout_s * 1000),
                logins_per_s=per_reactor,
                window=config.window,
                tls=tls,
                handshakes=config.tls_handshakes,
                proxies=pack_networks(config.proxy_trusted) if config.proxy_protocol == "required" else None,
            )
            self._start_thread(reactor)
            self.reactors.append(reactor)
            loop.add_reader(up, self._take, reactor)
            self._take(reactor)  # puts the mailbox to sleep, so that the first event wakes the loop

    def _start_thread(self, reactor: native.Reactor) -> None:
        started = threading.Event()
        failure: list[BaseException] = []

        def serve() -> None:
            try:
                reactor.open(self._listen if self.port >= 0 else None, self._listen_tls if self.tls_port >= 0 else None)
            except BaseException as exc:
                failure.append(exc)
                return
            finally:
                started.set()
            reactor.run()

        thread = threading.Thread(target=serve, name=f"reactor-{reactor.index}", daemon=True)
        thread.start()
        started.wait()
        if failure:
            if isinstance(failure[0], ConfigError):
                raise failure[0]
            raise ConfigError(f"the reactor can not start: {failure[0]}", field="edge.reactors") from failure[0]
        self._threads.append(thread)

    def _listen(self) -> int:
        self.port, descriptor = self._bind(self.port, "edge.port")
        return descriptor

    def _listen_tls(self) -> int:
        self.tls_port, descriptor = self._bind(self.tls_port, "edge.tls_port")
        return descriptor

    def _bind(self, port: int, setting: str) -> tuple[int, int]:
        """(port, descriptor). Runs in the reactor's thread, whose descriptor table gets the socket. What it accepts
        inherits options: no small write waits (TCP_NODELAY), a peer that vanished is noticed (TCP_USER_TIMEOUT)."""
        config = self._config
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if config.reactors != 1:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            silence_ms = int(config.heartbeat_max_s * 1500)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, silence_ms)
            listener.bind((config.host, port))
            listener.listen(config.backlog)
            listener.setblocking(False)
        except OSError as exc:
            listener.close()
            raise ConfigError(
                f"the device listener can not bind {config.host}:{port}: {exc.strerror or exc}; "
                f"take another with {setting}, 0 for a free one",
                field=setting,
            ) from exc
        except BaseException:
            listener.close()
            raise
        return listener.getsockname()[1], listener.detach()

    def of(self, link: int) -> native.Reactor:
        """Where commands for this link go; a commit or a timer may still answer a link after everything was stopped."""
        return self.reactors[link >> REACTOR_SHIFT] if self.reactors else _STOPPED

    def sent(self, queued: bool) -> bool:
        """Count a command that found the mailbox full; passes the answer on."""
        if not queued:
            self._metrics.count(Metric.MAILBOX_FULL, label="down")
        return queued

    def insist(self, command: Callable[..., bool], *args: Any) -> None:
        """Give a command that must not get lost: where the mailbox is full it is given again, before any later one of
        its kind."""
        if self._unsent or not self.sent(command(*args)):
            self._unsent.append((command, args))
            self._send_again_soon()

    def _send_again_soon(self) -> None:
        if self._sending_again is None and self._loop is not None:
            self._sending_again = self._loop.call_later(AGAIN_S, self._send_again)

    def _send_again(self) -> None:
        self._sending_again = None
        while self._unsent:
            command, args = self._unsent[0]
            if not self.sent(command(*args)):
                self._send_again_soon()
                return
            self._unsent.popleft()

    def _take(self, reactor: native.Reactor) -> None:
        runs: list[tuple[int, bytes, int]] = []
        acks, others, more = reactor.drain(batches=self._batches, runs=runs, homes=self._acks_to)
        if runs:
            self._on_runs(runs)
        if acks or others or (self._batches is not None and self._batches.is_changed):
            self._on_batch(acks, others)
        if more and self._loop is not None:
            # One batch a turn: the loop serves providers between batches of a storm.
            self._loop.call_soon(self._take_more, reactor)

    def _take_more(self, reactor: native.Reactor) -> None:
        if reactor in self.reactors:
            self._take(reactor)

    def use_tls(self, context: TlsContext) -> None:
        """Every reactor makes its new handshakes with this."""
        for reactor in self.reactors:
            self.insist(reactor.use_tls, context)

    def links(self) -> int:
        return sum(reactor.counters()["links"] for reactor in self.reactors)

    def accept_errors(self) -> int:
        return sum(reactor.counters()["accept_errors"] for reactor in self.reactors)

    def refuse_logins(self, refuse: bool) -> None:
        for reactor in self.reactors:
            self.sent(reactor.refuse_logins(refuse))

    async def stop(self) -> None:
        """Close every link and end the threads; the loop goes on taking events until they are gone."""
        for reactor in self.reactors:
            while not reactor.stop():
                self._take(reactor)
                await asyncio.sleep(0.001)
        while any(thread.is_alive() for thread in self._threads):
            for reactor in self.reactors:
                self._take(reactor)
            await asyncio.sleep(0.005)
        self._unsent.clear()
        if self._sending_again is not None:
            self._sending_again.cancel()
        assert self._loop is not None or not self.reactors
        for reactor in self.reactors:
            self._take(reactor)
            if self._loop is not None:
                self._loop.remove_reader(reactor.event_fd)
        self.reactors = []
        for fd in self._event_fds:
            os.close(fd)
        self._event_fds = []

    def _figures(self) -> Iterable[tuple[Metric, str, float]]:
        plain = {
            "links": Metric.LINKS,
            "accepted": Metric.LINKS_ACCEPTED,
            "frames_in": Metric.FRAMES_IN,
            "frames_out": Metric.FRAMES_OUT,
            "bytes_in": Metric.BYTES_IN,
            "bytes_out": Metric.BYTES_OUT,
            "heartbeats": Metric.HEARTBEATS,
            "acks": Metric.ACKS,
            "late_acks": Metric.ACKS_LATE,
            "ack_timeouts": Metric.ACK_TIMEOUTS,
            "inflight": Metric.INFLIGHT,
            "accept_errors": Metric.ACCEPT_ERRORS,
            "stalled": Metric.STALLED,
            "tls_links": Metric.TLS_LINKS,
        }
        totals: dict[str, int] = {}
        for reactor in self.reactors:
            for name, value in reactor.counters().items():
                totals[name] = totals.get(name, 0) + value
        for name, metric in plain.items():
            yield metric, "", totals.get(name, 0)
        yield Metric.SPILLED, "window", totals.get("spilled_window", 0)
        yield Metric.SPILLED, "outbox", totals.get("spilled_outbox", 0)
        yield Metric.MAILBOX_FULL, "up", totals.get("mailbox_full", 0)
        yield Metric.TLS_HANDSHAKES, "full", totals.get("tls_full", 0)
        yield Metric.TLS_HANDSHAKES, "resumed", totals.get("tls_resumed", 0)
        for reason in TLS_FAILURES:
            yield Metric.TLS_FAILURES, reason, totals.get(f"tls:{reason}", 0)
        for reason in PROXY_FAILURES:
            yield Metric.PROXY_REFUSED, reason, totals.get(f"proxy:{reason}", 0)
        for kind in PROXY_KINDS:
            yield Metric.PROXIED, kind, totals.get(f"proxied:{kind}", 0)
        for reason in native.REASONS:
            ended = totals.get(f"ended:{reason}", 0)
            yield (Metric.LINKS_REJECTED if reason in _REJECTED else Metric.LINKS_CLOSED), reason, ended
            if reason in _MALFORMED:
                yield Metric.FRAMES_MALFORMED, reason, ended
