"""Words and ports of IM aggregation: what a connector to a network gives and takes (D1 to D16); nothing here may show a
credential, a name or a text by being printed.

A connector is thin: it never retries, stores or logs. It classifies what went wrong (`AuthFailed`, `Transient`,
`Rejected`, `CursorForgotten`); whoever holds it connects again, dedupes by `Envelope.key`, and keeps an event before it
moves the cursor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import ClassVar, NamedTuple, Protocol

import msgspec

#: the network of our own users among themselves
OWN = "own"


class ConversationKind(StrEnum):
    DM = "dm"
    ROOM = "room"
    #: of a social site
    FEED = "feed"


class Conversation(msgspec.Struct, frozen=True):
    kind: ConversationKind
    #: as the network names it: an address, a room, a channel
    remote_id: str

    def __repr__(self) -> str:
        return f"Conversation({self.kind})"


class Person(msgspec.Struct, frozen=True, omit_defaults=True):
    remote_id: str
    display: str = ""
    is_self: bool = False

    def __repr__(self) -> str:
        return "Person(hidden)"


class Kind(StrEnum):
    """What an envelope carries."""

    TEXT = "text"
    #: one or more `media`, with a text or none
    MEDIA = "media"
    LOCATION = "location"
    #: with a `subject`
    MAIL = "mail"
    #: an item of a social site
    POST = "post"
    #: the sender changes an earlier message of theirs (`replaces`), or takes it back
    EDIT = "edit"
    REDACTION = "redaction"


class Geo(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 5870, WGS 84."""

    latitude: float
    longitude: float
    #: metres; None: not said
    accuracy_m: float | None = None
    altitude_m: float | None = None

    def __repr__(self) -> str:
        return "Geo(hidden)"


