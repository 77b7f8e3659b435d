"""Users, accounts, lines and messages for tests of the store's IM."""

from __future__ import annotations

from typing import Any

from store_rig import START_MS

from gateway.model.im import Conversation, ConversationKind, Envelope, Person
from gateway.model.im_people import Account, Item, ItemKind, Outgoing, User
from gateway.store import Store

ROOM = Conversation(ConversationKind.ROOM, "garden@rooms.example")


def user_id(n: int) -> bytes:
    return n.to_bytes(16, "big")


def user(n: int, **changes: Any) -> User:
    values: dict[str, Any] = {
        "user": user_id(n),
        "created_ms": START_MS,
        "name": f"Marigold {n}",
        "addresses": (f"+4917{n:09d}", f"marigold{n}@mail.example"),
    }
    return User(**values | changes)


async def put_users(store: Store, *numbers: int) -> list[bytes]:
    for n in numbers:
        store.im_users.put_user(user(n))
    await store.committer.flush()
    return [user_id(n) for n in numbers]


async def put_account(store: Store, owner: bytes, name: str = "sina", **changes: Any) -> Account:
    number = store.im_accounts.reserve()
    sealed = store.im_accounts.seal(owner, number, "xmpp", {"password": "open sesame"})
    account = Account(
        **{"number": number, "user": owner, "network": "xmpp", "name": name} | changes,
        sealed=sealed,
        created_ms=START_MS,
    )
    await store.im_accounts.put_account(account)
    return account


def message(n: int, account: int = 0, text: str = "the roses are out", **changes: Any) -> Item:
    envelope = Envelope("xmpp", ROOM, Person("basil@example.org", "Basil"), f"m{n}", text=text, **changes)
    return Item(ItemKind.MESSAGE, START_MS + n, account=account, envelope=envelope)


def outgoing(store: Store, account: Account, **changes: Any) -> Outgoing:
    number = store.im_log.reserve_outgoing()
    envelope = Envelope("xmpp", ROOM, Person("me"), text="on my way", txn_id=f"t{number}")
    values: dict[str, Any] = {"created_ms": START_MS, "expires_ms": START_MS + 86_400_000, "envelope": envelope}
    return Outgoing(**{"number": number, "user": account.user, "account": account.number} | values | changes)


def result(of: Outgoing, state: str = "sent") -> Item:
    return Item(ItemKind.RESULT, START_MS, account=of.account, outgoing=of.number, state=state)
