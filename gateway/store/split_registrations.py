"""Apps, registrations and what is kept by their numbers, from a gateway's store into those of partitions; must never
change a token, nor let a registration lie where its device would not look for it.

Numbers of registrations are local to a store: each gets a new one, in the order of the old. The rows that hold many of
them (cursors of broadcasts, hours of the last connection) are made anew while they are read in that order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from gateway.model.cluster import SLOTS, first_bits, home_of
from gateway.model.registration import App
from gateway.store.deaths import token_of_death
from gateway.store.environment import Environment
from gateway.store.keys import ServerKeys
from gateway.store.records import (
    CURSOR_PAGE,
    CURSORS_A_PAGE,
    CURSORS_SHIFT,
    Db,
    build_registration,
    build_seqs,
    name_key,
    pack_u32,
    pack_u64,
    parse_app,
    parse_dead_order_key,
    parse_journal_head,
    parse_registration,
    parse_seqs,
    unpack_u32,
    unpack_u64,
)
from gateway.store.recovery import DEATHS_TOLD_KEY
from gateway.store.split_scratch import Seat, SplitScratch
from gateway.store.split_target import SplitTarget
from gateway.store.tokens import device_hash, token_of_triple

#: registrations in a row of SEEN, four bytes each
_SEEN_SHIFT = 10
_SEEN_BYTES = 4
#: tokens that a node keeps in RAM because they do not say their partition: about 130 bytes each
MOST_STRAYS = 1_000_000


class TooManyStrays(Exception):
    """More tokens lie elsewhere than their first bits say than nodes may hold."""


class _Pages:
    """Rows of one database that hold an entry for each of many numbers, made for one partition."""

    def __init__(self, target: SplitTarget, db: Db, shift: int, entry_bytes: int) -> None:
        self._target = target
        self._db = db
        self._shift = shift
        self._bytes = entry_bytes
        self._page = 0
        self._raw = bytearray(entry_bytes << shift)
        self._any = False

    def put(self, number: int, entry: bytes) -> None:
        """In rising order of the numbers."""
        if number >> self._shift != self._page:
            self.flush()
            self._page = number >> self._shift
        if any(entry):
            place = (number & (1 << self._shift) - 1) * self._bytes
            self._raw[place : place + self._bytes] = entry
            self._any = True

    def flush(self) -> None:
        if self._any:
            self._target.put(self._db, pack_u32(self._page), bytes(self._raw))
        self._raw = bytearray(self._bytes << self._shift)
        self._any = False


class _OldPages:
    """The same of the store that is split, read."""

    def __init__(self, source: Environment, db: Db, shift: int, entry_bytes: int) -> None:
        self._source = source
        self._db = db
        self._shift = shift
        self._bytes = entry_bytes
        self._page = -1
        self._raw = b""

    def of(self, number: int) -> bytes:
        if number >> self._shift != self._page:
            self._page = number >> self._shift
            self._raw = self._source.get(self._db, pack_u32(self._page)) or b""
        place = (number & (1 << self._shift) - 1) * self._bytes
        return self._raw[place : place + self._bytes]


class SplitRegistrations:
    """One thread. `moved`: sequence of each broadcast that lives on and the one it has in the fleet, ascending."""

    def __init__(
        self,
        source: Environment,
        keys: ServerKeys,
        targets: Sequence[SplitTarget],
        scratch: SplitScratch,
        moved: Sequence[tuple[int, int]],
        tick: Callable[[], None],
    ) -> None:
        self._source = source
        self._keys = keys
        self._targets = targets
        self._scratch = scratch
        self._old = [old for old, _ in moved]
        self._new = dict(moved)
        self._tick = tick
        self.apps: dict[int, App] = {}
        #: token → slot of those that lie elsewhere than their first bits say
        self.strays: dict[bytes, int] = {}
        self.registrations = self.dead = 0

    def partition_of(self, token: bytes) -> int:
        return self.strays.get(token, first_bits(token)) * len(self._targets) // SLOTS

    def home(self, app: str) -> int:
        return home_of(app, len(self._targets))

    def run(self) -> None:
        self._apps()
        self._registrations()
        self._revoked()
        self._of_apps()

    def _apps(self) -> None:
        for key, raw in self._source.scan(Db.APPS):
            self.apps[unpack_u32(key)] = parse_app(raw)
            for target in self._targets:
                target.put(Db.APPS, key, raw)

    # --- registrations --------------------------------------------------------------------------------------

    def _registrations(self) -> None:
        old_cursors = _OldPages(self._source, Db.CURSORS, CURSORS_SHIFT, CURSOR_PAGE.size // CURSORS_A_PAGE)
        old_seen = _OldPages(self._source, Db.SEEN, _SEEN_SHIFT, _SEEN_BYTES)
        cursors = [_Pages(t, Db.CURSORS, CURSORS_SHIFT, CURSOR_PAGE.size // CURSORS_A_PAGE) for t in self._targets]
        seen = [_Pages(t, Db.SEEN, _SEEN_SHIFT, _SEEN_BYTES) for t in self._targets]
        for key, raw in self._source.scan(Db.REGISTRATIONS):
            old = unpack_u32(key)
            partition, number = self._registration(old, raw)
            cursor = self._cursor(int.from_bytes(old_cursors.of(old), "big"))
            cursors[partition].put(number, cursor.to_bytes(8, "big"))
            seen[partition].put(number, old_seen.of(old))
            if self._old:
                self._done(key, partition, number)
            self.registrations += 1
            self._tick()
        for pages in (*cursors, *seen):
            pages.flush()

    def _registration(self, old: int, raw: bytes) -> Seat:
        one = parse_registration(raw)
        slot = first_bits(one.token)
        if one.generation:
            # a device looks for its registration where the first token of its triple belongs
            first = token_of_triple(self._keys.token_key, one.device, one.app, one.account)
            if first_bits(first) != slot:
                slot = self.strays[one.token] = first_bits(first)
                if len(self.strays) > MOST_STRAYS:
                    raise TooManyStrays
        target = self._targets[slot * len(self._targets) // SLOTS]
        number = one.number = target.take_number()
        app = unpack_u32(raw[len(one.token) :])
        target.put(Db.REGISTRATIONS, pack_u32(number), build_registration(one, app))
        packed = pack_u32(number)
        if one.alias:
            target.put(Db.ALIASES, name_key(app, one.alias), packed)
        for tag in dict.fromkeys(one.tags):
            if tag:
                target.put(Db.TAGS, name_key(app, tag), packed)
        target.put(Db.DEVICES, device_hash(self._keys.hash_key, one.device), packed)
        seat = Seat(target.partition, number)
        self._scratch.put_seat(old, seat)
        return seat

    def _cursor(self, old: int) -> int:
        """Everything up to there was received; in the fleet up to the last one that lives on."""
        place = bisect_right(self._old, old)
        return self._new[self._old[place - 1]] if place else 0

    def _done(self, key: bytes, partition: int, number: int) -> None:
        raw = self._source.get(Db.DONE, key)
        if raw is None:
            return
        seqs = sorted(self._new[seq] for seq in parse_seqs(raw) if seq in self._new)
        if seqs:
            self._targets[partition].put(Db.DONE, pack_u32(number), build_seqs(seqs))

    # --- what is left of those that are gone ----------------------------------------------------------------

    def _revoked(self) -> None:
        for first, raw in self._source.scan(Db.TOMBSTONES):
            self._at(first).put(Db.TOMBSTONES, first, raw)
        for key, raw in self._source.scan(Db.DEAD):
            ordered = parse_dead_order_key(key)
            self._at(key[1:] if ordered is None else ordered[1]).put(Db.DEAD, key, raw)
            self.dead += ordered is None
        last = 0
        for key, raw in self._source.scan(Db.DEATHS):
            # cursors stay, and each partition goes on above all of them: a feed goes on where its reader left it
            self._at(token_of_death(raw)).put(Db.DEATHS, key, raw)
            last = max(last, unpack_u64(key[4:]))
        for target in self._targets:
            target.put(Db.META, DEATHS_TOLD_KEY, pack_u64(last))
        # how far a feed has come counts for the part of it in each partition
        for key, raw in self._source.scan(Db.POSITIONS):
            for target in self._targets:
                target.put(Db.POSITIONS, key, raw)

    def _at(self, token: bytes) -> SplitTarget:
        return self._targets[self.partition_of(token)]

    def _of_apps(self) -> None:
        for key, raw in self._source.scan(Db.QUOTAS):
            app = self.apps.get(unpack_u32(key))
            if app is not None:
                self._targets[self.home(app.name)].put(Db.QUOTAS, key, raw)


def live_broadcasts(source: Environment, now_s: int) -> list[int]:
    """Sequences of the broadcasts whose time is not over, ascending."""
    return [unpack_u64(key) for key, raw in source.scan(Db.BROADCASTS) if parse_journal_head(raw).expires_s >= now_s]
