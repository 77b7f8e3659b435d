"""How slowly an answer may be taken over HTTP/2, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
import virtual_time

from gateway.api.http2_exchange import Exchange
from gateway.api.http2_patience import Patience

STALL_S = 15.0


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Peer:
    """Takes `step` bytes each `every_s` seconds."""

    def __init__(self, step: int, every_s: float, window: int = 0) -> None:
        patience = Patience(STALL_S, now_s), Patience(STALL_S, now_s)
        self.exchange = Exchange(self, 1, {"method": "GET"}, None, 10.0, patience)
        self._step, self._every_s, self._window = step, every_s, window
        self.taken = 0
        self.ends: list[str] = []

    async def open_windows(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            self._window += self._step
            self.exchange.on_window()

    async def take(self, *parts: int) -> float:
        """Seconds until an answer of these parts is out, or given up."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        opening = asyncio.create_task(self.open_windows())
        await self.exchange.send({"type": "http.response.start", "status": 200})
        for part in parts:
            await self.exchange.send({"type": "http.response.body", "body": b"x" * part, "more_body": True})
        await self.exchange.send({"type": "http.response.body"})
        opening.cancel()
        return loop.time() - began_s

    # --- http2_exchange.Carrier ---

    def room(self, stream: int) -> int:
        return self._window

    def is_shut(self, stream: int) -> bool:
        return True

    def send_head(self, stream: int, headers: Iterable[tuple[bytes, bytes]], *, end: bool) -> None: ...

    def send_data(self, stream: int, data: bytes, *, end: bool) -> None:
        self._window -= len(data)
        self.taken += len(data)

    async def writable(self) -> None: ...

    def took(self, stream: int, size: int) -> None: ...

    def slow_body(self, stream: int) -> None: ...

    def slow_reader(self, stream: int) -> None:
        self.ends.append("slow reader")

    def complete(self, stream: int, **options: Any) -> None:
        self.ends.append("complete")


@pytest.mark.parametrize(("step", "every_s"), [(1, 14), (1, 0.1), (100, 1), (0, 14), (0, 0.1)])
def test_windows_opened_byte_by_byte_hold_no_answer(step, every_s):
    peer = Peer(step, every_s)
    seconds = virtual_time.run(peer.take(100_000))
    assert peer.ends == ["slow reader"]
    assert seconds < STALL_S + peer.taken / 1_000 + 1


@pytest.mark.parametrize(("step", "every_s"), [(20_000, 14), (2_000, 1), (65_535, 14.9)])
def test_a_slow_reader_that_goes_on_reading_has_its_answer(step, every_s):
    peer = Peer(step, every_s)
    virtual_time.run(peer.take(*[10_000] * 100))
    assert peer.ends == ["complete"]
    assert peer.taken == 1_000_000


class Connection(Peer):
    """Many streams, whose own windows are wide, and one window for all of them."""

    def __init__(self, streams: int, step: int, every_s: float) -> None:
        super().__init__(step, every_s, 65_535)
        self.shared = Patience(STALL_S, now_s)
        self.exchanges = [
            Exchange(self, stream, {"method": "GET"}, None, 10.0, (Patience(STALL_S, now_s), self.shared))
            for stream in range(streams)
        ]

    def is_shut(self, stream: int) -> bool:
        return False

    async def open_windows(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            self._window = min(65_535, self._window + self._step)
            for exchange in self.exchanges:
                exchange.on_window()

    async def take_all(self, size: int) -> None:
        opening = asyncio.create_task(self.open_windows())
        await asyncio.gather(*(self.answer(exchange, size) for exchange in self.exchanges))
        opening.cancel()

    async def answer(self, exchange: Exchange, size: int) -> None:
        await exchange.send({"type": "http.response.start", "status": 200})
        await exchange.send({"type": "http.response.body", "body": b"x" * size})


def test_no_stream_is_cut_while_the_peer_reads_what_others_send():
    connection = Connection(20, 20_000, 0.1)  # all of it takes half a minute
    virtual_time.run(connection.take_all(270_000))
    assert connection.ends == ["complete"] * 20


@pytest.mark.parametrize("step", [0, 1])
def test_a_connection_whose_window_stays_shut_holds_none_of_its_streams(step):
    connection = Connection(20, step, 1)
    virtual_time.run(connection.take_all(270_000))
    assert set(connection.ends) == {"slow reader"}
    assert len(connection.ends) == 20
