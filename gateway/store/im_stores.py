"""The rooms of IM in the store, put together; must hold nothing of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.config.im_section import Im
from gateway.metrics import Metric, Metrics
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.im_accounts import AccountStore
from gateway.store.im_epoch import Epoch
from gateway.store.im_history import LogHistory
from gateway.store.im_keys import UserKeys
from gateway.store.im_log import LogStore
from gateway.store.im_removal import Removal
from gateway.store.im_rows import ImRows
from gateway.store.im_unwritten import Unwritten
from gateway.store.im_users import UserStore
from gateway.store.keys import ServerKeys
from gateway.store.records import Db
from gateway.store.sequences import Sequences

_KEPT = {
    "users": Db.IM_USERS,
    "accounts": Db.IM_ACCOUNTS,
    "lines": Db.IM_LOG,
    "outgoing": Db.IM_OUTGOING,
    "session_keys": Db.IM_SESSIONS,
    "devices": Db.IM_DEVICES,
}


class ImStores:
    """Control thread only."""

    def __init__(
        self,
        environment: Environment,
        committer: Committer,
        keys: ServerKeys,
        sequences: Sequences,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], int],
    ) -> None:
        self._environment = environment
        self._metrics = metrics
        rows = ImRows(keys.token_key)
        self._unwritten = Unwritten(environment, committer)
        self._user_keys = UserKeys(self._unwritten, keys)
        self._epoch = Epoch(environment, committer)
        self.users = UserStore(self._unwritten, rows, self._user_keys, metrics, clock)
        self.accounts = AccountStore(environment, self._unwritten, self._user_keys, sequences)
        self.log = LogStore(
            self._unwritten, rows, self._user_keys, self.accounts, sequences, self._epoch, metrics, loop, clock
        )
        self._history = LogHistory(self._unwritten, metrics, clock, lambda: self.log.part_s)
        self._removal = Removal(self._unwritten, rows, self.users, self.accounts)

    def check(self) -> None:
        """ConfigError where keys.json is not the one of this store."""
        self._user_keys.check()

    def configure(self, im: Im) -> None:
        self.users.configure(im)
        self.log.configure(im)
        self._history.configure(im)

    def sweep(self) -> bool:
        """A slice of each thing that is to be removed or wrapped again; True where there is more."""
        more = self._removal.sweep()
        more = self._history.sweep() or more
        more = self.users.sweep() or more
        return self._user_keys.sweep() or more

    def measure(self) -> None:
        for what, db in _KEPT.items():
            self._metrics.set(Metric.IM_KEPT, self._environment.entries(db), label=what)

    def stop(self) -> None:
        """Nothing is appended after this."""
        if not len(self._unwritten):
            self._epoch.stop()
