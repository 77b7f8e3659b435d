"""The media store (D6, D7): takes files of strangers, finds out what they are, keeps them once however many have them,
and gives them to whoever may have them; must never believe a name, a type or a size it is told.

Of what a crash leaves nothing stays for ever: parts go at the next start, and so do files that no row names.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import structlog

from gateway.config.im_section import Im
from gateway.im.media.disk import Disk
from gateway.im.media.links import Links
from gateway.im.media.names import clean_name
from gateway.im.media.picture_pool import PicturePool
from gateway.im.media.ports import Files, Rows
from gateway.im.media.sniffing import HEAD_BYTES, PICTURES, TEXT, is_text, sniff
from gateway.im.media.video_metadata import VIDEOS, hide_descriptions
from gateway.metrics import Metric, Metrics
from gateway.model.errors import ConfigError, QueueFull, StoreUnavailable
from gateway.model.im import Media, MediaFile
from gateway.model.im_media import KNOWN, REF_BYTES, StoredMedia, build_ref, parse_ref
from gateway.model.im_ports import MediaRefused

log = structlog.get_logger(__name__)

#: pause between two sweeps, and between two slices of one
SWEEP_S = 60.0
_SLICE_S = 0.05
_DAY_S = 86_400
_TEXT_PIECE = 65_536


class Held(NamedTuple):
    """A file that may be served."""

    media: StoredMedia
    path: Path


class Library:
    """`MediaStore` of the ports. Control thread only."""

    def __init__(
        self, rows: Rows, files: Files, links: Links, config: Im, metrics: Metrics, clock: Callable[[], int]
    ) -> None:
        self._rows = rows
        self._links = links
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._types = frozenset(config.media_types)
        self._pool = PicturePool(config, metrics)
        #: bytes of files that are on their way, all users together and each
        self._coming_total = 0
        self._coming: dict[bytes, int] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self.disk = Disk(files)
        rows.on_gone = self._on_gone

    async def start(self) -> None:
        """Rows are counted, folders are there; what a crash left is looked for from now on. StoreUnavailable;
        ConfigError where a type is not known, or pictures can not be looked at."""
        if unknown := self._types - KNOWN:
            raise ConfigError(f"{min(unknown)} can not be told from its bytes; leave it out", field="im.media_types")
        if self._types & PICTURES and find_spec("PIL") is None:
            raise ConfigError("pictures need Pillow: pip install heliograph[im]", field="im.media_types")
        self._rows.load()
        self._figure()
        await self.disk.run(self.disk.files.prepare)
        self._sweeping = asyncio.create_task(self._sweep(), name="media sweep")

    async def stop(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
            self._sweeping = None
        await self._pool.close()
        await self.disk.close()

    # --- taking -----------------------------------------------------------------------------------------------

    async def take(self, chunks: AsyncIterator[bytes], *, user: bytes, media: Media) -> Media:
        """Of `media` the name alone is used. MediaRefused; StoreUnavailable, QueueFull."""
        most = self._config.media_bytes
        if media.size > most:
            raise self._refused("bytes", f"it is larger than {most} bytes (im.media_bytes)")
        part = self.disk.files.new_part()
        try:
            if await self.disk.receive(chunks, part, most) > most:
                raise self._refused("bytes", f"it is larger than {most} bytes (im.media_bytes)")
            return await self.take_part(part, user=user, name=media.name)
        except FileNotFoundError:
            raise StoreUnavailable("a file that was being taken is gone from the disk") from None
        finally:
            self.disk.remove(part)

    async def take_part(self, part: Path, *, user: bytes, name: str) -> Media:
        """The same for a file that is here: it is used up, or stays where it is not taken. FileNotFoundError too."""
        size = await self.disk.run(partial(self.disk.files.size, part))
        if size <= 0:
            raise self._refused("empty", "it is empty")
        mime = await self._type(part)
        reserved = size + (self._config.thumbnail_pixels**2 if mime in PICTURES else 0)
        await self._reserve(user, reserved)
        try:
            if mime in PICTURES:
                return await self._take_picture(part, mime, user=user, name=name)
            if mime in VIDEOS:
                await self.disk.run(partial(hide_descriptions, part))
            return await self._keep(user, [(part, StoredMedia(b"", size, mime, clean_name(name, mime)))])
        except MediaRefused:
            self._metrics.count(Metric.IM_MEDIA_REFUSED, label="picture")
            raise
        finally:
            self._release(user, reserved)

    async def _type(self, part: Path) -> str:
        mime = sniff(await self.disk.run(partial(self.disk.files.head, part, HEAD_BYTES)))
        if not mime and TEXT in self._types and await self.disk.run(partial(_is_text, part)):
            mime = TEXT
        if not mime:
            raise self._refused("unknown", "it is of no kind that is known here")
        if mime not in self._types:
            raise self._refused("type", f"{mime} is not taken here (im.media_types)")
        return mime

    async def _take_picture(self, part: Path, mime: str, *, user: bytes, name: str) -> Media:
        clean, small = self.disk.files.new_part(), self.disk.files.new_part()
        try:
            try:
                looked = await self._pool.look(str(part), str(clean), str(small), mime, user=user)
            except QueueFull:
                self._metrics.count(Metric.IM_MEDIA_REFUSED, label="busy")
                raise
            size = await self.disk.run(partial(self.disk.files.size, clean))
            title = clean_name(name, mime)
            items: list[tuple[Path, StoredMedia]] = []
            if looked.small_mime:
                small_size = await self.disk.run(partial(self.disk.files.size, small))
                small_name = clean_name(f"small {title}", looked.small_mime)
                items.append(
                    (
                        small,
                        StoredMedia(
                            b"", small_size, looked.small_mime, small_name, looked.small_width, looked.small_height
                        ),
                    )
                )
            items.append((clean, StoredMedia(b"", size, mime, title, looked.width, looked.height)))
            return await self._keep(user, items)
        finally:
            self.disk.remove(clean, small)

    async def _keep(self, user: bytes, items: list[tuple[Path, StoredMedia]]) -> Media:
        """Files get their names, then their rows; the last is what was asked for, one before it its small picture."""
        rows: list[tuple[bytes, StoredMedia]] = []
        placed: list[bytes] = []
        try:
            for part, media in items:
                digest = await self.disk.run(partial(self.disk.files.digest, part))
                await self.disk.place(part, digest)
                placed.append(digest)
                thumbnail = rows[-1][0] if rows else b""
                stored = StoredMedia(digest, media.size, media.mime, media.name, media.width, media.height, thumbnail)
                rows.append((secrets.token_bytes(REF_BYTES), stored))
            await self._rows.add(user, rows)
        finally:
            for digest in placed:
                self.disk.placed(digest)
                if not self._rows.is_file(digest):
                    self.disk.remove_file(digest)
        self._figure()
        ref, stored = rows[-1]
        self._metrics.count(Metric.IM_MEDIA_TAKEN, label=stored.mime)
        return self._describe(ref, stored)

    # --- bounds -----------------------------------------------------------------------------------------------

    async def _reserve(self, user: bytes, size: int) -> None:
        """Room for a file that comes, made where there is none. MediaRefused; StoreUnavailable, QueueFull."""
        config = self._config
        if size > config.media_user_bytes:
            raise self._refused("user_bytes", "it is larger than what one user may keep (im.media_user_bytes)")
        # at once, so that those who come together do not take the same room
        self._coming[user] = self._coming.get(user, 0) + size
        self._coming_total += size
        try:
            for_user = config.media_user_bytes - self._coming[user]
            for_all = config.media_total_bytes - self._coming_total
            dropped, dropped_of_all = await self._rows.make_room(user, user_bytes=for_user, total_bytes=for_all)
            self._metrics.count(Metric.IM_MEDIA_REMOVED, dropped, label="user_bytes")
            self._metrics.count(Metric.IM_MEDIA_REMOVED, dropped_of_all, label="total_bytes")
            if self._rows.user_bytes(user) > for_user:
                raise self._refused("user_bytes", "the user keeps too much, and all of it was used lately")
            if self._rows.total_bytes > for_all:
                self._metrics.count(Metric.IM_MEDIA_REFUSED, label="total_bytes")
                raise QueueFull("all room for media is taken by what was used lately (im.media_total_bytes)")
        except BaseException:
            self._release(user, size)
            raise

    def _release(self, user: bytes, size: int) -> None:
        self._coming_total -= size
        left = self._coming[user] - size
        if left > 0:
            self._coming[user] = left
        else:
            del self._coming[user]

    def _refused(self, reason: str, text: str) -> MediaRefused:
        self._metrics.count(Metric.IM_MEDIA_REFUSED, label=reason)
        return MediaRefused(text)

    # --- giving -----------------------------------------------------------------------------------------------

    def file(self, user: bytes, ref: str) -> MediaFile | None:
        held = self.held(user, ref)
        raw = parse_ref(ref)
        if held is None or raw is None:
            return None
        return MediaFile(self._describe(raw, held.media), str(held.path), self._links.build(raw))

    def held(self, user: bytes, ref: str) -> Held | None:
        """None where it is not there, or the user may not have it."""
        raw = parse_ref(ref)
        media = self._rows.held(user, raw) if raw is not None else None
        if media is None or raw is None:
            return None
        self._rows.touch(user, raw)
        return Held(media, self.disk.files.path(media.digest))

    def linked(self, token: str) -> tuple[Held, int] | None:
        """What a signed link stands for, and the seconds it is still good for."""
        found = self._links.parse(token)
        media = self._rows.media(found[0]) if found is not None else None
        if found is None or media is None:
            return None
        return Held(media, self.disk.files.path(media.digest)), found[1]

    def share(self, ref: str, user: bytes) -> None:
        """StoreUnavailable, QueueFull; a ref that is not there is left alone."""
        raw = parse_ref(ref)
        if raw is not None:
            self._rows.share(raw, user)

    def forget(self, user: bytes) -> int:
        """Drop a slice of what the user has, for the user is gone; 0: there is no more."""
        return self._rows.forget(user)

    def describe(self, user: bytes, ref: bytes) -> Media | None:
        media = self._rows.held(user, ref)
        return None if media is None else self._describe(ref, media)

    def _describe(self, ref: bytes, stored: StoredMedia) -> Media:
        return Media(
            build_ref(ref),
            stored.mime,
            stored.size,
            stored.name,
            stored.digest.hex(),
            stored.width,
            stored.height,
            build_ref(stored.thumbnail) if stored.thumbnail else "",
        )

    # --- what goes --------------------------------------------------------------------------------------------

    def _on_gone(self, digest: bytes) -> None:
        # a row may have come again since
        if not self._rows.is_file(digest):
            self.disk.remove_file(digest)
        self._figure()

    def _figure(self) -> None:
        self._metrics.set(Metric.IM_MEDIA_BYTES, self._rows.total_bytes)

    async def _sweep(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # logged; what is nobody's waits for the next start
            await self.sweep_orphans()
        while True:
            pause_s = _SLICE_S if self.sweep() else SWEEP_S
            await asyncio.sleep(pause_s)

    def sweep(self) -> int:
        """Drop a slice of what nobody used for im.media_days; how many went."""
        dropped = self._rows.sweep(self._clock() // 1_000 - int(self._config.media_days * _DAY_S))
        if dropped:
            self._metrics.count(Metric.IM_MEDIA_REMOVED, dropped, label="age")
        return dropped

    async def sweep_orphans(self) -> int:
        """Remove files that no row names: a crash came between the file and its row, or between a row's end and the
        file's."""
        removed = 0
        folders = self.disk.files.stored()
        while (digests := await self.disk.run(partial(next, folders, None))) is not None:
            for digest in digests:
                if not self._rows.is_file(digest) and not self.disk.is_placing(digest):
                    self.disk.remove_file(digest)
                    removed += 1
        if removed:
            self._metrics.count(Metric.IM_MEDIA_REMOVED, removed, label="orphan")
            log.info("media_orphans_removed", files=removed)
        return removed


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        return is_text(iter(partial(file.read, _TEXT_PIECE), b""))
