"""Rows of media in any order, with commits that fail in between: the figures are those of what is there, and every
index says the same."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from media_rig import Clock, Rig, media_rig

from gateway.model.errors import QueueFull, StoreUnavailable
from gateway.model.im_media import StoredMedia
from gateway.store.im_media import blocks
from gateway.store.records import Db, unpack_u32, unpack_u64

USERS = [bytes([number]) * 16 for number in range(1, 5)]
DIGESTS = [bytes([number]) * 32 for number in range(1, 9)]


def check(rig: Rig) -> None:
    """Of what is on disk, when nothing is on its way."""
    rows = {db: dict(rig.store._environment.scan(db)) for db in Db if db.name.startswith("MEDIA")}
    order = set(rows[Db.MEDIA_ORDER])
    of_users: dict[bytes, int] = {}
    holders: dict[bytes, int] = {}
    for key, raw in rows[Db.MEDIA_HOLDERS].items():
        user, ref = key[:16], key[16:]
        used_s, size = struct.unpack(">IQ", raw)
        of_users[user] = of_users.get(user, 0) + size
        holders[ref] = holders.get(ref, 0) + 1
        at = struct.pack(">I", used_s)
        order -= {b"a" + at + user + ref, b"u" + user + at + ref}
    assert not order
    assert len(rows[Db.MEDIA_ORDER]) == 2 * len(rows[Db.MEDIA_HOLDERS])
    assert {key: unpack_u64(raw) for key, raw in rows[Db.MEDIA_BYTES].items()} == of_users
    refs: dict[bytes, int] = {}
    for ref, raw in rows[Db.MEDIA].items():
        media = rig.store.im_media.media(ref)
        assert media is not None
        assert unpack_u32(raw) == holders.pop(ref)
        refs[media.digest] = refs.get(media.digest, 0) + 1
    assert not holders
    files = {digest: struct.unpack(">IQ", raw) for digest, raw in rows[Db.MEDIA_FILES].items()}
    assert {digest: count for digest, (count, _) in files.items()} == refs
    assert rig.store.im_media.total_bytes == sum(blocks(size) for _, size in files.values())
    assert not rig.store.im_media._overlay._rows
    assert not rig.store.im_media._overlay._under_way


class Storm:
    def __init__(self, rig: Rig, clock: Clock, chance: random.Random) -> None:
        self._rows = rig.store.im_media
        self._clock = clock
        self._chance = chance
        self._refs: list[bytes] = []
        self._futures: list[asyncio.Future[Any]] = []

    def _add(self) -> None:
        items = []
        thumbnail = b""
        for _ in range(self._chance.randint(1, 2)):
            digest = self._chance.choice(DIGESTS)
            ref = self._chance.randbytes(16)
            items.append((ref, StoredMedia(digest, 5_000 * digest[0], "image/png", "a.png", thumbnail=thumbnail)))
            thumbnail = ref
        self._refs.append(items[-1][0])
        self._futures.append(self._rows.add(self._chance.choice(USERS), items))

    def step(self) -> None:
        rows, chance = self._rows, self._chance
        user = chance.choice(USERS)
        ref = chance.choice(self._refs) if self._refs else bytes(16)
        what = chance.randrange(12)
        if what < 5:
            self._add()
        elif what < 8:
            future = rows.share(ref, user)
            self._futures.extend([future] if future is not None else [])
        elif what == 8:
            rows.touch(user, ref)
        elif what == 9:
            rows.sweep(self._clock.now_ms // 1_000 - chance.randrange(3_600 * 6))
        elif what == 10:
            rows.forget(user)
        else:
            making = rows.make_room(user, user_bytes=chance.randrange(90_000), total_bytes=chance.randrange(300_000))
            self._futures.append(asyncio.ensure_future(making))
        self._clock.now_ms += chance.randrange(1_800_000)

    async def settle(self) -> None:
        await asyncio.gather(*self._futures, return_exceptions=True)
        self._futures.clear()


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_of_changes_and_failures_leaves_all_rows_right(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    clock = Clock()
    async with media_rig(tmp_path, clock) as rig:
        environment = rig.store._environment
        apply = environment.apply
        failures = 0

        def sometimes(groups: Any) -> None:
            nonlocal failures
            groups = [list(rows) for rows in groups]
            if chance.random() < 0.15 and not rig.store.committer._probing:
                failures += 1
                raise OSError(errno.ENOSPC, "No space left on device")
            apply(groups)

        environment.apply = sometimes  # type: ignore[method-assign]
        storm = Storm(rig, clock, chance)
        for number in range(400):
            with contextlib.suppress(StoreUnavailable, QueueFull):
                storm.step()
            if number % 7 == 0:
                await asyncio.sleep(0.001)
            if not rig.store.committer.writable:
                await rig.store.committer.probe()
            if number % 50 == 49:
                await storm.settle()
                await rig.store.committer.probe()
                with contextlib.suppress(StoreUnavailable):
                    await rig.store.committer.flush()
                await rig.store.committer.probe()
                check(rig)
        environment.apply = apply  # type: ignore[method-assign]
        assert failures
    async with media_rig(tmp_path, clock) as rig:
        check(rig)
