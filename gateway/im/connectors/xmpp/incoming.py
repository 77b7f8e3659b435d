"""A message of XMPP → events; must know no connection, and raise nothing for whatever XML it is given."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from mimetypes import guess_type
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from gateway.im.connectors.xmpp import words
from gateway.im.connectors.xmpp.words import CLIENT, Element, split_jid
from gateway.im.geo import GeoError, check_geo, parse_geo
from gateway.model.im import (
    Conversation,
    ConversationKind,
    Envelope,
    Event,
    Geo,
    Kind,
    Media,
    Message,
    Person,
    ReadUpTo,
    TypingChanged,
)

NETWORK = "xmpp"
#: of a message that this gateway sent: what follows is made of its txn_id
OWN_ID = "hg-"
#: a shorter id may be a counter that begins at 1 again: alone it would let a new message pass for an old one
SHORT_ID = 12
ID_CHARACTERS = 512
LINKS = 16
#: links longer than this are no files
LINK_CHARACTERS = 4_096


class Reader(NamedTuple):
    """Who reads, and what is known of where."""

    #: bare address of the account
    me: str
    #: bare address of each room that is joined → our nick there
    rooms: Mapping[str, str]
    text_bytes: int


class Place(NamedTuple):
    """Who said it, and where."""

    conversation: Conversation
    sender: Person


def parse_message(
    xml: Element, reader: Reader, *, now_ms: int, archive_id: str = "", stamp: str = "", is_past: bool = False
) -> list[Event]:
    """`archive_id`, `stamp`: as an archive says. `is_past`: it comes out of one, what somebody typed then is over."""
    place = find_place(xml, reader)
    if place is None or xml.get("type") == "error":
        return []
    marked = xml.find(f"{words.MARKERS}displayed")
    if marked is not None and _attribute(marked, "id"):
        return [ReadUpTo(place.conversation, place.sender, _attribute(marked, "id"))]
    stamp = stamp or next((delay.get("stamp", "") for delay in xml.findall(f"{words.DELAY}delay")), "")
    at_ms = min(parse_stamp(stamp) or now_ms, now_ms)
    archive_id = archive_id or find_archive_id(xml, reader)
    envelope = _build_envelope(xml, place, archive_id, at_ms, reader.text_bytes)
    if envelope is not None:
        return [Message(envelope)]
    if is_past or place.sender.is_self:
        return []
    if xml.find(f"{words.STATES}composing") is not None:
        return [TypingChanged(place.conversation, place.sender, True)]
    if any(xml.find(f"{words.STATES}{state}") is not None for state in ("paused", "inactive", "gone", "active")):
        return [TypingChanged(place.conversation, place.sender, False)]
    return []


def find_place(xml: Element, reader: Reader) -> Place | None:
    """None where it is no message that was said to us."""
    sender, resource = split_jid(xml.get("from", "") or reader.me)
    if xml.get("type") == "groupchat":
        if sender not in reader.rooms:
            return None
        is_self = bool(resource) and resource == reader.rooms[sender]
        full = f"{sender}/{resource}" if resource else sender
        return Place(Conversation(ConversationKind.ROOM, sender), Person(full, resource, is_self))
    is_self = sender == reader.me
    other, other_resource = split_jid(xml.get("to", "") or reader.me) if is_self else (sender, resource)
    # one of a room says something to us alone: the resource is who
    remote = f"{other}/{other_resource}" if other in reader.rooms and other_resource else other
    person = Person(reader.me, "", True) if is_self else Person(remote, other_resource if remote != other else "")
    return Place(Conversation(ConversationKind.DM, remote), person)


def find_archive_id(xml: Element, reader: Reader) -> str:
    """The id that an archive we trust gave it (XEP-0359 §5): our own, or the room's."""
    by = split_jid(xml.get("from", ""))[0] if xml.get("type") == "groupchat" else reader.me
    for child in xml.findall(f"{words.STANZA_IDS}stanza-id"):
        if split_jid(child.get("by", "")) == (by, ""):
            return _attribute(child, "id")
    return ""


def is_own(xml: Element, reader: Reader) -> bool:
    """This gateway sent it: whoever sent it knows already."""
    place = find_place(xml, reader)
    return place is not None and place.sender.is_self and xml.get("id", "").startswith(OWN_ID)


