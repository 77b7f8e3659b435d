"""The heart of IM over the real store and UST's gate, with any connectors."""

from __future__ import annotations

from pathlib import Path

from im_heart import Heart, now_ms
from im_scripted_network import ScriptedNetwork
from store_rig import open_store

from gateway.im.ust.gate import UstGate
from gateway.model.im import Connector
from gateway.model.im_people import Account, Friend, FriendState, Item, ItemKind, User
from gateway.store import Store


class StoredHeart(Heart):
    def __init__(
        self,
        store: Store,
        network: ScriptedNetwork | None = None,
        connectors: dict[str, Connector] | None = None,
        **settings: object,
    ) -> None:
        self.store = store
        self._more = connectors or {}
        super().__init__(network, **settings)

    def keep(self, most_outgoing: int) -> None:
        self.connectors.update(self._more)
        self.users = self.store.im_users  # type: ignore[assignment]
        self.accounts = self.store.im_accounts  # type: ignore[assignment]
        self.log = self.store.im_log  # type: ignore[assignment]
        self.gate = UstGate(self.users, self.accounts)  # type: ignore[assignment]

    def user(self, name: str) -> bytes:
        user = name.encode().ljust(16, b".")
        if self.users.user(user) is None:
            self.users.put_user(User(user, now_ms(), name))
        self.users.sign_in(token(name), user)
        return user

    def bind_with(self, user: bytes, network: str, values: dict[str, str]) -> int:
        number = self.accounts.reserve()
        sealed = self.accounts.seal(user, number, network, values)
        account = Account(number, user, network, f"{network}{number}", sealed, now_ms())
        self.accounts.put_account(account)
        self.supervisor.bound(account)
        return number

    def bind(self, user: bytes, name: str, *, host: str = "there", password: str = "right") -> int:
        return self.bind_with(user, "scripted", {"name": name, "host": host, "password": password})

    def befriend(self, one: bytes, other: bytes) -> None:
        pairs = ((one, other), (other, one))
        self.users.put_friends([Friend(a, b, FriendState.FRIENDS, now_ms()) for a, b in pairs])

    def items(self, user: bytes, kind: ItemKind) -> list[Item]:
        return [item for item in self.log.after(user, 0, 100_000) if item.kind is kind]


def token(name: str) -> bytes:
    return name.encode().ljust(16, b"-")


async def open_heart_store(folder: Path) -> Store:
    """With the clock of the day: it has to be the heart's."""
    return await open_store(folder, now_ms)  # type: ignore[arg-type]
