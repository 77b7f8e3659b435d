"""Cards and downloads in RAM, with the ports of the store; a restart is a new engine over the same records."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from gateway.model.cards import Capability, CardRecord, Download, DownloadState, Payload
from gateway.model.errors import StoreUnavailable

_Value = TypeVar("_Value")


def _done(value: _Value) -> asyncio.Future[_Value]:
    future: asyncio.Future[_Value] = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


class Full:
    """The store takes nothing, for so many writes."""

    def __init__(self) -> None:
        self.writes = 0

    def check(self) -> None:
        if self.writes:
            self.writes -= 1
            raise StoreUnavailable(after_ms=5)


class RamCards:
    def __init__(self) -> None:
        self.full = Full()
        self.records: dict[bytes, CardRecord] = {}
        self.counters: dict[tuple[bytes, int], int] = {}
        self.capabilities: dict[bytes, Capability] = {}
        self._numbers: dict[str, bytes] = {}

    def handle(self, iccid: str) -> bytes:
        return hashlib.blake2b(iccid.encode(), key=b"a key", digest_size=16).digest()

    def read(self, card: bytes) -> CardRecord | None:
        return self.records.get(card)

    def find(self, *, msisdn: str = "", imsi: str = "") -> bytes | None:
        return self._numbers.get(msisdn or imsi)

    def put(self, records: Sequence[CardRecord]) -> asyncio.Future[None]:
        for record in records:
            card = self.handle(record.iccid)
            self.records[card] = record
            self._numbers.update((number, card) for number in (record.msisdn, record.imsi) if number)
        return _done(None)

    def remove(self, card: bytes) -> asyncio.Future[None]:
        self.records.pop(card, None)
        return _done(None)

    def count(self) -> int:
        return len(self.records)

    def walk(self, after: bytes, limit: int) -> list[tuple[bytes, CardRecord]]:
        return [item for item in sorted(self.records.items()) if item[0] > after][:limit]

    def take_counters(self, card: bytes, key_set: int, count: int) -> asyncio.Future[int]:
        self.full.check()
        first = self.counters.get((card, key_set), 1)
        if first + count > 1 << 40:
            raise OverflowError
        self.counters[card, key_set] = first + count
        return _done(first)

    def capability(self, card: bytes) -> Capability:
        return self.capabilities.get(card, Capability())

    def write_capability(self, card: bytes, capability: Capability) -> asyncio.Future[None]:
        self.full.check()
        self.capabilities[card] = capability
        return _done(None)


class RamDownloads:
    def __init__(self) -> None:
        self.full = Full()
        self.downloads: dict[int, Download] = {}
        self.payloads: dict[bytes, Payload] = {}
        self.settled: list[int] = []
        self.writes = 0
        self._next = 1

    def reserve(self, count: int) -> int:
        first, self._next = self._next, self._next + count
        return first

    def put_payload(self, payload: Payload) -> bytes:
        digest = hashlib.sha256(repr(payload.commands).encode()).digest()
        self.payloads[digest] = payload
        return digest

    def payload(self, digest: bytes) -> Payload | None:
        return self.payloads.get(digest)

    def add(self, downloads: Sequence[Download]) -> asyncio.Future[None]:
        self.downloads.update((download.number, download) for download in downloads)
        return _done(None)

    def change(self, download: Download) -> asyncio.Future[None]:
        self.full.check()
        self.writes += 1
        if not self.downloads[download.number].state.is_final:
            self.downloads[download.number] = download
        return _done(None)

    def settle(self, download: Download) -> asyncio.Future[None]:
        assert download.state.is_final
        assert not self.downloads[download.number].state.is_final, "settled twice"
        done = self.change(download)
        self.settled.append(download.number)
        return done

    def read(self, number: int) -> Download | None:
        return self.downloads.get(number)

    def open(self) -> Iterable[Download]:
        states = (DownloadState.WAITING, DownloadState.ACTIVE)
        return [download for _, download in sorted(self.downloads.items()) if download.state in states]

    def of_campaign(self, campaign: int, after: int, limit: int) -> list[Download]:
        return [d for n, d in sorted(self.downloads.items()) if n > after and d.campaign == campaign][:limit]
