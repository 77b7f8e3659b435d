"""Users, accounts and logs in RAM, by the ports of gateway/model/im_ports.py: for tests of the rooms above the store.

Counts what it is asked (`calls`), so that a test can see whether two questions cost the same; refuses all writes while
`is_down`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from gateway.model.errors import NotFound, QueueFull, StoreUnavailable
from gateway.model.im import Conversation, Envelope
from gateway.model.im_people import Account, Friend, Group, Item, ItemKind, Outgoing, User
from gateway.model.im_ports import AddressTaken, Appended


class _Records:
    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.is_down = False
        #: while set, no commit is over; `release` ends them
        self.holds = False
        self._held: list[asyncio.Future[None]] = []

    def release(self) -> None:
        self.holds = False
        for future in self._held:
            if not future.done():
                future.set_result(None)
        self._held.clear()

    def _read(self, name: str) -> None:
        self.calls[name] += 1

    def _write(self, name: str) -> None:
        """Before anything is changed."""
        self.calls[name] += 1
        if self.is_down:
            raise StoreUnavailable

    def _done(self) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.holds:
            self._held.append(future)
        else:
            future.set_result(None)
        return future


class UsersInRam(_Records):
    """UserRecords."""

    def __init__(self, now_ms: int = 0) -> None:
        super().__init__()
        self.now_ms = now_ms
        self._users: dict[bytes, User] = {}
        self._sessions: dict[bytes, tuple[bytes, int]] = {}
        self._tokens: dict[bytes, bytes] = {}
        self._friends: dict[tuple[bytes, bytes], Friend] = {}
        self._groups: dict[bytes, Group] = {}

    def _check(self, *users: bytes) -> None:
        """As the store does: nothing is written of somebody who is not there."""
        if any(user not in self._users for user in users):
            raise NotFound("no such user")

    def put_user(self, user: User) -> asyncio.Future[None]:
        self._write("put_user")
        for other in self._users.values():
            if other.user == user.user:
                continue
            if set(other.addresses) & set(user.addresses):
                raise AddressTaken("address")
            if user.mailbox and other.mailbox == user.mailbox:
                raise AddressTaken("mailbox")
        self._users[user.user] = user
        return self._done()

    def user(self, user: bytes) -> User | None:
        self._read("user")
        return self._users.get(user)

    def find_user(self, address: str) -> bytes | None:
        self._read("find_user")
        return next((one.user for one in self._users.values() if address in one.addresses), None)

    def find_mailbox(self, local_part: str) -> bytes | None:
        self._read("find_mailbox")
        return next((one.user for one in self._users.values() if one.mailbox == local_part != ""), None)

    def remove_user(self, user: bytes) -> asyncio.Future[None]:
        self._write("remove_user")
        self._users.pop(user, None)
        self._sessions = {key: value for key, value in self._sessions.items() if value[0] != user}
        self._tokens = {token: owner for token, owner in self._tokens.items() if owner != user}
        self._friends = {pair: friend for pair, friend in self._friends.items() if user not in pair}
        return self._done()

    def put_session(self, key_hash: bytes, user: bytes, until_ms: int) -> asyncio.Future[None]:
        self._write("put_session")
        self._check(user)
        self._sessions[key_hash] = (user, until_ms)
        return self._done()

    def session(self, key_hash: bytes) -> bytes | None:
        self._read("session")
        user, until_ms = self._sessions.get(key_hash, (None, 0))
        return user if until_ms > self.now_ms else None

    def remove_session(self, key_hash: bytes) -> asyncio.Future[None]:
        self._write("remove_session")
        self._sessions.pop(key_hash, None)
        return self._done()

    def remove_sessions(self, user: bytes) -> asyncio.Future[None]:
        self._write("remove_sessions")
        self._sessions = {key: value for key, value in self._sessions.items() if value[0] != user}
        return self._done()

    def sign_in(self, token: bytes, user: bytes) -> asyncio.Future[None]:
        self._write("sign_in")
        self._check(user)
        self._tokens[token] = user
        return self._done()

    def sign_out(self, token: bytes) -> asyncio.Future[None]:
        self._write("sign_out")
        self._tokens.pop(token, None)
        return self._done()

    def signed_in(self, token: bytes) -> bytes | None:
        self._read("signed_in")
        return self._tokens.get(token)

    def devices(self, user: bytes) -> list[bytes]:
        self._read("devices")
        return [token for token, owner in self._tokens.items() if owner == user]

    def put_friends(self, friends: Sequence[Friend]) -> asyncio.Future[None]:
        self._write("put_friends")
        self._check(*(one for friend in friends for one in (friend.user, friend.other)))
        self._friends.update({(friend.user, friend.other): friend for friend in friends})
        return self._done()

    def remove_friends(self, pairs: Sequence[tuple[bytes, bytes]]) -> asyncio.Future[None]:
        self._write("remove_friends")
        for pair in pairs:
            self._friends.pop(pair, None)
        return self._done()

    def friend(self, user: bytes, other: bytes) -> Friend | None:
        self._read("friend")
        return self._friends.get((user, other))

    def friends(self, user: bytes) -> list[Friend]:
        self._read("friends")
        return [friend for friend in self._friends.values() if friend.user == user]

    def put_group(self, group: Group) -> asyncio.Future[None]:
        self._write("put_group")
        self._check(*group.members)
        if group.members:
            self._groups[group.group] = group
        else:
            self._groups.pop(group.group, None)
        return self._done()

    def group(self, group: bytes) -> Group | None:
        self._read("group")
        return self._groups.get(group)

    def groups(self, user: bytes) -> list[Group]:
        self._read("groups")
        return [group for group in self._groups.values() if user in group.members]


class AccountsInRam(_Records):
    """AccountRecords; nothing is really sealed."""

    def __init__(self) -> None:
        super().__init__()
        self._accounts: dict[int, Account] = {}
        self.cursors: dict[int, bytes] = {}
        self._last = 0

    def reserve(self) -> int:
        self._last += 1
        return self._last

    def seal(self, user: bytes, number: int, network: str, values: dict[str, str]) -> bytes:
        self._read("seal")
        return msgspec.json.encode([user.hex(), number, network, values])

    def unseal(self, account: Account) -> dict[str, str]:
        self._read("unseal")
        user, number, network, values = msgspec.json.decode(account.sealed)
        assert (user, number, network) == (account.user.hex(), account.number, account.network)
        assert isinstance(values, dict)
        return values

    def put_account(self, account: Account) -> asyncio.Future[None]:
        self._write("put_account")
        for other in self._accounts.values():
            if other.user == account.user and other.number != account.number and other.name == account.name:
                raise AddressTaken("name")
        self._accounts[account.number] = account
        return self._done()

    def account(self, number: int) -> Account | None:
        self._read("account")
        return self._accounts.get(number)

    def accounts(self, user: bytes) -> list[Account]:
        self._read("accounts")
        return [account for account in self._accounts.values() if account.user == user]

    def remove_account(self, number: int) -> asyncio.Future[None]:
        self._write("remove_account")
        self._accounts.pop(number, None)
        self.cursors.pop(number, None)
        return self._done()

    def cursor(self, account: int) -> bytes | None:
        return self.cursors.get(account)

    def count(self) -> int:
        return len(self._accounts)


class LogInRam(_Records):
    """LogRecords; `accounts` gets the cursors."""

    def __init__(self, accounts: AccountsInRam | None = None, *, most_outgoing: int = 1_000) -> None:
        super().__init__()
        self._accounts = accounts or AccountsInRam()
        self._most = most_outgoing
        self.items: defaultdict[bytes, list[Item]] = defaultdict(list)
        self._seen: set[tuple[bytes, int, tuple[str, str, int]]] = set()
        self._outgoing: dict[int, Outgoing] = {}
        self._last_outgoing = 0

    def append(self, user: bytes, items: Sequence[Item], *, account: int = 0, cursor: bytes | None = None) -> Appended:
        self._write("append")
        if cursor is not None:
            self._accounts.cursors[account] = cursor
        return Appended(list(self._append(user, items)), self._done())

    def _append(self, user: bytes, items: Sequence[Item]) -> Iterable[Item]:
        for item in items:
            if item.kind is ItemKind.MESSAGE and item.envelope is not None:
                key = (user, item.account, item.envelope.key)
                if key in self._seen:
                    continue
                self._seen.add(key)
            appended = msgspec.structs.replace(item, cursor=len(self.items[user]) + 1)
            self.items[user].append(appended)
            yield appended

    def after(self, user: bytes, cursor: int, limit: int) -> list[Item]:
        return [item for item in self.items[user] if item.cursor > cursor][:limit]

    def message(self, user: bytes, account: int, conversation: Conversation, remote_id: str) -> Envelope | None:
        for item in self.items[user]:
            envelope = item.envelope
            if envelope is not None and item.account == account and envelope.remote_id == remote_id:
                return envelope if envelope.conversation.remote_id == conversation.remote_id else None
        return None

    def first(self, user: bytes) -> int:
        return 1 if self.items[user] else 0

    def last(self, user: bytes) -> int:
        return len(self.items[user])

    def reserve_outgoing(self) -> int:
        self._last_outgoing += 1
        return self._last_outgoing

    def put_outgoing(self, outgoing: Sequence[Outgoing]) -> asyncio.Future[None]:
        self._write("put_outgoing")
        waiting = {**self._outgoing, **{one.number: one for one in outgoing}}
        counts = Counter(one.account for one in waiting.values())
        if any(counts[one.account] > self._most for one in outgoing):
            raise QueueFull
        self._outgoing = waiting
        return self._done()

    def settle(self, outgoing: Outgoing, item: Item) -> Appended:
        self._write("settle")
        self._outgoing.pop(outgoing.number, None)
        return Appended(list(self._append(outgoing.user, [item])), self._done())

    def outgoing(self, account: int) -> list[Outgoing]:
        return sorted((one for one in self._outgoing.values() if one.account == account), key=lambda one: one.number)

    def waiting_accounts(self) -> list[int]:
        return sorted({one.account for one in self._outgoing.values()})
