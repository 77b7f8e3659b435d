"""A message as Matrix has it ↔ Envelope (client-server API, 11.2 to 11.4); sans I/O; must never raise for what a
stranger sent."""

from __future__ import annotations

import re
from typing import Any

from msgspec.structs import replace

from gateway.im.geo import GeoError, build_geo, parse_geo
from gateway.model.im import Conversation, Envelope, Geo, Kind, Media, Person, Rejected

NETWORK = "matrix"
#: of ids (appendices, 4.2)
MAX_ID_CHARACTERS = 255
MAX_NAME_CHARACTERS = 255
#: of a text that goes out: an event has 64 KiB, and JSON takes more than the text
TEXT_BYTES = 48_000
#: of the text beside an edit, for clients that know no edits
_FALLBACK_CHARACTERS = 500
#: types of events that become messages
MESSAGE_TYPES = ("m.room.message", "m.sticker", "m.room.redaction", "m.room.encrypted")
ENCRYPTED_TEXT = "(An encrypted message. It can be read in an app that holds its keys.)"
_MEDIA = ("m.image", "m.file", "m.audio", "m.video")
_MXC = re.compile(r"mxc://([A-Za-z0-9.\-:\[\]]{1,255})/([A-Za-z0-9_\-]{1,255})")
_MIME = re.compile(r"[a-z0-9!#$&^_.+\-]{1,127}/[a-z0-9!#$&^_.+\-]{1,127}")
#: Unix ms: no date past this is one
_MAX_MS = 1 << 48


def parse_mxc(address: str) -> tuple[str, str] | None:
    """Server and media id."""
    found = _MXC.fullmatch(address)
    return None if found is None else (found[1], found[2])


def cut(text: str, most_bytes: int) -> str:
    """The longest beginning of a text that has so many bytes; lone surrogates become question marks."""
    return text.encode(errors="replace")[:most_bytes].decode(errors="ignore")


def get_id(holder: dict[str, Any], name: str) -> str:
    """Empty where there is none."""
    value = holder.get(name)
    return value if isinstance(value, str) and len(value) <= MAX_ID_CHARACTERS and value.isprintable() else ""


