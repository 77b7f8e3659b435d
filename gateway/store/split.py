"""The store of a gateway that was alone, split into those of a fleet's partitions; must never write to it, nor leave
out what was accepted.

What is made is a view of the same rows: tokens, device secrets, API keys and push ids stay good. What a fleet can not
have is refused before anything is made. All of it is on disk, whatever the store's size: RAM has a slice of each
partition's rows and the tokens that lie elsewhere than their first bits say.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgspec

from gateway.config.sections import Store as StoreConfig
from gateway.model.cluster import broadcast_seq
from gateway.model.errors import ConfigError
from gateway.model.notification import Notification
from gateway.store.environment import DATA_FILE, WRITE_ERRORS, Environment, is_of_node
from gateway.store.keys import ServerKeys
from gateway.store.records import Db
from gateway.store.split_pushes import SplitPushes
from gateway.store.split_registrations import MOST_STRAYS, SplitRegistrations, TooManyStrays, live_broadcasts
from gateway.store.split_scratch import SplitScratch
from gateway.store.split_target import SplitTarget

_FIELD = "store.path"
#: what a fleet can not have, by the databases that tell of it
_ALONE = (
    ("IM", tuple(db for db in Db if db.name.startswith("IM_"))),
    ("media of IM", tuple(db for db in Db if db.name.startswith("MEDIA") or db == Db.UPLOADS)),
    (
        "cards and campaigns over them",
        (
            Db.CARDS,
            Db.CARD_NUMBERS,
            Db.CARD_CAPABILITY,
            Db.CARD_COUNTERS,
            Db.PAYLOADS,
            Db.DOWNLOADS,
            Db.OPEN_DOWNLOADS,
            Db.CAMPAIGNS,
        ),
    ),
    (
        "subscribers of an operator's network and their opaque ids",
        (Db.SUBSCRIBERS, Db.NETWORK_IDS, Db.OPAQUE_IDS, Db.OPAQUE_HISTORY, Db.OPAQUE_ENDS, Db.OPAQUE_NEWS),
    ),
    ("receipts of short messages that are waited for", (Db.SHORT_MESSAGES,)),
)
#: rows between two calls of the progress
_TICK_ROWS = 10_000


class Carried(msgspec.Struct):
    """What was in the store and is in the fleet."""

    apps: int = 0
    registrations: int = 0
    pending: int = 0
    scheduled: int = 0
    broadcasts: int = 0
    settled: int = 0
    receipts: int = 0
    dead_tokens: int = 0
    idempotency_keys: int = 0
    #: registrations whose token does not say their partition
    strays: int = 0
    #: rows of histories whose push is not known any more
    left_out: int = 0


class StoreSplit:
    """Open from the start; nobody else has the store until `close`. One thread."""

    def __init__(self, config: StoreConfig, folder: Path) -> None:
        """`config`: of the fleet, whose stores are made. ConfigError where this is no store, or one that is in use,
        or has what a fleet can not have."""
        if is_of_node(folder):
            raise ConfigError(f"{str(folder)!r} is of a node of a fleet: what it has is in NATS", field=_FIELD)
        if not (folder / DATA_FILE).exists():
            raise ConfigError(f"there is no store of a gateway in {str(folder)!r}", field=_FIELD)
        self.folder = folder
        self._config = config
        self.source = Environment.open(StoreConfig(path=str(folder)), readonly=True, exclusive=True)
        try:
            self._check()
            self.keys = ServerKeys.load(folder, may_create=False)
            self.live = live_broadcasts(self.source, time.time_ns() // 1_000_000_000)
        except BaseException:
            self.source.close()
            raise
        self.strays: dict[bytes, int] = {}
        self.carried = Carried()
        self._pushes: SplitPushes | None = None
        self._targets: list[SplitTarget] = []
        self._scratch: SplitScratch | None = None

    def _check(self) -> None:
        there = [what for what, dbs in _ALONE if any(self.source.entries(db) for db in dbs)]
        if there:
            raise ConfigError(
                f"the store has {'; '.join(there)}, which a fleet can not have: nothing was imported", field=_FIELD
            )

    def expected(self) -> Carried:
        """As far as the databases tell without being read."""
        entries = self.source.entries
        return Carried(
            apps=entries(Db.APPS),
            registrations=entries(Db.REGISTRATIONS),
            scheduled=entries(Db.SCHEDULED),
            broadcasts=len(self.live),
            dead_tokens=entries(Db.DEAD) // 2,
            idempotency_keys=entries(Db.IDEMPOTENCY),
        )

    def rows(self) -> int:
        return sum(self.source.entries(db) for db in Db)

    def run(self, work: Path, partitions: int, on_rows: Callable[[int], None]) -> list[SplitTarget]:
        """The stores of all partitions in folders below `work`, to be closed by who calls. ConfigError where there is
        no room for them, or this store is damaged."""
        rows = 0

        def tick() -> None:
            nonlocal rows
            rows += 1
            if rows % _TICK_ROWS == 0:
                on_rows(rows)

        try:
            scratch = self._scratch = SplitScratch(work / "scratch")
            for partition in range(partitions):
                self._targets.append(SplitTarget(self._config, work / str(partition), partition, partitions))
            self._split(scratch, tick)
        except TooManyStrays:
            raise ConfigError(
                f"more than {MOST_STRAYS:_} tokens were given to triples that had another before, and nodes keep these"
                " in RAM: this store can not be imported",
                field=_FIELD,
            ) from None
        except lmdb.MapFullError:
            raise ConfigError(
                f"a partition takes more than {self._config.max_bytes} bytes: raise it, or take more partitions",
                field="store.max_bytes",
            ) from None
        except (ValueError, IndexError, struct.error, msgspec.DecodeError) as exc:
            raise ConfigError(f"the folder holds a damaged store ({exc}); restore a backup", field=_FIELD) from exc
        except WRITE_ERRORS as exc:
            raise ConfigError(
                f"the partitions can not be made in {str(work)!r} ({exc}): name a folder with room, --work"
            ) from exc
        on_rows(rows)
        return self._targets

    def _split(self, scratch: SplitScratch, tick: Callable[[], None]) -> None:
        moved = [(seq, broadcast_seq(place)) for place, seq in enumerate(self.live, 1)]
        people = SplitRegistrations(self.source, self.keys, self._targets, scratch, moved, tick)
        people.run()
        pushes = self._pushes = SplitPushes(
            self.source, self._targets, scratch, people, self.live, time.time_ns() // 1_000_000_000, tick
        )
        pushes.run()
        for target in self._targets:
            target.finish()
        self.strays = people.strays
        self.carried = Carried(
            apps=len(people.apps),
            registrations=people.registrations,
            pending=pushes.pending,
            scheduled=pushes.scheduled,
            broadcasts=len(self.live),
            settled=pushes.settled,
            receipts=pushes.receipts,
            dead_tokens=people.dead,
            idempotency_keys=pushes.keys,
            strays=len(people.strays),
            left_out=pushes.left_out,
        )

    def told(self, seq: int) -> Notification:
        """A broadcast of `live`, as a fleet's stream tells it."""
        assert self._pushes is not None
        return self._pushes.told(seq)

    def close(self) -> None:
        for target in self._targets:
            target.close()
        if self._scratch is not None:
            self._scratch.close()
        self.source.close()
