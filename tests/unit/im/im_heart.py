"""Supervision and messaging in one process over records in RAM: what tests of the heart are built on."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from im_records_in_ram import AccountsInRam, LogInRam, UsersInRam
from im_scripted_network import Box, ScriptedNetwork

from gateway.config.im_section import Im
from gateway.im.messaging.delivery import Deliverer
from gateway.im.messaging.draft import Draft, Recipient
from gateway.im.messaging.expiry import Expiry
from gateway.im.messaging.incoming import Incoming
from gateway.im.messaging.outbox import Outbox, Verdict
from gateway.im.messaging.own import OwnMessages
from gateway.im.messaging.presence import Presence
from gateway.im.messaging.results import Results
from gateway.im.messaging.sending import Sending
from gateway.im.supervision.supervisor import Supervisor
from gateway.metrics import Metrics
from gateway.model.errors import Forbidden, NotFound, StoreUnavailable
from gateway.model.im import Connector, Media, MediaFile
from gateway.model.im_people import (
    Account,
    Friend,
    FriendState,
    Group,
    Item,
    ItemKind,
    Outgoing,
    User,
)
from gateway.model.im_ports import Appended, MediaRefused


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class IndexedUsers(UsersInRam):
    """Quick with thousands."""

    def __init__(self) -> None:
        super().__init__()
        self._devices: defaultdict[bytes, list[bytes]] = defaultdict(list)

    def add(self, user: bytes, name: str = "") -> None:
        self._users[user] = User(user, 0, name)

    def sign_in(self, token: bytes, user: bytes) -> asyncio.Future[None]:
        self._devices[user].append(token)
        return super().sign_in(token, user)

    def sign_out(self, token: bytes) -> asyncio.Future[None]:
        self._devices[self._tokens[token]].remove(token)
        return super().sign_out(token)

    def devices(self, user: bytes) -> list[bytes]:
        return list(self._devices[user])


class IndexedAccounts(AccountsInRam):
    def __init__(self) -> None:
        super().__init__()
        self._by_user: defaultdict[bytes, dict[int, None]] = defaultdict(dict)

    def put_account(self, account: Account) -> asyncio.Future[None]:
        self._write("put_account")
        self._accounts[account.number] = account
        self._by_user[account.user][account.number] = None
        return self._done()

    def accounts(self, user: bytes) -> list[Account]:
        return [self._accounts[number] for number in self._by_user[user] if number in self._accounts]


class FragileLog(LogInRam):
    """Commits can fail after they were taken, and are undone then, as the store's are."""

    def __init__(self, accounts: AccountsInRam, most_outgoing: int = 1_000) -> None:
        super().__init__(accounts, most_outgoing=most_outgoing)
        #: commits that will fail
        self.failing = 0
        #: told of each append
        self.on_append: Callable[[], None] = lambda: None

    def append(self, user: bytes, items: Sequence[Item], *, account: int = 0, cursor: bytes | None = None) -> Appended:
        self.on_append()
        if self.failing and not self.is_down:
            self.failing -= 1
            return Appended([], self._broken())
        return super().append(user, items, account=account, cursor=cursor)

    def settle(self, outgoing: Outgoing, item: Item) -> Appended:
        if self.failing and not self.is_down:
            self.failing -= 1
            return Appended([], self._broken())
        return super().settle(outgoing, item)

    @staticmethod
    def _broken() -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(StoreUnavailable())
        return future


class GateInRam:
    """UST's word, as far as these rooms ask for it."""

    def __init__(self, users: UsersInRam, accounts: AccountsInRam) -> None:
        self._users = users
        self._accounts = accounts

    def owner(self, account: int) -> Account | None:
        return self._accounts.account(account)

    def own_account(self, user: bytes, account: int | str) -> Account:
        for one in self._accounts.accounts(user):
            if account in (one.number, one.name):
                return one
        raise NotFound("no such account", field="account")

    def check_reachable(self, user: bytes, other: bytes) -> User:
        friend = self._users.friend(user, other)
        row = self._users.user(other)
        if friend is None or friend.state is not FriendState.FRIENDS or row is None:
            raise Forbidden("not a friend of yours", field="user")
        return row

    def own_group(self, user: bytes, group: bytes) -> Group:
        row = self._users.group(group)
        if row is None or user not in row.members:
            raise NotFound("no such group", field="group")
        return row


class PushesInRam:
    def __init__(self) -> None:
        self.pushed: defaultdict[bytes, list[Item]] = defaultdict(list)
        self.urgent: defaultdict[bytes, list[tuple[str, str]]] = defaultdict(list)
        self.told: defaultdict[bytes, list[Item]] = defaultdict(list)
        self.sequence = 0

    def push(self, token: bytes, item: Item, *, title: str = "", text: str = "", urgent: bool = True) -> int:
        self.pushed[token].append(item)
        if urgent:
            self.urgent[token].append((title, text))
        self.sequence += 1
        return self.sequence

    def tell(self, token: bytes, item: Item) -> None:
        self.told[token].append(item)


class Door:
    """Attendance."""

    def __init__(self) -> None:
        self.tokens: set[bytes] = set()
        self.on_connected: Callable[[bytes], None] = lambda _: None
        self.on_disconnected: Callable[[bytes], None] = lambda _: None

    def is_connected(self, token: bytes) -> bool:
        return token in self.tokens

    def come(self, token: bytes) -> None:
        self.tokens.add(token)
        self.on_connected(token)

    def go(self, token: bytes) -> None:
        self.tokens.discard(token)
        self.on_disconnected(token)