class Media(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file beside a message."""

    #: incoming, as a connector gives it: where its session fetches it. Everywhere else: its name in the media store
    ref: str
    mime: str = "application/octet-stream"
    #: bytes; -1: not said
    size: int = -1
    name: str = ""
    #: hex; empty: not known
    sha256: str = ""
    #: pixels; 0: no picture, or not known
    width: int = 0
    height: int = 0
    #: the media store's name of a small picture of it
    thumbnail: str = ""

    def __repr__(self) -> str:
        return f"Media({self.mime}, {self.size} bytes)"


class MediaFile(NamedTuple):
    """An outgoing media as a connector needs it."""

    media: Media
    #: the bytes, on this machine
    path: str
    #: signed and expiring, for networks that know no files
    link: str


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message, in either direction."""

    network: str
    conversation: Conversation
    sender: Person
    #: as the network names it; empty in what is still to be sent
    remote_id: str = ""
    kind: Kind = Kind.TEXT
    #: which part of one network message this is, from 0
    part: int = 0
    text: str = ""
    subject: str = ""
    media: tuple[Media, ...] = ()
    geo: Geo | None = None
    #: remote ids
    reply_to: str = ""
    replaces: str = ""
    #: Unix ms: as the network says, and as it came here
    at_remote_ms: int = 0
    at_ms: int = 0
    #: of what is sent: the same on each try, for networks that can tell a second try
    txn_id: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """Unique inside an account."""
        return self.conversation.remote_id, self.remote_id, self.part

    def __repr__(self) -> str:
        return f"Envelope({self.network}, {self.kind}, {len(self.text)} characters, {len(self.media)} media)"


# --- events ------------------------------------------------------------------------------------------------------


class Contact(msgspec.Struct, frozen=True, omit_defaults=True):
    remote_id: str
    display: str = ""
    #: both agreed, where the network knows such a thing
    is_mutual: bool = True

    def __repr__(self) -> str:
        return "Contact(hidden)"


class Message(NamedTuple):
    envelope: Envelope
    #: where to go on after this event; None: as before
    cursor: bytes | None = None


class ReadUpTo(NamedTuple):
    """Somebody has read a conversation up to a message."""

    conversation: Conversation
    by: Person
    remote_id: str
    cursor: bytes | None = None


class FriendRequest(NamedTuple):
    by: Person
    text: str = ""
    cursor: bytes | None = None


class ContactChanged(NamedTuple):
    remote_id: str
    #: None: it is gone
    contact: Contact | None
    cursor: bytes | None = None


class PresenceChanged(NamedTuple):
    by: Person
    is_available: bool
    text: str = ""


class TypingChanged(NamedTuple):
    conversation: Conversation
    by: Person
    is_typing: bool


class Moved(NamedTuple):
    """Nothing to tell, but the cursor moved on."""

    cursor: bytes


Event = Message | ReadUpTo | FriendRequest | ContactChanged | PresenceChanged | TypingChanged | Moved


# --- what a user asks for ------------------------------------------------------------------------------------------


class MarkRead(msgspec.Struct, frozen=True, tag="mark_read"):
    conversation: Conversation
    remote_id: str


class Typing(msgspec.Struct, frozen=True, tag="typing"):
    """Never stored: what can not go out at once is dropped."""

    conversation: Conversation
    is_typing: bool


class Befriend(msgspec.Struct, frozen=True, tag="befriend"):
    remote_id: str
    text: str = ""


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """To a friend request."""

    remote_id: str
    accept: bool


class JoinRoom(msgspec.Struct, frozen=True, tag="join_room"):
    remote_id: str


class LeaveRoom(msgspec.Struct, frozen=True, tag="leave_room"):
    remote_id: str


Act = MarkRead | Typing | Befriend | Answer | JoinRoom | LeaveRoom


# --- connectors ----------------------------------------------------------------------------------------------------


class AuthFailed(Exception):
    """The credentials are wrong or were taken back: never try again by itself."""


class Transient(Exception):
    """It may pass. Of a send: the network has not taken it, unless `is_in_doubt` says that it may have."""

    def __init__(self, reason: str, retry_after_s: float = 0.0, *, is_in_doubt: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.is_in_doubt = is_in_doubt


class Rejected(Exception):
    """This message, or this request, alone: the network does not take it."""


class CursorForgotten(Exception):
    """The network can not go on where the cursor is: open without one, and say that there may be a gap."""


class Caps(NamedTuple):
    """What a network can do; what it can not, a session refuses with Rejected."""

    contacts: bool = False
    presence: bool = False
    typing: bool = False
    befriend: bool = False
    rooms: bool = False
    media: bool = False
    location: bool = False
    read_marks: bool = False
    replies: bool = False
    edits: bool = False
    #: what came while nobody was connected is there after a resume
    resumes: bool = False
    #: a second send with the same txn_id is not shown twice
    idempotent: bool = False
    #: most bytes of one text; 0: no bound of its own
    text_bytes: int = 0


class LoginField(NamedTuple):
    name: str
    label: str
    is_secret: bool = False
    is_required: bool = True
    default: str = ""


class Credentials(NamedTuple):
    """What a person typed into the form, by its names."""

    values: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Credentials({', '.join(self.values)})"


class Session(Protocol):
    """One account that is connected. Every method raises AuthFailed, Transient or Rejected, and nothing else."""

    #: who the account is on its network
    me: Person

    def events(self) -> AsyncIterator[Event]:
        """In the network's order; one reader. Ends with Transient where the connection is lost. What the account sent
        from elsewhere comes too, with `sender.is_self`."""
        ...

    async def send(self, envelope: Envelope, files: Sequence[MediaFile] = ()) -> str:
        """The remote id, once the network has it. `files`: its media, in their order."""
        ...

    def contacts(self) -> AsyncIterator[Contact]: ...

    async def act(self, act: Act) -> None: ...

    def fetch(self, media: Media) -> AsyncIterator[bytes]:
        """The bytes of an incoming media, in pieces."""
        ...


class Connector(Protocol):
    """One network. Built once; an account's session is a context."""

    name: ClassVar[str]
    caps: ClassVar[Caps]
    form: ClassVar[tuple[LoginField, ...]]

    def host(self, credentials: Credentials) -> str:
        """Whose trouble an outage is: accounts of one host share a circuit breaker. The server and the way to it, with
        its port and TLS: a wrong form of one user must not count against the others. Rejected where the form is wrong,
        naming the field."""
        ...

    def open(self, credentials: Credentials, cursor: bytes | None) -> AbstractAsyncContextManager[Session]:
        """Logged in when entered. AuthFailed, Transient, Rejected, CursorForgotten."""
        ...
