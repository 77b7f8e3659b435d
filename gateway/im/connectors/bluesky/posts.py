"""Posts of Bluesky (app.bsky.feed.post) as envelopes, and back; sans I/O. Other people's servers wrote what is parsed
here: must never raise for any of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from gateway.im.connectors.bluesky.tid import parse_tid
from gateway.im.geo import build_geo, find_geo
from gateway.model.im import Conversation, ConversationKind, Envelope, Kind, Media, MediaFile, Person, Rejected

POST = "app.bsky.feed.post"
FOLLOW = "app.bsky.graph.follow"
#: the one conversation of an account: what those it follows post, and what it posts
HOME = Conversation(ConversationKind.FEED, "home")
#: of a post (lexicon); 300 characters as people count them besides, which the server checks
TEXT_BYTES = 3_000
MOST_IMAGES = 4
IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
#: of one picture (lexicon)
IMAGE_BYTES = 2_000_000
_URI = re.compile(r"at://(did:[a-z]{1,16}:[A-Za-z0-9._:%-]{1,200})/([A-Za-z0-9.-]{1,200})/([A-Za-z0-9._~:-]{1,512})")
_CID = re.compile(r"[A-Za-z0-9]{8,128}")
_MIME = re.compile(r"[a-z0-9.+-]{1,64}/[a-z0-9.+-]{1,64}")
_LINK = re.compile(r"https?://[^\s<>\"]{1,2000}")
_LATEST_MS = 253_402_300_799_000


class Uri(NamedTuple):
    did: str
    collection: str
    rkey: str

    def __str__(self) -> str:
        return f"at://{self.did}/{self.collection}/{self.rkey}"


def parse_uri(value: object) -> Uri | None:
    found = _URI.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else Uri(found[1], found[2], found[3])


def parse_post(record: object, *, me: str, names: Mapping[str, str], text_bytes: int, now_ms: int) -> Envelope | None:
    """A record as listRecords has it: uri, cid, value. None where it is no post."""
    uri = parse_uri(_get(record, "uri"))
    value = _get(record, "value")
    text = _get(value, "text")
    if uri is None or uri.collection != POST or not isinstance(text, str):
        return None
    embed = _get(value, "embed")
    media = tuple(_parse_media(uri.did, embed))
    parent = parse_uri(_get(_get(_get(value, "reply"), "parent"), "uri"))
    text = (
        "\n".join(filter(None, [text, *_find_links(embed, text)]))
        .encode("utf-8", "replace")[:text_bytes]
        .decode("utf-8", "ignore")
    )
    at_micros = parse_tid(uri.rkey)
    return Envelope(
        network="bluesky",
        conversation=HOME,
        sender=Person(uri.did, names.get(uri.did, ""), uri.did == me),
        remote_id=str(uri),
        kind=Kind.POST,
        text=text,
        media=media,
        geo=find_geo(text),
        reply_to="" if parent is None else str(parent),
        at_remote_ms=_parse_time(_get(value, "createdAt")) or (at_micros or 0) // 1_000 or now_ms,
        at_ms=now_ms,
    )


def parse_ref(ref: str) -> tuple[str, str] | None:
    """Repository and content id of a blob."""
    did, _, cid = ref.rpartition("/")
    return (did, cid) if _CID.fullmatch(cid) and _URI.fullmatch(f"at://{did}/x/x") else None


def _parse_media(did: str, embed: object) -> list[Media]:
    media = []
    for one in (embed, _get(embed, "media")):  # recordWithMedia has them one step down
        images = _get(one, "images")
        found = [(_get(image, "image"), image) for image in images[:MOST_IMAGES]] if isinstance(images, list) else []
        found.append((_get(one, "video"), one))
        for blob, holder in found:
            cid, mime, size = _get(_get(blob, "ref"), "$link"), _get(blob, "mimeType"), _get(blob, "size")
            if not isinstance(cid, str) or _CID.fullmatch(cid) is None:
                continue
            ratio = _get(holder, "aspectRatio")
            media.append(
                Media(
                    f"{did}/{cid}",
                    mime if isinstance(mime, str) and _MIME.fullmatch(mime) else "application/octet-stream",
                    _number(size, -1),
                    width=_number(_get(ratio, "width"), 0),
                    height=_number(_get(ratio, "height"), 0),
                )
            )
    return media


def _find_links(embed: object, text: str) -> list[str]:
    """What a post shows beside its text: a page, or another post."""
    links = []
    page = _get(_get(embed, "external"), "uri")
    if isinstance(page, str) and _LINK.fullmatch(page) and page not in text:
        links.append(page)
    record = _get(embed, "record")
    quoted = parse_uri(_get(record, "uri") or _get(_get(record, "record"), "uri"))
    if quoted is not None:
        links.append(f"https://bsky.app/profile/{quoted.did}/post/{quoted.rkey}")
    return links


def build_text(envelope: Envelope, files: Sequence[MediaFile]) -> str:
    """`files`: those that go as links. Rejected."""
    if envelope.conversation.kind is not ConversationKind.FEED:
        raise Rejected("conversation: Bluesky takes posts here, and no messages to one person")
    if envelope.kind in (Kind.EDIT, Kind.REDACTION):
        raise Rejected("kind: a post can not be changed from here")
    texts = [envelope.subject, envelope.text]
    if envelope.geo is not None and find_geo(envelope.text) is None:
        texts.append(build_geo(envelope.geo))
    texts += [file.link for file in files]
    text = "\n".join(filter(None, texts))
    if len(text.encode("utf-8", "replace")) > TEXT_BYTES:
        raise Rejected(f"text: a post has at most 300 characters, and at most {TEXT_BYTES} bytes")
    return text


def build_post(
    text: str,
    at_micros: int,
    *,
    images: Sequence[tuple[Mapping[str, Any], Media]] = (),
    reply: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record. `images`: blobs as the server named them."""
    record: dict[str, Any] = {
        "$type": POST,
        "text": text,
        "createdAt": datetime.fromtimestamp(at_micros / 1_000_000, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z"),
    }
    facets = _build_facets(text)
    if facets:
        record["facets"] = facets
    if images:
        shown = []
        for blob, media in images:
            image: dict[str, Any] = {"alt": "", "image": dict(blob)}
            if media.width > 0 and media.height > 0:
                image["aspectRatio"] = {"width": media.width, "height": media.height}
            shown.append(image)
        record["embed"] = {"$type": "app.bsky.embed.images", "images": shown}
    if reply is not None:
        record["reply"] = dict(reply)
    return record


def _build_facets(text: str) -> list[dict[str, Any]]:
    """Links, by their bytes: what is not marked is no link on this network."""
    facets = []
    for found in _LINK.finditer(text):
        start = len(text[: found.start()].encode("utf-8", "replace"))
        facets.append(
            {
                "index": {"byteStart": start, "byteEnd": start + len(found[0].encode("utf-8", "replace"))},
                "features": [{"$type": "app.bsky.richtext.facet#link", "uri": found[0]}],
            }
        )
    return facets[:16]


def _get(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _number(value: object, otherwise: int) -> int:
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40
    return value if is_number else otherwise  # type: ignore[return-value]


def _parse_time(value: object) -> int:
    """Unix ms; 0: none."""
    if not isinstance(value, str) or len(value) > 40:
        return 0
    try:
        time = datetime.fromisoformat(value)
        return min(max(int(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000), 0), _LATEST_MS)
    except (ValueError, OverflowError):
        return 0
