"""What the tests of the CAT_TP server are made of: a network that loses, doubles and reorders, cards that are
`gateway.ota.cattp.Link`, and the server either by steps of an injected clock or with its thread on a real socket."""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from gateway._native import cattp as native
from gateway.ota.cattp import Closed, Delivered, Limits, Link, Opened, Output, Received, Transmit
from gateway.ota.cattp_pdu import ACK, SYN, Opening, Pdu, build_pdu, parse_pdu

PORT = 0x2328
CARD_PORT = 0x0001
IDENTIFICATION = bytes(range(16))
#: of the peer, as the server sees it
ADDRESS = bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 7))
UDP_PORT = 40_001
LIMIT_NAMES = (
    "max_pdu", "max_sdu", "window", "flight", "queued_bytes", "rto_first_ms", "rto_least_ms", "rto_most_ms", "retries",
    "opening_retries", "keep_alive_ms", "idle_ms", "zero_window_ms", "close_wait_ms",
)  # fmt: skip
ARRIVALS = (
    "linked", "malformed", "foreign", "version", "stray", "not_admitted", "illegal", "half_open_full", "full",
)  # fmt: skip
Event = tuple[int, int, int, Any, Any, Any]


def limits_of(limits: Limits) -> dict[str, int]:
    return {name: getattr(limits, name) for name in LIMIT_NAMES}


