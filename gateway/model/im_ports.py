"""The seams of IM aggregation: what its rooms may ask of the store, of media, of the push core and of each other.

Everything is called on the control thread only. A future resolves when what was said is durable, StoreUnavailable else;
StoreUnavailable and QueueFull come at once where nothing can be taken. What was put is seen by the next read at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol

from gateway.model.im import Act, Contact, Conversation, Envelope, Media, MediaFile
from gateway.model.im_people import Account, AccountState, Friend, Group, Item, Outgoing, User

# --- the store (gateway/store/im*.py) -----------------------------------------------------------------------------


class AddressTaken(ValueError):
    """An address, a mailbox or a name that is to be unique is another's."""


class UserRecords(Protocol):
    """Users, who is signed in, friends, groups."""

    def put_user(self, user: User) -> asyncio.Future[None]:
        """New or changed. AddressTaken where an address or the mailbox is another user's."""
        ...

    def user(self, user: bytes) -> User | None: ...

    def find_user(self, address: str) -> bytes | None:
        """By a verified address, whoever may know of it."""
        ...

    def find_mailbox(self, local_part: str) -> bytes | None: ...

    def remove_user(self, user: bytes) -> asyncio.Future[None]:
        """And everything of theirs: accounts, log, friends, sessions, keys."""
        ...

    def put_session(self, key_hash: bytes, user: bytes, until_ms: int) -> asyncio.Future[None]:
        """A key for REST, by its hash."""
        ...

    def session(self, key_hash: bytes) -> bytes | None:
        """Whose it is; None where it is unknown or over."""
        ...

    def remove_session(self, key_hash: bytes) -> asyncio.Future[None]: ...

    def remove_sessions(self, user: bytes) -> asyncio.Future[None]:
        """All keys of a user."""
        ...

    def sign_in(self, token: bytes, user: bytes) -> asyncio.Future[None]:
        """This registration is a device of this user from now on, and of nobody else."""
        ...

    def sign_out(self, token: bytes) -> asyncio.Future[None]: ...

    def signed_in(self, token: bytes) -> bytes | None: ...

    def devices(self, user: bytes) -> list[bytes]:
        """Tokens of the user's registrations."""
        ...

    def put_friends(self, friends: Sequence[Friend]) -> asyncio.Future[None]:
        """All in one commit."""
        ...

    def remove_friends(self, pairs: Sequence[tuple[bytes, bytes]]) -> asyncio.Future[None]: ...

    def friend(self, user: bytes, other: bytes) -> Friend | None: ...

    def friends(self, user: bytes) -> list[Friend]: ...

    def put_group(self, group: Group) -> asyncio.Future[None]:
        """Without members it is removed."""
        ...

    def group(self, group: bytes) -> Group | None: ...

    def groups(self, user: bytes) -> list[Group]: ...


class AccountRecords(Protocol):
    """Bound accounts; their credentials are sealed under keys of their users."""

    def reserve(self) -> int:
        """A number for a new account; never given twice."""
        ...

    def seal(self, user: bytes, number: int, network: str, values: dict[str, str]) -> bytes: ...

    def unseal(self, account: Account) -> dict[str, str]:
        """ConfigError where the key is another's."""
        ...

    def put_account(self, account: Account) -> asyncio.Future[None]:
        """AddressTaken where the user has another with this name."""
        ...

    def account(self, number: int) -> Account | None: ...

    def accounts(self, user: bytes) -> list[Account]: ...

    def remove_account(self, number: int) -> asyncio.Future[None]:
        """With its cursor and its outgoing."""
        ...

    def cursor(self, account: int) -> bytes | None: ...

    def count(self) -> int: ...


class Appended(NamedTuple):
    #: those that were not there before, with their cursors
    items: list[Item]
    done: asyncio.Future[None]


class LogRecords(Protocol):
    """What happened to each user, in order: where devices come back to."""

    def append(self, user: bytes, items: Sequence[Item], *, account: int = 0, cursor: bytes | None = None) -> Appended:
        """In one commit with the cursor of the account. A MESSAGE whose (account, Envelope.key) is in the log already
        is left out, its cursor is kept all the same."""
        ...

    def after(self, user: bytes, cursor: int, limit: int) -> list[Item]: ...

    def message(self, user: bytes, account: int, conversation: Conversation, remote_id: str) -> Envelope | None:
        """A message of the log; None where it is not there (any more)."""
        ...

    def first(self, user: bytes) -> int:
        """The oldest cursor that is kept; 0: none."""
        ...

    def last(self, user: bytes) -> int: ...

    def reserve_outgoing(self) -> int: ...

    def put_outgoing(self, outgoing: Sequence[Outgoing]) -> asyncio.Future[None]:
        """New, or another try of them. QueueFull where an account has too many."""
        ...

    def settle(self, outgoing: Outgoing, item: Item) -> Appended:
        """It is over, and this is its RESULT: one commit."""
        ...

    def outgoing(self, account: int) -> list[Outgoing]:
        """Of one account, in the order in which they were accepted. Account 0 has none: own IM is written at once."""
        ...

    def waiting_accounts(self) -> list[int]:
        """Accounts that have some: read once, at a start."""
        ...


