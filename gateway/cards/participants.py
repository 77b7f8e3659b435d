"""Who takes part in a campaign, written as downloads that are HELD, some hundred in each commit; must never hold the
event loop for long, nor more of the participants in RAM than one such chunk (and 16 bytes for each of a list).

A kill in between: participants from a query go on behind the last one that was written; a list is not kept, so its
campaign is stopped, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from gateway.cards.card_query import CardQuery
from gateway.cards.insisting import insist
from gateway.metrics import Metrics
from gateway.model.cards import (
    HANDLE_BYTES,
    Ability,
    Campaign,
    CardRecord,
    CardRecords,
    Download,
    DownloadRecords,
    DownloadState,
    DownloadStep,
)

#: participants in one commit, and cards that are looked at between two turns of the event loop
CHUNK = 256


class TooMany(Exception):
    """More cards than one campaign, or the numbers kept for it, take."""


def build_participants(campaign: Campaign, first_index: int, cards: Sequence[bytes]) -> list[Download]:
    steps = (DownloadStep(campaign.created_ms, "accepted"),)
    return [
        Download(
            number=campaign.first + first_index + at,
            app=campaign.app,
            card=card,
            payload=campaign.payload,
            tar=campaign.tar,
            state=DownloadState.HELD,
            created_ms=campaign.created_ms,
            expires_ms=campaign.expires_ms,
            campaign=campaign.number,
            notice=campaign.notice,
            steps=steps,
        )
        for at, card in enumerate(cards)
    ]


def split_handles(handles: bytes | bytearray) -> Iterator[list[bytes]]:
    """Chunks of a list that lies in one block."""
    step = CHUNK * HANDLE_BYTES
    for start in range(0, len(handles), step):
        block = bytes(handles[start : start + step])
        yield [block[at : at + HANDLE_BYTES] for at in range(0, len(block), HANDLE_BYTES)]


def believed(cards: CardRecords, card: bytes, now_ms: int) -> Ability:
    """What is known of its terminal, where that may still be believed (E5: else unknown, treated as not capable)."""
    capability = cards.capability(card)
    if capability.until_ms and now_ms >= capability.until_ms:
        return Ability.UNKNOWN
    return Ability(capability.ability)


class Gatherer:
    """`grow` is told how many there are, after they are durable."""

    def __init__(
        self, cards: CardRecords, downloads: DownloadRecords, metrics: Metrics, most: int, now_ms: Callable[[], int]
    ) -> None:
        self._cards = cards
        self._downloads = downloads
        self._metrics = metrics
        self._most = most
        self._now_ms = now_ms

    def count_written(self, campaign: Campaign) -> int:
        """Participants that are there, also such as the campaign's own row does not know of yet."""
        count = campaign.participants
        while count < campaign.reserved and self._is_own(campaign, count):
            count += 1
        return count

    def _is_own(self, campaign: Campaign, index: int) -> bool:
        row = self._downloads.read(campaign.first + index)
        return row is not None and row.campaign == campaign.number

    async def write(self, campaign: Campaign, count: int, cards: Sequence[bytes]) -> int:
        """Durable when it returns how many there are."""
        if count + len(cards) > min(campaign.reserved, self._most):
            raise TooMany
        rows = build_participants(campaign, count, cards)
        await insist(lambda: self._downloads.add(rows), self._metrics)
        return count + len(rows)

    async def from_list(self, campaign: Campaign, handles: bytes | bytearray, grow: Callable[[int], None]) -> None:
        count = 0
        for chunk in split_handles(handles):
            count = await self.write(campaign, count, chunk)
            grow(count)

    async def from_query(self, campaign: Campaign, query: CardQuery, grow: Callable[[int], None]) -> None:
        """Cards that come while it runs may be among them or not. TooMany."""
        count = self.count_written(campaign)
        after = b""
        if count:
            last = self._downloads.read(campaign.first + count - 1)
            assert last is not None
            after = last.card
            grow(count)
        chunk: list[bytes] = []
        while found := self._cards.walk(after, CHUNK):
            chunk += [card for card, record in found if self._fits(query, card, record)]
            after = found[-1][0]
            if len(chunk) >= CHUNK:
                count = await self.write(campaign, count, chunk)
                grow(count)
                chunk = []
            await asyncio.sleep(0)
        if chunk:
            count = await self.write(campaign, count, chunk)
            grow(count)

    def _fits(self, query: CardQuery, card: bytes, record: CardRecord) -> bool:
        return query.fits(record.tags, lambda: believed(self._cards, card, self._now_ms()))
