"""Outbox beside a send for each frame, as a transport without a queue makes: a burst of 20 frames on a socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from bench.units.pairs import PEER, UNIT, take
from gateway._native.outbox import Outbox

FRAME = b"\x08\x62" + bytes(98)
BURST = 20
TIMES = 100
PAIR = "outbox: a burst of 20 frames, beside a send each"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    one.setblocking(False)
    yield one, other
    one.close()
    other.close()


def test_outbox(benchmark: Any, ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = ends
    box = Outbox()

    def work() -> None:
        for _ in range(TIMES):
            for _ in range(BURST):
                box.push(FRAME)
            assert box.flush(one.fileno()) == BURST * len(FRAME)
            other.recv(65_536)

    take(benchmark, PAIR, UNIT, work)


def test_sends(benchmark: Any, ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = ends

    def work() -> None:
        for _ in range(TIMES):
            for _ in range(BURST):
                one.send(FRAME)
            other.recv(65_536)

    take(benchmark, PAIR, PEER, work)
