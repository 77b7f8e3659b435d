"""What the routes to cards ask of the floors below; they must never reach past these into a store or a link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.api.ports import Backend
from gateway.cards.campaigns import Campaigns
from gateway.config.ota_section import Ota
from gateway.model.cards import Capability, CardRecords, DownloadRecords, Downloads
from gateway.model.errors import NotConfigured


class Capabilities(Protocol):
    """What is known of terminals, and asking them (cards.capability.Capabilities)."""

    def read(self, card: bytes) -> Capability:
        """As it may be believed now."""
        ...

    def ask(self, card: bytes) -> bool:
        """Call the card, and conclude from that (E2 to E4); one that is being asked goes on. False: too many are."""
        ...

    def invalidate(self, card: bytes, why: str) -> None:
        """What was known counts no more (E5)."""
        ...


@dataclass(slots=True, kw_only=True)
class CardDoor:
    """Handed in by the composition root where `ota.port` is set."""

    config: Ota
    records: CardRecords
    download_records: DownloadRecords
    downloads: Downloads
    capabilities: Capabilities
    campaigns: Campaigns | None = None


def need(backend: Backend) -> CardDoor:
    """NotConfigured where nothing is done for cards."""
    if backend.cards is None:
        raise NotConfigured("Nothing is done for cards on this gateway: set ota.port (docs/cards.md).")
    return backend.cards


def need_campaigns(backend: Backend) -> Campaigns:
    """NotConfigured."""
    campaigns = need(backend).campaigns
    if campaigns is None:
        raise NotConfigured("This gateway carries out no campaigns.")
    return campaigns
