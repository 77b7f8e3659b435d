"""Removes what a user or an account had, a slice at a time; must never touch what is another user's, but for what both
had: a friendship, a group.

What is removed could not be read any more since the user's key has gone; this gives the room back.
"""

from __future__ import annotations

from msgspec.structs import replace

from gateway.store.im_accounts import AccountStore
from gateway.store.im_rows import (
    ACCOUNT,
    ADMIRER,
    DEVICE,
    GONE_ACCOUNT,
    GONE_USER,
    GROUP,
    SESSION,
    ImRows,
    outgoing_key,
    parse_number,
    parse_owned_key,
)
from gateway.store.im_unwritten import Unwritten, Values
from gateway.store.im_users import UserStore
from gateway.store.records import Db

#: rows in one call of `sweep`, about
_SLICE = 1_000


class Removal:
    """Control thread only."""

    def __init__(self, unwritten: Unwritten, rows: ImRows, users: UserStore, accounts: AccountStore) -> None:
        self._unwritten = unwritten
        self._rows = rows
        self._users = users
        self._accounts = accounts
        self._sweeping = False
        users.rest_of = self.rest_of

    def rest_of(self, user: bytes, values: Values, limit: int) -> bool:
        """Put removals of about so many rows of theirs into `values`; True where there are more."""
        for key, raw in self._unwritten.range(Db.IM_OWNED, user, limit=limit + 1):
            if len(values) >= limit:
                return True
            values[Db.IM_OWNED, key] = None
            self._owned(user, key, raw, values, limit)
        for key, raw in self._unwritten.range(Db.IM_FRIENDS, user, limit=limit + 1):
            if len(values) >= limit:
                return True
            values |= self._users.friend_removal(user, self._rows.open_friend(key, raw).other)
        for db in (Db.IM_LOG, Db.IM_SEEN):
            left = limit - len(values)
            rows = self._unwritten.range(db, user, limit=max(left, 0) + 1)
            for key, _ in rows[: max(left, 0)]:
                values[db, key] = None
            if len(rows) > max(left, 0):
                return True
        values[Db.IM_LOGS, user] = None
        return False

    def _owned(self, user: bytes, key: bytes, raw: bytes, values: Values, limit: int) -> None:
        kind, place = parse_owned_key(key)
        if kind == SESSION:
            values[Db.IM_SESSIONS, place] = None  # the task of its end finds nothing
        elif kind == DEVICE:
            values[Db.IM_DEVICES, place] = None
        elif kind == ADMIRER:
            values |= self._users.friend_removal(self._rows.open_id(Db.IM_OWNED, key, raw), user)
        elif kind == ACCOUNT:
            self._accounts.removal(user, parse_number(place), values, max(limit - len(values), 1))
        elif kind == GROUP:
            group = self._users.group(self._rows.open_id(Db.IM_OWNED, key, raw))
            if group is not None:
                members = tuple(member for member in group.members if member != user)
                owner = members[0] if members and group.owner == user else group.owner
                values |= self._users.group_change(group, replace(group, members=members, owner=owner))

    def sweep(self) -> bool:
        """A slice of what is left of those who are gone, also of a full store; True where there is more."""
        if self._sweeping:
            return True
        values: Values = {}
        more = False
        for task, _ in self._unwritten.range(Db.IM_TASKS, GONE_USER, limit=_SLICE):
            more = self.rest_of(task[1:], values, _SLICE)
            if more:
                break
            values[Db.IM_TASKS, task] = None
        for task, _ in self._unwritten.range(Db.IM_TASKS, GONE_ACCOUNT, limit=_SLICE):
            left = _SLICE - len(values)
            if left <= 0:
                more = True
                break
            rows = self._unwritten.range(Db.IM_OUTGOING, task[1:], outgoing_key(parse_number(task[1:]), 0), left + 1)
            for key, _ in rows[:left]:
                values[Db.IM_OUTGOING, key] = None
            if len(rows) > left:
                more = True
                break
            values[Db.IM_TASKS, task] = None
        if values:
            self._sweeping = True
            self._unwritten.sweep(values, self._swept)
        return more

    def _swept(self) -> None:
        self._sweeping = False
