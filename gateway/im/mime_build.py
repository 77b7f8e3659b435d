"""Mails as they are sent: an envelope and its files as one RFC 5322 message; a line end in a subject, a name or an
address can not become a field of its own."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from email.headerregistry import HeaderRegistry, MessageIDHeader
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path

from gateway.im.geo import build_geo
from gateway.im.mime import clean, clean_line, file_name, is_address
from gateway.model.im import ConversationKind, Envelope, Kind, MediaFile, Rejected

_SUBJECT_CHARACTERS = 150
_ID = re.compile(r"[!-;=?-~]{1,512}")
_KINDS = (Kind.TEXT, Kind.MEDIA, Kind.LOCATION, Kind.MAIL)


_REGISTRY = HeaderRegistry()
for _field in ("in-reply-to", "references"):
    # else a long id would be folded as words of RFC 2047, which nobody reads as an id
    _REGISTRY.map_to_type(_field, MessageIDHeader)  # type: ignore[arg-type]
_POLICY = SMTP.clone(header_factory=_REGISTRY)


def message_id(sender: str, txn_id: str) -> str:
    """Without angles; the same for each try of one message."""
    told = f"{sender}\0{txn_id}" if txn_id else secrets.token_hex(16)
    return f"{hashlib.sha256(told.encode()).hexdigest()[:40]}@{sender.rpartition('@')[2]}"


def check_outgoing(envelope: Envelope) -> str:
    """The recipient. Rejected for what no mail can be."""
    if envelope.kind not in _KINDS:
        raise Rejected("a mail that is sent can not be changed or taken back")
    if envelope.conversation.kind is not ConversationKind.DM or not is_address(envelope.conversation.remote_id):
        raise Rejected("conversation.remote_id: expected one mail address")
    return envelope.conversation.remote_id


def build_mail(
    envelope: Envelope, files: Sequence[MediaFile], *, sender: str, now_ms: int, max_bytes: int
) -> tuple[bytes, str]:
    """The mail and its id. Reads the files: not on an event loop. Rejected where it is larger than `max_bytes`."""
    recipient = check_outgoing(envelope)
    text = clean(envelope.text)
    if envelope.geo is not None:
        text = f"{text}\n{build_geo(envelope.geo)}".lstrip("\n")
    mail = EmailMessage(policy=_POLICY)
    mail["From"] = sender
    mail["To"] = recipient
    mail["Subject"] = _subject(envelope, text)
    mail["Date"] = format_datetime(datetime.fromtimestamp(now_ms / 1_000, UTC))
    name = message_id(sender, envelope.txn_id)
    mail["Message-ID"] = f"<{name}>"
    if _ID.fullmatch(envelope.reply_to) and "@" in envelope.reply_to and not envelope.reply_to.endswith(".invalid"):
        mail["In-Reply-To"] = f"<{envelope.reply_to}>"
        mail["References"] = f"<{envelope.reply_to}>"
    mail.set_content(text)
    room = max_bytes - 2 * len(text)
    for file in files:
        data = Path(file.path).read_bytes() if _size(file) <= room else None
        if data is None:
            raise Rejected(f"a mail with these files is larger than {max_bytes} bytes")
        room -= len(data) * 137 // 100
        main, _, sub = file.media.mime.partition("/")
        if not re.fullmatch(r"[A-Za-z0-9.+-]{1,64}", sub) or main not in ("image", "audio", "video", "application"):
            main, sub = "application", "octet-stream"
        mail.add_attachment(data, maintype=main, subtype=sub, filename=file_name(file.media.name) or "file")
    built = mail.as_bytes()
    if len(built) > max_bytes:
        raise Rejected(f"a mail with these files is larger than {max_bytes} bytes")
    return built, name


def _size(file: MediaFile) -> int:
    return Path(file.path).stat().st_size * 137 // 100


def _subject(envelope: Envelope, text: str) -> str:
    subject = clean_line(envelope.subject)
    if not subject:
        # as chats by mail do: how it begins
        subject = clean_line(text[:1_024])[:60] or "A message for you"
    return subject[:_SUBJECT_CHARACTERS]
