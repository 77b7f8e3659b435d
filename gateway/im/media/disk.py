"""Disk work of media, in threads: what waits for a disk never holds the loop up; must never leave a file half written
under a name of its own.

Files get their names and lose them one after the other, in the order asked for, so that a file that comes again is not
taken away by a removal that was under way.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from gateway.im.media.ports import Files
from gateway.model.errors import StoreUnavailable

log = structlog.get_logger(__name__)

_THREADS = 4
#: bytes gathered before a thread is asked to write them
WRITE_BYTES = 262_144

_T = TypeVar("_T")


class Disk:
    """Control thread only, but for what runs in its threads."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="heliograph-media")
        self._in_order = ThreadPoolExecutor(1, thread_name_prefix="heliograph-media-names")
        #: digests whose file is getting its name, or has it and no row yet
        self._placing: dict[bytes, int] = {}
        self._is_closed = False

    async def run(self, work: Callable[[], _T]) -> _T:
        """In a thread; OSError becomes StoreUnavailable (a disk that is full or read-only), FileNotFoundError stays."""
        return await self._run(self._threads, work)

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except FileNotFoundError:
            raise
        except OSError as exc:
            log.error("media_not_written", errno=exc.errno, reason=exc.strerror)
            raise StoreUnavailable("media can not be written now (disk full or read-only)") from None

    async def receive(self, chunks: AsyncIterator[bytes], part: Path, most: int) -> int:
        """Bytes written to a new file; past `most` reading ends, and the answer is more than `most`."""
        size, waiting, held = 0, 0, list[bytes]()
        await self.run(partial(_append, part, b"", is_new=True))
        async for chunk in chunks:
            size += len(chunk)
            if size > most:
                return size
            held.append(chunk)
            waiting += len(chunk)
            if waiting >= WRITE_BYTES:
                await self.run(partial(_append, part, b"".join(held)))
                held, waiting = [], 0
        if held:
            await self.run(partial(_append, part, b"".join(held)))
        return size

    async def place(self, part: Path, digest: bytes) -> None:
        """From now on until `placed` the file of this digest is not removed."""
        self._placing[digest] = self._placing.get(digest, 0) + 1
        try:
            await self._run(self._in_order, partial(self.files.place, part, digest))
        except BaseException:
            self.placed(digest)
            raise

    def placed(self, digest: bytes) -> None:
        """It has a row, or will have none."""
        left = self._placing.get(digest, 0) - 1
        if left > 0:
            self._placing[digest] = left
        else:
            self._placing.pop(digest, None)

    def is_placing(self, digest: bytes) -> bool:
        return digest in self._placing

    def remove_file(self, digest: bytes) -> None:
        """Of a digest that has no row. What fails is found at the next start."""
        if digest not in self._placing and not self._is_closed:
            self._in_order.submit(_quietly, partial(self.files.remove, self.files.path(digest)))

    def remove(self, *paths: Path) -> None:
        if not self._is_closed:
            self._threads.submit(_quietly, partial(self.files.remove, *paths))

    async def close(self) -> None:
        """What was asked for is done when it returns; what is asked for later waits for the next start."""
        self._is_closed = True
        for threads in (self._threads, self._in_order):
            await asyncio.to_thread(threads.shutdown)


def _quietly(work: Callable[[], None]) -> None:
    try:
        work()
    except OSError as exc:
        log.warning("media_not_removed", errno=exc.errno, consequence="the next start tries again")


def _append(path: Path, data: bytes, *, is_new: bool = False) -> None:
    # only a new one is made: what was removed meanwhile does not come again
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if is_new else 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
