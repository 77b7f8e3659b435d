"""Users of IM, who is signed in, friends and groups; must never answer anything of a user who was removed.

Nothing is read at a start, and nothing of a user is in RAM but what is not durable yet. That a user is there is told by
the user's data key: without it every answer is as if nothing had ever been there, also while the rest is still being
removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway.config.im_section import Im
from gateway.metrics import Metric, Metrics
from gateway.model.errors import NotFound
from gateway.model.im_people import Friend, Group, User
from gateway.model.im_ports import AddressTaken
from gateway.store.im_keys import UserKeys
from gateway.store.im_rows import (
    DEVICE,
    GONE_USER,
    GROUP,
    OLD_SESSION,
    SESSION,
    ImRows,
    owned_key,
    parse_owned_key,
    parse_task_key,
    task_key,
)
from gateway.store.im_unwritten import Unwritten, Values
from gateway.store.records import Db

#: rows of somebody who is removed that go at once; the rest go with the sweep
REMOVED_AT_ONCE = 1_000
#: sessions looked at in one call of `sweep`
_SLICE = 1_000


class UserStore:
    """Control thread only; model.im_ports.UserRecords. `rest_of` gathers removals of what else a user has, so many, and
    says whether there is more (im_removal.py)."""

    def __init__(
        self, unwritten: Unwritten, rows: ImRows, keys: UserKeys, metrics: Metrics, clock: Callable[[], int]
    ) -> None:
        self._unwritten = unwritten
        self._rows = rows
        self._keys = keys
        self._metrics = metrics
        self._clock = clock
        self.rest_of: Callable[[bytes, Values, int], bool] = lambda _user, _values, _limit: False
        self._sweeping = False
        self.configure(Im())

    def configure(self, im: Im) -> None:
        self._max_sessions = im.session_keys_per_user

    def _check(self, *users: bytes) -> None:
        for user in users:
            if not self._keys.is_there(user):
                raise NotFound("no such user")

    # --- users ----------------------------------------------------------------------------------------------

    def put_user(self, user: User) -> asyncio.Future[None]:
        before = self.user(user.user)
        new, old = self._names(user), self._names(before) if before is not None else set()
        values: Values = {(Db.IM_ADDRESSES, key): None for key in old - new}
        for key in new:
            raw = self._unwritten.get(Db.IM_ADDRESSES, key)
            if raw is None:
                values[Db.IM_ADDRESSES, key] = self._rows.seal_id(Db.IM_ADDRESSES, key, user.user)
            elif self._rows.open_id(Db.IM_ADDRESSES, key, raw) != user.user:
                raise AddressTaken("an address or the mailbox is another user's")
        values[Db.IM_USERS, user.user] = self._rows.seal_user(user)
        if before is not None:
            return self._unwritten.write(values)
        values[Db.IM_USER_KEYS, user.user] = self._keys.create(user.user)
        return self._unwritten.write(values, undone=lambda: self._keys.forget(user.user))

    def _names(self, user: User) -> set[bytes]:
        keys = {self._rows.address_key(address) for address in user.addresses}
        if user.mailbox:
            keys.add(self._rows.mailbox_key(user.mailbox))
        return keys

    def user(self, user: bytes) -> User | None:
        raw = self._unwritten.get(Db.IM_USERS, user)
        return None if raw is None else self._rows.open_user(user, raw)

    def find_user(self, address: str) -> bytes | None:
        return self._find(self._rows.address_key(address))

    def find_mailbox(self, local_part: str) -> bytes | None:
        return self._find(self._rows.mailbox_key(local_part))

    def _find(self, key: bytes) -> bytes | None:
        raw = self._unwritten.get(Db.IM_ADDRESSES, key)
        return None if raw is None else self._rows.open_id(Db.IM_ADDRESSES, key, raw)

    def remove_user(self, user: bytes) -> asyncio.Future[None]:
        """The key, the addresses and a first slice in one commit; the rest can not be read any more, and goes with the
        sweep."""
        record = self.user(user)
        values: Values = {}
        if record is not None:
            values = {(Db.IM_ADDRESSES, key): None for key in self._names(record)}
        values[Db.IM_USERS, user] = None
        values[Db.IM_USER_KEYS, user] = None
        if self.rest_of(user, values, REMOVED_AT_ONCE):
            values[Db.IM_TASKS, GONE_USER + user] = b""
        written = self._unwritten.write(values)
        self._keys.forget(user)
        return written

    # --- sessions of REST -----------------------------------------------------------------------------------

    def put_session(self, key_hash: bytes, user: bytes, until_ms: int) -> asyncio.Future[None]:
        """New, or with another end. Past the bound the one of the user's that ends first makes room."""
        self._check(user)
        key = self._rows.session_key(key_hash)
        values = self._session_removal(key)
        ended = [] if values else self._too_many(user)
        for old in ended:
            values |= self._session_removal(old)
        values[Db.IM_SESSIONS, key] = self._rows.seal_session(key, until_ms, user)
        values[Db.IM_OWNED, owned_key(user, SESSION, key)] = b""
        values[Db.IM_TASKS, _session_end(key, until_ms)] = b""
        written = self._unwritten.write(values)
        if ended:
            self._metrics.count(Metric.IM_SESSION_KEYS_ENDED, len(ended))
        return written

    def _too_many(self, user: bytes) -> list[bytes]:
        """Sessions of theirs that make room for one more."""
        keys = [parse_owned_key(key)[1] for key, _ in self._unwritten.range(Db.IM_OWNED, owned_key(user, SESSION))]
        over = len(keys) + 1 - self._max_sessions
        return sorted(keys, key=self._end_of)[:over] if over > 0 else []

    def _end_of(self, key: bytes) -> int:
        raw = self._unwritten.get(Db.IM_SESSIONS, key)
        return 0 if raw is None else self._rows.open_session(key, raw)[0]

    def _session_removal(self, key: bytes) -> Values:
        raw = self._unwritten.get(Db.IM_SESSIONS, key)
        if raw is None:
            return {}
        until_ms, user = self._rows.open_session(key, raw)
        return {
            (Db.IM_SESSIONS, key): None,
            (Db.IM_OWNED, owned_key(user, SESSION, key)): None,
            (Db.IM_TASKS, _session_end(key, until_ms)): None,
        }

    def session(self, key_hash: bytes) -> bytes | None:
        key = self._rows.session_key(key_hash)
        raw = self._unwritten.get(Db.IM_SESSIONS, key)
        if raw is None:
            return None
        until_ms, user = self._rows.open_session(key, raw)
        return user if until_ms > self._clock() and self._keys.is_there(user) else None

    def remove_session(self, key_hash: bytes) -> asyncio.Future[None]:
        return self._unwritten.write(self._session_removal(self._rows.session_key(key_hash)))

    def remove_sessions(self, user: bytes) -> asyncio.Future[None]:
        values: Values = {}
        for owned, _ in self._unwritten.range(Db.IM_OWNED, owned_key(user, SESSION)):
            values |= self._session_removal(parse_owned_key(owned)[1])
        return self._unwritten.write(values)

    # --- devices --------------------------------------------------------------------------------------------

    def sign_in(self, token: bytes, user: bytes) -> asyncio.Future[None]:
        self._check(user)
        values = self._device_removal(token)
        values[Db.IM_DEVICES, token] = self._rows.seal_id(Db.IM_DEVICES, token, user)
        values[Db.IM_OWNED, owned_key(user, DEVICE, token)] = b""
        return self._unwritten.write(values)

    def _device_removal(self, token: bytes) -> Values:
        raw = self._unwritten.get(Db.IM_DEVICES, token)
        if raw is None:
            return {}
        user = self._rows.open_id(Db.IM_DEVICES, token, raw)
        return {(Db.IM_DEVICES, token): None, (Db.IM_OWNED, owned_key(user, DEVICE, token)): None}

    def sign_out(self, token: bytes) -> asyncio.Future[None]:
        return self._unwritten.write(self._device_removal(token))

    def forget_device(self, token: bytes) -> None:
        """Its registration is revoked, in this turn of the loop."""
        values = self._device_removal(token)
        if values:
            self._unwritten.sweep(values, _nothing)

    def signed_in(self, token: bytes) -> bytes | None:
        raw = self._unwritten.get(Db.IM_DEVICES, token)
        if raw is None:
            return None
        user = self._rows.open_id(Db.IM_DEVICES, token, raw)
        return user if self._keys.is_there(user) else None

    def devices(self, user: bytes) -> list[bytes]:
        if not self._keys.is_there(user):
            return []
        return [parse_owned_key(key)[1] for key, _ in self._unwritten.range(Db.IM_OWNED, owned_key(user, DEVICE))]

    # --- friends --------------------------------------------------------------------------------------------

    def put_friends(self, friends: Sequence[Friend]) -> asyncio.Future[None]:
        values: Values = {}
        for friend in friends:
            self._check(friend.user, friend.other)
            key = self._rows.friend_key(friend.user, friend.other)
            values[Db.IM_FRIENDS, key] = self._rows.seal_friend(key, friend)
            back = self._rows.admirer_key(friend.user, friend.other)
            if not self._unwritten.is_there(Db.IM_OWNED, back):
                values[Db.IM_OWNED, back] = self._rows.seal_id(Db.IM_OWNED, back, friend.user)
        return self._unwritten.write(values)

    def remove_friends(self, pairs: Sequence[tuple[bytes, bytes]]) -> asyncio.Future[None]:
        values: Values = {}
        for pair in pairs:
            values |= self.friend_removal(*pair)
        return self._unwritten.write(values)

    def friend_removal(self, user: bytes, other: bytes) -> Values:
        return {
            (Db.IM_FRIENDS, self._rows.friend_key(user, other)): None,
            (Db.IM_OWNED, self._rows.admirer_key(user, other)): None,
        }

    def friend(self, user: bytes, other: bytes) -> Friend | None:
        key = self._rows.friend_key(user, other)
        raw = self._unwritten.get(Db.IM_FRIENDS, key)
        if raw is None or not self._keys.is_there(user) or not self._keys.is_there(other):
            return None
        return self._rows.open_friend(key, raw)

    def friends(self, user: bytes) -> list[Friend]:
        """Also those who are being removed, until the sweep comes to them."""
        if not self._keys.is_there(user):
            return []
        return [self._rows.open_friend(key, raw) for key, raw in self._unwritten.range(Db.IM_FRIENDS, user)]

    # --- groups ---------------------------------------------------------------------------------------------

    def put_group(self, group: Group) -> asyncio.Future[None]:
        self._check(*group.members)
        return self._unwritten.write(self.group_change(self.group(group.group), group))

    def group_change(self, before: Group | None, group: Group) -> Values:
        """What makes `before` into `group`."""
        values: Values = {}
        old, new = set(before.members if before is not None else ()), set(group.members)
        for member in old - new:
            values[Db.IM_OWNED, self._rows.membership_key(member, group.group)] = None
        for member in new - old:
            key = self._rows.membership_key(member, group.group)
            values[Db.IM_OWNED, key] = self._rows.seal_id(Db.IM_OWNED, key, group.group)
        values[Db.IM_GROUPS, group.group] = self._rows.seal_group(group) if new else None
        return values

    def group(self, group: bytes) -> Group | None:
        raw = self._unwritten.get(Db.IM_GROUPS, group)
        return None if raw is None else self._rows.open_group(group, raw)

    def groups(self, user: bytes) -> list[Group]:
        if not self._keys.is_there(user):
            return []
        rows = self._unwritten.range(Db.IM_OWNED, owned_key(user, GROUP))
        found = (self.group(self._rows.open_id(Db.IM_OWNED, key, raw)) for key, raw in rows)
        return [group for group in found if group is not None]

    # --- sweep ----------------------------------------------------------------------------------------------

    def sweep(self) -> bool:
        """Remove a slice of sessions that are over; True where there are more."""
        if not self._unwritten.writable:
            return False
        if self._sweeping:
            return True
        now_s = self._clock() // 1_000
        values: Values = {}
        seen = 0
        for task, _ in self._unwritten.range(Db.IM_TASKS, OLD_SESSION, limit=_SLICE):
            at_s, key = parse_task_key(task)
            if at_s > now_s:
                break
            seen += 1
            values |= self._session_removal(key)
            values[Db.IM_TASKS, task] = None
        if values:
            self._sweeping = True
            self._unwritten.sweep(values, self._swept)
        return seen == _SLICE

    def _swept(self) -> None:
        self._sweeping = False


def _nothing() -> None:
    """The revocation itself has a future."""


def _session_end(key: bytes, until_ms: int) -> bytes:
    return task_key(OLD_SESSION, until_ms // 1_000 + 1, key)
