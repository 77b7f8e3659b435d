"""Journal beside LMDB keyed by random tokens: pushes durable a second, each commit synced; singly and as a batch."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from bench.units.conftest import StoreOnDisk
from bench.units.pairs import PEER, UNIT, take
from gateway._native.intake import Router
from gateway.model.notification import Content, Notification, Target
from gateway.model.ports import BatchLimits

ROWS = 1_000
ROUNDS = 12
SINGLY = "journal: 1,000 pushes in a group commit, beside LMDB by token"
BATCH = "journal: a batch of 1,000 pushes, beside LMDB by token"
LIMITS = BatchLimits(ROWS, 65_536, 4_096, 3_600, 86_400, 3_000, 30_000, True)


def lmdb_by_token(benchmark: Any, pair: str, folder: Path) -> None:
    """What a store keyed by the token costs: the same commit, random keys."""
    environment = lmdb.open(str(folder), map_size=1 << 30)
    chance = random.Random(1)
    value = bytes(200)
    with environment.begin(write=True) as txn:
        for _ in range(200_000):
            txn.put(chance.randbytes(16), value)

    def work() -> None:
        with environment.begin(write=True) as txn:
            for _ in range(ROWS):
                txn.put(chance.randbytes(16), value)

    take(benchmark, pair, PEER, work, rounds=ROUNDS)
    environment.close()


def test_journal_singly(benchmark: Any, on_disk: StoreOnDisk) -> None:
    journal = on_disk.store.journal

    async def push() -> None:
        for number, token in zip(on_disk.numbers, on_disk.texts, strict=True):
            seq = journal.reserve(1)
            notification = Notification(
                seq=seq,
                app="shop",
                target=Target(token=token),
                content=Content(text="x" * 100),
                accepted_ms=1_800_000_000_000,
                expires_s=1_900_000_000,
                ack_ms=3_000,
                notifier_ack_ms=30_000,
            )
            journal.append(notification, (number,))
        await on_disk.store.committer.flush()

    take(benchmark, SINGLY, UNIT, lambda: on_disk.runner.run(push()), rounds=ROUNDS)


def test_lmdb_by_token_for_singles(benchmark: Any, tmp_path: Path) -> None:
    lmdb_by_token(benchmark, SINGLY, tmp_path / "lmdb")


def test_journal_batch(benchmark: Any, on_disk: StoreOnDisk) -> None:
    journal, router = on_disk.store.journal, Router([], set(), {})
    packed = msgspec.msgpack.encode([{"target": {"token": token}, "text": "x" * 100} for token in on_disk.texts])

    async def push() -> None:
        batch = journal.read_batch("shop", [packed], LIMITS)
        assert batch.ready == ROWS
        await journal.append_batch(batch, LIMITS, router, 1_800_000_000_000).done

    take(benchmark, BATCH, UNIT, lambda: on_disk.runner.run(push()), rounds=ROUNDS)


def test_lmdb_by_token_for_batches(benchmark: Any, tmp_path: Path) -> None:
    lmdb_by_token(benchmark, BATCH, tmp_path / "lmdb")
