"""UST over records in RAM or over a real store, with senders that keep codes, and a network that only has a form."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from unit.im.im_records_in_ram import AccountsInRam, LogInRam, UsersInRam

from gateway.config.im_section import Im
from gateway.config.sections import Store as StoreConfig
from gateway.im.operation import Caller
from gateway.im.operations.ust import build_ust_operations
from gateway.im.ust.build import build_ust
from gateway.im.ust.gate import UstGate
from gateway.im.ust.users import CodeSenders
from gateway.metrics import Metrics
from gateway.model.im import Act, Caps, Contact, Credentials, LoginField, Rejected
from gateway.model.im_people import Account, AccountState, Item, parse_user_id
from gateway.model.im_ports import Appended, CodeSender, LogRecords
from gateway.store import Store

START_MS = 1_800_000_000_000
ANNA, BERT, CARL = "+4915112345601", "+4915112345602", "+4915112345603"


class Senders:
    """A CodeSender; `error` is raised instead."""

    def __init__(self) -> None:
        self.codes: list[tuple[str, str]] = []
        self.error: Exception | None = None

    async def send(self, address: str, code: str) -> None:
        if self.error is not None:
            raise self.error
        self.codes.append((address, code))


class LoggedDelivering:
    """Delivering; nobody is pushed to."""

    def __init__(self, log: LogRecords) -> None:
        self._log = log
        self.delivered: list[tuple[bytes, Item]] = []

    def deliver(self, user: bytes, items: Sequence[Item], *, account: int = 0, cursor: bytes | None = None) -> Appended:
        appended = self._log.append(user, items, account=account, cursor=cursor)
        self.delivered += [(user, item) for item in appended.items]
        return appended

    def tell(self, user: bytes, item: Item) -> None:
        raise AssertionError("nothing of UST is only told")


class SeenSupervision:
    """Supervision that notes what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.states: dict[int, AccountState] = {}
        self.rosters: dict[int, list[Contact]] = {}

    def bound(self, account: Account) -> None:
        self.calls.append(("bound", account.number))

    def unbound(self, number: int) -> None:
        self.calls.append(("unbound", number))

    def state(self, number: int) -> AccountState:
        return self.states.get(number, AccountState.IDLE)

    async def contacts(self, number: int) -> list[Contact]:
        self.calls.append(("contacts", number))
        return list(self.rosters[number])

    def wake(self, number: int) -> None:
        raise NotImplementedError

    def try_act(self, number: int, act: Act) -> None:
        raise NotImplementedError


class FormNetwork:
    """A Connector that is never opened."""

    name: ClassVar[str] = "paper"
    caps: ClassVar[Caps] = Caps(contacts=True, media=True)
    form: ClassVar[tuple[LoginField, ...]] = (
        LoginField("address", "Address"),
        LoginField("password", "Password", is_secret=True),
        LoginField("server", "Server", is_required=False, default="paper.example"),
    )

    def host(self, credentials: Credentials) -> str:
        if "@" not in credentials.values["address"]:
            raise Rejected(f"address: {credentials.values['address']} has no @, {credentials.values['password']}")
        if credentials.values["server"] == "nowhere":
            raise Rejected("server: there is no such server")
        return credentials.values["server"]

    def open(self, credentials: Credentials, cursor: bytes | None) -> Any:
        raise NotImplementedError


class UstRig:
    def __init__(self, users: Any, accounts: Any, log: Any, settings: Im) -> None:
        self.now_ms = START_MS
        self.users, self.accounts, self.log, self.settings = users, accounts, log, settings
        self.metrics = Metrics(process=False)
        self.phone, self.mail = Senders(), Senders()
        self._mail: CodeSender = self.mail
        self.delivering = LoggedDelivering(log)
        self.supervision = SeenSupervision()
        self.devices: list[tuple[str, bytes, bytes]] = []
        self.gate = UstGate(users, accounts)
        self.ust = build_ust(
            users=users,
            accounts=accounts,
            gate=self.gate,
            delivering=self.delivering,
            supervision=self.supervision,
            connectors={"paper": FormNetwork()},
            senders=CodeSenders(self.phone, self),
            settings=settings,
            metrics=self.metrics,
            on_signed_in=lambda token, user: self.devices.append(("in", token, user)),
            on_signed_out=lambda token, user: self.devices.append(("out", token, user)),
            on_removed=lambda user: self.devices.append(("gone", b"", user)),
        )
        self.operations = {one.name: one for one in build_ust_operations(self.ust, settings)}

    async def do(self, named: str, me: bytes | None = None, /, token: bytes | None = None, **fields: Any) -> Any:
        """As a door does: fields are converted, the answer is plain."""
        operation = self.operations[named]
        ask = msgspec.convert(fields, operation.ask)
        reply = await operation.run(Caller(me, token, self.now_ms), ask)
        assert isinstance(reply, operation.reply)
        return msgspec.json.decode(msgspec.json.encode(reply))

    async def send(self, address: str, code: str) -> None:
        """A CodeSender: of mail, whichever it is now."""
        await self._mail.send(address, code)

    def bring_mail(self, sender: CodeSender) -> None:
        """By another way from now on."""
        self._mail = sender

    async def code(self, address: str, token: bytes | None = None) -> str:
        await self.do("register", token=token, address=address)
        return (self.phone if address.startswith("+") else self.mail).codes[-1][1]

    async def sign_up(self, address: str, token: bytes | None = None, name: str = "", **profile: Any) -> bytes:
        code = await self.code(address, token)
        verified = await self.do("verify", token=token, address=address, code=code, name=name)
        user = parse_user_id(verified["user"])
        assert user is not None
        if profile:
            await self.do("change_profile", user, **profile)
        return user

    async def befriend(self, one: bytes, other: bytes) -> None:
        await self.do("ask_friend", one, to=f"user_{other.hex()}")
        await self.do("answer_friend", other, user=f"user_{one.hex()}", accept=True)

    def told(self, user: bytes) -> list[Item]:
        """What their devices were told since this was last asked."""
        items = [item for to, item in self.delivering.delivered if to == user]
        self.delivering.delivered = [one for one in self.delivering.delivered if one[0] != user]
        return items


def settings(**changes: Any) -> Im:
    return Im(**{"app": "im", "mail_domain": "here.example", "answer_step_s": 0.0, **changes})


def rig_in_ram(**changes: Any) -> UstRig:
    accounts = AccountsInRam()
    return UstRig(UsersInRam(START_MS), accounts, LogInRam(accounts), settings(**changes))


@asynccontextmanager
async def rig_over_store(folder: Path, **changes: Any) -> AsyncIterator[UstRig]:
    config = StoreConfig(path=str(folder), max_bytes=1 << 26, commit_ms=0.2)
    store = await Store.open(config, Metrics(process=False), clock=lambda: START_MS)
    yield UstRig(store.im_users, store.im_accounts, store.im_log, settings(**changes))
    await store.close()
