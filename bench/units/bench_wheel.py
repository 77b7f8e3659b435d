"""Timing wheel beside asyncio's call_later and a heap: arm and cancel, with many timers armed already."""

from __future__ import annotations

import asyncio
import heapq
import random
from typing import Any

from bench.units.pairs import PEER, UNIT, take
from gateway._native.wheel import Wheel

ARMED = 50_000
PAIRS = 5_000
LATER = "wheel: arm and cancel, beside call_later"
HEAP = "wheel: arm and fire, beside heapq"


def armed_wheel() -> Wheel:
    wheel, chance = Wheel(), random.Random(1)
    for key in range(ARMED):
        wheel.arm(key, chance.randrange(1, 1 << 20))
    return wheel


def test_wheel_arms_and_cancels(benchmark: Any) -> None:
    wheel = armed_wheel()

    def work() -> None:
        for key in range(ARMED, ARMED + PAIRS):
            wheel.arm(key, 300)
            wheel.cancel(key)

    take(benchmark, LATER, UNIT, work)


def test_call_later_and_cancel(benchmark: Any) -> None:
    loop = asyncio.new_event_loop()
    held = [loop.call_later(1000 + n, int) for n in range(ARMED)]

    def work() -> None:
        for _ in range(PAIRS):
            loop.call_later(3, int).cancel()

    take(benchmark, LATER, PEER, work)
    assert len(held) == ARMED
    loop.close()


def test_wheel_arms_and_fires(benchmark: Any) -> None:
    wheel, now = armed_wheel(), [0]

    def work() -> None:
        for key in range(ARMED, ARMED + PAIRS):
            wheel.arm(key, now[0] + 1 + key % 100)
        now[0] += 101
        wheel.advance(now[0])

    take(benchmark, HEAP, UNIT, work)


def test_heap_pushes_and_pops(benchmark: Any) -> None:
    chance, now = random.Random(1), [0]
    heap = [(chance.randrange(1, 1 << 20), key) for key in range(ARMED)]
    heapq.heapify(heap)

    def work() -> None:
        for key in range(ARMED, ARMED + PAIRS):
            heapq.heappush(heap, (now[0] + 1 + key % 100, key))
        now[0] += 101
        while heap and heap[0][0] <= now[0]:
            heapq.heappop(heap)

    take(benchmark, HEAP, PEER, work)
