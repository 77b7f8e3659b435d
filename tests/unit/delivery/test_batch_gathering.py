"""Batches that wait for the same commit are taken in as one, in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery import batch_gathering
from gateway.delivery.batch_accept import TakenBatch
from gateway.delivery.batch_gathering import AT_ONCE, BatchGathering, TakenPart
from gateway.model.errors import BadRequest, GatewayError, QueueFull
from gateway.model.registration import App

SHOP, OTHER = App(name="shop"), App(name="other")


class _Journal:
    def __init__(self) -> None:
        self.is_committing = False
        self.writable = True
        self.calls: list[Callable[[], None]] = []

    def at_commit_end(self, call: Callable[[], None]) -> None:
        assert self.is_committing
        self.calls.append(call)

    def end(self) -> None:
        self.is_committing = False
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class _Batch:
    def __init__(self, pushes: list[Any]) -> None:
        self.count = len(pushes)
        self._pushes = pushes

    def raw(self, index: int) -> bytes:
        return msgspec.msgpack.encode(self._pushes[index])


class _Acceptor:
    """A push is a number: even ones are accepted, 5 is to be looked at alone, others are refused."""

    def __init__(self) -> None:
        self.accepted: list[tuple[str, list[int]]] = []
        self.error: GatewayError | None = None

    def accept(self, app: App, arrays: list[bytes | memoryview], most: int, now_ms: int) -> TakenBatch:
        numbers = [number for pushes in arrays for number in msgspec.msgpack.decode(pushes)]
        assert len(numbers) == most
        if self.error is not None:
            raise self.error
        self.accepted.append((app.name, numbers))
        batch: Any = _Batch(numbers)
        if all(number % 2 == 0 for number in numbers):
            return TakenBatch(batch, 1_000, [], [])
        results = [
            None if number == 5 else QueueFull() if number % 2 else 1_000 + at for at, number in enumerate(numbers)
        ]
        return TakenBatch(batch, 0, results, [at for at, number in enumerate(numbers) if number == 5])


class _Scene:
    def __init__(self) -> None:
        self.journal = _Journal()
        self.acceptor = _Acceptor()
        self.heard: list[TakenPart | GatewayError] = []
        self.gathering = BatchGathering(self.acceptor, self.journal, lambda: 7)  # type: ignore[arg-type]

    def take(self, *numbers: int, app: App = SHOP, is_plain: bool = True) -> None:
        packed = b"\xdd" + len(numbers).to_bytes(4, "big") + b"".join(map(msgspec.msgpack.encode, numbers))
        self.gathering.take(app, packed, len(numbers), is_plain, self.heard.append)

    @property
    def taken(self) -> list[list[int]]:
        return [numbers for _, numbers in self.acceptor.accepted]


@pytest.fixture
async def scene() -> _Scene:
    return _Scene()


async def test_without_a_commit_under_way_each_is_taken_in_at_once(scene: _Scene) -> None:
    for number in range(0, 12, 2):
        scene.take(number)
    assert scene.taken == [[number] for number in range(0, 12, 2)]
    assert len(scene.heard) == 6


async def test_during_a_commit_the_first_go_at_once_and_the_others_together_at_its_end(scene: _Scene) -> None:
    scene.journal.is_committing = True
    for number in range(0, 12, 2):
        scene.take(number, number)
    assert scene.taken == [[number, number] for number in range(0, 2 * AT_ONCE, 2)]
    scene.journal.end()
    assert scene.taken[AT_ONCE:] == [[number for number in range(2 * AT_ONCE, 12, 2) for _ in range(2)]]
    assert [part.first for part in scene.heard[AT_ONCE:] if isinstance(part, TakenPart)] == [1_000, 1_002, 1_004, 1_006]


async def test_the_next_commit_lets_the_first_go_at_once_again(scene: _Scene) -> None:
    for _ in range(2):
        scene.journal.is_committing = True
        scene.take(2)
        scene.journal.end()
    assert scene.taken == [[2], [2]]


async def test_nothing_overtakes_what_waits(scene: _Scene) -> None:
    scene.journal.is_committing = True
    for number in range(0, 8, 2):
        scene.take(number)
    scene.journal.is_committing = False  # it has ended, and nobody was told yet
    scene.take(8)
    assert [number for numbers in scene.taken for number in numbers] == [0, 2, 4, 6, 8]


async def test_nothing_waits_for_a_commit_that_does_not_end(scene: _Scene) -> None:
    scene.journal.is_committing = True
    for _ in range(AT_ONCE + 1):
        scene.take(0)
    scene.journal.writable = False
    scene.take(2)
    assert scene.taken[AT_ONCE:] == [[0, 2]]


async def test_apps_are_not_mixed_and_keep_their_order(scene: _Scene) -> None:
    scene.journal.is_committing = True
    for number, app in ((0, SHOP), (0, SHOP), (2, SHOP), (4, OTHER), (6, OTHER), (8, SHOP)):
        scene.take(number, app=app)
    scene.journal.end()
    assert scene.acceptor.accepted[AT_ONCE:] == [("shop", [2]), ("other", [4, 6]), ("shop", [8])]


async def test_what_is_looked_at_alone_begins_before_anything_behind_it_is_taken_in(scene: _Scene) -> None:
    scene.journal.is_committing = True
    for number in range(AT_ONCE):
        scene.take(number * 2)
    order: list[Any] = []
    for numbers, is_plain in (((2,), True), ((4,), True), ((5,), False), ((6,), True), ((8,), True)):
        packed = b"\xdd" + len(numbers).to_bytes(4, "big") + bytes(numbers)
        scene.gathering.take(SHOP, packed, 1, is_plain, lambda _, n=numbers: order.append((n, len(scene.taken))))
    scene.journal.end()
    assert scene.taken[AT_ONCE:] == [[2, 4], [5], [6, 8]]
    assert order[2] == ((5,), AT_ONCE + 2)


async def test_each_hears_of_its_own(scene: _Scene) -> None:
    scene.journal.is_committing = True
    for numbers in ((0,), (0,), (2, 3), (5, 4), (6,)):
        scene.take(*numbers)
    scene.journal.end()
    parts = [part for part in scene.heard if isinstance(part, TakenPart)][AT_ONCE:]
    assert [part.apart for part in parts] == [[], [0], []]
    assert [part.first for part in parts] == [0, 0, 0]
    results = [[part.result(index) for index in range(part.count)] for part in parts]
    assert results[0][0] == 1_000
    assert isinstance(results[0][1], QueueFull)
    assert results[1:] == [[None, 1_003], [1_004]]
    assert msgspec.msgpack.decode(parts[1].raw(0)) == 5


async def test_what_refuses_all_is_told_to_each(scene: _Scene) -> None:
    scene.journal.is_committing = True
    for _ in range(AT_ONCE + 2):
        scene.take(2)
    scene.acceptor.error = BadRequest("no")
    scene.journal.end()
    assert scene.heard[AT_ONCE:] == [scene.acceptor.error] * 2


async def test_a_fault_leaves_nobody_waiting(scene: _Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> TakenBatch:
        raise RuntimeError

    scene.journal.is_committing = True
    for _ in range(AT_ONCE + 2):
        scene.take(2)
    monkeypatch.setattr(scene.acceptor, "accept", fail)
    scene.journal.end()
    assert [type(heard) for heard in scene.heard[AT_ONCE:]] == [GatewayError] * 2


async def test_bytes_that_are_held_are_bounded_too(scene: _Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_gathering, "HELD_BYTES", 30)
    scene.journal.is_committing = True
    for _ in range(AT_ONCE + 4):
        scene.take(0, 0, 0, 0, 0)  # 10 bytes
    assert scene.taken[AT_ONCE:] == [[0] * 15]


async def test_what_is_held_is_bounded(scene: _Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_gathering, "HELD_PUSHES", 10)
    monkeypatch.setattr(batch_gathering, "MOST_PUSHES", 6)
    scene.journal.is_committing = True
    for _ in range(AT_ONCE + 5):
        scene.take(0, 0)
    assert scene.taken[AT_ONCE:] == [[0] * 6, [0] * 4]


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30), ends=st.sets(st.integers(0, 29)))
def test_order_and_answers_hold_whenever_commits_begin_and_end(sizes: list[int], ends: set[int]) -> None:
    async def run() -> None:
        scene = _Scene()
        numbers = iter(range(0, 10_000, 2))
        for at, size in enumerate(sizes):
            scene.take(*(next(numbers) for _ in range(size)))
            scene.journal.is_committing = True
            if at in ends:
                scene.journal.end()
        scene.journal.end()
        assert [number for taken in scene.taken for number in taken] == list(range(0, 2 * sum(sizes), 2))
        assert [part.count for part in scene.heard if isinstance(part, TakenPart)] == sizes

    asyncio.run(run())
