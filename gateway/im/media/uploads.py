"""Uploads that go on where they ended, whatever was cut (D6, D7): created, appended to, over; must never count a byte
that is not on disk.

An upload is its owner's alone: others get the answer they would get for one that is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog
from msgspec.structs import replace

from gateway.config.im_section import Im
from gateway.im.media import upload_files
from gateway.im.media.disk import WRITE_BYTES
from gateway.im.media.library import Library
from gateway.im.media.ports import UploadRecords
from gateway.im.media.tus import Checksum
from gateway.metrics import Metric, Metrics
from gateway.model.errors import (
    ChecksumMismatch,
    Conflict,
    GatewayError,
    Gone,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    StoreUnavailable,
    TooManyRequests,
)
from gateway.model.im import Media
from gateway.model.im_media import REF_BYTES, StoredUpload, build_upload_id, parse_upload_id
from gateway.model.im_ports import MediaRefused

log = structlog.get_logger(__name__)

SWEEP_S = 10.0
#: uploads of a user that are over and can still be asked for, as a multiple of im.uploads_per_user; the oldest go
_OVER = 4
_RETRY_MS = 30_000


class View(NamedTuple):
    """What its owner is told."""

    id: str
    offset: int
    length: int
    expires_ms: int
    #: what it became
    media: Media | None
    #: why it became nothing
    refused: str


class _Upload:
    __slots__ = ("is_busy", "offset", "path", "stored")

    def __init__(self, stored: StoredUpload, path: Path, offset: int) -> None:
        self.stored = stored
        self.path = path
        self.offset = stored.length if stored.is_over else offset
        #: a request writes, or it is being looked at
        self.is_busy = False

    @property
    def is_whole(self) -> bool:
        return self.offset == self.stored.length


class Uploads:
    """Control thread only. `library` is started before, and stopped after."""

    def __init__(
        self, rows: UploadRecords, library: Library, config: Im, metrics: Metrics, clock: Callable[[], int]
    ) -> None:
        self._rows = rows
        self._library = library
        self._disk = library.disk
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._uploads: dict[bytes, _Upload] = {}
        self._of_user: dict[bytes, dict[bytes, _Upload]] = {}
        #: uploads that are not over, and their bytes
        self._open: dict[bytes, int] = {}
        self._open_bytes = 0
        #: whose those were that are no more; the oldest is forgotten first
        self._gone: dict[bytes, bytes] = {}
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Every upload is where its file ends. StoreUnavailable."""
        for stored in self._rows.load():
            path = self._disk.files.upload_path(stored.upload)
            offset = 0
            if not stored.is_over:
                offset = await self._disk.run(partial(upload_files.measure, path))
                if offset < 0:  # somebody took the file away
                    stored = replace(stored, refused="its bytes are lost; upload it again")
            self._enter(_Upload(stored, path, min(offset, stored.length)))
        for path in await self._disk.run(self._disk.files.uploads):
            upload = self._uploads.get(_id_of(path))
            if upload is None or upload.stored.is_over:
                self._disk.remove(path)
        self._figure()
        self._sweeping = asyncio.create_task(self._sweep(), name="upload sweep")

    async def stop(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
            self._sweeping = None

    # --- what a user asks for -----------------------------------------------------------------------------------

    async def create(self, user: bytes, length: int, name: str) -> View:
        """Durable when it returns. PayloadTooLarge, TooManyRequests, QueueFull, StoreUnavailable."""
        config = self._config
        if length > config.media_bytes:
            raise PayloadTooLarge(f"A file may have {config.media_bytes} bytes.", field="Upload-Length")
        self._check_bounds(user, length)
        stored = StoredUpload(
            secrets.token_bytes(REF_BYTES), user, length, name, self._clock() + int(config.upload_s * 1_000)
        )
        upload = _Upload(stored, self._disk.files.upload_path(stored.upload), 0)
        upload.is_busy = True
        self._enter(upload)  # counted at once, so that of two that ask together one is too many
        is_kept = False
        try:
            await self._disk.run(partial(self._disk.files.create, upload.path))
            await self._rows.put(stored)
            is_kept = True
        finally:
            upload.is_busy = False
            if not is_kept:
                self._leave(upload)
                self._disk.remove(upload.path)
            self._figure()
        return self._view(upload)

    def show(self, user: bytes, upload_id: str) -> View:
        """NotFound; Gone."""
        return self._view(self._find(user, upload_id))

    async def settle(self, user: bytes, upload_id: str) -> View:
        """The same; where all of it is here and it was not looked at yet, that is done first. StoreUnavailable,
        QueueFull."""
        upload = self._find(user, upload_id)
        await self._finish(upload)
        return self._view(upload)

    async def append(
        self, user: bytes, upload_id: str, offset: int, chunks: AsyncIterator[bytes], checksum: Checksum | None
    ) -> View:
        """NotFound, Gone, Conflict, ChecksumMismatch, PayloadTooLarge, StoreUnavailable, QueueFull. Whatever `chunks`
        raises comes through, and what came before is kept (unless it had a checksum)."""
        upload = self._find(user, upload_id)
        if upload.is_busy:
            raise Conflict("another request writes to this upload", field="Upload-Offset")
        if offset != upload.offset:
            raise Conflict("the upload is at another place; ask for it (HEAD) and go on there", field="Upload-Offset")
        if not upload.stored.is_over:
            upload.is_busy = True
            try:
                if checksum is None:
                    await self._write(upload, chunks, None)
                else:
                    await self._write_checked(upload, chunks, checksum)
            except FileNotFoundError:
                raise Gone("The bytes of this upload are lost; upload it again.") from None
            finally:
                upload.is_busy = False
        await self._finish(upload)
        return self._view(upload)

    async def terminate(self, user: bytes, upload_id: str) -> None:
        """What it became stays. NotFound, Gone, Conflict, StoreUnavailable, QueueFull."""
        upload = self._find(user, upload_id)
        if upload.is_busy:
            raise Conflict("another request writes to this upload")
        await self._rows.remove(upload.stored.upload)
        self._end(upload, "terminated")

    def forget(self, user: bytes) -> None:
        """The user is gone: their uploads end. What is being written to, or can not be removed now, expires."""
        for upload in list(self._of_user.get(user, {}).values()):
            if not upload.is_busy:
                self._forget(upload)

    # --- bounds ---------------------------------------------------------------------------------------------------

    def _check_bounds(self, user: bytes, length: int) -> None:
        config = self._config
        own = self._of_user.get(user, {}).values()
        open_ones = [upload for upload in own if not upload.stored.is_over]
        if len(open_ones) >= config.uploads_per_user:
            self._ended("refused_user")
            raise TooManyRequests(
                f"{config.uploads_per_user} uploads are under way; end one of them first", after_ms=_RETRY_MS
            )
        if sum(upload.stored.length for upload in open_ones) + length > config.media_user_bytes:
            self._ended("refused_user")
            raise PayloadTooLarge("This and the uploads under way are more than one user may keep.")
        if len(self._open) >= config.uploads_at_once or self._open_bytes + length > config.media_total_bytes:
            self._ended("refused_all")
            raise QueueFull("too much is being uploaded (im.uploads_at_once, im.media_total_bytes)")

    # --- bytes ----------------------------------------------------------------------------------------------------

    async def _write(self, upload: _Upload, chunks: AsyncIterator[bytes], hasher: Checksum | None) -> bytes:
        """What came is on disk and counts when it returns or raises; the digest, where one is asked for."""
        digest = hasher.make() if hasher is not None else None
        start, held, waiting = upload.offset, list[bytes](), 0

        async def write() -> None:
            nonlocal held, waiting
            data, held, waiting = b"".join(held), [], 0
            if data:
                await self._disk.run(partial(upload_files.put, upload.path, data, upload.offset))
                upload.offset += len(data)

        gone: Exception | None = None
        try:
            async for chunk in chunks:
                if upload.offset + waiting + len(chunk) > upload.stored.length:
                    raise PayloadTooLarge("More bytes came than Upload-Length says; none of them were taken.")
                if self._clock() >= upload.stored.expires_ms:
                    raise Gone("The upload took too long (im.upload_s).")
                if digest is not None:
                    digest.update(chunk)
                held.append(chunk)
                waiting += len(chunk)
                if waiting >= WRITE_BYTES:
                    await write()
        except (StoreUnavailable, FileNotFoundError):
            await self._cut(upload, start if hasher is not None else upload.offset)
            raise
        except PayloadTooLarge:
            await self._cut(upload, start)
            raise
        except Exception as exc:  # the peer went away, or was too slow: what came before counts
            gone = exc
        try:
            await write()
        except (StoreUnavailable, FileNotFoundError):
            await self._cut(upload, start if hasher is not None else upload.offset)
            raise
        if hasher is None:
            await self._settle(upload)
        if gone is not None:
            raise gone
        return digest.digest() if digest is not None else b""

    async def _write_checked(self, upload: _Upload, chunks: AsyncIterator[bytes], checksum: Checksum) -> None:
        start, is_right = upload.offset, False
        await self._disk.run(partial(upload_files.begin_checked, upload.path, start))
        try:
            is_right = await self._write(upload, chunks, checksum) == checksum.digest
        finally:
            if is_right:
                await self._settle(upload)
            else:
                await self._cut(upload, start)
        if not is_right:
            raise ChecksumMismatch(field="Upload-Checksum")

    async def _settle(self, upload: _Upload) -> None:
        with contextlib.suppress(FileNotFoundError):
            await asyncio.shield(self._disk.run(partial(upload_files.settle, upload.path)))

    async def _cut(self, upload: _Upload, size: int) -> None:
        """Where even that fails, what is written next lies over it."""
        upload.offset = size
        with contextlib.suppress(StoreUnavailable, FileNotFoundError):
            await asyncio.shield(self._disk.run(partial(upload_files.cut, upload.path, size)))

    # --- the end --------------------------------------------------------------------------------------------------

    async def _finish(self, upload: _Upload) -> None:
        """All of it is here: it becomes media, or is refused. It is taken under a second name, so that a crash at any
        moment finds it whole."""
        if upload.is_busy or upload.stored.is_over or not upload.is_whole:
            return
        upload.is_busy = True
        part = self._disk.files.new_part()
        stored = upload.stored
        try:
            await self._disk.run(partial(upload_files.link, upload.path, part))
            try:
                media = await self._library.take_part(part, user=stored.user, name=stored.name)
                stored = replace(stored, ref=bytes.fromhex(media.ref[-2 * REF_BYTES :]))
            except MediaRefused as exc:
                stored = replace(stored, refused=str(exc))
            except FileNotFoundError:
                stored = replace(stored, refused="its bytes are lost; upload it again")
            await self._rows.put(stored)
        finally:
            upload.is_busy = False
            self._disk.remove(part)
        upload.stored = stored
        self._close(upload)
        self._disk.remove(upload.path)
        self._ended("refused" if stored.refused else "done")
        self._figure()
        self._bound_over(stored.user)

    def _bound_over(self, user: bytes) -> None:
        over = [upload for upload in self._of_user.get(user, {}).values() if upload.stored.is_over]
        for upload in over[: max(0, len(over) - _OVER * self._config.uploads_per_user)]:
            self._forget(upload)

    def _forget(self, upload: _Upload) -> None:
        try:
            self._rows.remove(upload.stored.upload)
        except (StoreUnavailable, QueueFull):
            return  # the next sweep tries again
        self._end(upload, "" if upload.stored.is_over else "expired")

    def _end(self, upload: _Upload, how: str) -> None:
        self._leave(upload)
        self._disk.remove(upload.path, upload_files.mark_of(upload.path))
        self._gone[upload.stored.upload] = upload.stored.user
        while len(self._gone) > self._config.uploads_at_once:
            del self._gone[next(iter(self._gone))]
        if how:
            self._ended(how)
        self._figure()

    async def _sweep(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """End what has expired, and look at what is whole and was not looked at: the gateway ended, or could not."""
        now_ms = self._clock()
        for upload in list(self._uploads.values()):
            if upload.is_busy:
                continue
            if upload.stored.expires_ms <= now_ms:
                self._forget(upload)
            elif upload.is_whole and not upload.stored.is_over:
                try:
                    await self._finish(upload)
                except (GatewayError, OSError):
                    continue  # the next sweep tries again

    # --- which there are --------------------------------------------------------------------------------------------

    def _find(self, user: bytes, upload_id: str) -> _Upload:
        raw = parse_upload_id(upload_id)
        upload = self._uploads.get(raw) if raw is not None else None
        if upload is not None and upload.stored.user == user:
            if upload.stored.expires_ms <= self._clock():
                raise Gone("The upload has expired.")
            return upload
        if raw is not None and self._gone.get(raw) == user:
            raise Gone("The upload has ended or expired.")
        raise NotFound("There is no such upload.")

    def _enter(self, upload: _Upload) -> None:
        self._uploads[upload.stored.upload] = upload
        self._of_user.setdefault(upload.stored.user, {})[upload.stored.upload] = upload
        if not upload.stored.is_over:
            self._open[upload.stored.upload] = upload.stored.length
            self._open_bytes += upload.stored.length

    def _close(self, upload: _Upload) -> None:
        self._open_bytes -= self._open.pop(upload.stored.upload, 0)

    def _leave(self, upload: _Upload) -> None:
        stored = upload.stored
        self._uploads.pop(stored.upload, None)
        self._close(upload)
        own = self._of_user.get(stored.user, {})
        own.pop(stored.upload, None)
        if not own:
            self._of_user.pop(stored.user, None)

    def _view(self, upload: _Upload) -> View:
        stored = upload.stored
        media = self._library.describe(stored.user, stored.ref) if stored.ref else None
        return View(
            build_upload_id(stored.upload), upload.offset, stored.length, stored.expires_ms, media, stored.refused
        )

    def _ended(self, how: str) -> None:
        self._metrics.count(Metric.IM_UPLOADS_ENDED, label=how)

    def _figure(self) -> None:
        self._metrics.set(Metric.IM_UPLOADS, len(self._open))


def _id_of(path: Path) -> bytes:
    try:
        return bytes.fromhex(upload_files.upload_of(path))
    except ValueError:
        return b""