def _build_envelope(xml: Element, place: Place, archive_id: str, at_ms: int, text_bytes: int) -> Envelope | None:
    is_room = place.conversation.kind is ConversationKind.ROOM
    links = [link for link in (x.findtext(f"{words.OOB}url") for x in xml.findall(f"{words.OOB}x")) if link][:LINKS]
    media = tuple(_media(link.strip()) for link in links if len(link) <= LINK_CHARACTERS)
    geo = _parse_geoloc(xml.find(f"{words.GEOLOC}geoloc"))
    text = _body(xml)
    reply = xml.find(f"{words.REPLY}reply")
    if reply is not None:
        text = _without_fallback(xml, text)
    if any(text.strip() == item.ref for item in media):
        text = ""
    if geo is None and text.strip().lower().startswith("geo:"):
        geo = _whole_geo(text)
    if geo is not None and _whole_geo(text) is not None:
        text = ""
    retracted = xml.find(f"{words.RETRACT}retract")
    corrected = xml.find(f"{words.CORRECT}replace")
    if retracted is not None and _attribute(retracted, "id"):
        kind, replaces, text = Kind.REDACTION, _attribute(retracted, "id"), ""
    elif not text and not media and geo is None:
        return None
    elif corrected is not None and _attribute(corrected, "id"):
        kind, replaces = Kind.EDIT, _attribute(corrected, "id")
    else:
        kind, replaces = (Kind.LOCATION if geo else Kind.MEDIA if media else Kind.TEXT), ""
    return Envelope(
        NETWORK,
        place.conversation,
        place.sender,
        remote_id=_remote_id(xml, place, archive_id, at_ms, is_room=is_room),
        kind=kind,
        text=cut(text, text_bytes),
        subject="" if is_room else cut(xml.findtext(f"{CLIENT}subject") or "", 1_024),
        media=media,
        geo=geo,
        reply_to="" if reply is None else _attribute(reply, "id"),
        replaces=replaces,
        at_remote_ms=at_ms,
    )


def _remote_id(xml: Element, place: Place, archive_id: str, at_ms: int, *, is_room: bool) -> str:
    """In a room the id that the room gave. Else the sender's own, which marks, edits and our own sends name, and the
    archive's behind a space where that is so short that it may come twice. See `message_id`."""
    own = _attribute(xml, "id")
    if is_room and archive_id:
        return archive_id
    if is_room:
        own = f"{own} {place.sender.display}" if own else ""
    if len(own) >= SHORT_ID:
        return own
    if archive_id:
        return f"{own} {archive_id}"
    said = f"{place.sender.remote_id}\0{at_ms}\0{own}\0{_body(xml)}"
    return f"{own} {hashlib.sha256(said.encode(errors='replace')).hexdigest()[:32]}"


def message_id(remote_id: str) -> str:
    """What the network knows a message by; empty where its sender gave it no name."""
    return remote_id.partition(" ")[0]


def _attribute(xml: Element, name: str) -> str:
    """Bounded; without spaces and what no XML carries back."""
    value = xml.get(name, "")
    return "".join(value.split()) if len(value) <= ID_CHARACTERS else ""


def _body(xml: Element) -> str:
    """The one in no language of its own, or the first."""
    bodies = xml.findall(f"{CLIENT}body")
    if not bodies:
        return ""
    plain = (body for body in bodies if "{http://www.w3.org/XML/1998/namespace}lang" not in body.attrib)
    return next(plain, bodies[0]).text or ""


def _without_fallback(xml: Element, text: str) -> str:
    """The text without the quotation that stands there for clients that know no replies (XEP-0428)."""
    for fallback in xml.findall(f"{words.FALLBACK}fallback"):
        part = fallback.find(f"{words.FALLBACK}body")
        if fallback.get("for") == words.REPLY[1:-1] and part is not None:
            start, end = part.get("start", "0"), part.get("end", str(len(text)))
            if all(number.isascii() and number.isdigit() and len(number) < 9 for number in (start, end)):
                return text[: int(start)] + text[max(int(start), int(end)) :]
    return text


def _media(link: str) -> Media:
    try:
        name = unquote(urlsplit(link).path.rpartition("/")[2], errors="replace")[:255]
    except ValueError:
        name = ""
    name = "".join(character for character in name if character.isprintable() and character not in "/\\")
    return Media(link, guess_type(name, strict=False)[0] or "application/octet-stream", name=name)


def _parse_geoloc(geoloc: Element | None) -> Geo | None:
    if geoloc is None:
        return None
    try:
        latitude, longitude = (float(geoloc.findtext(f"{words.GEOLOC}{name}") or "") for name in ("lat", "lon"))
        accuracy = geoloc.findtext(f"{words.GEOLOC}accuracy")
        altitude = geoloc.findtext(f"{words.GEOLOC}alt")
        more = [float(number) if number and number.strip() else None for number in (accuracy, altitude)]
        return check_geo(Geo(latitude, longitude, *more))
    except (ValueError, GeoError):
        return None


def _whole_geo(text: str) -> Geo | None:
    try:
        return parse_geo(text)
    except GeoError:
        return None


def parse_stamp(stamp: str) -> int:
    """XEP-0082; 0 where it is none."""
    try:
        at = datetime.fromisoformat(stamp[:40])
        return max(0, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000))
    except (ValueError, OverflowError):
        return 0


def cut(text: str, most_bytes: int) -> str:
    """Whole characters of it."""
    if len(text) * 4 <= most_bytes:
        return text
    return text.encode(errors="replace")[:most_bytes].decode(errors="ignore")
