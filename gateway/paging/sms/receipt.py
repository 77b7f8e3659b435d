"""Delivery receipts, by TLV and by text; must never fail on what an SMSC writes, nor take more of it than is needed.

Source: SMPP 3.4 §5.3.2.12 (receipted_message_id), §5.2.28 (message_state), appendix B (the text, "typical" by its own
words). The text's dates are not read at all: SMSCs write them in their own zones and formats, some write none, and when
a receipt came is known here. Its `text:` holds the message's beginning, and is never read either.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import NamedTuple

from gateway.paging.sms.pdu import ESM_INTERMEDIATE, ShortMessage, Tag


class MessageState(IntEnum):
    """§5.2.28"""

    ENROUTE = 1
    DELIVERED = 2
    EXPIRED = 3
    DELETED = 4
    UNDELIVERABLE = 5
    ACCEPTED = 6
    UNKNOWN = 7
    REJECTED = 8


#: appendix B, table B-2; and what is seen beside it
_STATES = {
    "ENROUTE": MessageState.ENROUTE,
    "DELIVRD": MessageState.DELIVERED,
    "DELIVERED": MessageState.DELIVERED,
    "EXPIRED": MessageState.EXPIRED,
    "DELETED": MessageState.DELETED,
    "UNDELIV": MessageState.UNDELIVERABLE,
    "ACCEPTD": MessageState.ACCEPTED,
    "UNKNOWN": MessageState.UNKNOWN,
    "REJECTD": MessageState.REJECTED,
    "FAILED": MessageState.UNDELIVERABLE,
}
#: these say that the message is still on its way
_UNDER_WAY = (MessageState.ENROUTE, MessageState.ACCEPTED)
_ID = re.compile(rb"(?:^|\s)id:([^\s]{1,64})", re.IGNORECASE)
_STAT = re.compile(rb"\sstat:\s?([A-Za-z]{1,12})", re.IGNORECASE)
_ERR = re.compile(rb"\serr:\s?([0-9A-Za-z]{1,8})", re.IGNORECASE)
#: the fields are before the text, which is somebody's message
_TEXT = re.compile(rb"(?:^|\s)text:", re.IGNORECASE)


class ReceiptOf(NamedTuple):
    """What a receipt says. `message_id` may be empty, `reference` is the submitter's own number, -1 where it is not
    there."""

    message_id: str
    reference: int
    state: MessageState
    error: str = ""  # the network's code, letters and digits alone

    @property
    def is_final(self) -> bool:
        return self.state not in _UNDER_WAY

    @property
    def is_delivered(self) -> bool:
        return self.state is MessageState.DELIVERED


def parse_receipt(sm: ShortMessage) -> ReceiptOf | None:
    """None where neither TLVs nor text say which message and what became of it. TLVs win: they have one meaning."""
    fields = _TEXT.split(sm.message, maxsplit=1)[0]
    message_id = sm.tlvs.get(Tag.RECEIPTED_MESSAGE_ID, b"").split(b"\0")[0]
    if not message_id and (found := _ID.search(fields)):
        message_id = found[1]
    raw = sm.tlvs.get(Tag.USER_MESSAGE_REFERENCE, b"")
    reference = int.from_bytes(raw, "big") if 1 <= len(raw) <= 2 else -1
    state = _parse_state(sm, fields)
    if state is None or (not message_id and reference < 0):
        return None
    error = _ERR.search(fields)
    code = sm.tlvs.get(Tag.NETWORK_ERROR_CODE, b"")
    text = error[1].decode() if error else str(int.from_bytes(code[1:], "big")) if len(code) == 3 else ""
    return ReceiptOf(message_id[:64].decode("latin-1"), reference, state, text.strip("0") and text)


def _parse_state(sm: ShortMessage, fields: bytes) -> MessageState | None:
    raw = sm.tlvs.get(Tag.MESSAGE_STATE, b"")
    if len(raw) == 1 and MessageState.ENROUTE <= raw[0] <= MessageState.REJECTED:
        return MessageState(raw[0])
    stat = _STAT.search(fields)
    if stat is not None:
        # a word of the SMSC's own is an end nobody can tell the kind of
        return _STATES.get(stat[1].decode().upper(), MessageState.UNKNOWN)
    return MessageState.ENROUTE if sm.esm_class & ESM_INTERMEDIATE else None


def spellings(message_id: str) -> list[str]:
    """The id as it may stand in a receipt of the same SMSC: many give it in hexadecimal when they take a message, and
    in decimal in its receipt, or the other way round."""
    found = [message_id]
    bare = message_id.lstrip("0")
    if len(message_id) <= 20 and message_id.isascii():
        if message_id.isdigit():
            found += [bare, f"{int(message_id):x}", f"{int(message_id):X}"]
        if all(char in "0123456789abcdefABCDEF" for char in message_id) and message_id:
            found += [str(int(message_id, 16)), bare.lower(), bare.upper()]
    return list(dict.fromkeys(found))
