"""What the gateway does for cards, in a process of its own over a real store: `python chaos_cards.py FOLDER SOCKET`.

Its SMSC is whoever listens on the Unix socket: frames of msgpack behind their length.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from card_fleet import SETTINGS, Fleet

from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metrics
from gateway.model.cards import (
    Ability,
    Capability,
    CardRecord,
    Download,
    DownloadState,
    Fate,
    IncomingMessage,
    Payload,
    SentMessage,
)
from gateway.model.registration import App
from gateway.store import Store

_LENGTH = struct.Struct(">I")
OTA = replace(SETTINGS, validity_s=1.0, answer_s=0.5, attempts=10_000, at_once=16)


async def read_frame(reader: asyncio.StreamReader) -> list[Any]:
    size = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))[0]
    return msgspec.msgpack.decode(await reader.readexactly(size))


def write_frame(writer: asyncio.StreamWriter, *values: Any) -> None:
    data = msgspec.msgpack.encode(values)
    writer.write(_LENGTH.pack(len(data)) + data)


class Setup(msgspec.Struct):
    """What the first start puts into the store."""

    cards: list[CardRecord]
    abilities: list[int]
    commands: list[bytes]


class PipeMessages:
    """model.cards.CardMessages."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.on_incoming: Callable[[IncomingMessage], None] = lambda _message: None
        self._writer = writer
        self._ids = itertools.count(1)
        self._fates: dict[int, Callable[[Fate], None]] = {}

    async def send(
        self,
        record: CardRecord,
        parts: Sequence[bytes],
        *,
        valid_s: int,
        on_fate: Callable[[Fate], None] | None = None,
    ) -> SentMessage:
        number = next(self._ids)
        if on_fate is not None:
            self._fates[number] = on_fate
        write_frame(self._writer, "send", number, record.msisdn, list(parts))
        return SentMessage(Fate.TAKEN)

    async def send_text(self, record: CardRecord, text: str, *, valid_s: int) -> SentMessage:
        write_frame(self._writer, "text", 0, record.msisdn, text)
        return SentMessage(Fate.TAKEN)

    def handle(self, kind: str, *values: Any) -> None:
        if kind == "fate":
            on_fate = self._fates.pop(values[0], None)
            if on_fate is not None:
                on_fate(Fate(values[1]))
        elif kind == "incoming":
            self.on_incoming(IncomingMessage(*values))


async def _fill(store: Store, setup: Setup) -> None:
    await store.directory.put_app(App(name="app"))
    digest = store.card_downloads.put_payload(Payload(tuple(setup.commands)))
    await store.cards.put(setup.cards)
    first = store.card_downloads.reserve(len(setup.cards))
    downloads = []
    for index, (record, ability) in enumerate(zip(setup.cards, setup.abilities, strict=True)):
        card = store.cards.handle(record.iccid)
        if ability != Ability.UNKNOWN:
            await store.cards.write_capability(card, Capability(Ability(ability), 1))
        downloads.append(Download(first + index, "app", card, digest, b"", DownloadState.WAITING, 1, 1 << 45))
    await store.card_downloads.add(downloads)


async def main(folder: Path, socket: str) -> None:
    setup = msgspec.msgpack.decode((folder / "setup").read_bytes(), type=Setup)
    store = await Store.open(StoreConfig(path=str(folder / "store"), max_bytes=1 << 28), Metrics(process=False))
    if store.cards.count() == 0:
        await _fill(store, setup)
    reader, writer = await asyncio.open_unix_connection(socket)
    fleet = Fleet(OTA, is_native=True, cards=store.cards, downloads=store.card_downloads)
    fleet.smsc = messages = PipeMessages(writer)
    async with fleet:
        fleet.engine.on_over = lambda download: write_frame(writer, "over", download.number, int(download.state))
        resuming = asyncio.create_task(fleet.engine.resume())
        while True:
            frame = await read_frame(reader)
            if frame[0] == "states":
                await resuming
                open_ = sum(1 for _ in store.card_downloads.open())
                write_frame(writer, "states", open_)
            else:
                messages.handle(*frame)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
