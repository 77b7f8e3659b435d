"""Posts of Mastodon as envelopes, and back; sans I/O. What is parsed here came through many servers: must never raise
for any of it."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from gateway.im.connectors.mastodon.text import parse_html, strip_mentions
from gateway.im.geo import build_geo, find_geo
from gateway.model.im import Conversation, ConversationKind, Envelope, Kind, Media, MediaFile, Person, Rejected

#: those the account follows, and its own posts
HOME = Conversation(ConversationKind.FEED, "home")
MOST_MEDIA = 4
MEDIA_TYPES = ("image/", "video/", "audio/")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ACCT = re.compile(r"[\w.-]{1,100}(?:@[\w.:-]{1,253})?")
_LINK = re.compile(r"https?://[^\s<>\"]{1,2000}")
_KINDS = {"image": "image/jpeg", "gifv": "video/mp4", "video": "video/mp4", "audio": "audio/mpeg"}
_LATEST_MS = 253_402_300_799_000


class Draft(NamedTuple):
    """What goes to the server, beside the media."""

    text: str
    visibility: str | None
    spoiler: str | None
    reply_to: str | None


def parse_id(value: object) -> str:
    """Empty where it is none."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if _ID.fullmatch(text) else ""


def parse_status(status: object, *, me: str, text_bytes: int, now_ms: int) -> Envelope | None:
    """`me`: the account's id. None where it is no post."""
    remote_id = parse_id(_get(status, "id"))
    author = _get(status, "account")
    acct = parse_acct(author)
    content = _get(status, "content")
    if not remote_id or not acct or not isinstance(content, str):
        return None
    is_self = parse_id(_get(author, "id")) == me
    text = parse_html(content)
    media = _parse_media(status)
    boosted = _get(status, "reblog")
    if isinstance(boosted, dict):
        inner = _get(boosted, "content")
        text = f"RT @{parse_acct(_get(boosted, 'account'))}: {parse_html(inner if isinstance(inner, str) else '')}"
        media = media or _parse_media(boosted)
    conversation = HOME
    kind = Kind.POST
    if _get(status, "visibility") == "direct":
        to = _find_other(status, me) if is_self else acct
        if not to:
            return None  # a note to oneself
        conversation, text = Conversation(ConversationKind.DM, to), strip_mentions(text)
        kind = Kind.MEDIA if media else Kind.TEXT
    spoiler = _get(status, "spoiler_text")
    text = _cut(text, text_bytes)
    display = _get(author, "display_name")
    return Envelope(
        network="mastodon",
        conversation=conversation,
        sender=Person(acct, _cut(display, 256) if isinstance(display, str) and display else acct, is_self),
        remote_id=remote_id,
        kind=kind,
        text=text,
        subject=_cut(spoiler, 1_000) if isinstance(spoiler, str) else "",
        media=tuple(media),
        geo=find_geo(text),
        reply_to=parse_id(_get(status, "in_reply_to_id")),
        at_remote_ms=_parse_time(_get(status, "created_at")) or now_ms,
        at_ms=now_ms,
    )


def parse_acct(account: object) -> str:
    """user, or user@server for those elsewhere; empty where it is none."""
    acct = _get(account, "acct")
    return acct.lower() if isinstance(acct, str) and _ACCT.fullmatch(acct) else ""


def is_acct(text: str) -> bool:
    return _ACCT.fullmatch(text) is not None


def build_draft(envelope: Envelope, links: Sequence[MediaFile], has_media: bool) -> Draft:
    """`links`: files that go as links. Rejected."""
    if envelope.kind in (Kind.EDIT, Kind.REDACTION):
        raise Rejected("kind: a post can not be changed from here")
    texts = [envelope.text]
    if envelope.geo is not None and find_geo(envelope.text) is None:
        texts.append(build_geo(envelope.geo))
    texts += [file.link for file in links]
    text = "\n".join(filter(None, texts))
    if not text and not has_media:
        raise Rejected("text: there is nothing to post")
    visibility = None
    if envelope.conversation.kind is ConversationKind.DM:
        to = envelope.conversation.remote_id.removeprefix("@")
        if not is_acct(to):
            raise Rejected("conversation: user, or user@server")
        text, visibility = f"@{to} {text}", "direct"
    elif envelope.conversation.kind is not ConversationKind.FEED:
        raise Rejected("conversation: Mastodon has no rooms")
    if envelope.reply_to and not parse_id(envelope.reply_to):
        raise Rejected("reply_to: a post of this network")
    return Draft(text, visibility, envelope.subject or None, envelope.reply_to or None)


def _parse_media(status: object) -> list[Media]:
    attachments = _get(status, "media_attachments")
    media = []
    for attachment in attachments[:16] if isinstance(attachments, list) else []:
        url, kind = _get(attachment, "url"), _get(attachment, "type")
        if not isinstance(url, str) or _LINK.fullmatch(url) is None:
            continue
        guessed, _ = mimetypes.guess_type(url.partition("?")[0])
        mime = guessed or _KINDS.get(kind if isinstance(kind, str) else "", "application/octet-stream")
        size = _get(_get(attachment, "meta"), "original")
        media.append(Media(url, mime, width=_number(_get(size, "width")), height=_number(_get(size, "height"))))
    return media


def _find_other(status: object, me: str) -> str:
    mentions = _get(status, "mentions")
    for mention in mentions if isinstance(mentions, list) else []:
        acct = parse_acct(mention)
        if acct and parse_id(_get(mention, "id")) != me:
            return acct
    return ""


def _get(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20 else 0


def _cut(text: str, most_bytes: int) -> str:
    return text.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore")


def _parse_time(value: object) -> int:
    """Unix ms; 0: none."""
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value)[:40])
        return min(max(int(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000), 0), _LATEST_MS)
    except (ValueError, OverflowError, OSError):
        return 0
