"""Processes that look at pictures (picture_worker.py): a few, each with one picture at a time; must never decode a
picture in this process.

A process that dies, or takes too long and is ended, costs its picture: that is refused, and the next gets a new
process. Of one user's pictures one at a time is looked at: however many they bring, others wait for one of them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import structlog

from gateway.config.im_section import Im
from gateway.im.media.pictures import Job, Looked
from gateway.metrics import Metric, Metrics
from gateway.model.errors import QueueFull, StoreUnavailable
from gateway.model.im_ports import MediaRefused

log = structlog.get_logger(__name__)

#: a process is replaced after so many pictures: what a decoder loses does not add up
_PICTURES = 500
#: what a process may see of our environment
_PASSED = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_LINE_BYTES = 16_384

_decode = msgspec.json.Decoder(Looked).decode


class _Worker:
    __slots__ = ("done", "process")

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.done = 0

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None

    async def ask(self, job: Job) -> Looked:
        """EOFError where it died."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(msgspec.json.encode(job) + b"\n")
            await stdin.drain()
            line = await stdout.readline()
            self.done += 1
            return _decode(line)
        except (OSError, ValueError, msgspec.DecodeError):
            raise EOFError from None

    async def end(self) -> None:
        if self.is_alive:
            self.process.kill()
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()


class _Turn:
    """Of one user: who of their pictures is looked at, and how many are here."""

    __slots__ = ("count", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.count = 0


class PicturePool:
    """Control thread only."""

    def __init__(self, config: Im, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._free = asyncio.Semaphore(config.thumbnail_processes)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._waiting = 0
        self._turns: dict[bytes, _Turn] = {}
        self._is_closed = False

    async def look(self, source: str, clean: str, small: str, mime: str, *, user: bytes) -> Looked:
        """MediaRefused; StoreUnavailable; QueueFull where too many wait, or no process can be started."""
        async with self._turn(user):
            return await self._look_in_turn(source, clean, small, mime)

    @asynccontextmanager
    async def _turn(self, user: bytes) -> AsyncIterator[None]:
        turn = self._turns.setdefault(user, _Turn())
        turn.count += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.count -= 1
            if not turn.count:
                del self._turns[user]

    async def _look_in_turn(self, source: str, clean: str, small: str, mime: str) -> Looked:
        config = self._config
        if self._waiting >= config.pictures_waiting or self._is_closed:
            raise QueueFull("too many pictures wait to be looked at (im.pictures_waiting)")
        job = Job(
            source=source,
            clean=clean,
            small=small,
            mime=mime,
            max_pixels=config.media_pixels,
            max_frames=config.picture_frames,
            edge=config.thumbnail_pixels,
            cpu_s=config.picture_s,
        )
        self._waiting += 1
        try:
            async with self._free:
                looked = await self._look(job)
        finally:
            self._waiting -= 1
        if looked.is_disk_full:
            raise StoreUnavailable("media can not be written now (disk full or read-only)")
        if looked.refused:
            raise MediaRefused(looked.refused)
        return looked

    async def _look(self, job: Job) -> Looked:
        worker = await self._worker()
        is_well = False
        try:
            async with asyncio.timeout(self._config.picture_s):
                looked = await worker.ask(job)
            is_well = True
            return looked
        except TimeoutError:
            self._lost("time")
            raise MediaRefused("it takes too long to decode") from None
        except EOFError:
            self._lost("died")
            raise MediaRefused("it can not be decoded") from None
        finally:
            if is_well and worker.done < _PICTURES and not self._is_closed:
                self._idle.append(worker)
            else:
                self._all.discard(worker)
                await asyncio.shield(worker.end())

    async def _worker(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            self._all.discard(worker)
            await worker.end()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway.im.media.picture_worker",
                str(self._config.picture_memory_bytes),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LINE_BYTES,
                env={name: os.environ[name] for name in _PASSED if name in os.environ},
            )
        except OSError as exc:
            log.error("picture_process_not_started", reason=os.strerror(exc.errno or 0))
            raise QueueFull("no process can be started to look at the picture") from None
        worker = _Worker(process)
        self._all.add(worker)
        return worker

    def _lost(self, reason: str) -> None:
        self._metrics.count(Metric.IM_PICTURE_WORKERS_LOST, label=reason)
        log.warning("picture_process_lost", reason=reason, consequence="that picture is refused")

    async def close(self) -> None:
        self._is_closed = True
        workers, self._idle = list(self._all), []
        self._all.clear()
        await asyncio.gather(*(worker.end() for worker in workers))
