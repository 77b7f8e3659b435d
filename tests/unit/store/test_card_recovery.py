"""What cards need outlives a kill, a copy and an older program's store (E6)."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import lmdb
import pytest
from card_rig import add_download, campaign, card, download, payload, put_cards
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from store_rig import APP, START_MS, config, disk_of, full_disk, open_store, push, register, settle, with_app

from gateway.model.cards import Ability, Capability, Download, DownloadState, DownloadStep
from gateway.model.errors import StoreUnavailable
from gateway.store import Store
from gateway.store.environment import Environment
from gateway.store.records import SCHEMA, Db, pack_u32

OURS = [db for db in Db if db >= Db.CARDS]
DONE = DownloadStep(START_MS + 9, "executed")


async def test_a_copy_has_everything(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path / "store"))
    (handle,) = await put_cards(store, 1)
    last = await store.cards.take_counters(handle, 1, 5) + 4
    await store.cards.write_capability(handle, Capability(Ability.CAPABLE))
    kept = campaign(store, 1)
    await store.card_campaigns.put(kept)
    made = await add_download(store)
    await store.backup(tmp_path / "copy")
    await store.close()
    copy = await open_store(tmp_path / "copy")
    assert copy.cards.read(handle) == card(0)
    assert copy.cards.capability(handle).ability is Ability.CAPABLE
    assert await copy.cards.take_counters(handle, 1, 1) > last
    assert copy.card_campaigns.all() == [kept]
    assert list(copy.card_downloads.open()) == [made]
    assert copy.card_downloads.payload(made.payload) == payload()
    await copy.close()


async def test_a_store_from_before_is_taken_over_and_can_be_read_before_that(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "phone")
    seq, commit = push(store, number)
    await commit
    settle(store, seq)
    await store.close()
    environment = lmdb.open(str(tmp_path), max_dbs=len(Db) + 1)
    with environment.begin(write=True) as txn:
        for db in OURS:
            txn.drop(environment.open_db(db.name.lower().encode(), txn=txn))
        txn.put(b"schema", pack_u32(3), db=environment.open_db(b"meta", txn=txn))
    environment.close()
    older = Environment.open(config(tmp_path), readonly=True)
    assert older.get_many(Db.CARDS, [bytes(16)]) == [None]
    assert list(older.keys(Db.PAYLOADS)) == []
    older.close()
    store = await open_store(tmp_path)
    assert store._environment.get(Db.META, b"schema") == pack_u32(SCHEMA)
    assert [line.outcome.seq for line in store.receipts.after(APP, 0, 10)] == [seq]
    assert (store.cards.count(), store.card_campaigns.all(), list(store.card_downloads.open())) == (0, [], [])
    await put_cards(store, 1)
    assert (await add_download(store)).number > seq
    await store.close()


async def test_a_store_that_is_read_only_answers_and_gives_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await with_app(await open_store(tmp_path))
    (handle,) = await put_cards(store, 1)
    made = await add_download(store)
    await store.close()
    plain = Environment._open_as

    def refuse(self: Environment, *, readonly: bool, readers: bool = True) -> None:
        if not readonly:
            raise lmdb.ReadonlyError("Read-only file system")
        plain(self, readonly=True, readers=readers)

    monkeypatch.setattr(Environment, "_open_as", refuse)
    store = await open_store(tmp_path)
    assert store.cards.read(handle) == card(0)
    assert list(store.card_downloads.open()) == [made]
    for refused in (
        lambda: store.cards.put([card(1)]),
        lambda: store.cards.remove(handle),
        lambda: store.cards.take_counters(handle, 1, 1),
        lambda: store.cards.write_capability(handle, Capability()),
        lambda: store.card_downloads.put_payload(payload("new")),
        lambda: store.card_downloads.add([replace(made, number=made.number + 1)]),
        lambda: store.card_downloads.reserve(1),
    ):
        with pytest.raises(StoreUnavailable):
            refused()
    assert not store.sweep()
    await store.close()


# --- whatever happens --------------------------------------------------------------------------------------------

_ACTS = st.lists(
    st.tuples(st.sampled_from(("add", "change", "end", "fail", "flush", "restart")), st.integers(0, 5)), max_size=30
)


class _Model:
    """What was said to be durable, and what may be there."""

    def __init__(self) -> None:
        self.last: dict[int, Download] = {}  # newest of each, where its add came through
        self.over: set[int] = set()


@settings(max_examples=30)
@given(_ACTS)
def test_whatever_happens_the_newest_is_kept_and_each_end_has_one_line(acts: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(_live(Path(folder), acts))


async def _live(folder: Path, acts: list[tuple[str, int]]) -> None:
    store = await with_app(await open_store(folder, sync=False))
    model = _Model()
    for what, which in acts:
        if what == "restart":
            await store.close()
            store = await open_store(folder, sync=False)
        elif what == "flush":
            await store.committer.flush()
        elif what == "fail":
            await _fail(store, model, which)
        else:
            _act(store, model, what, which)
        _check(store, model)
    await store.close()
    store = await open_store(folder, sync=False)
    _check(store, model)
    lines = [line.outcome.seq for line in store.receipts.after(APP, 0, 1_000)]
    assert sorted(lines) == sorted(model.over)
    await store.close()


def _act(store: Store, model: _Model, what: str, which: int) -> None:
    if what == "add":
        made = download(store)
        store.card_downloads.add([made])
        model.last[made.number] = made
    elif model.last:
        number = sorted(model.last)[which % len(model.last)]
        before = model.last[number]
        if what == "change":
            after = replace(before, state=DownloadState.ACTIVE, calls=before.calls + 1)
            store.card_downloads.change(after)
        else:
            after = replace(before, state=DownloadState.DONE, steps=(DONE,))
            store.card_downloads.settle(after)
        if not before.state.is_final:
            model.last[number] = after
            if after.state.is_final:
                model.over.add(number)


async def _fail(store: Store, model: _Model, which: int) -> None:
    """A commit with everything in it fails; what was added in it never was, what changed or ended is written later."""
    await store.committer.flush()
    durable = set(model.last)
    apply = store._environment.apply
    disk_of(store).error = full_disk()
    for what, at in (("change", which), ("add", which), ("end", which + 1), ("change", which + 2)):
        _act(store, model, what, at)
    with pytest.raises(StoreUnavailable):
        await store.committer.flush()
    store._environment.apply = apply  # type: ignore[method-assign]
    for number in set(model.last) - durable:
        del model.last[number]
        model.over.discard(number)
    _check(store, model)
    assert await store.committer.probe()


def _check(store: Store, model: _Model) -> None:
    for number, expected in model.last.items():
        assert store.card_downloads.read(number) == expected


# --- a real kill -------------------------------------------------------------------------------------------------

_WORKER = """
import asyncio, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from msgspec.structs import replace
from store_rig import open_store, with_app
from card_rig import add_download
from gateway.model.cards import DownloadState

