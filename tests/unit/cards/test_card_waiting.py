"""Which download is next, in any order of what can happen: never two at a card, none forgotten."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cards.waiting import Waiting
from gateway.model.cards import Download, DownloadState, PacketPlan

EXPIRES_MS = 1_000


def build(number: int, card: int, due_ms: int, expires_ms: int = EXPIRES_MS) -> Download:
    return Download(number, "app", bytes((card,)), b"", b"", DownloadState.WAITING, 0, expires_ms, due_ms)


class Scene:
    def __init__(self) -> None:
        self.store: dict[int, Download] = {}
        self.waiting = Waiting(self.store.get)

    def add(self, download: Download) -> None:
        self.store[download.number] = download
        self.waiting.add(download, download.due_ms)

    def take(self, now_ms: int) -> int | None:
        download = self.waiting.take(now_ms)
        return None if download is None else download.number


def test_by_their_due_times() -> None:
    scene = Scene()
    for number, due_ms in ((1, 30), (2, 10), (3, 20)):
        scene.add(build(number, number, due_ms))
    assert [scene.take(25), scene.take(25), scene.take(25), scene.take(30)] == [2, 3, None, 1]
    assert len(scene.waiting) == 0


def test_one_at_a_card_and_the_next_when_it_is_released() -> None:
    scene = Scene()
    for number in (1, 2, 3):
        scene.add(build(number, 7, number))
    assert [scene.take(10), scene.take(10)] == [1, None]
    scene.waiting.release(b"\7", 1, 10, is_over=True)
    assert [scene.take(10), scene.take(10)] == [2, None]
    scene.waiting.release(b"\7", 2, 10, is_over=False)
    assert scene.take(10) == 3


def test_one_that_has_begun_keeps_its_card_until_it_is_over() -> None:
    scene = Scene()
    scene.add(build(1, 7, 1))
    scene.add(build(2, 7, 1))
    assert scene.take(5) == 1
    begun = msgspec.structs.replace(scene.store[1], plan=PacketPlan(0, 1, 100, 3), due_ms=50)
    scene.add(begun)
    scene.waiting.release(b"\7", 1, 5, is_over=False)
    assert scene.take(40) is None
    assert scene.take(50) == 1
    scene.waiting.release(b"\7", 1, 50, is_over=True)
    assert scene.take(50) == 2


def test_one_that_waits_behind_another_expires_in_its_time() -> None:
    scene = Scene()
    scene.add(build(1, 7, 1))
    scene.add(build(2, 7, 1, expires_ms=20))
    assert [scene.take(5), scene.take(19), scene.take(20)] == [1, None, 2]


def test_one_that_was_next_and_is_stopped_wakes_the_one_behind_it() -> None:
    scene = Scene()
    for number in (1, 2, 3):
        scene.add(build(number, 7, 1))
    assert [scene.take(5), scene.take(5)] == [1, None]
    scene.waiting.release(b"\7", 1, 5, is_over=True)
    scene.waiting.discard(2)
    assert scene.take(5) == 3


def test_one_that_is_gone_from_the_store_is_forgotten() -> None:
    scene = Scene()
    scene.add(build(1, 7, 1))
    del scene.store[1]
    assert scene.take(5) is None
    assert 1 not in scene.waiting


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from("atrobdx"), st.integers(0, 2), st.integers(0, 30)), max_size=60))
def test_any_order_of_events(events: list[tuple[str, int, int]]) -> None:
    """a: one more, t: take, r: release, o: over, b: released with packets in doubt, d: stop, x: let time pass."""
    scene = Scene()
    now_ms, next_ = 0, 1
    active: dict[int, Download] = {}
    begun: dict[bytes, int] = {}
    for event, card, number in events:
        if event == "a":
            scene.add(build(next_, card, now_ms + number))
            next_ += 1
        elif event == "t":
            download = scene.waiting.take(now_ms)
            if download is not None:
                assert download.card not in {other.card for other in active.values()}
                assert begun.get(download.card, download.number) == download.number
                active[download.number] = download
        elif event == "x":
            now_ms += number
        elif event == "d":
            waiting = sorted(each for each in scene.store if each in scene.waiting)
            if waiting:
                stopped = scene.store.pop(waiting[number % len(waiting)])
                scene.waiting.discard(stopped.number)
                begun = {card_: each for card_, each in begun.items() if each != stopped.number}
                scene.waiting.release(stopped.card, stopped.number, now_ms, is_over=True)
        elif active:
            download = active.pop(sorted(active)[number % len(active)])
            if event == "o":
                scene.store.pop(download.number)
                begun = {card_: each for card_, each in begun.items() if each != download.number}
            else:
                plan = PacketPlan(0, 1, 1, 1) if event == "b" else download.plan
                if plan is not None:
                    begun[download.card] = download.number
                scene.add(msgspec.structs.replace(download, plan=plan, due_ms=now_ms + number))
            scene.waiting.release(download.card, download.number, now_ms, is_over=event == "o")
    # all that is left comes, one after the other, before anything expires
    now_ms += 100
    for download in active.values():
        scene.store.pop(download.number)
        scene.waiting.release(download.card, download.number, now_ms, is_over=True)
    left = {number for number in scene.store if number in scene.waiting}
    while (download := scene.waiting.take(min(now_ms, EXPIRES_MS - 1))) is not None:
        left.remove(download.number)
        scene.waiting.release(download.card, download.number, now_ms, is_over=True)
    assert left == set()
    assert len(scene.waiting) == 0
