"""Who may have which media, how many bytes that is, and what goes first; must never touch a file.

A ref stands for a file and a name. Each user who may have it holds it; what nobody holds is gone, and with the last ref
of a file the file. Files are counted in whole blocks, so that many small ones are not free.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence

import msgspec

from gateway.model.errors import QueueFull, StoreUnavailable
from gateway.model.im_media import REF_BYTES, StoredMedia
from gateway.model.im_people import USER_BYTES
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.im_overlay import Overlay
from gateway.store.records import DELETE, PUT, Db, Row, pack_u32, pack_u64, unpack_u32, unpack_u64

BLOCK_BYTES = 4_096
#: a use is noted so often
TOUCH_S = 3_600
#: what was used in this time does not go to make room
KEEP_S = 3_600
#: holds dropped in one call, and rows looked at for them: those whose end is on its way to disk are passed over
SLICE = 250
_LOOK = 20_000
#: slices dropped to make room for one file
_ROUNDS = 400

_FILE = struct.Struct(">IQ")  # refs, bytes
_HOLD = struct.Struct(">IQ")  # last use in Unix seconds, bytes
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StoredMedia).decode


def blocks(size: int) -> int:
    """Bytes a file is counted with."""
    return max(1, -(-size // BLOCK_BYTES)) * BLOCK_BYTES


class _Change:
    """Rows of one commit; reads see what it has put."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._rows: dict[tuple[Db, bytes], bytes | None] = {}
        #: of the whole store
        self.bytes = 0
        #: digests of files that nobody has any more
        self.gone: list[bytes] = []

    def get(self, db: Db, key: bytes) -> bytes | None:
        place = (db, key)
        return self._rows[place] if place in self._rows else self._overlay.get(db, key)

    def put(self, db: Db, key: bytes, value: bytes = b"") -> None:
        self._rows[db, key] = value

    def remove(self, db: Db, key: bytes) -> None:
        self._rows[db, key] = None

    def rows(self) -> list[Row]:
        return [
            (DELETE, db, key, b"") if value is None else (PUT, db, key, value)
            for (db, key), value in self._rows.items()
        ]


