"""What the tests of the CAT_TP server are made of: a network that loses, doubles and reorders, cards that are
`gateway.ota.cattp.Link`, and the server either by steps of an injected clock or with its thread on a real socket."""

from __future__ import annotations

import heapq
import os
import random
from typing import Any

from gateway._native import cattp as native
from gateway.ota.cattp import Closed, Delivered, Limits, Link, Opened, Output, Received, Transmit

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
