"""Mails as they come (RFC 5322, RFC 2045 to 2047, RFC 2231): heads, parts, the text to show; for the connector, which
reads parts one by one, and for the listener, which has the whole.

Whatever the bytes are, nothing here raises, recurses or takes more than linear time; what does not fit a bound is left
out and counted.
"""

from __future__ import annotations

import binascii
import codecs
import hashlib
import re
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.utils import getaddresses, mktime_tz, parsedate_tz
from typing import NamedTuple

from gateway.im.geo import GeoError, parse_geo
from gateway.im.html_text import build_text
from gateway.model.im import Geo

#: bytes of a head that are looked at
HEAD_BYTES = 65_536
#: multiparts inside each other; what is deeper is one file
DEPTH = 10
#: parts of one mail
PARTS = 64
#: bytes of one value of a field
VALUE_BYTES = 4_096
#: lines that look like the end of a part and are none, in one multipart
_FALSE_ENDS = 10_000
_MESSAGE_ID = re.compile(r"<([!-;=?-~]{1,512})>")
_ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})(?:\.[A-Za-z0-9-]{1,63}){0,20}"
)
_HEAD_END = re.compile(rb"(?:^|\n)\r?\n")
_FIELD = re.compile(rb"([!-9;-~]{1,76})[ \t]*:[ \t]*")
#: not text at all, or with a decoder that takes quadratic time
_CODECS_REFUSED = frozenset(("idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "mbcs", "oem"))
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: of a text that is to have so many bytes, so many times more are read: transfer encodings and HTML take their share
RAW_TIMES = 8
#: of a mail whose sender can not be told
UNKNOWN_SENDER = "unknown@unknown.invalid"


class Head(NamedTuple):
    """What the head of a mail says; addresses in lower case, ids without their angles. Empty: not said, or nonsense."""

    sender: str = ""
    sender_name: str = ""
    recipients: tuple[str, ...] = ()
    subject: str = ""
    message_id: str = ""
    in_reply_to: str = ""
    #: Unix ms; 0: not said
    at_ms: int = 0
    #: servers it came through
    hops: int = 0

    def __repr__(self) -> str:
        return "Head(hidden)"


class Leaf(NamedTuple):
    """One part that has no parts."""

    #: as IMAP numbers it: 2.1
    path: str
    mime: str
    charset: str = ""
    #: base64, quoted-printable, or anything else: as it is
    encoding: str = ""
    name: str = ""
    is_attachment: bool = False
    #: parts of one multipart/alternative have its number; 0: of none
    choice: int = 0
    #: where its body is in the mail
    start: int = 0
    end: int = 0
    #: bytes, encoded; -1: not said
    size: int = -1

    def __repr__(self) -> str:
        return f"Leaf({self.path}, {self.mime})"


class Chosen(NamedTuple):
    """None: the mail has no text."""

    body: Leaf | None
    attachments: list[Leaf]


def is_address(text: str) -> bool:
    """Of a mailbox, ASCII, and nothing that could end a line or a command."""
    return len(text) <= 254 and _ADDRESS.fullmatch(text) is not None


# --- text ------------------------------------------------------------------------------------------------------------


def decode_charset(data: bytes, charset: str) -> str:
    """In the charset that is named, else as UTF-8, else as Windows-1252; what is no character is replaced."""
    name = charset.strip().lower()
    if name and name not in ("us-ascii", "ascii", "utf-8", "utf8", "unknown-8bit"):
        try:
            codec = codecs.lookup(name)
            if codec.name.replace("-", "_") not in _CODECS_REFUSED:
                return data.decode(codec.name, "replace")
        except (LookupError, ValueError, UnicodeError):
            pass
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("utf-8" if name in ("utf-8", "utf8") else "cp1252", "replace")


def clean(text: str) -> str:
    """Lines end with \\n, and no other control character is left, nor half of a character."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").decode()
    return _CONTROLS.sub("", text)


def clean_line(text: str) -> str:
    """One line, without anything that could be two."""
    return " ".join(clean(text.replace("\u2028", " ").replace("\u2029", " ")).split())


def cut(text: str, limit: int) -> str:
    """At most so many bytes of UTF-8, whole characters."""
    data = text.encode()
    return text if len(data) <= limit else data[:limit].decode(errors="ignore")


def note(text: str, line: str, limit: int) -> str:
    """A line of ours behind a text, inside the limit."""
    addition = f"\n[{line}]" if text else f"[{line}]"
    return cut(text, max(0, limit - len(addition.encode()))) + addition


def decode_transfer(data: bytes, encoding: str) -> bytes:
    """Base64 and quoted-printable, with their mistakes; anything else is as it is."""
    if encoding == "quoted-printable":
        return binascii.a2b_qp(data)
    if encoding != "base64":
        return data
    digits = re.sub(rb"[^A-Za-z0-9+/]", b"", data)
    return binascii.a2b_base64(digits[: len(digits) // 4 * 4] + _last_digits(digits))


def _last_digits(digits: bytes) -> bytes:
    rest = digits[len(digits) // 4 * 4 :]
    return b"" if len(rest) < 2 else rest + b"=" * (4 - len(rest))


def decode_text(data: bytes, leaf: Leaf, limit: int) -> str:
    """A part as text to show; HTML loses its marks."""
    text = decode_charset(decode_transfer(data[: RAW_TIMES * limit], leaf.encoding), leaf.charset)
    if leaf.mime == "text/html":
        text = build_text(text)
    return cut(clean(text), limit).strip()


def find_place(text: str) -> Geo | None:
    """A line that is a geo: URI."""
    for line in text.split("\n", 64)[:64]:
        if line[:4].lower() == "geo:":
            try:
                return parse_geo(line)
            except GeoError:
                continue
    return None


def _decode_words(value: bytes) -> str:
    """RFC 2047."""
    raw = decode_charset(value[:VALUE_BYTES], "")
    try:
        parts = decode_header(raw)
    except (HeaderParseError, ValueError, LookupError):
        return clean_line(raw)
    return clean_line("".join(p if isinstance(p, str) else decode_charset(p, charset or "") for p, charset in parts))


# --- heads -----------------------------------------------------------------------------------------------------------


def split_head(data: bytes, start: int = 0, end: int | None = None) -> tuple[list[tuple[str, bytes]], int]:
    """Fields in lower case with their values unfolded, and where the body begins."""
    end = len(data) if end is None else end
    window = data[start : min(end, start + HEAD_BYTES)]
    found = _HEAD_END.search(window)
    head, body = (window, end) if found is None else (window[: found.start() + 1], start + found.end())
    if found is None and len(window) < end - start:
        # the head is larger than what is looked at: its rest is nobody's text
        later = _next_blank_line(data, start + len(window), end)
        body = end if later < 0 else later
    fields: list[tuple[str, bytes]] = []
    for line in head.split(b"\n"):
        line = line.rstrip(b"\r")
        if line[:1] in (b" ", b"\t"):
            if fields and len(fields[-1][1]) < VALUE_BYTES:
                name, value = fields[-1]
                fields[-1] = name, value + b" " + line.strip()
            continue
        match = _FIELD.match(line)
        if match is not None:
            fields.append((match[1].decode("ascii").lower(), line[match.end() :].rstrip()))
    return fields, body


def _next_blank_line(data: bytes, start: int, end: int) -> int:
    places = [at + len(mark) for mark in (b"\n\n", b"\n\r\n") if (at := data.find(mark, start, end)) >= 0]
    return min(places, default=-1)


def parse_head(data: bytes) -> Head:
    return _head(split_head(data)[0])


def _head(fields: list[tuple[str, bytes]]) -> Head:
    first: dict[str, bytes] = {}
    hops = 0
    for name, value in fields:
        first.setdefault(name, value)
        hops += name == "received"
    senders = _addresses(first.get("from", b"")) or _addresses(first.get("sender", b""))
    name, sender = senders[0] if senders else ("", "")
    return Head(
        sender=sender,
        sender_name=cut(name, 256),
        recipients=tuple(a for _, a in _addresses(first.get("to", b""))),
        subject=cut(_decode_words(first.get("subject", b"")), 1_024),
        message_id=_first_id(first.get("message-id", b"")),
        in_reply_to=_first_id(first.get("in-reply-to", b"")),
        at_ms=_date_ms(first.get("date", b"")),
        hops=hops,
    )


def _first_id(value: bytes) -> str:
    found = _MESSAGE_ID.search(value[:VALUE_BYTES].decode("latin-1"))
    return "" if found is None else found[1]


def _addresses(value: bytes) -> list[tuple[str, str]]:
    """Names and addresses; RFC 2047 is decoded after the addresses are taken apart."""
    raw = value[:VALUE_BYTES].decode("utf-8", "replace")
    if raw.count("(") > 32:  # comments in comments are read by recursion
        raw = raw.replace("(", " ").replace(")", " ")
    try:
        pairs = getaddresses([raw])
    except (ValueError, IndexError, RecursionError, HeaderParseError):
        return []
    return [(_decode_words(name.encode()), mailbox.lower()) for name, mailbox in pairs[:100] if is_address(mailbox)]


def _date_ms(value: bytes) -> int:
    try:
        parsed = parsedate_tz(value[:128].decode("latin-1"))
        return 0 if parsed is None else max(0, int(mktime_tz(parsed) * 1_000))
    except (ValueError, OverflowError, IndexError, TypeError):
        return 0


# --- parts -----------------------------------------------------------------------------------------------------------


class Content(NamedTuple):
    """Content-Type, Content-Disposition and Content-Transfer-Encoding of one part."""

    mime: str
    charset: str
    boundary: bytes
    encoding: str
    name: str
    is_attachment: bool


def parse_content(content_type: bytes, disposition: bytes, encoding: bytes, default: str = "text/plain") -> Content:
    """Fields as they stand in a head."""
    message = Message()
    # a field of the library never has two lines
    message["Content-Type"] = clean_line(content_type[:VALUE_BYTES].decode("utf-8", "replace")) or default
    message["Content-Disposition"] = clean_line(disposition[:VALUE_BYTES].decode("utf-8", "replace"))
    try:
        mime = message.get_content_type()
        charset = message.get_content_charset("")
        boundary = str(message.get_boundary("") or "").encode("utf-8", "replace")[:200]
        name = str(message.get_filename("") or "")
        kind = message.get_content_disposition() or ""
    except (ValueError, LookupError, TypeError, AttributeError, IndexError):
        mime, charset, boundary, name, kind = "application/octet-stream", "", b"", "", "attachment"
    if not re.fullmatch(r"[a-z0-9!#$&^_.+-]{1,64}/[a-z0-9!#$&^_.+-]{1,64}", mime):
        mime = "application/octet-stream"
    return Content(
        mime,
        str(charset or ""),
        boundary,
        encoding[:32].strip().lower().decode("latin-1"),
        file_name(_decode_words(name.encode("utf-8", "replace"))),
        kind == "attachment" or (bool(name) and not mime.startswith("multipart/")),
    )


def file_name(text: str) -> str:
    """Without folders, and short."""
    return clean_line(text).replace("\\", "/").rpartition("/")[2].strip(". ")[:200]


def split_parts(data: bytes) -> tuple[Head, list[Leaf], int]:
    """Head, leaves in their order, and how many parts were left out for there were too many."""
    fields, body = split_head(data)
    leaves: list[Leaf] = []
    left_out = choices = 0
    #: path, fields, body, end, depth, choice; the next is the last
    waiting = [("", fields, body, len(data), 0, 0)]
    while waiting:
        path, fields, start, end, depth, choice = waiting.pop()
        first: dict[str, bytes] = {}
        for name, value in fields:
            first.setdefault(name, value)
        content = parse_content(
            first.get("content-type", b""),
            first.get("content-disposition", b""),
            first.get("content-transfer-encoding", b""),
        )
        mime = content.mime
        if mime.startswith("multipart/"):
            ranges = _split_multipart(data, start, end, content.boundary) if depth < DEPTH else []
            if ranges:
                if mime == "multipart/alternative":
                    choices += 1
                    choice = choices
                room = max(0, PARTS - len(leaves) - len(waiting))
                left_out += max(0, len(ranges) - room)
                for number in range(min(len(ranges), room), 0, -1):
                    low, high = ranges[number - 1]
                    inner, inner_body = split_head(data, low, high)
                    inner_path = f"{path}.{number}" if path else str(number)
                    waiting.append((inner_path, inner, min(inner_body, high), high, depth + 1, choice))
                continue
            # no part that could be told: shown as it is, but deep inside others it is a file
            mime = "text/plain" if depth == 0 else "application/octet-stream"
        is_file = content.is_attachment or not mime.startswith("text/")
        leaves.append(
            Leaf(path or "1", mime, content.charset, content.encoding, content.name, is_file, choice, start, end)
        )
    return _head(split_head(data)[0]), leaves, left_out


def _split_multipart(data: bytes, start: int, end: int, boundary: bytes) -> list[tuple[int, int]]:
    """Where each part begins and ends (RFC 2046 §5.1.1); a last part that nothing ends is one too."""
    if not boundary:
        return []
    mark = b"--" + boundary
    ranges: list[tuple[int, int]] = []
    opened = -1
    at = start if data.startswith(mark, start, end) else _after(data.find(b"\n" + mark, start, end))
    false_ends = 0
    while at >= 0 and false_ends < _FALSE_ENDS and len(ranges) < 4 * PARTS:
        after = at + len(mark)
        line_end = data.find(b"\n", after, end)
        line_end = end if line_end < 0 else line_end
        rest = data[after : min(line_end, after + 64)].strip()
        if line_end - after <= 64 and rest in (b"", b"--"):
            if opened >= 0:
                stop = at - 1  # the line end before a boundary belongs to it
                stop -= stop > opened and data[stop - 1 : stop] == b"\r"
                ranges.append((opened, max(opened, stop)))
            opened = -1 if rest else min(line_end + 1, end)
            if rest:
                break
        else:
            false_ends += 1
        # the line end may be the next boundary's
        at = _after(data.find(b"\n" + mark, max(after, line_end), end))
    if opened >= 0:
        ranges.append((opened, end))
    return ranges


def _after(at: int) -> int:
    return at if at < 0 else at + 1


def choose(leaves: list[Leaf]) -> Chosen:
    """The text to show, plain where there is one; everything else is a file, but for the same text in other forms."""
    body = next((leaf for leaf in leaves if leaf.mime == "text/plain" and not leaf.is_attachment), None)
    if body is None:
        body = next((leaf for leaf in leaves if leaf.mime == "text/html" and not leaf.is_attachment), None)
    attachments = [
        leaf
        for leaf in leaves
        if leaf is not body
        and not (body is not None and body.choice and leaf.choice == body.choice and leaf.mime.startswith("text/"))
    ]
    return Chosen(body, attachments)


def made_id(data: bytes) -> str:
    """An id for a mail that has none: the same when the same mail comes again by another way."""
    fields, body = split_head(data)
    told = [value for name, value in fields if name in ("date", "from", "to", "subject")]
    return f"{hashlib.sha256(b'|'.join(told) + data[body:]).hexdigest()[:32]}@made.invalid"
