"""What a user sends and asks for → stanzas of XMPP; must know no connection, and build nothing that is no XML."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from slixmpp.jid import JID, InvalidJID

from gateway.im.connectors.xmpp import words
from gateway.im.connectors.xmpp.incoming import OWN_ID, message_id
from gateway.im.connectors.xmpp.words import CLIENT, Element, element
from gateway.im.geo import build_geo
from gateway.model.im import Conversation, ConversationKind, Envelope, Geo, Kind, MediaFile, Rejected

#: servers take stanzas of 10,000 bytes at least (RFC 6120 §13.12); those in use take this and more
TEXT_BYTES = 60_000
#: what XML 1.0 can not carry: one of them would end the stream of the whole account
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)


def check_jid(address: str, field: str, *, may_name_resource: bool = False) -> str:
    """As the network writes it. Rejected, naming the field."""
    try:
        jid = JID(address)
    except InvalidJID:
        raise Rejected(f"{field}: this is no address of XMPP") from None
    if not jid.user or (jid.resource and not may_name_resource):
        raise Rejected(f"{field}: this is no address of XMPP")
    return str(jid) if jid.resource else str(jid.bare).lower()


def build_message_id(me: str, txn_id: str, part: int = 0) -> str:
    """The same for each try."""
    made = hashlib.sha256(f"{me}\0{txn_id}".encode(errors="replace")).hexdigest()[:32]
    return f"{OWN_ID}{made}-{part}" if part else OWN_ID + made


def parts_of(envelope: Envelope, files: Sequence[MediaFile]) -> int:
    """Messages that it takes, if it is one that can be sent."""
    is_said = bool(envelope.text) or envelope.geo is not None or envelope.kind is Kind.REDACTION
    return len(files) + is_said


def build_messages(envelope: Envelope, me: str, links: list[str]) -> list[Element]:
    """One for the text, place or change, one for each file, whose links are `links`. Rejected."""
    if len(envelope.text.encode(errors="replace")) > TEXT_BYTES:
        raise Rejected(f"text: XMPP takes {TEXT_BYTES:,} bytes")
    kind = kind_of(envelope.conversation)
    if envelope.kind is Kind.EDIT and kind == "groupchat":
        raise Rejected("kind: what was said in a room is known by the room's name for it, which no edit can name")
    to = check_jid(envelope.conversation.remote_id, "conversation", may_name_resource=kind == "chat")
    payloads: list[list[Element]] = []
    payload = _payload(envelope)
    if payload:
        payloads.append(payload)
    for link in links:
        payloads.append(
            [element(f"{CLIENT}body", link), element(f"{words.OOB}x", "", element(f"{words.OOB}url", link))]
        )
    if not payloads:
        raise Rejected("text: there is nothing to send")
    messages = []
    for part, content in enumerate(payloads):
        name = build_message_id(me, envelope.txn_id, part)
        message = element(f"{CLIENT}message", "", *content, to=to, type=kind, id=name)
        message.append(element(f"{words.STANZA_IDS}origin-id", id=name))
        if kind == "chat":
            message.append(element(f"{words.MARKERS}markable"))
        messages.append(message)
    return messages


def _payload(envelope: Envelope) -> list[Element]:
    text = clean(envelope.text)
    if envelope.kind is Kind.REDACTION:
        return [
            element(f"{words.RETRACT}retract", id=clean(message_id(envelope.replaces))),
            element(f"{words.HINTS}store"),
        ]
    content = []
    if envelope.geo is not None:
        uri = build_geo(envelope.geo)
        text = f"{text}\n{uri}" if text else uri
        content.append(build_geoloc(envelope.geo))
    if not text:
        return []
    if envelope.subject:
        content.append(element(f"{CLIENT}subject", clean(envelope.subject)))
    content.append(element(f"{CLIENT}body", text))
    if envelope.kind is Kind.EDIT:
        content.append(element(f"{words.CORRECT}replace", id=clean(message_id(envelope.replaces))))
    if envelope.reply_to:
        content.append(element(f"{words.REPLY}reply", id=clean(message_id(envelope.reply_to))))
    return content


def build_geoloc(geo: Geo) -> Element:
    numbers = {"lat": geo.latitude, "lon": geo.longitude, "accuracy": geo.accuracy_m, "alt": geo.altitude_m}
    parts = [
        element(f"{words.GEOLOC}{name}", f"{number:.9f}".rstrip("0").rstrip("."))
        for name, number in numbers.items()
        if number is not None
    ]
    return element(f"{words.GEOLOC}geoloc", "", *parts)


def build_mark(conversation: Conversation, remote_id: str) -> Element:
    """XEP-0333. Rejected where the message has no name."""
    name = clean(message_id(remote_id))
    if not name:
        raise Rejected("remote_id: its sender gave this message no name, it can not be marked")
    kind = kind_of(conversation)
    to = check_jid(conversation.remote_id, "conversation", may_name_resource=kind == "chat")
    marked = element(f"{words.MARKERS}displayed", id=name)
    return element(f"{CLIENT}message", "", marked, element(f"{words.HINTS}store"), to=to, type=kind)


def build_typing(conversation: Conversation, *, is_typing: bool) -> Element:
    kind = kind_of(conversation)
    to = check_jid(conversation.remote_id, "conversation", may_name_resource=kind == "chat")
    state = element(f"{words.STATES}{'composing' if is_typing else 'paused'}")
    return element(f"{CLIENT}message", "", state, element(f"{words.HINTS}no-store"), to=to, type=kind)


def build_presence(kind: str = "", to: str = "", status: str = "") -> Element:
    presence = element(f"{CLIENT}presence")
    if to:
        presence.set("to", to)
    if kind:
        presence.set("type", kind)
    if status:
        presence.append(element(f"{CLIENT}status", clean(status)))
    return presence


def kind_of(conversation: Conversation) -> str:
    return "groupchat" if conversation.kind is ConversationKind.ROOM else "chat"
