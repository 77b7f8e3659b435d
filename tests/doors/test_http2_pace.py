"""How slowly an answer may be taken over HTTP/2, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
import virtual_time

from gateway.api.http2_exchange import Exchange

STALL_S = 15.0


class Peer:
    """Takes `step` bytes each `every_s` seconds."""

    def __init__(self, step: int, every_s: float, window: int = 0) -> None:
        self.exchange = Exchange(self, 1, {"method": "GET"}, None, 10.0, STALL_S)
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