class Stepped:
    """The server without socket and thread."""

    def __init__(self, limits: Limits | None = None, **settings: Any) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        defaults: dict[str, Any] = {
            "local_port": PORT,
            "max_links": 1000,
            "max_half_open": 100,
            "refusals_per_s": 1 << 20,
            "amplification": 16,
            "seed": 1,
        }
        self.server = native.CattpServer(-1, self.event_fd, -1, **(defaults | limits_of(limits or Limits()) | settings))
        self.now_ms = 0
        self.events: list[Event] = []

    def step(
        self, *datagrams: bytes, now_ms: int | None = None, address: bytes = ADDRESS, port: int = UDP_PORT
    ) -> list[bytes]:
        """What goes out; events are in `events`."""
        if now_ms is not None:
            self.now_ms = now_ms
        out = self.server.step([(data, address, port) for data in datagrams], self.now_ms)
        more = True
        while more:
            events, more = self.server.drain()
            self.events += events
        return [data for data, _address, _port in out]

    def take(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def close(self) -> None:
        os.close(self.event_fd)


def said(events: list[Event]) -> list[tuple[Any, ...]]:
    """Events of a link without its number, as `outputs_of` says them of the model."""
    out: list[tuple[Any, ...]] = []
    for kind, _link, _cookie, a, b, c in events:
        if kind == native.EVENT_OPENED:
            out.append(("opened", a, b))
        elif kind == native.EVENT_RECEIVED:
            out.append(("received", a))
        elif kind == native.EVENT_DELIVERED:
            out.append(("delivered", a))
        elif kind == native.EVENT_CLOSED:
            out.append(("closed", a, b, c))
        else:
            out.append((kind, a))
    return out


def outputs_of(outputs: list[Output]) -> tuple[list[bytes], list[tuple[Any, ...]]]:
    """(datagrams, events) of the model."""
    datagrams: list[bytes] = []
    events: list[tuple[Any, ...]] = []
    for output in outputs:
        if isinstance(output, Transmit):
            datagrams.append(output.data)
        elif isinstance(output, Opened):
            events.append(("opened", output.opening.max_pdu, output.opening.max_sdu))
        elif isinstance(output, Received):
            events.append(("received", output.sdu))
        elif isinstance(output, Delivered):
            events.append(("delivered", output.sdus))
        elif isinstance(output, Closed):
            events.append(("closed", output.cause.value, output.reason, output.undelivered))
    return datagrams, events


class Network:
    """Datagrams on their way to one side; loses, doubles and reorders by its own random numbers."""

    def __init__(
        self, rng: random.Random, *, loss: float = 0.0, double: float = 0.0, delay_ms: tuple[int, int] = (5, 5)
    ) -> None:
        self._rng, self._loss, self._double, self._delay_ms = rng, loss, double, delay_ms
        self._under_way: list[tuple[int, int, bytes]] = []
        self._count = 0

    def put(self, data: bytes, now_ms: int) -> None:
        for _ in range(2 if self._rng.random() < self._double else 1):
            if self._rng.random() >= self._loss:
                self._count += 1
                heapq.heappush(self._under_way, (now_ms + self._rng.randint(*self._delay_ms), self._count, data))

    @property
    def due_ms(self) -> int | None:
        return self._under_way[0][0] if self._under_way else None

    def take(self, now_ms: int) -> list[bytes]:
        out = []
        while self._under_way and self._under_way[0][0] <= now_ms:
            out.append(heapq.heappop(self._under_way)[2])
        return out


def card(
    first: int = 7, limits: Limits | None = None, *, identification: bytes = IDENTIFICATION, port: int = CARD_PORT
) -> Link:
    return Link(limits or Limits(), port, first, remote_port=PORT, identification=identification)


def opening(
    number: int,
    identification: bytes = IDENTIFICATION,
    *,
    source: int = CARD_PORT,
    sizes: tuple[int, int] = (1400, 4096),
) -> bytes:
    return build_pdu(Pdu(SYN, source, PORT, number, opening=Opening(*sizes, identification)))


def pdu(
    flags: int,
    sequence: int,
    acknowledgement: int,
    *,
    source: int = CARD_PORT,
    data: bytes = b"",
    window: int = 10,
    destination: int = PORT,
    reason: int = 0,
) -> bytes:
    return build_pdu(Pdu(flags, source, destination, sequence, acknowledgement, window, data, reason=reason))


def connect(
    server: Stepped,
    identification: bytes = IDENTIFICATION,
    *,
    source: int = CARD_PORT,
    address: bytes = ADDRESS,
    port: int = 40_001,
    number: int = 100,
) -> int:
    """The link's number."""
    (answer,) = server.step(opening(number, identification, source=source), address=address, port=port)
    first = parse_pdu(answer).sequence
    server.take()
    server.step(pdu(ACK, number + 1, first, source=source), address=address, port=port)
    opened = [event for event in server.take() if event[0] == native.EVENT_OPENED]
    assert len(opened) == 1
    return opened[0][1]


class Threaded:
    """The server with its thread on a loopback socket. Events are taken by `take`, which notes them by cookie."""

    def __init__(self, limits: Limits, *, host: str = "127.0.0.1", start: bool = True, **settings: Any) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setblocking(False)
        self.socket.bind((host, 0))
        self.port: int = self.socket.getsockname()[1]
        self._fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        defaults: dict[str, Any] = {"local_port": PORT, "max_links": 1000, "max_half_open": 100, "seed": 3}
        self.native = native.CattpServer(self.socket.fileno(), *self._fds, **(defaults | limits_of(limits) | settings))
        #: takes no events
        self.paused = False
        #: by cookie
        self.opened: dict[int, int] = {}
        self.received: dict[int, list[bytes]] = {}
        self.delivered: dict[int, int] = {}
        self.closed: dict[int, tuple[str, int, int]] = {}
        self.refused: list[tuple[int, str]] = []
        self.order: list[tuple[str, int]] = []
        self.cards: list[Cards] = []
        self._thread = threading.Thread(target=self.native.run, daemon=True)
        if start:
            self.start()

    def start(self) -> None:
        self._thread.start()

    @property
    def event_fd(self) -> int:
        return self._fds[0]

    def take(self) -> None:
        more = not self.paused
        while more:
            events, more = self.native.drain()
            for kind, link, cookie, a, b, c in events:
                if kind == native.EVENT_OPENED:
                    self.opened[cookie] = link
                    self.order.append(("opened", link))
                elif kind == native.EVENT_RECEIVED:
                    self.received.setdefault(cookie, []).append(a)
                    self.order.append(("received", link))
                elif kind == native.EVENT_DELIVERED:
                    self.delivered[cookie] = self.delivered.get(cookie, 0) + a
                elif kind == native.EVENT_CLOSED:
                    self.closed[cookie] = (a, b, c)
                    self.order.append(("closed", link))
                else:
                    self.refused.append((cookie, a))

    def stop(self) -> None:
        if self._thread.is_alive():
            while not self.native.stop():
                self.take()
            while self._thread.is_alive():
                self.take()
                self._thread.join(0.01)
        self.take()

    def __enter__(self) -> Threaded:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.paused = False
        self.stop()
        for cards in self.cards:
            cards.close()
        self.socket.close()
        for fd in self._fds:
            os.close(fd)


class Cards:
    """Cards on sockets of their own, behind a network that loses, doubles and reorders in both directions."""

    def __init__(
        self, server: Threaded, rng: random.Random, *, loss: float = 0.0, double: float = 0.0, reorder: float = 0.0,
        host: str = "127.0.0.1",
    ) -> None:  # fmt: skip
        self._server, self._rng = server, rng
        self._loss, self._double, self._reorder = loss, double, reorder
        self._host = host
        self._links: dict[int, tuple[Link, socket.socket]] = {}
        self._held: dict[int, list[bytes]] = {}
        self._to_send: dict[int, list[bytes]] = {}
        self.received: dict[int, list[bytes]] = {}
        server.cards.append(self)

    @staticmethod
    def now_ms() -> int:
        return time.monotonic_ns() // 1_000_000

    def peers(self) -> list[Link]:
        return [link for link, _socket in self._links.values()]

    def call(self, link: Link, number: int, sdus: list[bytes]) -> None:
        """Connect, and send these once it is open."""
        if number in self._links:
            self.cut(number)
        bound = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET, socket.SOCK_DGRAM)
        bound.setblocking(False)
        bound.connect((self._host, self._server.port))
        self._links[number] = (link, bound)
        self._to_send[number] = sdus
        self.received[number] = []
        self._held[number] = []
        self.give(number, link.connect(self.now_ms()))

    def cut(self, number: int) -> None:
        """The card is gone without a word."""
        _link, bound = self._links.pop(number)
        bound.close()

    def close(self) -> None:
        for number in list(self._links):
            self.cut(number)

    def _copies(self) -> int:
        if self._rng.random() < self._loss:
            return 0
        return 2 if self._rng.random() < self._double else 1

    def give(self, number: int, outputs: list[Output]) -> None:
        link, bound = self._links[number]
        for output in outputs:
            if isinstance(output, Transmit):
                for _ in range(self._copies()):
                    if self._rng.random() < self._reorder:
                        self._held[number].append(output.data)
                    else:
                        self._put(bound, output.data)
            elif isinstance(output, Received):
                self.received[number].append(output.sdu)
            elif isinstance(output, Opened):
                sdus, self._to_send[number] = self._to_send[number], []
                for sdu in sdus:
                    self.give(number, link.send(sdu, self.now_ms()))

    @staticmethod
    def _put(bound: socket.socket, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):  # lost, as any datagram may be
            bound.send(data)

    def run_until(self, is_done: Callable[[], bool]) -> None:
        """Turn everything until it is so; fails after a time that no machine needs."""
        end = time.monotonic() + 60
        while True:
            self._server.take()
            if is_done():
                return
            assert time.monotonic() < end, "it did not come to that"
            sockets = {bound: number for number, (_link, bound) in self._links.items()}
            ready, _, _ = select.select([*sockets, self._server.event_fd], [], [], 0.005)
            for bound in ready:
                if bound in sockets:
                    self._read(sockets[bound], bound)
            for number, (link, bound) in list(self._links.items()):
                held, self._held[number] = self._held[number], []
                for data in held:
                    self._put(bound, data)
                due = link.due_ms
                if due is not None and due <= self.now_ms():
                    self.give(number, link.tick(self.now_ms()))

    def _read(self, number: int, bound: socket.socket) -> None:
        while True:
            try:
                data = bound.recv(65_536)
            except (BlockingIOError, ConnectionRefusedError):
                return
            for _ in range(self._copies()):
                self.give(number, self._links[number][0].handle(data, self.now_ms()))
