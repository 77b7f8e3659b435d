"""The answer to /sync (client-server API, 6.4), taken apart; sans I/O; must never raise: what is malformed
is not there."""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.im.connectors.matrix.content import MAX_ID_CHARACTERS, get_id, get_object, get_objects, get_text

#: of a cursor
MAX_TOKEN_CHARACTERS = 2_048


class RoomNews(NamedTuple):
    room: str
    timeline: list[dict[str, Any]]
    state: list[dict[str, Any]]
    #: receipts and typing marks
    ephemeral: list[dict[str, Any]]
    #: something before the timeline is missing
    is_limited: bool
    #: where the timeline begins
    prev_batch: str


class Invite(NamedTuple):
    room: str
    by: str
    display: str
    #: the inviter's words, or the room's name
    text: str
    is_direct: bool

    def __repr__(self) -> str:
        return "Invite(hidden)"


class News(NamedTuple):
    next_batch: str
    #: those the account is in, then those it has left
    rooms: list[RoomNews]
    invites: list[Invite]
    #: content of m.direct; None: as before
    direct: dict[str, Any] | None
    presence: list[dict[str, Any]]


def parse_answer(answer: dict[str, Any], me: str) -> News | None:
    """None where it is no answer to /sync."""
    next_batch = get_token(answer, "next_batch")
    if not next_batch:
        return None
    rooms = get_object(answer, "rooms")
    news = [_parse_room(room, part) for room, part in _items(rooms, "join") + _items(rooms, "leave")]
    invites = [_parse_invite(room, part, me) for room, part in _items(rooms, "invite")]
    direct = None
    for event in get_objects(get_object(answer, "account_data"), "events"):
        if event.get("type") == "m.direct":
            direct = get_object(event, "content")
    presence = get_objects(get_object(answer, "presence"), "events")
    return News(next_batch, news, [invite for invite in invites if invite is not None], direct, presence)


def get_token(holder: dict[str, Any], name: str) -> str:
    value = holder.get(name)
    is_token = isinstance(value, str) and len(value) <= MAX_TOKEN_CHARACTERS and value.isascii() and value.isprintable()
    return value if is_token and isinstance(value, str) else ""


def is_membership(event: dict[str, Any], user: str, membership: str) -> bool:
    """Does the event change the user's membership to this?"""
    if event.get("type") != "m.room.member" or event.get("state_key") != user:
        return False
    before = get_object(get_object(event, "unsigned"), "prev_content") or get_object(event, "prev_content")
    return get_object(event, "content").get("membership") == membership and before.get("membership") != membership


def _items(holder: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (room, part)
        for room, part in get_object(holder, name).items()
        if isinstance(part, dict) and 0 < len(room) <= MAX_ID_CHARACTERS and room.isprintable()
    ]


def _parse_room(room: str, part: dict[str, Any]) -> RoomNews:
    timeline = get_object(part, "timeline")
    return RoomNews(
        room,
        get_objects(timeline, "events"),
        get_objects(get_object(part, "state"), "events"),
        get_objects(get_object(part, "ephemeral"), "events"),
        timeline.get("limited") is True,
        get_token(timeline, "prev_batch"),
    )


def _parse_invite(room: str, part: dict[str, Any], me: str) -> Invite | None:
    events = get_objects(get_object(part, "invite_state"), "events")
    members = {
        get_id(event, "state_key"): (get_id(event, "sender"), get_object(event, "content"))
        for event in events
        if event.get("type") == "m.room.member"
    }
    by, content = members.get(me, ("", {}))
    if not by or by == me:
        return None
    name = next((get_object(each, "content") for each in events if each.get("type") == "m.room.name"), {})
    display = get_text(members.get(by, ("", {}))[1], "displayname")
    text = get_text(content, "reason") or get_text(name, "name")
    return Invite(room, by, display, text, content.get("is_direct") is True)
