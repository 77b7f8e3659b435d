"""What a user's devices are told of an account's connection, and when: wrong credentials at once, an outage after a
while and its end, a gap; must never say which address or server it is about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog

from gateway.im.messaging.results import observe
from gateway.metrics import Metric, Metrics
from gateway.model.errors import GatewayError, QueueFull, StoreUnavailable
from gateway.model.im_people import Account, AccountState, Item, ItemKind
from gateway.model.im_ports import AccountRecords, Delivering

_log = structlog.get_logger(__name__)


class Reported(Protocol):
    account: Account
    state: AccountState
    outage_timer: asyncio.TimerHandle | None
    #: why it is not connected, in a connector's words
    reason: str


class Reports:
    def __init__(
        self,
        delivering: Delivering,
        accounts: AccountRecords,
        metrics: Metrics,
        clock: Callable[[], int],
        outage_s: float,
        store_retry_s: float,
    ) -> None:
        self._delivering = delivering
        self._accounts = accounts
        self._metrics = metrics
        self._clock = clock
        self._outage_s = outage_s
        self._store_retry_s = store_retry_s

    def count(self, metric: Metric, label: str) -> None:
        self._metrics.count(metric, label=label)

    def connected(self, line: Reported) -> None:
        """Only the end of an outage that was told is kept."""
        self.forget(line)
        was, line.state = line.state, AccountState.CONNECTED
        item = self._item(line.account, AccountState.CONNECTED)
        if was is AccountState.OUTAGE:
            self._deliver(line.account, item)
        else:
            self._delivering.tell(line.account.user, item)

    def lost(self, line: Reported) -> None:
        """Not connected, and tried again: an outage once it has gone on for a while."""
        if line.state is not AccountState.OUTAGE:
            line.state = AccountState.CONNECTING
            if line.outage_timer is None:
                line.outage_timer = asyncio.get_running_loop().call_later(self._outage_s, self._on_outage, line)

    def bad_credentials(self, line: Reported, reason: str) -> None:
        """Durable, and told at once: nothing is tried until the user gives others."""
        self.forget(line)
        line.state = AccountState.BAD_CREDENTIALS
        self._keep_bad(line.account, reason)

    def shed(self, account: Account) -> None:
        self._metrics.count(Metric.IM_SHED)
        self._delivering.tell(account.user, self._item(account, AccountState.IDLE, "too many are connected here"))

    async def gap(self, line: Reported) -> None:
        """The cursor is gone and the log says so, in one commit."""
        item = Item(ItemKind.GAP, self._clock(), account=line.account.number)
        while True:
            try:
                appended = self._delivering.deliver(line.account.user, [item], account=line.account.number, cursor=b"")
                await asyncio.shield(appended.done)
            except (StoreUnavailable, QueueFull):
                self._metrics.count(Metric.IM_STORE_WAITS)
                await asyncio.sleep(self._store_retry_s)
            else:
                return

    def forget(self, line: Reported) -> None:
        if line.outage_timer is not None:
            line.outage_timer.cancel()
            line.outage_timer = None

    def _on_outage(self, line: Reported) -> None:
        line.outage_timer = None
        line.state = AccountState.OUTAGE
        self._deliver(line.account, self._item(line.account, AccountState.OUTAGE, line.reason))

    def _keep_bad(self, account: Account, reason: str) -> None:
        now = self._accounts.account(account.number)
        if now is None or now.sealed != account.sealed:
            return  # unbound, or bound anew meanwhile
        try:
            self._accounts.put_account(
                msgspec.structs.replace(now, state=AccountState.BAD_CREDENTIALS, reason=reason)
            ).add_done_callback(observe)
        except GatewayError as exc:
            # after a restart it is tried once more, and found out again
            _log.warning("im_state_not_kept", network=account.network, error=exc.name)
        self._deliver(account, self._item(account, AccountState.BAD_CREDENTIALS, reason))

    def _deliver(self, account: Account, item: Item) -> None:
        try:
            self._delivering.deliver(account.user, [item], account=account.number).done.add_done_callback(observe)
        except GatewayError:
            self._metrics.count(Metric.IM_STORE_WAITS)
            self._delivering.tell(account.user, item)

    def _item(self, account: Account, state: AccountState, reason: str = "") -> Item:
        return Item(
            ItemKind.ACCOUNT, self._clock(), account=account.number, state=state, reason=reason, text=account.name
        )
