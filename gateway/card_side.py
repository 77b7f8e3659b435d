"""What is done for cards, put together: the CAT_TP server, messages to cards, calls, capability, downloads, campaigns
(E1 to E8); must know no more of the rest of the gateway than it is handed.

Built where `ota.port` is set. It is drained in the order in which work comes in: nothing new is begun, transfers have
the time that a drain has, and what is cut off then goes on after the next start, at the command that is not known to be
executed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping

import structlog

from gateway.api.cards.ports import CardDoor
from gateway.cards.answers import Answers
from gateway.cards.calls import Calls
from gateway.cards.campaigns import Campaigns
from gateway.cards.capability import Capabilities
from gateway.cards.downloads import DownloadEngine
from gateway.cards.incoming import Incoming
from gateway.cards.links import CattpLinks
from gateway.cards.settings import read_reach
from gateway.config.sections import Config
from gateway.metrics import Metrics
from gateway.model.cards import CardMessages
from gateway.model.errors import ConfigError
from gateway.model.notifier import Notifier
from gateway.paging import build_card_messages
from gateway.store import Store

_log = structlog.get_logger(__name__)


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class CardSide:
    """Control thread only."""

    def __init__(self, config: Config, store: Store, metrics: Metrics, messages: CardMessages) -> None:
        self._config = config
        self._store = store
        self._metrics = metrics
        self._messages = messages
        self.links = CattpLinks(config.ota, metrics)
        self._capabilities: Capabilities | None = None
        self._downloads: DownloadEngine | None = None
        self._campaigns: Campaigns | None = None

    @property
    def port(self) -> int:
        """The UDP port that is bound."""
        return self.links.port

    def start(self) -> CardDoor:
        """Listen, on the loop, before the pagers connect: what cards say is heard from the first message on.
        ConfigError."""
        self.links.start(asyncio.get_running_loop())
        ota, records, metrics = self._config.ota, self._store.cards, self._metrics
        reach = read_reach(ota, self.links.port)
        answers = Answers(metrics)
        calls = Calls(
            records=records,
            messages=self._messages,
            links=self.links,
            answers=answers,
            reach=reach,
            settings=ota,
            metrics=metrics,
        )
        capabilities = self._capabilities = Capabilities(
            records=records,
            calls=calls,
            settings=ota,
            metrics=metrics,
            clock=unix_ms,
            random_=random.Random(),  # noqa: S311 - spreads retries, guards nothing
        )
        downloads = self._downloads = DownloadEngine(
            records=records,
            downloads=self._store.card_downloads,
            calls=calls,
            capabilities=capabilities,
            messages=self._messages,
            settings=ota,
            metrics=metrics,
            clock=unix_ms,
            random_=random.Random(),  # noqa: S311 - the same
        )
        campaigns = self._campaigns = Campaigns(
            records, self._store.card_downloads, self._store.card_campaigns, downloads, ota, metrics, unix_ms
        )
        downloads.on_over = campaigns.on_over
        incoming = Incoming(
            records=records,
            answers=answers,
            on_check_request=capabilities.on_check_request,
            settings=ota,
            metrics=metrics,
            clock=monotonic_ms,
        )
        self._messages.on_incoming = incoming.handle
        return CardDoor(
            config=ota,
            records=records,
            download_records=self._store.card_downloads,
            downloads=downloads,
            capabilities=capabilities,
            campaigns=campaigns,
        )

    async def resume(self) -> None:
        """Go on with what an earlier process left, once messages can go out."""
        if self._downloads is not None and self._campaigns is not None:
            await self._downloads.resume()
            self._campaigns.start()

    async def drain(self, seconds: float) -> None:
        """No more releases and calls; transfers have so long to end."""
        await self._begin_nothing()
        if self._downloads is not None:
            _log.info("cards_draining", active=self._downloads.active, seconds=seconds)
            await self._downloads.close(seconds)

    async def _begin_nothing(self) -> None:
        if self._campaigns is not None:
            await self._campaigns.close()
        if self._capabilities is not None:
            await self._capabilities.close()

    async def close(self) -> None:
        """Cut what runs: it goes on after the next start."""
        await self._begin_nothing()
        if self._downloads is not None:
            await self._downloads.close()
        await self.links.stop()


def build_card_side(
    config: Config, store: Store, metrics: Metrics, notifiers: Mapping[str, Notifier]
) -> CardSide | None:
    """None where `ota.port` is -1. Before the pagers start. ConfigError."""
    if config.ota.port < 0:
        return None
    messages = build_card_messages(config, notifiers, metrics)
    if messages is None:
        raise ConfigError("is empty, and cards are called by short message: name an SMSC", field="paging.smscs")
    return CardSide(config, store, metrics, messages)
