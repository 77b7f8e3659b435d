"""What stands inside an operator's network, put together: ids, the HSS, pagers, and calls that wait; must know no more
of the rest of the gateway than it is handed.
"""

from __future__ import annotations

import time

from gateway.config.sections import Config
from gateway.delivery.accept import Acceptor
from gateway.delivery.dispatcher import Dispatcher
from gateway.delivery.ended_ids import EndedIds
from gateway.delivery.opaque_tokens import OpaqueIndex
from gateway.delivery.push_ids import PushIds
from gateway.delivery.reports import Reports
from gateway.diameter.node import build_node
from gateway.diameter.s6m import S6mRegister
from gateway.diameter.sh import ShHome
from gateway.edge.server import EdgeServer
from gateway.identity import Identity
from gateway.identity.renewal import Renewal
from gateway.metrics import Metrics
from gateway.paging import build_pagers, find_addresses, pagers_of, start_pagers, use_links
from gateway.paging.ims.called import Called
from gateway.paging.ims.calls import Parts as ImsParts
from gateway.paging.ims.service import ImsPaging
from gateway.paging.waiting import Waiting
from gateway.store import Store


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


class OperatorSide:
    """Built first; `join` once the floors it works on are there. Raises ConfigError."""

    def __init__(self, config: Config, store: Store, metrics: Metrics, push_ids: PushIds, reports: Reports) -> None:
        self._config = config
        self._store = store
        self._metrics = metrics
        self._push_ids = push_ids
        subscribers = store.subscribers
        subscribers.news_s = int(config.identity.news_days * 86_400)
        subscribers.history_s = int(config.identity.history_days * 86_400)
        self.diameter = build_node(config, metrics)
        hss = sh = None
        if self.diameter is not None:
            hss = S6mRegister(self.diameter, config.diameter.hss_host, config.diameter.scs_identity)
            sh = ShHome(self.diameter, config.diameter.hss_host)
        identity = self.identity = Identity(config.identity, subscribers, metrics, unix_ms, hss)
        self.renewal = Renewal(config.identity, subscribers, identity.allocator, unix_ms)
        self._called = Called(
            config.ims.app,
            identity.records,
            identity.classes,
            identity.resolver,
            home_timeout_s=config.ims.home_timeout_s,
        )
        if sh is not None:
            self._called.ask_at(sh)
        self._waiting = Waiting(config.paging, metrics)
        pagers = build_pagers(
            config,
            metrics,
            push_ids,
            self._called,
            self._waiting,
            reports=reports,
            short_messages=store.short_messages,
            diameter=self.diameter,
        )
        #: notifiers, by the name a fallback chain uses
        self.pagers = {pager.name: pager for pager in pagers}
        identity.allocator.addresses = find_addresses(self.pagers)

    def join(self, edge: EdgeServer, dispatcher: Dispatcher, acceptor: Acceptor) -> None:
        """`dispatcher` has the pagers among its notifiers."""
        directory = self._store.directory
        use_links(self.pagers, edge.pages)
        self._waiting.on_back = dispatcher.on_reachable
        self.opaque = OpaqueIndex(
            self.identity.local,
            directory,
            pagers_of(self.pagers),
            self._push_ids.derive(b"paging-only registrations"),
            self._metrics,
        )
        directory.opaque = self.opaque
        self.ended_ids = EndedIds(
            self.opaque,
            directory,
            dispatcher,
            self._metrics,
            every_s=self._config.identity.paging_only_sweep_s,
        )
        self.ims = ImsPaging(
            ImsParts(
                config=self._config,
                directory=directory,
                journal=self._store.journal,
                acceptor=acceptor,
                dispatcher=dispatcher,
                notifiers=dispatcher.notifiers,
                called=self._called,
                metrics=self._metrics,
                clock=unix_ms,
            )
        )

    def start(self) -> None:
        """Connect and listen now, on the loop. Raises ConfigError."""
        if self.diameter is not None:
            self.diameter.start()
        start_pagers(self.pagers)
        self.ims.start()
        self.ended_ids.start()
        self.renewal.start()

    async def stop_asking(self) -> None:
        """Nothing comes in from here any more; what a SIP server holds is asked for again, by who takes over."""
        await self.ims.close()
        await self.ended_ids.close()
        await self.renewal.close()

    async def close(self) -> None:
        """After everything that pages has ended."""
        if self.diameter is not None:
            await self.diameter.close()
