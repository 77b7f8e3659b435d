"""Counters of secured packets never come twice, whatever crashes, is full or has to leave RAM."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from card_rig import payload, put_cards
from hypothesis import given, settings
from hypothesis import strategies as st
from store_rig import disk_of, fail_commit, full_disk, open_store

from gateway.metrics import Metric, Metrics
from gateway.model.errors import StoreUnavailable
from gateway.store import Store
from gateway.store.card_counters import BLOCK, END, FIRST, CardCounters
from gateway.store.card_rows import counter_key
from gateway.store.records import PUT, Db, pack_u64

CARD = b"c" * 16


async def test_they_are_consecutive_and_of_each_key_set_its_own(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    take = store.cards.take_counters
    assert [await take(CARD, 1, 1), await take(CARD, 1, 5), await take(CARD, 1, 1)] == [1, 2, 7]
    assert await take(CARD, 2, 1) == 1
    assert await take(b"d" * 16, 1, 1) == 1
    assert await take(CARD, 1, 10 * BLOCK) == 8
    assert await take(CARD, 1, 1) == 8 + 10 * BLOCK
    with pytest.raises(ValueError, match="at least one"):
        await take(CARD, 1, 0)
    await store.close()


async def test_none_is_given_out_before_its_mark_is_durable(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    disk = disk_of(store)
    first = store.cards.take_counters(CARD, 1, 1)
    second = store.cards.take_counters(CARD, 1, 2)
    assert not first.done()
    assert not disk.written
    assert (await first, await second) == (1, 2)
    mark = store._environment.get(Db.CARD_COUNTERS, counter_key(CARD, 1))
    assert mark is not None
    assert int.from_bytes(mark, "big") > 3
    commits = len(disk.written)
    inside = store.cards.take_counters(CARD, 1, 1)  # of the block
    assert inside.done()
    assert len(disk.written) == commits
    await store.close()


async def test_many_at_once_get_different_ones(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    sizes = [1, 3, 40, 2, 64, 1] * 20
    firsts = await asyncio.gather(*(store.cards.take_counters(CARD, 1, size) for size in sizes))
    given_out = [first + step for first, size in zip(firsts, sizes, strict=True) for step in range(size)]
    assert len(set(given_out)) == len(given_out) == sum(sizes)
    await store.close()


async def test_a_card_that_is_removed_and_comes_again_goes_on_behind_its_counters(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    (handle,) = await put_cards(store, 1)
    last = await store.cards.take_counters(handle, 1, 10) + 9
    await store.cards.remove(handle)
    await store.close()
    store = await open_store(tmp_path)
    (again,) = await put_cards(store, 1)
    assert again == handle
    assert await store.cards.take_counters(handle, 1, 1) > last
    await store.close()


async def test_where_the_commit_fails_nothing_is_given_out_and_what_was_asked_for_is_skipped(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    disk = disk_of(store)
    takes = [store.cards.take_counters(CARD, 1, 1) for _ in range(BLOCK + 2)]
    await fail_commit(store, disk)
    for take in takes:
        with pytest.raises(StoreUnavailable):
            await take
    with pytest.raises(StoreUnavailable):
        await store.cards.take_counters(CARD, 1, 1)
    disk.error = None
    assert await store.committer.probe()
    assert await store.cards.take_counters(CARD, 1, 1) > BLOCK
    await store.close()


async def test_while_nothing_can_be_written_the_rest_of_a_durable_block_serves(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    disk = disk_of(store)
    given_out = [await store.cards.take_counters(CARD, 1, 1)]
    await fail_commit(store, disk)
    with contextlib.suppress(StoreUnavailable):
        while len(given_out) < 3 * BLOCK:
            given_out.append(await store.cards.take_counters(CARD, 1, 1))
    assert 1 < len(given_out) <= BLOCK + 1
    await store.close()  # what could not be written is not
    store = await open_store(tmp_path)
    assert await store.cards.take_counters(CARD, 1, 1) > given_out[-1]
    await store.close()


async def test_a_map_that_is_really_full_gives_nothing_out(tmp_path: Path) -> None:
    store = await open_store(tmp_path, max_bytes=1 << 20)
    filled = 0
    with contextlib.suppress(StoreUnavailable):
        while filled < 200:
            await store.committer.accept([(PUT, Db.POSITIONS, b"%08d" % filled, bytes(20_000))])
            filled += 1
    assert not store.committer.writable
    with pytest.raises(StoreUnavailable):
        await store.cards.take_counters(CARD, 1, 1)
    with pytest.raises(StoreUnavailable):
        store.card_downloads.put_payload(payload())
    assert store._environment.get(Db.CARD_COUNTERS, counter_key(CARD, 1)) is None
    await store.close()


async def test_past_forty_bits_there_are_none(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.committer.accept([(PUT, Db.CARD_COUNTERS, counter_key(CARD, 1), pack_u64(END - 3))])
    with pytest.raises(OverflowError):
        await store.cards.take_counters(CARD, 1, 4)
    assert await store.cards.take_counters(CARD, 1, 2) == END - 3
    assert await store.cards.take_counters(CARD, 1, 1) == END - 1
    with pytest.raises(OverflowError):
        await store.cards.take_counters(CARD, 1, 1)
    await store.close()
    store = await open_store(tmp_path)
    with pytest.raises(OverflowError):
        await store.cards.take_counters(CARD, 1, 1)
    await store.close()


def counters_of(store: Store, *, kept: int, metrics: Metrics | None = None) -> CardCounters:
    loop = asyncio.get_running_loop()
    return CardCounters(store._environment, store.committer, metrics or Metrics(process=False), loop, kept)


async def test_what_leaves_ram_skips_its_block_and_one_under_way_stays(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    metrics = Metrics(process=False)
    counters = counters_of(store, kept=2, metrics=metrics)
    cards = [bytes((n,)) * 16 for n in range(6)]
    first = {each: await counters.take(each, 1, 1) for each in cards}
    assert len(counters) == 2
    assert set(first.values()) == {FIRST}
    assert metrics.value(Metric.STORE_COUNTERS_SKIPPED) == 4 * BLOCK
    assert await counters.take(cards[0], 1, 1) > BLOCK  # came again
    flying = [counters.take(each, 2, 1) for each in cards]
    assert len(counters) > 2  # none of them may be forgotten yet
    assert await asyncio.gather(*flying) == [FIRST] * 6
    await counters.take(cards[0], 3, 1)
    assert len(counters) == 2
    await store.close()


class _Ledger:
    """What was given out of each sequence; a second time is an error."""

    def __init__(self) -> None:
        self.highest: dict[tuple[int, int], int] = {}

    def note(self, name: tuple[int, int], first: int, count: int) -> None:
        assert first > self.highest.get(name, 0)
        self.highest[name] = first + count - 1


_ACTS = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 4), st.integers(1, 70)),
    st.tuples(st.just("rush"), st.integers(0, 4), st.integers(1, 40)),
    st.tuples(st.just("past"), st.integers(0, 4), st.integers(1, 300)),
    st.tuples(st.just("fail"), st.integers(0, 4), st.integers(1, 40)),
    st.tuples(st.just("crash"), st.just(0), st.just(0)),
)


@settings(max_examples=25)
@given(st.lists(_ACTS, max_size=25))
def test_whatever_happens_each_is_given_out_once_and_they_only_rise(acts: list[tuple[str, int, int]]) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(_live(Path(folder), acts))


@asynccontextmanager
async def _opened(folder: Path) -> AsyncIterator[Store]:
    store = await open_store(folder, sync=False)
    try:
        yield store
    finally:
        await store.close()


async def _live(folder: Path, acts: list[tuple[str, int, int]]) -> None:
    ledger = _Ledger()
    lives: list[list[tuple[str, int, int]]] = [[]]
    for act in acts:
        if act[0] == "crash":
            lives.append([])
        else:
            lives[-1].append(act)
    for life in lives:
        async with _opened(folder) as store:
            # A crash forgets RAM and keeps what is durable: new counters over the same store see just that.
            counters = counters_of(store, kept=2)
            for act in life:
                await _act(store, counters, ledger, *act)


async def _act(store: Store, counters: CardCounters, ledger: _Ledger, what: str, which: int, size: int) -> None:
    name = (which, 1)
    handle = bytes((which,)) * 16
    if what == "take":
        ledger.note(name, await counters.take(handle, 1, size), size)
    elif what == "rush":
        takes = [counters.take(handle, 1, 1 + n % 3) for n in range(size)]
        for n, first in enumerate(await asyncio.gather(*takes)):
            ledger.note(name, first, 1 + n % 3)
    elif what == "past":
        past = counters.past(handle, 1, size)
        if past is not None:
            row, landed, failed = past
            await store.committer.accept([row], undo=failed, done=landed)
        ledger.highest[name] = max(ledger.highest.get(name, 0), size)
    else:
        apply = store._environment.apply
        disk = disk_of(store)
        takes = []
        disk.error = full_disk()
        for _ in range(size):
            takes.append(counters.take(handle, 1, 1))
        for n, take in enumerate(await asyncio.gather(*takes, return_exceptions=True)):
            if not isinstance(take, BaseException):
                ledger.note(name, take, 1)
            else:
                assert isinstance(take, StoreUnavailable), n
        store._environment.apply = apply  # type: ignore[method-assign]
        assert await store.committer.probe()


_TAKER = """
import asyncio, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from store_rig import open_store

async def main():
    store = await open_store(Path(sys.argv[1]))
    while True:
        for name in range(3):
            count = 1 + name
            first = await store.cards.take_counters(bytes((name,)) * 16, 1, count)
            print("took", name, first, count, flush=True)

asyncio.run(main())
"""


async def test_what_a_killed_process_gave_out_never_comes_again(tmp_path: Path) -> None:
    seen: set[tuple[int, int]] = set()
    for life in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", _TAKER, str(tmp_path / "store"), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(100 + 37 * life)]  # somewhere in a block
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        for line in lines + rest.splitlines():
            words = line.split()
            if len(words) != 4 or words[0] != "took":
                continue  # the log, or cut off by the kill: whoever reads half a line has not got the number
            name, first, count = map(int, words[1:])
            numbers = {(name, first + step) for step in range(count)}
            assert not numbers & seen
            seen |= numbers
    assert len(seen) > 300
    async with _opened(tmp_path / "store") as store:
        for name in range(3):
            first = await store.cards.take_counters(bytes((name,)) * 16, 1, 1)
            assert first > max(number for each, number in seen if each == name)
