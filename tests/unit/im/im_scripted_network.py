"""A network that does what a test tells it: mailboxes with a log that can be resumed, failures, hangs, faults that no
connector may have."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

from gateway.model.im import (
    Act,
    AuthFailed,
    Caps,
    Contact,
    Conversation,
    ConversationKind,
    Credentials,
    CursorForgotten,
    Envelope,
    Event,
    LoginField,
    Media,
    MediaFile,
    Message,
    Person,
    Transient,
)

FRIEND = Person("friend@there", "A Friend")
CHAT = Conversation(ConversationKind.DM, "friend@there")


class Box:
    """One account, as its network has it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.password = "right"
        self.events: list[Event] = []
        #: cursors below it are forgotten
        self.forgotten_below = 0
        #: what was sent: (txn id, text)
        self.sent: list[tuple[str, str]] = []
        self.acts: list[Act] = []
        self.files: dict[str, bytes] = {}
        self.contacts: list[Contact] = []
        self.ids: dict[str, str] = {}
        #: called before each; they may raise or hang
        self.before_open: deque[Callable[[], Awaitable[None]]] = deque()
        self.before_send: deque[Callable[[], Awaitable[None]]] = deque()
        self.after_send: deque[Callable[[], Awaitable[None]]] = deque()
        self.opened = 0
        self.closed = 0
        self.sessions: set[ScriptedSession] = set()
        self.changed = asyncio.Event()

    def say(self, text: str, *, is_self: bool = False, media: tuple[Media, ...] = (), remote_id: str = "") -> None:
        number = len(self.events) + 1
        sender = Person(self.name, is_self=True) if is_self else FRIEND
        envelope = Envelope("scripted", CHAT, sender, remote_id or f"r{number}", text=text, media=media)
        self.put(Message(envelope, b"%d" % number))

    def put(self, event: Event) -> None:
        self.events.append(event)
        self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def cut(self, error: BaseException | None = None) -> None:
        """End all sessions."""
        for session in self.sessions:
            session.end = error or Transient("cut")
        self.wake()


class ScriptedSession:
    def __init__(self, box: Box, at: int, network: ScriptedNetwork) -> None:
        self.me = Person(box.name, is_self=True)
        self.end: BaseException | None = None
        self._box = box
        self._at = at
        self._network = network

    async def events(self) -> AsyncIterator[Event]:
        while True:
            if self.end is not None:
                raise self.end
            changed = self._box.changed
            if self._at < len(self._box.events):
                self._at += 1
                yield self._box.events[self._at - 1]
                continue
            await changed.wait()

    async def send(self, envelope: Envelope, files: Sequence[MediaFile] = ()) -> str:
        box = self._box
        if self.end is not None:
            raise Transient("cut")
        if box.before_send:
            await box.before_send.popleft()()
        if self._network.caps.idempotent and envelope.txn_id in box.ids:
            remote_id = box.ids[envelope.txn_id]
        else:
            box.sent.append((envelope.txn_id, envelope.text))
            remote_id = box.ids[envelope.txn_id] = f"s{len(box.sent)}"
        if box.after_send:
            await box.after_send.popleft()()
        return remote_id

    async def contacts(self) -> AsyncIterator[Contact]:
        for contact in self._box.contacts:
            yield contact

    async def act(self, act: Act) -> None:
        if self._box.before_send:
            await self._box.before_send.popleft()()
        self._box.acts.append(act)

    async def fetch(self, media: Media) -> AsyncIterator[bytes]:
        data = self._box.files.get(media.ref)
        if data is None:
            raise Transient("not there")
        yield data


class ScriptedNetwork:
    name: ClassVar[str] = "scripted"
    caps: ClassVar[Caps] = Caps(
        contacts=True, presence=True, typing=True, befriend=True, rooms=True, read_marks=True, edits=True, resumes=True
    )
    form: ClassVar[tuple[LoginField, ...]] = ()

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}
        self.down: set[str] = set()
        self.connecting = 0
        self.most_connecting = 0
        self.connected = 0
        self.connects = 0
        self.begun: list[float] = []
        self.tries: Counter[str] = Counter()
        #: seconds a connect takes
        self.connect_s = 0.0

    def box(self, name: str) -> Box:
        return self.boxes.setdefault(name, Box(name))

    def host(self, credentials: Credentials) -> str:
        return credentials.values.get("host", "there")

    @asynccontextmanager
    async def open(self, credentials: Credentials, cursor: bytes | None) -> AsyncIterator[ScriptedSession]:
        box = self.box(credentials.values["name"])
        host = self.host(credentials)
        self.connects += 1
        self.tries[host] += 1
        self.begun.append(asyncio.get_running_loop().time())
        self.connecting += 1
        self.most_connecting = max(self.most_connecting, self.connecting)
        try:
            await asyncio.sleep(self.connect_s)
            if host in self.down:
                raise Transient("down")
            if box.before_open:
                await box.before_open.popleft()()
            if credentials.values["password"] != box.password:
                raise AuthFailed
            at = int(cursor or b"0")
            if cursor is not None and at < box.forgotten_below:
                raise CursorForgotten
        finally:
            self.connecting -= 1
        session = ScriptedSession(box, max(at, box.forgotten_below), self)
        box.sessions.add(session)
        box.opened += 1
        self.connected += 1
        try:
            yield session
        finally:
            box.closed += 1
            self.connected -= 1
            box.sessions.discard(session)


class IdempotentNetwork(ScriptedNetwork):
    caps = ScriptedNetwork.caps._replace(idempotent=True)


def raising(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def raise_it() -> None:
        raise error

    return raise_it


async def hang() -> None:
    await asyncio.Event().wait()
