"""Messages of IRC as envelopes, and back; sans I/O. What IRC does not know (files, places, ids) is made up here."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime

from gateway.im.connectors.irc.lines import (
    LINE_BYTES,
    Line,
    build_ctcp,
    fold,
    is_word,
    parse_ctcp,
    split_text,
    strip_formats,
)
from gateway.im.geo import build_geo, find_geo, parse_geo
from gateway.model.im import Conversation, ConversationKind, Envelope, Kind, MediaFile, Person, Rejected

#: lines one message may become: more would hold up all that follows
MOST_LINES = 16
#: a server puts ":nick!user@host " before it; longest user and host (RFC 2812 §2.3.1, and cloaks)
_SOURCE_BYTES = 1 + 2 + 11 + 63 + 1
_ACTION = "/me "
#: messages alike that are told apart
_ALIKE = 256


class Ids:
    """Remote ids, which IRC has not: the server's `msgid` where it gives one; where it gives the time, one made of
    what was said, the same when a bouncer says it again; else one that stands for this connection and a number."""

    def __init__(self) -> None:
        self._connection = secrets.token_hex(8)
        self._number = 0
        self._seen: OrderedDict[str, int] = OrderedDict()

    def next(self) -> str:
        self._number += 1
        return f"{self._connection}-{self._number}"

    def of(self, line: Line) -> str:
        if given := line.tags.get("msgid"):
            return given[:256]
        if not (time := line.tags.get("time")):
            return self.next()
        text = "\0".join((time, line.nick, *line.parameters))
        key = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()
        count = self._seen.pop(key, 0) + 1
        self._seen[key] = count
        if len(self._seen) > _ALIKE:
            self._seen.popitem(last=False)
        return key if count == 1 else f"{key}-{count}"


def parse_message(
    line: Line, *, me: str, casemapping: str, chantypes: str, text_bytes: int, now_ms: int, ids: Ids
) -> Envelope | None:
    """PRIVMSG and NOTICE. None: a query of CTCP, or a server's own notice, which is nobody's message."""
    nick, target, text = line.nick, line.parameter(0), line.parameter(1)
    if len(line.parameters) < 2 or not nick or ("!" not in line.source and "." in nick):
        return None
    ctcp = parse_ctcp(text)
    if ctcp is not None:
        if ctcp[0] != "ACTION":
            return None
        text = _ACTION + ctcp[1]
    text = _cut(strip_formats(text), text_bytes)
    if not text:
        return None
    is_self = fold(nick, casemapping) == fold(me, casemapping)
    # to those with a rank in a room: "@#room" (STATUSMSG)
    room = target if target[:1] in chantypes else target.lstrip("@+%~")
    if room and room[0] in chantypes:
        conversation = Conversation(ConversationKind.ROOM, fold(room, casemapping))
    else:
        conversation = Conversation(ConversationKind.DM, fold(target if is_self else nick, casemapping))
    geo = find_geo(text)
    return Envelope(
        network="irc",
        conversation=conversation,
        sender=Person(fold(nick, casemapping), nick, is_self),
        remote_id=ids.of(line),
        kind=Kind.LOCATION if geo is not None and _is_place(text) else Kind.TEXT,
        text=text,
        geo=geo,
        at_remote_ms=_parse_time(line.tags.get("time", "")) or now_ms,
        at_ms=now_ms,
    )


def build_pieces(envelope: Envelope, files: Sequence[MediaFile], *, nick: str) -> list[str]:
    """What follows PRIVMSG and the target, line by line. Rejected."""
    target = envelope.conversation.remote_id
    if envelope.conversation.kind is ConversationKind.FEED or not is_target(target):
        raise Rejected("conversation: a nick, or a channel such as #room")
    if envelope.kind in (Kind.EDIT, Kind.REDACTION):
        raise Rejected("IRC can not take back or change what was said")
    texts = [f"{envelope.subject}: {envelope.text}" if envelope.subject else envelope.text]
    if envelope.geo is not None and find_geo(envelope.text) is None:
        texts.append(build_geo(envelope.geo))
    texts += [" ".join(filter(None, (file.media.name[:64], file.link))) for file in files]
    text = "\n".join(filter(None, texts)).replace("\x01", "")
    is_action = text.startswith(_ACTION)
    room = LINE_BYTES - 2 - len(f"PRIVMSG {target} :".encode()) - len(nick.encode()) - _SOURCE_BYTES
    if is_action:
        text = text.removeprefix(_ACTION)
        room -= len(build_ctcp("ACTION", " "))
    if room < 64:
        raise Rejected("conversation: this name is too long")
    pieces = split_text(text, room)
    if not pieces:
        raise Rejected("text: there is nothing to send")
    if len(pieces) > MOST_LINES:
        raise Rejected(f"text: IRC takes at most {MOST_LINES} lines of about {room} bytes")
    return [build_ctcp("ACTION", piece) for piece in pieces] if is_action else pieces


def is_target(name: str) -> bool:
    """One nick or channel, which no server takes for several."""
    return (
        is_word(name) and len(name.encode("utf-8", "replace")) <= 200 and not any(c in name for c in ",*?!@\x01\x07$")
    )


def _cut(text: str, most_bytes: int) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= most_bytes else data[:most_bytes].decode("utf-8", "ignore")


def _is_place(text: str) -> bool:
    try:
        parse_geo(text)
    except ValueError:
        return False
    return True


def _parse_time(text: str) -> int:
    """server-time (IRCv3), Unix ms; 0: none."""
    try:
        time = datetime.fromisoformat(text)
        return max(int(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000), 0)
    except (ValueError, OverflowError):
        return 0
