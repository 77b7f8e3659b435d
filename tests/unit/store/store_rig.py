"""A store in a temp folder, a clock that only tests move, and a disk that fails when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metrics
from gateway.model.errors import StoreUnavailable
from gateway.model.notification import Content, Notification, Target
from gateway.model.outcome import Outcome, State, Step
from gateway.model.registration import App
from gateway.store import Store
from gateway.store.environment import Environment
from gateway.store.records import PUT, Db, Row

START_MS = 1_800_000_000_000
APP = "shop"


class Clock:
    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def config(folder: Path, **settings: Any) -> StoreConfig:
    return StoreConfig(path=str(folder), **{"max_bytes": 1 << 28, "commit_ms": 0.2, **settings})


async def open_store(
    folder: Path,
    clock: Clock | None = None,
    metrics: Metrics | None = None,
    *,
    tick_s: float = 3_600.0,
    probe_s: float = 3_600.0,
    **settings: Any,
) -> Store:
    """No tick comes by itself: tests call `write_behind` and `sweep`, and `committer.probe`."""
    return await Store.open(
        config(folder, **settings),
        metrics or Metrics(process=False),
        clock=clock or Clock(),
        probe_s=probe_s,
        tick_s=tick_s,
    )


async def with_app(store: Store, name: str = APP) -> Store:
    await store.directory.put_app(App(name=name))
    return store


def register(store: Store, device: str, version: str = "1.0", account: str = "", app: str = APP, **labels: Any) -> int:
    """Number of the registration; its write is on its way."""
    return store.directory.register(device, app, version, account, **labels)[0].number


def notification(
    seq: int,
    *,
    app: str = APP,
    target: Target | None = None,
    ttl_s: int = 86_400,
    count: int = 0,
    collapse_key: str = "",
    text: str = "hello",
) -> Notification:
    return Notification(
        seq=seq,
        app=app,
        target=target or Target(token="x" * 22),
        content=Content(title="title", text=text, data=b"\x01"),
        accepted_ms=START_MS,
        expires_s=START_MS // 1_000 + ttl_s,
        ack_ms=3_000,
        notifier_ack_ms=30_000,
        collapse_key=collapse_key,
        count=count,
    )


def push(store: Store, *registrations: int, text: str = "hello", **options: Any) -> tuple[int, asyncio.Future[None]]:
    """(sequence of the notification, its commit); to several registrations: one notification, a delivery each."""
    count = 0 if len(registrations) == 1 else len(registrations)
    seq = store.journal.reserve(1 + count)
    return seq, store.journal.append(notification(seq, count=count, text=text, **options), registrations)


async def push_until_refused(store: Store, registration: int, text_bytes: int) -> list[int]:
    """Sequences of those that were accepted before the store said that it can not be written."""
    accepted: list[int] = []
    while True:
        try:
            seq, commit = push(store, registration, text="x" * text_bytes)
            await commit
        except StoreUnavailable:
            return accepted
        accepted.append(seq)


def broadcast(store: Store, versions: str = "", **options: Any) -> tuple[int, asyncio.Future[None]]:
    seq = store.journal.reserve(1)
    target = Target(versions=versions, everyone=not versions)
    return seq, store.journal.broadcast(notification(seq, target=target, **options))


def settle(store: Store, *seqs: int, state: State = State.ACKED, app: str = APP, at_ms: int = START_MS) -> None:
    step = Step(at_ms, state.name.lower(), "edge")
    store.journal.settle([Outcome(seq, 0, 0, app, state, at_ms, [step]) for seq in seqs])


class Disk:
    """Stands between the committer and LMDB; `error` set: each write fails with it, after the rows were looked at."""

    def __init__(self, environment: Environment) -> None:
        self.error: Exception | None = None
        self.written: list[Row] = []
        self._apply = environment.apply
        environment.apply = self.apply  # type: ignore[method-assign]

    def apply(self, groups: Iterable[Iterable[Row]]) -> None:
        rows = [list(group) for group in groups]
        if self.error is not None:
            raise self.error
        self._apply(rows)
        self.written += [row for group in rows for row in group]


def disk_of(store: Store) -> Disk:
    return Disk(store._environment)


def full_disk() -> Exception:
    return lmdb.Error("mdb_txn_commit: No space left on device")


async def fail_commit(store: Store, disk: Disk) -> None:
    """Let the commit under way or to come fail."""
    disk.error = full_disk()
    with pytest.raises(StoreUnavailable):
        await store.committer.accept([(PUT, Db.POSITIONS, b"trouble", bytes(8))])
    assert not store.committer.writable
