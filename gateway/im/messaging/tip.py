"""What a device shows of an item before its app reads it: a title, the beginning of the text; pure."""

from __future__ import annotations

from typing import NamedTuple

from gateway.model.im import Envelope, Kind
from gateway.model.im_people import AccountState, Item, ItemKind

#: characters
TITLE = 100
TEXT = 200

_WORDS = {
    Kind.MEDIA: "sent a file",
    Kind.LOCATION: "sent a place",
    Kind.EDIT: "changed a message",
    Kind.REDACTION: "took a message back",
}


class Tip(NamedTuple):
    title: str = ""
    text: str = ""
    urgent: bool = False


def build_tip(item: Item) -> Tip:
    """Urgent: worth waking a device for."""
    if item.kind is ItemKind.MESSAGE and item.envelope is not None:
        return _of_message(item.envelope)
    if item.kind is ItemKind.FRIEND_REQUEST:
        return Tip(_name_of(item), _cut(item.text or "wants to be in touch", TEXT), True)
    if item.kind is ItemKind.RESULT and item.state == "failed":
        return Tip("Not sent", _cut(item.reason, TEXT), True)
    if item.kind is ItemKind.ACCOUNT and item.state == AccountState.BAD_CREDENTIALS:
        return Tip("Sign in again", _cut(item.reason or item.text, TEXT), True)
    return Tip()


def _of_message(envelope: Envelope) -> Tip:
    if envelope.sender.is_self:
        return Tip()
    text = envelope.subject or envelope.text or _WORDS.get(envelope.kind, "")
    is_new = envelope.kind not in (Kind.EDIT, Kind.REDACTION)
    return Tip(_cut(envelope.sender.display or envelope.sender.remote_id, TITLE), _cut(text, TEXT), is_new)


def _name_of(item: Item) -> str:
    return "" if item.by is None else _cut(item.by.display or item.by.remote_id, TITLE)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