class MediaInRam:
    def __init__(self) -> None:
        self.files: dict[tuple[bytes, str], bytes] = {}
        self.refusal = ""

    async def take(self, chunks: AsyncIterator[bytes], *, user: bytes, media: Media) -> Media:
        data = b"".join([chunk async for chunk in chunks])
        if self.refusal:
            raise MediaRefused(self.refusal)
        ref = f"kept-{media.ref}"
        self.files[user, ref] = data
        return Media(ref, media.mime, len(data))

    def file(self, user: bytes, ref: str) -> MediaFile | None:
        data = self.files.get((user, ref))
        return None if data is None else MediaFile(Media(ref, size=len(data)), f"/kept/{ref}", f"https://x/{ref}")

    def share(self, ref: str, user: bytes) -> None:
        self.files[user, ref] = b""


class Heart:
    """Everything together; `close` in the end."""

    def __init__(
        self, network: ScriptedNetwork | None = None, *, most_outgoing: int = 1_000, **settings: object
    ) -> None:
        quick: dict[str, object] = {
            "linger_s": 0.05,
            "retry_s": 0.01,
            "retry_max_s": 0.05,
            "stable_s": 10.0,
            "connect_s": 5.0,
            "request_s": 5.0,
            "connects_per_s": 10_000.0,
            "outage_s": 0.2,
            "breaker_s": 0.05,
            "presence_s": 0.02,
            "close_s": 1.0,
            "store_retry_s": 0.02,
            "sends_per_minute": 1_000_000,
        }
        self.config = Im(app="im", **{**quick, **settings})  # type: ignore[arg-type]
        self.network = network or ScriptedNetwork()
        self.connectors: dict[str, Connector] = {"scripted": self.network}
        self.pushes = PushesInRam()
        self.media = MediaInRam()
        self.door = Door()
        self.keep(most_outgoing)
        self.start()

    def keep(self, most_outgoing: int) -> None:
        """Records, and the gate that reads them."""
        self.users = IndexedUsers()
        self.accounts = IndexedAccounts()
        self.log = FragileLog(self.accounts, most_outgoing)
        self.gate = GateInRam(self.users, self.accounts)

    def start(self) -> None:
        """Also again, over what the records hold: as after a kill."""
        self.metrics = Metrics(process=False)
        connectors = self.connectors
        self.deliverer = Deliverer(self.log, self.users, self.pushes)
        results = Results(self.log, self.deliverer, self.metrics, now_ms, self.config.store_retry_s)
        self.sending = Sending(self.log, results, self.media, self.config, self.metrics, now_ms)
        self.expiry = Expiry(self.log, self.sending, now_ms)
        self.presence = Presence(self.users, self.deliverer, now_ms, self.config.presence_s)
        self.supervisor = Supervisor(
            gate=self.gate,
            users=self.users,
            accounts=self.accounts,
            attendance=self.door,
            connectors=connectors,
            delivering=self.deliverer,
            incoming=Incoming(self.deliverer, self.media, self.config, self.metrics, now_ms),
            sending=self.sending,
            expiry=self.expiry,
            config=self.config,
            metrics=self.metrics,
            clock=now_ms,
            on_presence=self.presence.changed,
        )
        self.presence.is_present = self.supervisor.is_present
        self.own = OwnMessages(
            self.gate,
            self.users,
            self.deliverer,
            self.media,
            self.metrics,
            now_ms,
            self.config.sends_per_minute,
        )
        self.outbox = Outbox(
            gate=self.gate,
            log=self.log,
            own=self.own,
            media=self.media,
            supervision=self.supervisor,
            connectors=connectors,
            expiry=self.expiry,
            config=self.config,
            metrics=self.metrics,
            clock=now_ms,
        )
        self.supervisor.start()

    async def close(self) -> None:
        await self.supervisor.stop()
        self.presence.close()

    # --- people ------------------------------------------------------------

    def user(self, name: str) -> bytes:
        """With one device, whose token is the name."""
        user = name.encode().ljust(16, b".")
        self.users.add(user, name)
        self.users.sign_in(name.encode(), user)
        return user

    def bind(self, user: bytes, name: str, *, host: str = "there", password: str = "right") -> int:
        number = self.accounts.reserve()
        values = {"name": name, "host": host, "password": password}
        sealed = self.accounts.seal(user, number, "scripted", values)
        account = Account(number, user, "scripted", name, sealed, 0)
        self.accounts.put_account(account)
        self.supervisor.bound(account)
        return number

    def befriend(self, one: bytes, other: bytes) -> None:
        self.users.put_friends([Friend(one, other, FriendState.FRIENDS, 0), Friend(other, one, FriendState.FRIENDS, 0)])

    def box(self, name: str) -> Box:
        return self.network.box(name)

    async def send(self, user: bytes, account: int | str, text: str, key: str = "") -> Verdict:
        verdicts = await self.outbox.send(user, [Recipient(account, "friend@there")], Draft(text), key)
        return verdicts[0]

    # --- what became of it ------------------------------------------------------------

    def items(self, user: bytes, kind: ItemKind) -> list[Item]:
        return [item for item in self.log.items[user] if item.kind is kind]

    def texts(self, user: bytes) -> list[str]:
        return [item.envelope.text for item in self.items(user, ItemKind.MESSAGE) if item.envelope]

    def results(self, user: bytes) -> Iterator[tuple[int, str, str]]:
        for item in self.items(user, ItemKind.RESULT):
            yield item.outgoing, item.state, item.reason


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for it; AssertionError where it does not come."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)