def get_object(holder: dict[str, Any], name: str) -> dict[str, Any]:
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def get_objects(holder: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = holder.get(name)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def get_text(holder: dict[str, Any], name: str) -> str:
    value = holder.get(name)
    return value if isinstance(value, str) else ""


def get_number(holder: dict[str, Any], name: str, most: int) -> int:
    """-1 where it is none, or not from 0 to `most`."""
    value = holder.get(name)
    return int(value) if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else -1


# --- in ------------------------------------------------------------------------------------------------------------


def parse_event(
    event: dict[str, Any], conversation: Conversation, sender: Person, *, text_bytes: int
) -> Envelope | None:
    """None: there is nothing to show, or it is none."""
    remote_id, kind, content = get_id(event, "event_id"), event.get("type"), get_object(event, "content")
    if not remote_id or event.get("state_key") is not None:
        return None
    envelope = Envelope(
        network=NETWORK,
        conversation=conversation,
        sender=sender,
        remote_id=remote_id,
        at_remote_ms=max(0, get_number(event, "origin_server_ts", _MAX_MS)),
        txn_id=get_id(get_object(event, "unsigned"), "transaction_id"),
    )
    if kind == "m.room.redaction":
        # in rooms from version 11 on it stands in the content
        replaces = get_id(content, "redacts") or get_id(event, "redacts")
        return replace(envelope, kind=Kind.REDACTION, replaces=replaces) if replaces else None
    if kind == "m.room.encrypted":
        return replace(envelope, text=ENCRYPTED_TEXT) if content else None
    if kind == "m.sticker":
        return _parse_content({**content, "msgtype": "m.image"}, envelope, text_bytes)
    if kind == "m.room.message":
        return _parse_message(content, envelope, text_bytes)
    return None


def _parse_message(content: dict[str, Any], envelope: Envelope, text_bytes: int) -> Envelope | None:
    relation = get_object(content, "m.relates_to")
    target = get_id(relation, "event_id")
    if relation.get("rel_type") == "m.replace" and target:
        inner = _parse_content(get_object(content, "m.new_content"), envelope, text_bytes)
        return None if inner is None else replace(inner, kind=Kind.EDIT, replaces=target)
    reply_to = get_id(get_object(relation, "m.in_reply_to"), "event_id")
    # in a thread it stands there for clients that know no threads
    if reply_to and not (relation.get("rel_type") == "m.thread" and relation.get("is_falling_back") is True):
        envelope = replace(envelope, reply_to=reply_to)
    return _parse_content(content, envelope, text_bytes)


def _parse_content(content: dict[str, Any], envelope: Envelope, text_bytes: int) -> Envelope | None:
    kind, body = content.get("msgtype"), get_text(content, "body")
    if envelope.reply_to:
        body = _without_quote(body)
    if kind in _MEDIA:
        media = _parse_media(content, str(kind))
        if media is not None:
            # a text that is not the name is a caption (from version 1.10 on)
            has_caption = bool(get_text(content, "filename")) and body != get_text(content, "filename")
            return replace(envelope, kind=Kind.MEDIA, media=(media,), text=cut(body, text_bytes) if has_caption else "")
    if kind == "m.location":
        geo = _parse_place(content)
        if geo is not None:
            return replace(envelope, kind=Kind.LOCATION, geo=geo, text=cut(body, text_bytes))
    if kind == "m.emote":
        body = f"* {body}"
    # what is not understood has its text at least
    return replace(envelope, text=cut(body, text_bytes)) if body else None


def _parse_media(content: dict[str, Any], kind: str) -> Media | None:
    address = get_id(content, "url")
    if parse_mxc(address) is None:
        return None
    info = get_object(content, "info")
    mime = get_text(info, "mimetype").lower()
    return Media(
        ref=address,
        mime=mime if _MIME.fullmatch(mime) else "application/octet-stream",
        size=get_number(info, "size", 1 << 53),
        name=_name(get_text(content, "filename") or get_text(content, "body")),
        width=max(0, get_number(info, "w", 1_000_000)) if kind in ("m.image", "m.video") else 0,
        height=max(0, get_number(info, "h", 1_000_000)) if kind in ("m.image", "m.video") else 0,
    )


def _parse_place(content: dict[str, Any]) -> Geo | None:
    # MSC3488 is how clients write it by now, beside geo_uri
    newer = get_object(content, "m.location") or get_object(content, "org.matrix.msc3488.location")
    for uri in (get_text(content, "geo_uri"), get_text(newer, "uri")):
        try:
            return parse_geo(uri)
        except GeoError:
            continue
    return None


def _without_quote(body: str) -> str:
    """Older clients quote what they answer (before version 1.13): lines with `> ` and an empty one."""
    if not body.startswith("> "):
        return body
    lines = body.split("\n")
    end = next((at for at, line in enumerate(lines) if not line.startswith("> ")), len(lines))
    rest = lines[end + 1 :] if end < len(lines) and not lines[end] else lines[end:]
    return "\n".join(rest)


def _name(text: str) -> str:
    """Of a file: no path, nothing that is not text."""
    text = re.split(r"[/\\]", cut(text[: 4 * MAX_NAME_CHARACTERS], 1 << 16))[-1]
    return "".join(char for char in text if char.isprintable())[:MAX_NAME_CHARACTERS]


# --- out -----------------------------------------------------------------------------------------------------------


def build_contents(envelope: Envelope, addresses: list[str]) -> list[dict[str, Any]]:
    """The events of one envelope, in their order; `addresses`: mxc://, of its media. Rejected where there are none."""
    text = f"{envelope.subject}\n\n{envelope.text}" if envelope.subject else envelope.text
    if len(text.encode(errors="replace")) > TEXT_BYTES:
        raise Rejected(f"text: at most {TEXT_BYTES} bytes of UTF-8")
    contents: list[dict[str, Any]] = []
    if envelope.geo is not None:
        uri = build_geo(envelope.geo)
        contents.append({"msgtype": "m.location", "body": text or uri, "geo_uri": uri})
    elif envelope.media:
        for media, address in zip(envelope.media, addresses, strict=True):
            contents.append(_build_media(media, address, "" if contents else text))
    elif text:
        contents.append({"msgtype": "m.text", "body": text})
    if not contents:
        raise Rejected("text: there is nothing to send")
    if envelope.kind is Kind.EDIT:
        if len(contents) != 1 or not envelope.replaces:
            raise Rejected("replaces: an edit is of one message")
        fallback = {"msgtype": "m.text", "body": f"* {text[:_FALLBACK_CHARACTERS]}"}
        relation = {"rel_type": "m.replace", "event_id": envelope.replaces}
        return [{**fallback, "m.new_content": contents[0], "m.relates_to": relation}]
    if envelope.reply_to:
        contents[0]["m.relates_to"] = {"m.in_reply_to": {"event_id": envelope.reply_to}}
    return contents


def _build_media(media: Media, address: str, caption: str) -> dict[str, Any]:
    whole = media.mime.partition("/")[0]
    name = media.name or "file"
    info: dict[str, Any] = {"mimetype": media.mime}
    if media.size >= 0:
        info["size"] = media.size
    if media.width > 0 and media.height > 0:
        info |= {"w": media.width, "h": media.height}
    return {
        "msgtype": f"m.{whole}" if f"m.{whole}" in _MEDIA else "m.file",
        "body": caption or name,
        "filename": name,
        "url": address,
        "info": info,
    }