class MediaRows:
    """Control thread only."""

    def __init__(self, environment: Environment, committer: Committer, clock: Callable[[], int]) -> None:
        self._environment = environment
        self._overlay = Overlay(environment, committer)
        self._clock = clock
        #: of all files, in whole blocks
        self.total_bytes = 0
        #: called with the digest of a file that is nobody's any more, once that is durable
        self.on_gone: Callable[[bytes], None] = lambda _: None

    def load(self) -> None:
        """Count what is there: once, at a start."""
        self.total_bytes = sum(blocks(_FILE.unpack(raw)[1]) for _, raw in self._environment.scan(Db.MEDIA_FILES))

    # --- reading --------------------------------------------------------------------------------------------

    def media(self, ref: bytes) -> StoredMedia | None:
        """Whoever asks: of a signed link."""
        raw = self._overlay.get(Db.MEDIA, ref)
        return None if raw is None else _decode(raw[4:])

    def held(self, user: bytes, ref: bytes) -> StoredMedia | None:
        """None where it is not there, or not this user's."""
        return None if self._overlay.get(Db.MEDIA_HOLDERS, user + ref) is None else self.media(ref)

    def user_bytes(self, user: bytes) -> int:
        return unpack_u64(self._overlay.get(Db.MEDIA_BYTES, user) or bytes(8))

    def is_file(self, digest: bytes) -> bool:
        return self._overlay.get(Db.MEDIA_FILES, digest) is not None

    # --- changes --------------------------------------------------------------------------------------------

    def add(self, user: bytes, items: Sequence[tuple[bytes, StoredMedia]]) -> asyncio.Future[None]:
        """New refs, of files that are on disk, held by this user. StoreUnavailable, QueueFull."""
        change = _Change(self._overlay)
        for ref, media in items:
            raw = change.get(Db.MEDIA_FILES, media.digest)
            refs = _FILE.unpack(raw)[0] if raw is not None else 0
            if not refs:
                change.bytes += blocks(media.size)
            change.put(Db.MEDIA_FILES, media.digest, _FILE.pack(refs + 1, media.size))
            change.put(Db.MEDIA, ref, pack_u32(0) + _encode(media))
            self._hold(change, user, ref)
        return self._write(change)

    def share(self, ref: bytes, user: bytes) -> asyncio.Future[None] | None:
        """This user may have it too, and its small picture; None where there is nothing to do. StoreUnavailable,
        QueueFull."""
        media = self.media(ref)
        if media is None:
            return None
        change = _Change(self._overlay)
        is_new = self._hold(change, user, ref)
        if media.thumbnail and self.media(media.thumbnail) is not None:
            is_new = self._hold(change, user, media.thumbnail) or is_new
        return self._write(change) if is_new else None

    def touch(self, user: bytes, ref: bytes) -> None:
        """It was used. What can not be noted now is not: it goes a little earlier then."""
        now_s = self._now_s
        media = self.media(ref)
        change = _Change(self._overlay)
        for one in (ref, media.thumbnail if media is not None else b""):
            raw = change.get(Db.MEDIA_HOLDERS, user + one) if one else None
            if raw is None:
                continue
            used_s, size = _HOLD.unpack(raw)
            if used_s + TOUCH_S <= now_s:
                self._order(change, user, one, used_s, remove=True)
                self._order(change, user, one, now_s)
                change.put(Db.MEDIA_HOLDERS, user + one, _HOLD.pack(now_s, size))
        if change.rows():
            self._try(change)

    async def make_room(self, user: bytes, *, user_bytes: int, total_bytes: int) -> tuple[int, int]:
        """Drop what was used longest ago until the user's bytes and those of all are within these; how many of the
        user's went, and how many of anybody's. It may not have been enough: look at the figures afterwards.
        StoreUnavailable, QueueFull."""
        own = everybodys = 0
        for _ in range(_ROUNDS):
            change = _Change(self._overlay)
            before_s = self._now_s - KEEP_S
            if self.user_bytes(user) > user_bytes:
                for _, ref in self._oldest(b"u" + user, before_s):
                    if unpack_u64(change.get(Db.MEDIA_BYTES, user) or bytes(8)) <= user_bytes:
                        break
                    own += self._drop(change, user, ref)
            if self.total_bytes + change.bytes > total_bytes:
                for holder, ref in self._oldest(b"a", before_s):
                    if self.total_bytes + change.bytes <= total_bytes:
                        break
                    everybodys += self._drop(change, holder, ref)
            if not change.rows():
                break
            await self._write(change)
        return own, everybodys

    def sweep(self, before_s: int) -> int:
        """Drop a slice of what was last used before; how many, 0: there is no more, or it can not be done now."""
        change = _Change(self._overlay)
        dropped = sum(self._drop(change, user, ref) for user, ref in self._oldest(b"a", before_s))
        return dropped if not change.rows() or self._try(change) else 0

    def forget(self, user: bytes) -> int:
        """Drop a slice of what the user holds; 0: there is no more. StoreUnavailable, QueueFull."""
        change = _Change(self._overlay)
        dropped = sum(self._drop(change, user, ref) for _, ref in self._oldest(b"u" + user, 0xFFFF_FFFF))
        if change.rows():
            self._write(change)
        return dropped

    # --- parts of changes -----------------------------------------------------------------------------------

    @property
    def _now_s(self) -> int:
        return self._clock() // 1_000

    def _hold(self, change: _Change, user: bytes, ref: bytes) -> bool:
        """False where the user holds it already."""
        if change.get(Db.MEDIA_HOLDERS, user + ref) is not None:
            return False
        raw = change.get(Db.MEDIA, ref)
        assert raw is not None
        size = blocks(_decode(raw[4:]).size)
        change.put(Db.MEDIA, ref, pack_u32(unpack_u32(raw) + 1) + raw[4:])
        change.put(Db.MEDIA_HOLDERS, user + ref, _HOLD.pack(self._now_s, size))
        self._order(change, user, ref, self._now_s)
        self._count(change, user, size)
        return True

    def _drop(self, change: _Change, user: bytes, ref: bytes) -> int:
        """The user no longer has it, nor its small picture; how many that were."""
        held = change.get(Db.MEDIA_HOLDERS, user + ref)
        if held is None:
            return 0
        used_s, size = _HOLD.unpack(held)
        change.remove(Db.MEDIA_HOLDERS, user + ref)
        self._order(change, user, ref, used_s, remove=True)
        self._count(change, user, -size)
        raw = change.get(Db.MEDIA, ref)
        if raw is None:
            return 1
        media, holders = _decode(raw[4:]), unpack_u32(raw)
        if holders > 1:
            change.put(Db.MEDIA, ref, pack_u32(holders - 1) + raw[4:])
        else:
            change.remove(Db.MEDIA, ref)
            self._release(change, media.digest)
        return 1 + (self._drop(change, user, media.thumbnail) if media.thumbnail else 0)

    def _release(self, change: _Change, digest: bytes) -> None:
        raw = change.get(Db.MEDIA_FILES, digest)
        if raw is None:
            return
        refs, size = _FILE.unpack(raw)
        if refs > 1:
            change.put(Db.MEDIA_FILES, digest, _FILE.pack(refs - 1, size))
        else:
            change.remove(Db.MEDIA_FILES, digest)
            change.bytes -= blocks(size)
            change.gone.append(digest)

    def _order(self, change: _Change, user: bytes, ref: bytes, used_s: int, *, remove: bool = False) -> None:
        at = pack_u32(used_s)
        for key in (b"a" + at + user + ref, b"u" + user + at + ref):
            if remove:
                change.remove(Db.MEDIA_ORDER, key)
            else:
                change.put(Db.MEDIA_ORDER, key)

    def _count(self, change: _Change, user: bytes, size: int) -> None:
        now = unpack_u64(change.get(Db.MEDIA_BYTES, user) or bytes(8)) + size
        if now > 0:
            change.put(Db.MEDIA_BYTES, user, pack_u64(now))
        else:
            change.remove(Db.MEDIA_BYTES, user)

    def _oldest(self, prefix: bytes, before_s: int) -> list[tuple[bytes, bytes]]:
        """(user, ref) of what was last used before, oldest first, one slice. What is not on disk yet is the newest."""
        found: list[tuple[bytes, bytes]] = []
        for key, _ in self._environment.scan(Db.MEDIA_ORDER, prefix, limit=_LOOK):
            if not key.startswith(prefix) or len(found) == SLICE:
                break
            rest, user = key[len(prefix) :], prefix[1:]
            used_s, rest = unpack_u32(rest), rest[4:]
            if used_s >= before_s:
                break
            if not self._overlay.is_removed(Db.MEDIA_ORDER, key):
                found.append((user or rest[:USER_BYTES], rest[-REF_BYTES:]))
        return found

    # --- commits --------------------------------------------------------------------------------------------

    def _write(self, change: _Change) -> asyncio.Future[None]:
        def gone() -> None:
            for digest in change.gone:
                self.on_gone(digest)

        def undo() -> None:
            self.total_bytes -= change.bytes

        future = self._overlay.write(change.rows(), done=gone, undo=undo)
        self.total_bytes += change.bytes
        return future

    def _try(self, change: _Change) -> bool:
        try:
            self._write(change)
        except (StoreUnavailable, QueueFull):
            return False
        return True
