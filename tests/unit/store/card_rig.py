"""Cards, payloads and downloads for tests of their store."""

from __future__ import annotations

from typing import Any

from store_rig import APP, START_MS

from gateway.model.cards import (
    Campaign,
    CampaignState,
    CardRecord,
    Download,
    DownloadState,
    DownloadStep,
    KeySet,
    Payload,
)
from gateway.store import Store

PUSH_KEYS, DATA_KEYS = 1, 2
KIC, KID = bytes(range(0x30, 0x40)), bytes(range(0x50, 0x60))


def iccid(n: int) -> str:
    return f"8949{n:015d}"


def card(n: int, **changes: Any) -> CardRecord:
    values: dict[str, Any] = {
        "iccid": iccid(n),
        "imsi": f"26201{n:010d}",
        "msisdn": f"+4917{n:09d}",
        "key_sets": (KeySet(PUSH_KEYS, 2, KIC, KID), KeySet(DATA_KEYS, 2, KIC[::-1], KID[::-1])),
        "push_keys": PUSH_KEYS,
        "data_keys": DATA_KEYS,
        "push_tar": b"\xb0\x00\x01",
        "tar": b"\xb0\x00\x11",
        "tags": ("country",),
    }
    return CardRecord(**values | changes)


async def put_cards(store: Store, count: int) -> list[bytes]:
    """Their handles, in the order of their numbers."""
    records = [card(n) for n in range(count)]
    await store.cards.put(records)
    return [store.cards.handle(record.iccid) for record in records]


def payload(text: str = "hello") -> Payload:
    return Payload((b"\x00\xa4\x00\x04\x02\x3f\x00", text.encode()))


def download(store: Store, number: int = 0, **changes: Any) -> Download:
    values: dict[str, Any] = {
        "number": number or store.card_downloads.reserve(1),
        "app": APP,
        "card": bytes(16),
        "payload": b"",
        "tar": b"",
        "state": DownloadState.WAITING,
        "created_ms": START_MS,
        "expires_ms": START_MS + 86_400_000,
        "steps": (DownloadStep(START_MS, "accepted"),),
    }
    return Download(
        **values | {"payload": changes.get("payload") or store.card_downloads.put_payload(payload())} | changes
    )


async def add_download(store: Store, **changes: Any) -> Download:
    made = download(store, **changes)
    await store.card_downloads.add([made])
    return made


def campaign(store: Store, participants: int = 0, **changes: Any) -> Campaign:
    """With the numbers of its participants reserved behind its own."""
    number = store.card_downloads.reserve(1 + participants)
    values: dict[str, Any] = {
        "number": number,
        "app": APP,
        "name": "update",
        "state": CampaignState.RUNNING,
        "payload": store.card_downloads.put_payload(payload()),
        "tar": b"",
        "notice": "",
        "created_ms": START_MS,
        "expires_ms": START_MS + 86_400_000,
        "first": number + 1,
        "participants": participants,
    }
    return Campaign(**values | changes)
