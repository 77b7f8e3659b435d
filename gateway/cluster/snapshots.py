"""Snapshots of partitions in JetStream: compacted copies of the LMDB folder in chunks, so that the journal before them
can go; must never let one be used that is not whole, nor the journal go that the last whole one needs.

Chunks come first, under a name of their own for each upload. The manifest that names them all, with checksums, comes
last, and only where nobody has written another since: so there is one whole snapshot at any time, and what was left of
others (of this epoch or before) is removed after that.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import msgspec
import structlog

from gateway.cluster.jetstream import JetStream, JetStreamError, NatsConnection, NoAnswer, NobodyThere, NotSent, Refused
from gateway.config.cluster_section import Cluster

log = structlog.get_logger(__name__)

FORMAT = 1
#: of the file, before it is packed
CHUNK_BYTES = 512 * 1024
#: chunks under way at once
_AHEAD = 4
_TRIES = 20
#: how long a look for a manifest waits for its answer, each time it is asked for again
_LOOKS_S = (0.5, 1.0, 2.0, 4.0)
_PAUSE_S = 0.25
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_SAY_BYTES = 256 * 1024 * 1024
_DATA = "data.mdb"


class MalformedSnapshot(ValueError):
    """A manifest or chunks that are not what this version wrote, or not whole."""


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    format: int
    partition: int
    created: str  # of the journal's stream
    place: int  # in it: what the copy has
    epoch: int  # of who took it
    ident: str  # of its chunks
    size: int  # of the file
    digests: list[bytes]  # SHA-256 of each chunk of the file


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Manifest)


def build_manifest(manifest: Manifest) -> bytes:
    return _encode(manifest)


def parse_manifest(raw: bytes) -> Manifest:
    try:
        manifest = _decoder.decode(raw)
    except (ValueError, RecursionError) as exc:
        raise MalformedSnapshot("a manifest that can not be read") from exc
    chunks = -(-manifest.size // CHUNK_BYTES)
    if manifest.format != FORMAT or manifest.size < 0 or manifest.place < 0 or len(manifest.digests) != chunks:
        raise MalformedSnapshot("a manifest of another version")
    if any(len(digest) != 32 for digest in manifest.digests) or not manifest.ident.replace("-", "").isalnum():
        raise MalformedSnapshot("a manifest of another version")
    return manifest


def pack_chunk(raw: bytes) -> bytes:
    return zlib.compress(raw, 1)


def unpack_chunk(packed: bytes, digest: bytes) -> bytes:
    """MalformedSnapshot where it is not the chunk with this digest."""
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(packed, CHUNK_BYTES + 1)
    except zlib.error as exc:
        raise MalformedSnapshot("a chunk that can not be unpacked") from exc
    if len(raw) > CHUNK_BYTES or hashlib.sha256(raw).digest() != digest:
        raise MalformedSnapshot("a chunk that is not what its manifest says")
    return raw


class Snapshots:
    """Of all partitions of a fleet. Control thread only; files are read and written on others."""

    def __init__(self, link: NatsConnection, settings: Cluster) -> None:
        self._js = JetStream(link, timeout_s=5.0)
        #: for what is small: servers that elect a leader say nothing to whom asked before
        self._looks = [JetStream(link, timeout_s=timeout_s) for timeout_s in _LOOKS_S]
        self._settings = settings
        self._stream = f"{settings.name}_S"
        self._uploads = 0

    def _manifest_subject(self, partition: int) -> str:
        return f"{self._settings.name}.snapshot.{partition}.manifest"

    def _chunk_subject(self, partition: int, ident: str, chunk: int | str) -> str:
        return f"{self._settings.name}.snapshot.{partition}.chunk.{ident}.{chunk}"

    async def prepare(self) -> None:
        """Make their stream where there is none; JetStreamError where that can not be done now."""
        await self._js.ensure(
            {
                "name": self._stream,
                "subjects": [f"{self._settings.name}.snapshot.>"],
                "retention": "limits",
                "storage": "file",
                "num_replicas": self._settings.replicas,
                # a manifest, or a chunk with its number, is there once
                "max_msgs_per_subject": 1,
            }
        )

    # --- reading --------------------------------------------------------------------------------------------

    async def find(self, partition: int) -> Manifest | None:
        """The last whole one."""
        return (await self._find(partition))[0]

    async def _find(self, partition: int) -> tuple[Manifest | None, int]:
        for look in self._looks:
            try:
                message = await look.message(self._stream, last_of=self._manifest_subject(partition))
                break
            except NoAnswer:
                if look is self._looks[-1]:
                    raise
        return (None, 0) if message is None else (parse_manifest(message.body), message.seq)

    async def fetch(self, manifest: Manifest, folder: Path, on_piece: Callable[[], None] = lambda: None) -> None:
        """Into a new folder; `on_piece` after each that came. MalformedSnapshot where it is not whole, or was replaced
        meanwhile."""
        loop = asyncio.get_running_loop()
        _make_empty(folder)
        said = written = 0
        with (folder / _DATA).open("wb") as file:
            os.fchmod(file.fileno(), 0o600)

            def write(packed: bytes, digest: bytes) -> int:
                return file.write(unpack_chunk(packed, digest))

            for first in range(0, len(manifest.digests), _AHEAD):
                numbers = range(first, min(first + _AHEAD, len(manifest.digests)))
                chunks = await asyncio.gather(*(self._chunk(manifest, number) for number in numbers))
                for number, packed in zip(numbers, chunks, strict=True):
                    written += await loop.run_in_executor(None, write, packed, manifest.digests[number])
                    on_piece()
                if written - said >= _SAY_BYTES:
                    said = written
                    log.info("snapshot_fetching", partition=manifest.partition, bytes=written, of=manifest.size)
        if written != manifest.size:
            raise MalformedSnapshot("the chunks are not as long as their manifest says")
        log.info("snapshot_fetched", partition=manifest.partition, place=manifest.place, bytes=written)

    async def _chunk(self, manifest: Manifest, number: int) -> bytes:
        subject = self._chunk_subject(manifest.partition, manifest.ident, number)
        for attempt in range(_TRIES):
            try:
                message = await self._js.message(self._stream, last_of=subject)
            except JetStreamError:
                if attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(_PAUSE_S)
                continue
            if message is None:
                raise MalformedSnapshot("a chunk is missing")
            return message.body
        raise NoAnswer("a chunk can not be had")

    # --- writing --------------------------------------------------------------------------------------------

    async def store(self, partition: int, epoch: int, created: str, place: int, folder: Path) -> Manifest | None:
        """A copy of a folder as the last snapshot; None where somebody else wrote one meanwhile."""
        loop = asyncio.get_running_loop()
        before, seq = await self._find(partition)
        if before is not None and before.created == created and before.place >= place:
            return None
        self._uploads += 1
        ident = f"{epoch}-{os.urandom(6).hex()}-{self._uploads}"
        digests: list[bytes] = []
        done = said = 0
        with (folder / _DATA).open("rb") as file:

            def read() -> list[tuple[bytes, bytes]]:
                """(digest, packed) of the next chunks."""
                raw = islice(iter(lambda: file.read(CHUNK_BYTES), b""), _AHEAD)
                return [(hashlib.sha256(chunk).digest(), pack_chunk(chunk)) for chunk in raw]

            while chunks := await loop.run_in_executor(None, read):
                first = len(digests)
                digests += [digest for digest, _ in chunks]
                await asyncio.gather(
                    *(
                        self._put(self._chunk_subject(partition, ident, first + number), packed)
                        for number, (_, packed) in enumerate(chunks)
                    )
                )
                done = file.tell()
                if done - said >= _SAY_BYTES:
                    said = done
                    log.info("snapshot_storing", partition=partition, bytes=done)
        manifest = Manifest(FORMAT, partition, created, place, epoch, ident, done, digests)
        if not await self._put_manifest(manifest, seq):
            log.info("snapshot_superseded", partition=partition, place=place)
            await self._remove(partition, [ident])
            return None
        await self._remove_others(manifest)
        return manifest

    async def _put(self, subject: str, body: bytes) -> None:
        """Writing one twice does no harm: it is there once."""
        for attempt in range(_TRIES):
            try:
                await self._js.publish(subject, body, {})
                return
            except (NotSent, NobodyThere, NoAnswer):
                if attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(_PAUSE_S)

    async def _put_manifest(self, manifest: Manifest, seq: int) -> bool:
        """False: there is another since `seq`."""
        subject, body = self._manifest_subject(manifest.partition), build_manifest(manifest)
        for attempt in range(_TRIES):
            try:
                await self._js.publish(subject, body, {_EXPECTED: str(seq)})
                return True
            except (NotSent, NobodyThere, NoAnswer, Refused):
                found = None
                try:
                    found, now = await self._find(manifest.partition)
                except JetStreamError:
                    now = seq
                if found is not None and found.ident == manifest.ident:
                    return True  # the answer was lost
                if now != seq:
                    return False
                if attempt == _TRIES - 1:
                    raise
            await asyncio.sleep(_PAUSE_S)
        return False

    async def _remove_others(self, manifest: Manifest) -> None:
        """Chunks of uploads that are no snapshot any more, or never were one. One of a newer epoch may be under way."""
        pattern = self._chunk_subject(manifest.partition, "*", "0")
        state = await self._js.state(self._stream, pattern)
        idents = [subject.split(".")[-2] for subject in (state.subjects if state is not None else {})]
        await self._remove(
            manifest.partition,
            [ident for ident in idents if ident != manifest.ident and _epoch_of(ident) <= manifest.epoch],
        )

    async def forget(self, partition: int) -> None:
        """All that there is of a partition, for one that is none."""
        await self._js.purge(self._stream, subject=f"{self._settings.name}.snapshot.{partition}.>")

    async def _remove(self, partition: int, idents: list[str]) -> None:
        for ident in idents:
            await self._js.purge(self._stream, subject=self._chunk_subject(partition, ident, "*"))


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)


def _epoch_of(ident: str) -> int:
    text = ident.partition("-")[0]
    return int(text) if text.isdecimal() else 0
