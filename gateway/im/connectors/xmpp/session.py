"""An XMPP account that is connected: events, sending, contacts, acts, files; must never retry, store or log."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.xmpp import words
from gateway.im.connectors.xmpp.catchup import Catchup
from gateway.im.connectors.xmpp.contacts import parse_item, parse_presence, parse_roster
from gateway.im.connectors.xmpp.errors import StanzaError, parse_stanza_error
from gateway.im.connectors.xmpp.files import Files
from gateway.im.connectors.xmpp.form import Login
from gateway.im.connectors.xmpp.inbox import Inbox
from gateway.im.connectors.xmpp.incoming import Reader, find_archive_id, is_own, parse_message
from gateway.im.connectors.xmpp.outgoing import (
    build_mark,
    build_message_id,
    build_messages,
    build_presence,
    build_typing,
    check_jid,
    clean,
    kind_of,
    parts_of,
)
from gateway.im.connectors.xmpp.rooms import Rooms
from gateway.im.connectors.xmpp.stream import Stream
from gateway.im.connectors.xmpp.words import CLIENT, Element, element, split_jid
from gateway.model.im import (
    Act,
    Answer,
    Befriend,
    Contact,
    ContactChanged,
    Conversation,
    CursorForgotten,
    Envelope,
    Event,
    FriendRequest,
    JoinRoom,
    LeaveRoom,
    MarkRead,
    Media,
    MediaFile,
    Moved,
    Person,
    PresenceChanged,
    Rejected,
    Transient,
    Typing,
)

#: sent messages whose remote ids are known, for a second try
SENT = 256
#: conversations whose archive was looked into for such
LOOKED = 256
#: a server's clock may differ from ours by so much
CLOCK_MS = 60_000
#: resources of contacts that are told apart; past it the last presence counts
RESOURCES = 4_096


class XmppSession:
    def __init__(self, login: Login, settings: ConnectorSettings, context: ssl.SSLContext) -> None:
        self.me = Person(login.jid.lower(), "", True)
        self._request_s = settings.request_s
        self._stream = Stream(login, context, settings.request_s, self._on_stanza)
        self._stream.on_failure = self._on_failure  # type: ignore[method-assign]
        self._inbox = Inbox(self._stream)
        nicks: dict[str, str] = {}
        self._reader = Reader(self.me.remote_id, nicks, settings.text_bytes)
        self._catchup = Catchup(self._stream, self._reader, self._inbox.put)
        self._rooms = Rooms(self._stream, self._catchup, nicks, self._inbox.put, settings.request_s)
        self._files = Files(self._stream, settings, context, allows_plain=login.tls == "never")
        #: id of a message that waits to be taken → its remote id, where the network tells one
        self._sending: dict[str, asyncio.Future[str]] = {}
        self._sent: OrderedDict[str, str] = OrderedDict()
        self._looked: set[str] = set()
        self._available: dict[str, set[str]] = {}
        self._resources = 0
        self._entering: asyncio.Task[None] | None = None

    # --- coming and going

    async def log_in(self, address: str, port: int, *, is_direct: bool) -> None:
        try:
            await self._stream.log_in(address, port, is_direct=is_direct)
        except StanzaError as exc:
            raise exc.as_failure() from None

    async def begin(self, last: str | None, rooms: dict[str, str] | None) -> None:
        """Go on after `last`, in `rooms`; None: with what comes from now on, in the rooms that are bookmarked."""
        await asyncio.gather(
            self._ask_quietly("set", element(f"{words.CARBONS}enable")),
            # RFC 6121 §2.1.6: who has not asked for the roster is not told of its changes
            self._ask_quietly("get", element(f"{words.ROSTER}query")),
        )
        await self._catchup.start(last)
        self._stream.shed_parser()
        marked = await self._rooms.bookmarked() if rooms is None else []
        self._stream.write(build_presence())
        # what came before the server had this stands in the archive alone: it is looked at once more
        self._catchup.own.is_live = not self._catchup.own.is_kept
        self._entering = asyncio.create_task(self._enter_rooms(rooms or {}, marked))
        self._inbox.put(Moved(self._catchup.cursor()))

    async def _enter_rooms(self, rooms: dict[str, str], marked: Sequence[str]) -> None:
        await self._rooms.enter_again(rooms)
        for room in marked:
            try:
                await self._rooms.enter(room, None)
            except (Rejected, Transient):
                continue
        self._inbox.put(Moved(self._catchup.cursor()))
        self._inbox.wake()

    async def _ask_quietly(self, kind: str, question: Element) -> None:
        """What a server may not know."""
        try:
            await self._stream.ask(question, kind=kind)
        except StanzaError:
            return

    async def close(self) -> None:
        if self._entering is not None:
            self._entering.cancel()
            await asyncio.gather(self._entering, return_exceptions=True)
        await self._stream.close()

    def _on_failure(self) -> None:
        failure = self._stream.failure or Transient("the connection is lost")
        self._rooms.fail(failure)
        for answer in self._sending.values():
            if not answer.done():
                answer.set_exception(failure)
        self._inbox.wake()

    # --- what comes

    async def events(self) -> AsyncIterator[Event]:
        while True:
            event = self._inbox.take()
            if event is not None:
                yield event
            elif self._stream.failure is not None:
                raise self._stream.failure
            elif (archive := self._catchup.unread()) is not None:
                try:
                    await self._catchup.read_page(archive)
                except CursorForgotten:
                    raise Transient("the archive lost what it had a moment ago") from None
            else:
                await self._inbox.wait()

    def _on_stanza(self, stanza: Element) -> None:
        if stanza.tag == f"{CLIENT}message":
            self._take_message(stanza)
        elif stanza.tag == f"{CLIENT}presence":
            self._take_presence(stanza)
        elif stanza.tag == f"{CLIENT}iq":
            self._take_request(stanza)

    def _take_message(self, stanza: Element) -> None:
        result = stanza.find(f"{words.MAM}result")
        if result is not None:
            self._catchup.take_result(stanza, result)
            return
        message = self._carried(stanza)
        if message is None:
            return
        if message.get("type") == "error":
            answer = self._sending.get(message.get("id", ""))
            if answer is not None and not answer.done():
                answer.set_exception(parse_stanza_error(message).as_failure())
            return
        archive_id = find_archive_id(message, self._reader)
        room = split_jid(message.get("from", ""))[0] if message.get("type") == "groupchat" else ""
        if is_own(message, self._reader):
            answer = self._sending.get(message.get("id", ""))
            if answer is not None and room and not answer.done():
                answer.set_result(archive_id)
        if not self._catchup.take_live(archive_id, room) or is_own(message, self._reader):
            return
        now_ms = time.time_ns() // 1_000_000
        for event in parse_message(message, self._reader, now_ms=now_ms, archive_id=archive_id):
            self._catchup.put(event)

    def _carried(self, stanza: Element) -> Element | None:
        """The message itself, or the one that another client of the account got or sent (XEP-0280)."""
        for way in ("received", "sent"):
            carbon = stanza.find(f"{words.CARBONS}{way}")
            if carbon is not None:
                # §11: anybody could send such a thing
                if split_jid(stanza.get("from", "") or self.me.remote_id) != (self.me.remote_id, ""):
                    return None
                message = carbon.find(f"{words.FORWARD}forwarded/{CLIENT}message")
                return None if message is None or message.get("type") == "groupchat" else message
        return stanza

    def _take_presence(self, stanza: Element) -> None:
        bare, resource = split_jid(stanza.get("from", "") or self.me.remote_id)
        if self._rooms.take_presence(stanza, bare, resource) or bare == self.me.remote_id:
            return
        kind = stanza.get("type", "")
        if kind == "subscribe":
            self._inbox.put(FriendRequest(Person(bare), parse_presence(stanza)))
        elif kind in ("", "unavailable"):
            was = bool(self._available.get(bare))
            is_available = self._note_resource(bare, resource, is_there=not kind)
            if is_available or was:
                self._inbox.put(PresenceChanged(Person(bare), is_available, parse_presence(stanza)))

    def _note_resource(self, bare: str, resource: str, *, is_there: bool) -> bool:
        """Whether one of a contact's devices is there."""
        there = self._available.get(bare, set())
        if is_there and resource not in there and self._resources < RESOURCES:
            self._available.setdefault(bare, there).add(resource)
            self._resources += 1
        elif not is_there and resource in there:
            there.discard(resource)
            self._resources -= 1
            if not there:
                del self._available[bare]
        return is_there or bool(self._available.get(bare))

    def _take_request(self, stanza: Element) -> None:
        """RFC 6120 §8.2.3: each is answered."""
        sender = split_jid(stanza.get("from", "") or self.me.remote_id)[0]
        answer = element(f"{CLIENT}iq", type="result", id=stanza.get("id", ""))
        if stanza.get("from"):
            answer.set("to", stanza.get("from", ""))
        roster = stanza.find(f"{words.ROSTER}query")
        is_ours = sender == self.me.remote_id
        if roster is not None and stanza.get("type") == "set" and is_ours:  # RFC 6121 §2.1.6
            for item in roster.iterfind(f"{words.ROSTER}item"):
                address, contact = parse_item(item)
                if address:
                    self._inbox.put(ContactChanged(address, contact))
        elif stanza.find(f"{words.PING}ping") is None:
            answer.set("type", "error")
            refused = element(f"{words.STANZAS}service-unavailable")
            answer.append(element(f"{CLIENT}error", "", refused, type="cancel"))
        self._stream.write(answer)

    # --- what goes

    async def send(self, envelope: Envelope, files: Sequence[MediaFile] = ()) -> str:
        conversation = envelope.conversation
        await self._find_sent(conversation, envelope.at_ms)
        names = [
            build_message_id(self.me.remote_id, envelope.txn_id, part) for part in range(parts_of(envelope, files))
        ]
        if names and all(name in self._sent for name in names):
            return self._sent[names[0]]
        links = [await self._files.upload(file) for file in files]
        remote_ids = []
        for message in build_messages(envelope, self.me.remote_id, links):
            known = self._sent.get(message.get("id", ""))
            try:
                remote_ids.append(known if known is not None else await self._send_one(conversation, message))
            except Transient:
                self._looked.discard(conversation.remote_id)  # a second try looks whether it came through after all
                raise
        return remote_ids[0]

    async def _send_one(self, conversation: Conversation, message: Element) -> str:
        """The server has it once it answers what was asked behind it, or once the room says it to everybody."""
        name = message.get("id", "")
        is_room = kind_of(conversation) == "groupchat"
        if is_room and split_jid(conversation.remote_id)[0] not in self._reader.rooms:
            raise Rejected("conversation: the account is not in this room")
        taken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._sending[name] = taken
        try:
            self._stream.write(message)
            if is_room:
                async with asyncio.timeout(self._request_s):
                    remote_id = await taken or f"{name} {self._reader.rooms.get(conversation.remote_id, '')}"
            else:
                await self._settle()
                if taken.done():
                    taken.result()
                remote_id = name
        except TimeoutError:
            raise Transient("the room did not answer in time") from None
        finally:
            del self._sending[name]
            if taken.done() and not taken.cancelled():
                taken.exception()
        self._note_sent(name, remote_id)
        return remote_id

    async def _settle(self) -> None:
        """The server has handled all that was written: it answers in order (RFC 6120 §10.1)."""
        try:
            await self._stream.ask(element(f"{words.PING}ping"), to=self._stream.default_domain)
        except StanzaError:
            return  # an answer is an answer

    async def _find_sent(self, conversation: Conversation, since_ms: int) -> None:
        """Learn where an earlier try, of this session or one before, came through: the first send of a session into a
        conversation, and one behind a failure, looks at what stands there since the message was written."""
        place = conversation.remote_id
        if place not in self._looked and self._catchup.own.is_kept:
            is_room = kind_of(conversation) == "groupchat"
            field = check_jid(place, "conversation", may_name_resource=not is_room)
            where = (field, "") if is_room else ("", field)
            patience_s = self._request_s / 3  # the message itself has to go in the same time
            for name, archive_id in await self._catchup.sent_since(*where, since_ms - CLOCK_MS, patience_s):
                self._note_sent(name, archive_id if is_room else name)
            if len(self._looked) >= LOOKED:
                self._looked.clear()
            self._looked.add(place)

    def _note_sent(self, name: str, remote_id: str) -> None:
        self._sent[name] = remote_id
        if len(self._sent) > SENT:
            self._sent.popitem(last=False)

    # --- people

    async def contacts(self) -> AsyncIterator[Contact]:
        try:
            answer = await self._stream.ask(element(f"{words.ROSTER}query"))
        except StanzaError as exc:
            raise exc.as_failure() from None
        for contact in parse_roster(answer):
            yield contact

    async def act(self, act: Act) -> None:
        match act:
            case Typing(conversation, is_typing):
                self._stream.write(build_typing(conversation, is_typing=is_typing))
                return
            case MarkRead(conversation, remote_id):
                self._stream.write(build_mark(conversation, remote_id))
            case Befriend(remote_id, text):
                address = check_jid(remote_id, "remote_id")
                # RFC 6121 §3.4: the other one's request back is answered before it comes
                self._stream.write(build_presence("subscribed", address))
                self._stream.write(build_presence("subscribe", address, clean(text[:1_024])))
            case Answer(remote_id, accept):
                address = check_jid(remote_id, "remote_id")
                if accept:
                    self._stream.write(build_presence("subscribed", address))
                    self._stream.write(build_presence("subscribe", address))
                else:
                    self._stream.write(build_presence("unsubscribed", address))
            case JoinRoom(remote_id):
                await self._rooms.join(remote_id)
                return
            case LeaveRoom(remote_id):
                await self._rooms.leave(remote_id)
                return
        await self._settle()

    def fetch(self, media: Media) -> AsyncIterator[bytes]:
        return self._files.fetch(media)
