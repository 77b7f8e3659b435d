"""Archives (XEP-0313) and where an account is in them: questions, answers and the cursor; must know no connection."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from gateway.im.connectors.xmpp import words
from gateway.im.connectors.xmpp.words import Element, element
from gateway.model.im import CursorForgotten

#: messages asked for at once
PAGE = 50
#: rooms of one account
ROOMS = 100


@dataclass(slots=True)
class Archive:
    """Where we are in one: the account's own, or a room's."""

    #: of the room; empty: the account's own
    jid: str = ""
    #: the last message that was taken; empty: none yet, all that is there is new
    last: str = ""
    #: all of it was read, and what comes now is new
    is_live: bool = False
    #: something new came while it was being read: it stands there too
    has_more: bool = False
    #: it is not known yet where to begin
    is_held: bool = False
    #: the server keeps one
    is_kept: bool = True


class _Cursor(msgspec.Struct, array_like=True):
    last: str = ""
    #: room → last message
    rooms: dict[str, str] = msgspec.field(default_factory=dict)


def build_cursor(own: str, rooms: dict[str, str]) -> bytes:
    return msgspec.json.encode(_Cursor(own, rooms))


def parse_cursor(cursor: bytes) -> tuple[str, dict[str, str]]:
    """CursorForgotten where it is none of ours."""
    try:
        parsed = msgspec.json.decode(cursor, type=_Cursor)
    except ValueError:
        raise CursorForgotten("this cursor is none of XMPP") from None
    return parsed.last, dict(list(parsed.rooms.items())[:ROOMS])


def build_query(
    query_id: str, *, after: str = "", before: str = "", is_last: bool = False, with_jid: str = "", most: int = PAGE
) -> Element:
    """`after` a message, or the last ones (`before` a message); all of the archive, or one conversation."""
    pages = element(f"{words.PAGE}set", "", element(f"{words.PAGE}max", str(most)))
    if is_last:
        pages.append(element(f"{words.PAGE}before", before))
    elif after:
        pages.append(element(f"{words.PAGE}after", after))
    query = element(f"{words.MAM}query", queryid=query_id)
    if with_jid:
        asked = {"FORM_TYPE": words.MAM[1:-1], "with": with_jid}
        fields = [
            element(f"{words.FORM}field", "", element(f"{words.FORM}value", value), var=var)
            for var, value in asked.items()
        ]
        fields[0].set("type", "hidden")
        query.append(element(f"{words.FORM}x", "", *fields, type="submit"))
    query.append(pages)
    return query


def parse_end(answer: Element) -> tuple[bool, str]:
    """Whether that was all; the last id of the page."""
    end = answer.find(f"{words.MAM}fin")
    if end is None:
        return True, ""
    return end.get("complete") == "true", end.findtext(f"{words.PAGE}set/{words.PAGE}last") or ""
