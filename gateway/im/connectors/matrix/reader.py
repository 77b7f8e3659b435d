"""What came from /sync, as events of the gateway; sans I/O; must never raise for what a stranger sent.

A direct conversation is named by the person, as contacts are, and not by the room: people have several rooms with each
other, and make new ones. Where something was said last is where it goes on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from gateway.im.connectors.matrix.answer import Invite, is_membership
from gateway.im.connectors.matrix.content import cut, get_id, get_object, get_text, parse_event
from gateway.im.connectors.matrix.direct import find_partners, parse_direct
from gateway.model.im import (
    Conversation,
    ConversationKind,
    Event,
    FriendRequest,
    Message,
    Person,
    PresenceChanged,
    ReadUpTo,
    TypingChanged,
)

#: people whose names are known, rooms whose typing and encryption are; past it the oldest are forgotten
MAX_KNOWN = 2_048
#: people that type in one room; more are not told
MAX_TYPING = 50
MAX_DISPLAY_BYTES = 256
MAX_STATUS_BYTES = 1_024


class Known(OrderedDict[str, Any]):
    """At most MAX_KNOWN; the oldest go."""

    def put(self, key: str, value: Any) -> None:
        self[key] = value
        self.move_to_end(key)
        while len(self) > MAX_KNOWN:
            self.popitem(last=False)


class Reader:
    def __init__(self, me: str, text_bytes: int) -> None:
        self.me = me
        self._text_bytes = text_bytes
        #: user → rooms with them, the newest last
        self.direct: dict[str, tuple[str, ...]] = {}
        #: room → user
        self._partners: dict[str, str] = {}
        #: the same, of rooms that were made here and that m.direct does not tell of yet
        self._new_partners = Known()
        self._names = Known()
        self._typing = Known()
        #: room → is it?
        self.encrypted = Known()
        #: user → direct room in which they are, as far as that was seen
        self.places = Known()
        #: event → direct room, for what is answered or marked
        self._event_rooms = Known()

    # --- who and where ---

    def take_direct(self, content: dict[str, Any]) -> tuple[list[tuple[str, str]], list[str]]:
        """(user, newest room) of those who are new, and those who are gone."""
        before, self.direct = self.direct, parse_direct(content)
        self._partners = find_partners(self.direct)
        new = [(user, rooms[-1]) for user, rooms in self.direct.items() if user not in before and self.rooms_with(user)]
        return new, [user for user in before if user not in self.direct]

    def expect_direct(self, room: str, user: str) -> None:
        self._new_partners.put(room, user)

    def partner(self, room: str) -> str:
        """Of a direct room; empty: it is another."""
        return self._partners.get(room) or str(self._new_partners.get(room, ""))

    def rooms_with(self, user: str) -> list[str]:
        """Direct rooms with this person alone, the newest first."""
        return [room for room in reversed(self.direct.get(user, ())) if self._partners.get(room) == user]

    def room_of(self, event: str) -> str:
        """The direct room of an event that came not long ago; empty: not known."""
        return str(self._event_rooms.get(event, ""))

    def conversation(self, room: str) -> Conversation:
        partner = self.partner(room)
        return Conversation(ConversationKind.DM, partner) if partner else Conversation(ConversationKind.ROOM, room)

    def person(self, user: str) -> Person:
        return Person(user, self._names.get(user, ""), user == self.me)

    def note_member(self, event: dict[str, Any]) -> None:
        """What somebody is called."""
        user, content = get_id(event, "state_key"), get_object(event, "content")
        if event.get("type") == "m.room.member" and user and content.get("membership") in ("join", "invite"):
            self._names.put(user, clean(get_text(content, "displayname"), MAX_DISPLAY_BYTES))

    # --- events ---

    def read_timeline(self, room: str, event: dict[str, Any]) -> Message | None:
        if event.get("type") == "m.room.encryption":
            self.encrypted.put(room, True)
        self.note_member(event)
        sender = get_id(event, "sender")
        if not sender:
            return None
        envelope = parse_event(event, self.conversation(room), self.person(sender), text_bytes=self._text_bytes)
        if envelope is None:
            return None
        partner = self.partner(room)
        if partner:
            self._event_rooms.put(envelope.remote_id, room)
        if partner == sender:
            self.places.put(partner, room)
        return Message(envelope)

    def partner_moved(self, room: str, event: dict[str, Any]) -> tuple[str, bool] | None:
        """The partner of a direct room has come (True) or gone."""
        partner = self.partner(room)
        if partner and is_membership(event, partner, "join"):
            self.places.put(partner, room)
            return partner, True
        if partner and (is_membership(event, partner, "leave") or is_membership(event, partner, "ban")):
            if self.places.get(partner) == room:
                del self.places[partner]
            return partner, False
        return None

    def read_ephemeral(self, room: str, event: dict[str, Any]) -> Iterator[Event]:
        content = get_object(event, "content")
        if event.get("type") == "m.receipt":
            for remote_id in content:
                if get_id({"id": remote_id}, "id"):
                    for user in get_object(get_object(content, remote_id), "m.read"):
                        if get_id({"id": user}, "id"):
                            yield ReadUpTo(self.conversation(room), self.person(user), remote_id)
        elif event.get("type") == "m.typing":
            users = content.get("user_ids")
            users = users if isinstance(users, list) else []
            now = [user for user in users[:MAX_TYPING] if isinstance(user, str) and get_id({"id": user}, "id")]
            before = self._typing.get(room, ())
            self._typing.put(room, tuple(now))
            for user in dict.fromkeys([*before, *now]):
                if user != self.me and (user in before) != (user in now):
                    yield TypingChanged(self.conversation(room), self.person(user), user in now)

    def read_presence(self, event: dict[str, Any]) -> PresenceChanged | None:
        """Of friends: a server tells of everybody in the account's rooms."""
        user, content = get_id(event, "sender"), get_object(event, "content")
        state = content.get("presence")
        if event.get("type") != "m.presence" or user not in self.direct:
            return None
        if state not in ("online", "unavailable", "offline"):
            return None
        text = clean(get_text(content, "status_msg"), MAX_STATUS_BYTES)
        return PresenceChanged(self.person(user), state != "offline", text)

    def read_invite(self, invite: Invite) -> FriendRequest:
        if invite.display:
            self._names.put(invite.by, clean(invite.display, MAX_DISPLAY_BYTES))
        return FriendRequest(self.person(invite.by), cut(invite.text, self._text_bytes))


def clean(text: str, most_bytes: int) -> str:
    """One line, bounded."""
    return "".join(char if char.isprintable() else " " for char in cut(text[:most_bytes], most_bytes)).strip()
