"""A mail as an envelope, and the names of its files; sans I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from gateway.im.mime import UNKNOWN_SENDER, Head, Leaf, decode_text, find_place, note
from gateway.model.im import Conversation, ConversationKind, Envelope, Kind, Media, Person

NETWORK = "mail"
_MADE = re.compile(r"([0-9]{1,10})\.([0-9]{1,10})@imap\.invalid")
_REF = re.compile(r"([0-9]{1,10})\.([0-9]{1,10})/([0-9]{1,6}(?:\.[0-9]{1,6}){0,15})/([a-z0-9-]{0,32})")


class FileRef(NamedTuple):
    uidvalidity: int
    uid: int
    path: str
    encoding: str


def build_file_ref(ref: FileRef) -> str:
    encoding = ref.encoding if ref.encoding in ("base64", "quoted-printable") else ""
    return f"{ref.uidvalidity}.{ref.uid}/{ref.path}/{encoding}"


def parse_file_ref(text: str) -> FileRef | None:
    found = _REF.fullmatch(text)
    return None if found is None else FileRef(int(found[1]), int(found[2]), found[3], found[4])


def made_remote_id(uidvalidity: int, uid: int) -> str:
    """For a mail without a Message-ID."""
    return f"{uidvalidity}.{uid}@imap.invalid"


def parse_made_id(remote_id: str) -> tuple[int, int] | None:
    found = _MADE.fullmatch(remote_id)
    return None if found is None else (int(found[1]), int(found[2]))


def build_envelope(
    own: str,
    head: Head,
    body: Leaf | None,
    data: bytes,
    files: Sequence[Media],
    *,
    left_out: int,
    remote_id: str,
    at_remote_ms: int,
    at_ms: int,
    text_bytes: int,
) -> Envelope:
    """`data`: the body as it is in the mail. What the account sent itself belongs to whom it was sent to."""
    text = "" if body is None else decode_text(data, body, text_bytes)
    if left_out:
        text = note(text, f"{left_out} parts of this mail are not shown", text_bytes)
    sender = head.sender or UNKNOWN_SENDER
    is_self = sender == own
    peer = next((other for other in head.recipients if other != own), own) if is_self else sender
    return Envelope(
        network=NETWORK,
        conversation=Conversation(ConversationKind.DM, peer),
        sender=Person(sender, head.sender_name, is_self),
        remote_id=remote_id,
        kind=Kind.MAIL,
        text=text,
        subject=head.subject,
        media=tuple(files),
        geo=find_place(text),
        reply_to=head.in_reply_to,
        at_remote_ms=at_remote_ms,
        at_ms=at_ms,
    )


def placeholder(uidvalidity: int, uid: int, now_ms: int) -> Envelope:
    """For a mail that the server has and can not give."""
    return Envelope(
        network=NETWORK,
        conversation=Conversation(ConversationKind.DM, UNKNOWN_SENDER),
        sender=Person(UNKNOWN_SENDER),
        remote_id=made_remote_id(uidvalidity, uid),
        kind=Kind.MAIL,
        text="[this mail can not be read here: look into the mailbox]",
        at_remote_ms=now_ms,
        at_ms=now_ms,
    )
