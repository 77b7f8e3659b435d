"""In-memory ports for the routes to cards: the same contracts, no store, no SMSC and no link."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from api_doubles import Door

from gateway.api.cards.ports import CardDoor
from gateway.api.server import build_app
from gateway.config.ota_section import Ota
from gateway.model.cards import (
    HANDLE_BYTES,
    Ability,
    Capability,
    CardRecord,
    Download,
    DownloadState,
    DownloadStep,
    Evidence,
    NumberTaken,
    Payload,
)
from gateway.model.errors import GatewayError

ICCID, IMSI, MSISDN = "89441234567890123456", "234151234567890", "+447700900123"
KIC, KID = "a1b2c3d4" * 4, "e5f60718" * 4
#: nothing of it may leave the door
WHO = (ICCID, IMSI, MSISDN[1:], KIC, KID)


def card_in(**changes: Any) -> dict[str, Any]:
    """One card as it is brought in."""
    card = {
        "iccid": ICCID,
        "imsi": IMSI,
        "msisdn": MSISDN,
        "key_sets": [{"number": 1, "kic": KIC, "kid": KID}, {"number": 2, "kic": KIC[::-1], "kid": KID[::-1]}],
        "tar": "B00011",
        "tags": ["batch-7"],
    }
    return {name: value for name, value in (card | changes).items() if value is not None}


def done_future(error: GatewayError | None = None) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
    return future


class Records:
    """CardRecords and DownloadRecords."""

    def __init__(self) -> None:
        self.cards: dict[bytes, CardRecord] = {}
        self.capabilities: dict[bytes, Capability] = {}
        self.puts: list[int] = []
        self.write_error: GatewayError | None = None  # raised at once
        self.commit_error: GatewayError | None = None  # comes with the future
        self.hold: list[asyncio.Future[None]] | None = None
        self.downloads: dict[int, Download] = {}
        self.payloads: dict[bytes, Payload] = {}
        self.next_number = 5_000

    # CardRecords
    def handle(self, iccid: str) -> bytes:
        return hashlib.sha256(b"key" + iccid.encode()).digest()[:HANDLE_BYTES]

    def read(self, card: bytes) -> CardRecord | None:
        return self.cards.get(card)

    def find(self, *, msisdn: str = "", imsi: str = "") -> bytes | None:
        for card, record in self.cards.items():
            if (msisdn and record.msisdn == msisdn) or (imsi and record.imsi == imsi):
                return card
        return None

    def put(self, records: Sequence[CardRecord]) -> asyncio.Future[None]:
        if self.write_error:
            raise self.write_error
        for index, record in enumerate(records):
            card = self.handle(record.iccid)
            for field in ("msisdn", "imsi"):
                owner = self.find(**{field: getattr(record, field)}) if getattr(record, field) else None
                if owner not in (None, card):
                    raise NumberTaken(index, field)
        self.puts.append(len(records))
        if self.commit_error is None:
            self.cards |= {self.handle(record.iccid): record for record in records}
        return done_future(self.commit_error)

    def remove(self, card: bytes) -> asyncio.Future[None]:
        del self.cards[card]
        return done_future(self.commit_error)

    def count(self) -> int:
        return len(self.cards)

    def walk(self, after: bytes, limit: int) -> list[tuple[bytes, CardRecord]]:
        return sorted((card, record) for card, record in self.cards.items() if card > after)[:limit]

    def take_counters(self, card: bytes, key_set: int, count: int) -> asyncio.Future[int]:
        raise NotImplementedError

    def capability(self, card: bytes) -> Capability:
        return self.capabilities.get(card, Capability())

    def write_capability(self, card: bytes, capability: Capability) -> asyncio.Future[None]:
        self.capabilities[card] = capability
        return done_future()

    # DownloadRecords
    def reserve(self, count: int) -> int:
        first, self.next_number = self.next_number, self.next_number + count
        return first

    def put_payload(self, payload: Payload) -> bytes:
        digest = hashlib.sha256(b"".join(payload.commands)).digest()
        self.payloads[digest] = payload
        return digest

    def payload(self, digest: bytes) -> Payload | None:
        return self.payloads.get(digest)

    def add(self, downloads: Sequence[Download]) -> asyncio.Future[None]:
        if self.write_error:
            raise self.write_error
        if self.hold is not None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.hold.append(future)
        else:
            future = done_future(self.commit_error)
        self.downloads |= {download.number: download for download in downloads}
        return future

    def change(self, download: Download) -> asyncio.Future[None]:
        self.downloads[download.number] = download
        return done_future()

    settle = change

    def open(self) -> Iterable[Download]:
        return [each for each in self.downloads.values() if not each.state.is_final]

    def of_app(
        self, app: str, before: int, limit: int, state: DownloadState | None = None
    ) -> tuple[list[Download], int]:
        found = [
            each
            for number, each in sorted(self.downloads.items(), reverse=True)
            if each.app == app and (not before or number < before) and state in (None, each.state)
        ]
        return found[:limit], found[limit - 1].number if len(found) > limit else 0

    def of_campaign(self, campaign: int, after: int, limit: int) -> list[Download]:
        return []


class Engine:
    """Downloads and Capabilities: notes what it is told."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.started: list[Download] = []
        self.on_over: Callable[[Download], None] = lambda _: None
        self.active = 0
        self.waiting = 0
        self.asked: list[bytes] = []
        self.is_busy = False

    def start(self, download: Download) -> None:
        assert download.number in self.records.downloads
        self.started.append(download)

    async def stop(self, number: int) -> Download | None:
        download = self.records.read_download(number)
        if download is None or download.state.is_final:
            return download
        steps = (*download.steps, DownloadStep(2, "stopped"))
        stopped = msgspec.structs.replace(download, state=DownloadState.STOPPED, steps=steps)
        self.records.downloads[number] = stopped
        return stopped

    def read(self, card: bytes) -> Capability:
        found = self.records.capability(card)
        if 0 < found.until_ms <= time.time() * 1000:
            return Capability(Ability.UNKNOWN, found.until_ms, 0, found.evidence)
        return found

    def ask(self, card: bytes) -> bool:
        self.asked.append(card)
        return not self.is_busy

    def invalidate(self, card: bytes, why: str) -> None:
        before = self.records.capability(card)
        line = Evidence(9, "terminal_changed", 0, why)
        self.records.capabilities[card] = Capability(evidence=(*before.evidence, line))


