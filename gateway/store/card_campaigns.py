"""Campaigns: one payload for many cards; must never forget one before its participants.

They are few, so all that are kept are read where somebody asks; what changes goes with the next commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from gateway.model.cards import Campaign
from gateway.store.card_downloads import DownloadStore
from gateway.store.card_rows import build_campaign, parse_campaign
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.newest import Landed, Newest
from gateway.store.records import DELETE, PUT, Db, Row, pack_u64, unpack_u64

#: participants that go in one call of `sweep`
SWEEP_ROWS = 1_000


class CampaignStore:
    """Control thread only; model.cards.CampaignRecords."""

    def __init__(
        self,
        environment: Environment,
        committer: Committer,
        downloads: DownloadStore,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._environment = environment
        self._committer = committer
        self._downloads = downloads
        self._added: dict[int, Campaign] = {}  # not durable yet
        self._changed: Newest[Campaign] = Newest(committer, loop, _rows_of)
        self._sweeping = False
        downloads.campaign = self.read

    @property
    def unwritten(self) -> int:
        """Changes that are not durable."""
        return len(self._changed)

    def put(self, campaign: Campaign) -> asyncio.Future[None]:
        number = campaign.number
        if self.read(number) is not None:
            return self._changed.put(number, campaign)

        def undo() -> None:
            self._added.pop(number, None)
            self._changed.drop(number)

        def done() -> None:
            self._added.pop(number, None)

        row = (PUT, Db.CAMPAIGNS, pack_u64(number), build_campaign(campaign))
        written = self._committer.accept([row], undo=undo, done=done)
        self._added[number] = campaign
        return written

    def _fresh(self, number: int) -> Campaign | None:
        changed = self._changed.get(number)
        return self._added.get(number) if changed is None else changed

    def read(self, number: int) -> Campaign | None:
        fresh = self._fresh(number)
        if fresh is not None:
            return fresh
        raw = self._environment.get(Db.CAMPAIGNS, pack_u64(number))
        return None if raw is None else parse_campaign(raw)

    def all(self, app: str = "") -> list[Campaign]:
        return [campaign for campaign in self._newest_first() if not app or campaign.app == app]

    def _newest_first(self) -> list[Campaign]:
        found = {unpack_u64(key): raw for key, raw in self._environment.scan(Db.CAMPAIGNS)}
        numbers = sorted(found.keys() | self._added.keys(), reverse=True)
        return [
            fresh if (fresh := self._fresh(number)) is not None else parse_campaign(found[number]) for number in numbers
        ]

    def digests(self) -> Iterator[bytes]:
        """Of payloads that are needed yet."""
        return (campaign.payload for campaign in self._newest_first() if not campaign.state.is_final)

    def sweep(self, before_ms: int) -> bool:
        """Remove a slice of what ended before that; True where there is more."""
        if self._sweeping:
            return True
        for campaign in self._newest_first():
            ended_ms = campaign.ended_ms or campaign.expires_ms
            if not campaign.state.is_final or ended_ms >= before_ms or self._fresh(campaign.number) is not None:
                continue
            rows, more = self._downloads.forget_campaign(campaign, SWEEP_ROWS)
            if not more:
                rows.append((DELETE, Db.CAMPAIGNS, pack_u64(campaign.number), b""))
            if rows:
                self._sweeping = True
                self._committer.refresh(rows, redo=self._swept, done=self._swept)
                return True
        return False

    def _swept(self) -> None:
        self._sweeping = False


def _rows_of(changed: Sequence[tuple[int, Campaign]]) -> tuple[list[Row], Landed | None]:
    return [(PUT, Db.CAMPAIGNS, pack_u64(number), build_campaign(campaign)) for number, campaign in changed], None
