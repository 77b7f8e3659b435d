"""Service indication and service loading, and both as XML; must never hold what a terminal could not read.

Sources: WAP-167 (Service Indication) §5 and §6, WAP-168 (Service Loading) §5; characters: XML 1.0 §2.2; URIs: RFC 3986.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import urlsplit
from xml.sax.saxutils import escape, quoteattr

from gateway.paging.wap.xml_tree import BadXml, Element, read_tree


class Action(StrEnum):
    """How an indication calls for attention (WAP-167 §5.2); DELETE takes those with its si-id away."""

    NONE = "signal-none"
    LOW = "signal-low"
    MEDIUM = "signal-medium"
    HIGH = "signal-high"
    DELETE = "delete"


class Loading(StrEnum):
    """What the terminal does with the link (WAP-168 §5.2)."""

    EXECUTE_LOW = "execute-low"  # without disturbing
    EXECUTE_HIGH = "execute-high"  # now
    CACHE = "cache"


class BadDocument(ValueError):
    """No document of either kind; the text of the error repeats nothing of it."""


class ServiceIndication(NamedTuple):
    """A text with a link. Times are Unix seconds, 0: none."""

    href: str = ""
    text: str = ""
    si_id: str = ""
    action: Action = Action.MEDIUM
    created_s: int = 0
    expires_s: int = 0

    def __repr__(self) -> str:
        return f"ServiceIndication({self.action})"


class ServiceLoading(NamedTuple):
    """A link to open without a word."""

    href: str
    action: Loading = Loading.EXECUTE_LOW

    def __repr__(self) -> str:
        return f"ServiceLoading({self.action})"


Document = ServiceIndication | ServiceLoading

#: what a time may be: four digits of a year
TIMES_S = range(1, 253_402_300_800)
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z", re.ASCII)
#: characters of a URI (RFC 3986 §2), none of which is a space, a quote or a bracket of XML
_URI = re.compile(r"https?://[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
#: what XML 1.0 §2.2 does not allow, and what a terminal would not show
_NO_TEXT = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_WHITE = re.compile(r"[ \t\r\n]+")
_DOCTYPES = {
    "si": '<!DOCTYPE si PUBLIC "-//WAPFORUM//DTD SI 1.0//EN" "http://www.wapforum.org/DTD/si.dtd">',
    "sl": '<!DOCTYPE sl PUBLIC "-//WAPFORUM//DTD SL 1.0//EN" "http://www.wapforum.org/DTD/sl.dtd">',
}


def is_link(href: str, most_bytes: int) -> bool:
    """An absolute http or https URI with a host and without a user."""
    if len(href) > most_bytes or not _URI.fullmatch(href):
        return False
    try:
        parts = urlsplit(href)
        return bool(parts.hostname) and parts.username is None and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def clean_text(text: str) -> str:
    """As an indication can say it: no control characters, one space wherever there is any white space (a PPG or a
    terminal would make it so), half pairs gone."""
    return _WHITE.sub(" ", _NO_TEXT.sub("", text)).strip(" ")


def check(document: Document) -> None:
    """BadDocument where it could not be written."""
    needs_link = not (isinstance(document, ServiceIndication) and document.action is Action.DELETE)
    if (document.href or needs_link) and not is_link(document.href, 65_536):
        raise BadDocument("the link is no http or https URI")
    if isinstance(document, ServiceLoading):
        return
    if clean_text(document.text) != document.text or clean_text(document.si_id) != document.si_id:
        raise BadDocument("has characters or spaces that can not be sent")
    if document.action is Action.DELETE and not document.si_id:
        raise BadDocument("delete takes an si-id")  # WAP-167 §5.2
    for time_s in (document.created_s, document.expires_s):
        if time_s and time_s not in TIMES_S:
            raise BadDocument("a time is out of range")


def build_time(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


def parse_time(text: str) -> int:
    """Unix seconds. BadDocument."""
    found = _TIME.fullmatch(text)
    try:
        if found is None:
            raise BadDocument("a time is none")
        time_s = int(datetime(*map(int, found.groups()), tzinfo=UTC).timestamp())  # type: ignore[misc,arg-type]
    except ValueError:
        raise BadDocument("a time is none") from None
    if time_s not in TIMES_S:
        raise BadDocument("a time is out of range")
    return time_s


def _build_tag(name: str, attributes: list[tuple[str, str]]) -> str:
    # always double quotes: quoteattr takes single ones for a value that has double ones
    return f"<{name}" + "".join(f" {key}={quoteattr(value, {chr(34): '&quot;'})}" for key, value in attributes) + ">"


def list_attributes(document: Document) -> list[tuple[str, str]]:
    """Those that are said, in the order in which they are written."""
    if isinstance(document, ServiceLoading):
        return [("href", document.href), ("action", str(document.action))]
    found = [("href", document.href), ("si-id", document.si_id), ("action", str(document.action))]
    found += [
        (name, build_time(time_s))
        for name, time_s in (("created", document.created_s), ("si-expires", document.expires_s))
        if time_s
    ]
    return [(name, value) for name, value in found if value]


def build_xml(document: Document) -> bytes:
    """UTF-8. BadDocument."""
    check(document)
    tag = "indication" if isinstance(document, ServiceIndication) else "sl"
    body = _build_tag(tag, list_attributes(document))
    if isinstance(document, ServiceIndication):
        body = f"<si>{body}{escape(document.text)}</indication></si>"
    else:
        body += "</sl>"
    return f'<?xml version="1.0"?>\n{_DOCTYPES[body[1:3]]}\n{body}\n'.encode()


def build_document(root: str, attributes: dict[str, str], text: str) -> Document:
    """From what was read, whatever it was written in. BadDocument."""
    known = {"si": {"href", "si-id", "action", "created", "si-expires"}, "sl": {"href", "action"}}
    if root not in known or set(attributes) - known[root]:
        raise BadDocument("is none of ours")
    document: Document
    try:
        if root == "sl":
            if text.strip():
                raise BadDocument("has text where there is none")
            document = ServiceLoading(attributes.get("href", ""), Loading(attributes.get("action", "execute-low")))
        else:
            document = ServiceIndication(
                href=attributes.get("href", ""),
                text=text,
                si_id=attributes.get("si-id", ""),
                action=Action(attributes.get("action", "signal-medium")),
                created_s=parse_time(attributes["created"]) if "created" in attributes else 0,
                expires_s=parse_time(attributes["si-expires"]) if "si-expires" in attributes else 0,
            )
    except BadDocument:
        raise
    except ValueError:
        raise BadDocument("names an action that there is not") from None
    check(document)
    return document


def parse_xml(data: bytes) -> Document:
    """What a PPG does with it. BadDocument."""
    try:
        root = read_tree(data)
    except BadXml:
        raise BadDocument("is no XML") from None
    element: Element = root
    if root.name == "si":
        if root.attributes or root.text.strip() or [child.name for child in root.children] != ["indication"]:
            raise BadDocument("is no si with one indication")
        element = root.children[0]
    if element.children:
        raise BadDocument("has elements that are none of ours")
    return build_document(root.name, element.attributes, element.text)
