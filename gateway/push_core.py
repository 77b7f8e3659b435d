"""What a push passes in one store, put together: accept, dispatch, schedules, receipts, the provider door's backend;
must know no listener and no engine. A gateway alone has one, a node of a fleet one for each partition it owns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from starlette.applications import Starlette

from gateway.api.once import Once
from gateway.api.ports import Backend
from gateway.api.server import build_app
from gateway.api.t8.reports import T8Reports
from gateway.api.t8.transactions import Transactions
from gateway.auth.api_keys import ApiKeys
from gateway.auth.service_keys import ServiceKeys
from gateway.config.sections import Config
from gateway.delivery.accept import Acceptor
from gateway.delivery.batch_accept import BatchAcceptor
from gateway.delivery.batch_gathering import BatchGathering
from gateway.delivery.dispatcher import Dispatcher
from gateway.delivery.one_machine import ONE_MACHINE
from gateway.delivery.push_ids import PushIds
from gateway.delivery.quotas import Quotas
from gateway.delivery.receipts_webhook import ReceiptsWebhook
from gateway.delivery.reports import Reports
from gateway.delivery.scheduler import Scheduler
from gateway.metrics import Metrics
from gateway.model.ports import Edge, Notifier
from gateway.model.reach import Reach
from gateway.notifiers.webpush.addresses import Addresses
from gateway.store import Store


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


class PushCore:
    """Built whole, then `start`, in the end `stop_delivery` and `close`. `edge`: where its registrations are connected;
    `admin_hash`: of the operator's key; `readiness`: why no push can be taken in now; `reach`: where pushes to many
    go."""

    def __init__(
        self,
        config: Config,
        store: Store,
        metrics: Metrics,
        edge: Edge,
        *,
        notifiers: Mapping[str, Notifier],
        push_ids: PushIds,
        reports: Reports,
        service_keys: ServiceKeys,
        admin_hash: bytes,
        readiness: Callable[[], Sequence[str]],
        reach: Reach = ONE_MACHINE,
    ) -> None:
        self.store = store
        directory = store.directory
        self.dispatcher = Dispatcher(
            edge=edge,
            journal=store.journal,
            broadcasts=store.broadcasts,
            schedules=store.schedules,
            directory=directory,
            notifiers=notifiers,
            config=config,
            metrics=metrics,
            clock=unix_ms,
        )
        self.acceptor = Acceptor(
            directory=directory,
            journal=store.journal,
            schedules=store.schedules,
            dispatcher=self.dispatcher,
            config=config,
            metrics=metrics,
            reach=reach,
        )
        self.scheduler = Scheduler(
            schedules=store.schedules,
            directory=directory,
            acceptor=self.acceptor,
            backlog=self.dispatcher.backlog,
            metrics=metrics,
            clock=unix_ms,
            reach=reach,
        )
        self.receipts_webhook = ReceiptsWebhook(
            directory=directory,
            receipts=store.receipts,
            deaths=store.deaths,
            push_ids=push_ids,
            config=config.api,
            metrics=metrics,
            clock=unix_ms,
        )
        batches = BatchAcceptor(
            edge=edge, journal=store.journal, dispatcher=self.dispatcher, config=config, metrics=metrics
        )
        #: for those that come in parts from other nodes
        self.gathering = BatchGathering(batches, store.journal, unix_ms)
        self.backend = Backend(
            config=config.api,
            keys=ApiKeys(directory, admin_hash),
            directory=directory,
            receipts=store.receipts,
            acceptor=self.acceptor,
            batches=batches,
            dispatcher=self.dispatcher,
            memory=store.receipts,
            quotas=Quotas(store.quotas),
            schedules=store.schedules,
            deaths=store.deaths,
            push_ids=push_ids,
            metrics=metrics,
            is_connected=edge.is_connected,
            readiness=readiness,
            max_ttl_s=config.delivery.max_ttl_s,
            now_ms=unix_ms,
            service_keys=service_keys,
        )
        self.t8_reports = T8Reports(
            self.backend,
            Transactions(self.backend),
            Addresses(allows_private=config.api.t8_private, clock=unix_ms),
        )
        self.backend.on_transaction = self.t8_reports.follow
        reports.on_step = self.t8_reports.on_step
        self.once = Once(self.backend)

    def build_app(self, *, is_described: bool = True) -> Starlette:
        """The provider door's application, with what the backend has by now. `is_described`: as of build_routes."""
        return build_app(self.backend, once=self.once, is_described=is_described)

    def start_calls(self) -> None:
        """Post to apps' servers from now on."""
        self.receipts_webhook.start()
        self.t8_reports.start()

    async def close_calls(self) -> None:
        await self.receipts_webhook.close()
        await self.t8_reports.close()

    async def drain(self, seconds: float) -> None:
        """Call no notifier any more; calls under way have so long to end."""
        await self.dispatcher.drain(seconds)

    async def close_delivery(self) -> None:
        """Nothing is sent any more; what is pending stays in the journal."""
        await self.scheduler.close()
        await self.dispatcher.close()