class DownloadView:
    """`read` means one thing for cards and another for downloads."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def read(self, number: int) -> Download | None:
        return self._records.downloads.get(number)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)


class CardHouse:
    """A door with cards behind it."""

    def __init__(self, **settings: Any) -> None:
        self.door = Door()
        self.records = Records()
        self.records.read_download = self.records.downloads.get  # type: ignore[attr-defined]
        self.engine = Engine(self.records)
        self.door.backend.cards = CardDoor(
            config=Ota(**settings),
            records=self.records,
            download_records=DownloadView(self.records),  # type: ignore[arg-type]
            downloads=self.engine,
            capabilities=self.engine,
        )
        self.door.asgi = build_app(self.door.backend)

    async def operator(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        async with self.door.operator() as client:
            return self._body(await client.request(method, path, **options), status)

    async def provider(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        async with self.door.provider() as client:
            return self._body(await client.request(method, path, **options), status)

    def _body(self, answer: Any, status: int) -> Any:
        for word in WHO:
            assert word not in answer.text, "an answer shows who a card is, or a key"
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    async def add(self, **changes: Any) -> str:
        """Its id."""
        body = await self.operator("POST", "/v1/cards", json=[card_in(**changes)])
        assert body["imported"] == 1, body
        return str(body["cards"][0]["card"])
