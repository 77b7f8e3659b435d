"""Users of the gateway's IM, what is theirs, and what their devices are told (UST of D1 to D16): stored words.

A user is named by a random id, which tells nothing; telephone numbers and mailboxes are sealed at rest and found by
keyed hashes. Nothing here may show one of them by being printed.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gateway.model.im import Act, Conversation, Envelope, Person

USER_BYTES = 16
_USER_PREFIX = "user_"
_GROUP_PREFIX = "group_"


def build_user_id(user: bytes) -> str:
    """As it is shown: `user_` and 32 hex digits."""
    return _USER_PREFIX + user.hex()


def parse_user_id(text: str) -> bytes | None:
    """None where it is none."""
    return _parse_id(text, _USER_PREFIX)


def build_group_id(group: bytes) -> str:
    """As it is shown, and as own IM names the room: `group_` and 32 hex digits."""
    return _GROUP_PREFIX + group.hex()


def parse_group_id(text: str) -> bytes | None:
    """None where it is none."""
    return _parse_id(text, _GROUP_PREFIX)


def _parse_id(text: str, prefix: str) -> bytes | None:
    digits = text.removeprefix(prefix)
    if digits == text or len(digits) != 2 * USER_BYTES or digits != digits.lower() or not digits.isalnum():
        return None
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return None


class User(msgspec.Struct, array_like=True, frozen=True):
    """`user`: random, never used again."""

    user: bytes
    created_ms: int
    #: as others see it
    name: str = ""
    #: verified addresses, normal: E.164 with its plus, or a mailbox in lower case
    addresses: tuple[str, ...] = ()
    #: others who have one of the addresses may find the user by it (D9); off until the user says so
    is_discoverable: bool = False
    #: local part in the service's own domain (D14); empty: none
    mailbox: str = ""

    def __repr__(self) -> str:
        return "User(hidden)"


class AccountState(StrEnum):
    """What the user's devices are told of a bound account."""

    #: bound, and nobody has connected it yet; or its devices are away (D16)
    IDLE = "idle"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    #: for longer than a while; it goes on trying
    OUTAGE = "outage"
    #: nothing is tried until the user gives others
    BAD_CREDENTIALS = "bad_credentials"


class Account(msgspec.Struct, array_like=True, frozen=True):
    """One account of a user on a network (D1)."""

    number: int
    user: bytes
    network: str
    #: the user's own word for it, unique among theirs: "to: sina" (D13)
    name: str
    #: of the form, sealed under the user's key with user, number and network as associated data
    sealed: bytes
    created_ms: int
    #: last state that lasts: BAD_CREDENTIALS survives a restart, the others do not
    state: AccountState = AccountState.IDLE
    #: of BAD_CREDENTIALS, in a connector's words
    reason: str = ""

    def __repr__(self) -> str:
        return f"Account({self.number}, {self.network})"


class FriendState(StrEnum):
    """Of one user towards another; both sides have a row."""

    ASKED = "asked"  # this one asked, the other has not answered
    WAITING = "waiting"  # the other asked, this one has not answered
    FRIENDS = "friends"
    REFUSED = "refused"  # this one refused the other: the other is not told apart from "not answered"
    BLOCKED = "blocked"  # this one wants nothing from the other


class Friend(msgspec.Struct, array_like=True, frozen=True):
    user: bytes
    other: bytes
    state: FriendState
    since_ms: int

    def __repr__(self) -> str:
        return f"Friend({self.state})"


class Group(msgspec.Struct, array_like=True, frozen=True):
    """An ad-hoc group of our own users (D5)."""

    group: bytes  # 16 random bytes
    name: str
    owner: bytes
    members: tuple[bytes, ...]
    created_ms: int

    def __repr__(self) -> str:
        return f"Group({len(self.members)} members)"


class ItemKind(StrEnum):
    """What an item of a user's log is about."""

    MESSAGE = "message"
    #: a message of the user is sent, or is not: `outgoing`, `state` sent or failed, `reason`
    RESULT = "result"
    #: `by` has read `conversation` up to `remote_id`
    READ = "read"
    #: own IM: it is on a device of `by`
    DELIVERED = "delivered"
    FRIEND_REQUEST = "friend_request"
    #: `state`: accepted or refused
    FRIEND_ANSWER = "friend_answer"
    #: `by` is a contact from now on, or no longer (`state`: there or gone)
    CONTACT = "contact"
    #: `account` is in `state`
    ACCOUNT = "account"
    #: `conversation` is a group whose members or name changed
    GROUP = "group"
    #: the network forgot where we were: before this, something of `account` may be missing
    GAP = "gap"
    #: told, never kept: `by` is available or away (`state`), with `text` where the network has one
    PRESENCE = "presence"
    #: told, never kept: `by` is typing in `conversation`, or has paused (`state`)
    TYPING = "typing"


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a user's log; also as a device and REST get it."""

    kind: ItemKind
    at_ms: int
    #: its place in the user's log, rising; 0: not appended yet
    cursor: int = 0
    #: 0: own IM
    account: int = 0
    envelope: Envelope | None = None
    conversation: Conversation | None = None
    by: Person | None = None
    remote_id: str = ""
    #: number of the Outgoing it is about
    outgoing: int = 0
    state: str = ""
    reason: str = ""
    text: str = ""

    def __repr__(self) -> str:
        return f"Item({self.kind}, {self.cursor})"


class Outgoing(msgspec.Struct, array_like=True, frozen=True):
    """A message or an act that is accepted and not over: it ends in a RESULT, whatever happens."""

    number: int
    user: bytes
    account: int
    created_ms: int
    expires_ms: int
    envelope: Envelope | None = None
    act: Act | None = None
    tries: int = 0
    #: a try is under way, or was when the gateway ended: the network may have it
    is_in_doubt: bool = False

    def __repr__(self) -> str:
        return f"Outgoing({self.number})"