async def one(store):
    while True:
        made = await add_download(store)
        print("added", made.number, flush=True)
        active = replace(made, state=DownloadState.ACTIVE, calls=1)
        await store.card_downloads.change(active)
        print("active", made.number, flush=True)
        await store.card_downloads.settle(replace(active, state=DownloadState.DONE))
        print("done", made.number, flush=True)

async def main():
    store = await with_app(await open_store(Path(sys.argv[1])))
    await asyncio.gather(*(one(store) for _ in range(8)))

asyncio.run(main())
"""


async def test_after_a_kill_nothing_that_was_durable_is_missing_and_no_end_is_told_twice(tmp_path: Path) -> None:
    said: dict[int, str] = {}
    for life in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(tmp_path / "store"), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(150 + 31 * life)]
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        for line in lines + rest.splitlines(keepends=True):
            words = line.split()
            if line.endswith("\n") and len(words) == 2 and words[0] in ("added", "active", "done"):
                said[int(words[1])] = words[0]
    assert {"active", "done"} <= set(said.values())
    store = await open_store(tmp_path / "store")
    states = {"added": DownloadState.WAITING, "active": DownloadState.ACTIVE, "done": DownloadState.DONE}
    for number, word in said.items():
        kept = store.card_downloads.read(number)
        assert kept is not None
        assert kept.state >= states[word]
        assert store.card_downloads.payload(kept.payload) == payload()
    told = [line.outcome.seq for line in store.receipts.after(APP, 0, 100_000)]
    assert len(set(told)) == len(told)
    over = store._environment.entries(Db.DOWNLOADS) - store._environment.entries(Db.OPEN_DOWNLOADS)
    assert len(told) == over
    assert {number for number, word in said.items() if word == "done"} <= set(told)
    assert not {each.number for each in store.card_downloads.open()} & set(told)
    assert store.card_downloads.reserve(1) > max(said)
    await store.close()