# --- media (gateway/im/media) ---------------------------------------------------------------------------------------


class MediaRefused(Exception):
    """These bytes are not taken; the text says why, without a name of theirs."""


class MediaStore(Protocol):
    async def take(self, chunks: AsyncIterator[bytes], *, user: bytes, media: Media) -> Media:
        """Sniff, check, keep; `ref` of the answer is its name here. MediaRefused; StoreUnavailable."""
        ...

    def file(self, user: bytes, ref: str) -> MediaFile | None:
        """None where it is not there, or the user may not have it."""
        ...

    def share(self, ref: str, user: bytes) -> None:
        """This user may have it too from now on: somebody sends it to them (own IM)."""
        ...


# --- the push core (gateway/im_side.py) ------------------------------------------------------------------------------


class Pushes(Protocol):
    """What a user's devices are told, by the push core: kept until acked, fallen over to notifiers."""

    def push(self, token: bytes, item: Item, *, title: str = "", text: str = "", urgent: bool = True) -> int:
        """To one registration; in the commit of what was appended in the same turn of the loop. Its sequence, 0 where
        it could not be (gone, too many wait): the device comes back to the log by its cursor. Never raises."""
        ...

    def tell(self, token: bytes, item: Item) -> None:
        """Only where it is connected now, and never kept: presence, typing (DOWN)."""
        ...


class Attendance(Protocol):
    """Which devices are connected, as the edge knows (D16)."""

    def is_connected(self, token: bytes) -> bool: ...

    #: called with a token when its registration is bound on a link, and when it is no longer; set once, at the start
    on_connected: Callable[[bytes], None]
    on_disconnected: Callable[[bytes], None]


# --- among the rooms -------------------------------------------------------------------------------------------------


class CodeSender(Protocol):
    """Brings a one-time code to an address (D1): by short message, by mail."""

    async def send(self, address: str, code: str) -> None:
        """GatewayError where it can not."""
        ...


class Delivering(Protocol):
    """The one way out to a user's devices, and into their log (gateway/im/messaging)."""

    def deliver(self, user: bytes, items: Sequence[Item], *, account: int = 0, cursor: bytes | None = None) -> Appended:
        """Append, and push what is new to all the user's devices, in one commit."""
        ...

    def tell(self, user: bytes, item: Item) -> None:
        """To the devices that are connected now, and nothing is kept."""
        ...


class Gate(Protocol):
    """UST's word on every message: whose it is, and whether it may move on (gateway/im/ust/gate.py)."""

    def owner(self, account: int) -> Account | None:
        """Of what a network brings; None: the account is unbound, and its message goes nowhere."""
        ...

    def own_account(self, user: bytes, account: int | str) -> Account:
        """By number, or by the user's name for it (D13). GatewayError, the same for unknown ones and others'."""
        ...

    def check_reachable(self, user: bytes, other: bytes) -> User:
        """Own IM is for mutual friends. GatewayError, the same for no such user, no friendship, and a block."""
        ...

    def own_group(self, user: bytes, group: bytes) -> Group:
        """A group the user is a member of. GatewayError."""
        ...


class Supervision(Protocol):
    """Who keeps accounts connected (gateway/im/supervision)."""

    def bound(self, account: Account) -> None:
        """New, or with other credentials: connect where a device is there, whatever the state was."""
        ...

    def unbound(self, number: int) -> None:
        """Disconnect at once; its queue is over, and each message in it fails."""
        ...

    def state(self, number: int) -> AccountState: ...

    async def contacts(self, number: int) -> list[Contact]:
        """As the network has them now. GatewayError where it is not connected, or the network has none."""
        ...

    def wake(self, number: int) -> None:
        """Something waits to be sent."""
        ...

    def try_act(self, number: int, act: Act) -> None:
        """Now or never: typing."""
        ...
