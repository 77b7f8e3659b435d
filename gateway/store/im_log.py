"""Logs of IM users and what waits to be sent; must never move a cursor of a network without the lines that came with
it, nor have a message both settled and waiting.

Cursors of a log rise by one. One that somebody may have seen is never another line's, also where its commit failed or
the process was killed before it: then all logs go on at a higher multiple of 2²⁴. Of each log a small row tells how
long it is; the lines lie behind each other and are read from where a device was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from gateway.config.im_section import Im
from gateway.metrics import Metric, Metrics
from gateway.model.errors import NotFound, QueueFull
from gateway.model.im import Conversation, Envelope, Person
from gateway.model.im_people import Item, ItemKind, Outgoing
from gateway.model.im_ports import Appended
from gateway.store.im_accounts import AccountStore
from gateway.store.im_epoch import Epoch
from gateway.store.im_keys import UserCipher, UserKeys
from gateway.store.im_rows import (
    LONG_LOG,
    OLD_LINES,
    ImRows,
    LineHead,
    LogHead,
    build_cursor,
    build_line,
    build_log_head,
    build_outgoing,
    log_key,
    outgoing_key,
    owner_of,
    parse_count,
    parse_line,
    parse_log_head,
    parse_log_key,
    parse_number,
    parse_outgoing,
    task_key,
)
from gateway.store.im_unwritten import Unwritten, Values
from gateway.store.records import Db, pack_u32, pack_u64, unpack_u64
from gateway.store.sequences import Sequences

#: a part of a log that is removed at once when it is old: of what is kept altogether, and at most
_PARTS = 64
_PART_MAX_S = 3_600


class LogStore:
    """Control thread only; model.im_ports.LogRecords."""

    def __init__(
        self,
        unwritten: Unwritten,
        rows: ImRows,
        keys: UserKeys,
        accounts: AccountStore,
        sequences: Sequences,
        epoch: Epoch,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], int],
    ) -> None:
        self._unwritten = unwritten
        self._rows = rows
        self._keys = keys
        self._accounts = accounts
        self._sequences = sequences
        self._epoch = epoch
        self._metrics = metrics
        self._loop = loop
        self._clock = clock
        #: a log has become too long: the sweep is wanted soon
        self.hurry: Callable[[], None] = lambda: None
        self.configure(Im())

    def configure(self, im: Im) -> None:
        self._max_items, self._max_bytes = im.history_items, im.history_bytes
        self._max_outgoing = im.outgoing_per_account
        self.part_s = min(_PART_MAX_S, max(1, int(im.history_days * 86_400 / _PARTS)))

    def _over(self) -> asyncio.Future[None]:
        over: asyncio.Future[None] = self._loop.create_future()
        over.set_result(None)
        return over

    # --- the log --------------------------------------------------------------------------------------------

    def append(self, user: bytes, items: Sequence[Item], *, account: int = 0, cursor: bytes | None = None) -> Appended:
        """Nothing is written of a user who is gone (counted), and no cursor of an account that is."""
        values: Values = {}
        cipher = self._keys.cipher(user)
        if cipher is not None and cursor is not None and self._accounts.owner(account) == user:
            values[Db.IM_CURSORS, pack_u64(account)] = build_cursor(cipher.aead, account, cursor)
        return self._append(user, cipher, items, account, values)

    def _append(
        self, user: bytes, cipher: UserCipher | None, items: Sequence[Item], account: int, values: Values
    ) -> Appended:
        if cipher is None:
            if items:
                self._metrics.count(Metric.IM_LINES_DROPPED, len(items), label="user_gone")
            return Appended([], self._over())
        head = self._head(user)
        now_s = self._clock() // 1_000
        last, new, is_long = max(head.last, self._epoch.first() - 1), list[Item](), False
        size = head.size
        for item in items:
            seen = self._rows.seen_key(user, item, item.account or account)
            if seen is not None:
                if (Db.IM_SEEN, seen) in values or self._unwritten.is_there(Db.IM_SEEN, seen):
                    continue
                values[Db.IM_SEEN, seen] = pack_u64(last + 1)
            last += 1
            kept = replace(item, cursor=last)
            key = log_key(user, last)
            line = LineHead(now_s, b"" if seen is None else seen[len(user) :])
            raw = values[Db.IM_LOG, key] = build_line(cipher.aead, key, line, kept)
            size += len(key) + len(raw)
            new.append(kept)
        if new:
            part_s = head.part_s
            if now_s >= part_s + self.part_s or now_s < part_s:
                part_s = now_s
                values[Db.IM_TASKS, task_key(OLD_LINES, now_s, user)] = b""
            lines = head.lines + len(new)
            values[Db.IM_LOGS, user] = build_log_head(LogHead(lines, last, part_s, size))
            if lines > self._max_items or size > self._max_bytes:
                values[Db.IM_TASKS, LONG_LOG + user] = b""
                is_long = True
        if not values:
            return Appended(new, self._under_way(items))
        written = self._unwritten.write(values, undone=self._epoch.end)
        if len(new) < len(items):
            self._metrics.count(Metric.IM_DUPLICATES, len(items) - len(new))
        if is_long:
            self.hurry()
        return Appended(new, written)

    def _under_way(self, items: Sequence[Item]) -> asyncio.Future[None]:
        """All of it is in the log: when what is there already is durable."""
        if items:
            self._metrics.count(Metric.IM_DUPLICATES, len(items))
            if len(self._unwritten):
                return self._unwritten.write({})
        return self._over()

    def _head(self, user: bytes) -> LogHead:
        raw = self._unwritten.get(Db.IM_LOGS, user)
        return LogHead() if raw is None else parse_log_head(raw)

    def after(self, user: bytes, cursor: int, limit: int) -> list[Item]:
        cipher = self._keys.cipher(user)
        if cipher is None or limit <= 0 or cursor >= (1 << 63):
            return []
        rows = self._unwritten.range(Db.IM_LOG, user, log_key(user, max(cursor, 0) + 1), limit)
        return [parse_line(cipher.aead, key, raw) for key, raw in rows]

    def message(self, user: bytes, account: int, conversation: Conversation, remote_id: str) -> Envelope | None:
        wanted = Envelope("", conversation, Person(""), remote_id=remote_id)
        key = self._rows.seen_key(user, Item(ItemKind.MESSAGE, 0, envelope=wanted), account)
        place = None if key is None else self._unwritten.get(Db.IM_SEEN, key)
        items = [] if not place else self.after(user, unpack_u64(place) - 1, 1)
        found = items[0].envelope if items else None
        return found if found is not None and found.key == wanted.key else None

    def first(self, user: bytes) -> int:
        if not self._keys.is_there(user):
            return 0
        rows = self._unwritten.range(Db.IM_LOG, user, limit=1)
        return parse_log_key(rows[0][0])[1] if rows else 0

    def last(self, user: bytes) -> int:
        """The highest that was given, also where its line has gone since."""
        return self._head(user).last if self._keys.is_there(user) else 0

    # --- what waits to be sent ------------------------------------------------------------------------------

    def reserve_outgoing(self) -> int:
        return self._sequences.reserve(1)

    def put_outgoing(self, outgoing: Sequence[Outgoing]) -> asyncio.Future[None]:
        """All or nothing. Another try of what is over is left out."""
        values: Values = {}
        added: dict[int, int] = {}
        for each in outgoing:
            cipher = self._keys.cipher(each.user)
            owner = self._accounts.owner(each.account)
            key = outgoing_key(each.account, each.number)
            is_new = (Db.IM_OUTGOING, key) not in values and not self._unwritten.is_there(Db.IM_OUTGOING, key)
            if is_new and self._unwritten.is_there(Db.IM_SEEN, self._rows.result_key(each.user, each.number)):
                continue
            if cipher is None or owner != each.user:
                if each.tries or each.is_in_doubt:
                    continue  # its account was removed, and its queue with it
                raise NotFound("no such account")
            if is_new:
                added[each.account] = added.get(each.account, 0) + 1
            values[Db.IM_OUTGOING, key] = build_outgoing(cipher.aead, each)
        for account, count in added.items():
            waiting = self._waiting(account) + count
            if waiting > self._max_outgoing:
                raise QueueFull("too much waits to be sent from this account; nothing was accepted")
            values[Db.IM_QUEUES, pack_u64(account)] = pack_u32(waiting)
        return self._unwritten.write(values)

    def _waiting(self, account: int) -> int:
        return parse_count(self._unwritten.get(Db.IM_QUEUES, pack_u64(account)))

    def settle(self, outgoing: Outgoing, item: Item) -> Appended:
        """Once: a second RESULT of the same is left out. Also where it waits no longer because its account was
        removed."""
        if item.outgoing != outgoing.number:
            raise ValueError("this is the result of another one")
        values: Values = {}
        key = outgoing_key(outgoing.account, outgoing.number)
        if self._unwritten.is_there(Db.IM_OUTGOING, key):
            values[Db.IM_OUTGOING, key] = None
            waiting = self._waiting(outgoing.account)
            if waiting:
                left = pack_u32(waiting - 1) if waiting > 1 else None
                values[Db.IM_QUEUES, pack_u64(outgoing.account)] = left
        return self._append(outgoing.user, self._keys.cipher(outgoing.user), [item], outgoing.account, values)

    def outgoing(self, account: int) -> list[Outgoing]:
        user = self._accounts.owner(account)
        cipher = None if user is None else self._keys.cipher(user)
        if cipher is None:
            return []
        rows = self._unwritten.range(Db.IM_OUTGOING, pack_u64(account))
        return [parse_outgoing(cipher.aead, key, raw) for key, raw in rows if owner_of(raw) == user]

    def waiting_accounts(self) -> list[int]:
        numbers = (parse_number(key) for key, _ in self._unwritten.range(Db.IM_QUEUES, b""))
        return [number for number in numbers if self._accounts.owner(number) is not None]
