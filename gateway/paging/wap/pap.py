"""Push Access Protocol 2.0: the message to a push proxy gateway, and its answer; must never let an address or a text
out of what it builds.

Sources: WAP-247 (PAP 2.0) §8.2 (multipart/related), §9.2 (push-message), §9.3 (push-response), §9.12
(badmessage-response); WAP-249 (PPG Service) §7 (addresses).
"""

from __future__ import annotations

import re
import secrets
from email.errors import HeaderParseError
from email.message import Message
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

from gateway.paging.wap.documents import Document, ServiceIndication, build_time, build_xml
from gateway.paging.wap.xml_tree import BadXml, Element, read_tree

DOCTYPE = '<!DOCTYPE pap PUBLIC "-//WAPFORUM//DTD PAP 2.0//EN" "http://www.wapforum.org/DTD/pap_2.0.dtd">'
SI_TYPE, SL_TYPE = "text/vnd.wap.si", "text/vnd.wap.sl"
#: who shows it: the user's browser (WAP-235 §7.2)
APPLICATION = "x-wap-application:wml.ua"
_CODE = re.compile(r"[1-5][0-9]{3}")


class PushMessage(NamedTuple):
    """What a PPG is asked; `msisdn` without its plus."""

    push_id: str
    msisdn: str
    ppg: str  # the name behind the address
    document: Document
    before_s: int  # Unix seconds; later it is not delivered
    priority: str = "medium"  # low, medium, high
    replaces: str = ""  # push id of the one whose place it takes; empty: none
    network: str = ""  # network and bearer it has to use; empty: the PPG chooses
    bearer: str = ""

    def __repr__(self) -> str:
        return "PushMessage(…)"


class PapAnswer(NamedTuple):
    """What a PPG says: a code of WAP-247 §9.14."""

    code: int
    push_id: str = ""  # empty: not said, as in a badmessage-response


class BadAnswer(ValueError):
    """The bytes are no answer of PAP; the text of the error repeats nothing of them."""


class Posted(NamedTuple):
    """A body and its content type."""

    content_type: str
    body: bytes

    def __repr__(self) -> str:
        return f"Posted({len(self.body)} bytes)"


def build_address(msisdn: str, ppg: str) -> str:
    """WAP-249 §7.1."""
    return f"WAPPUSH=+{msisdn}/TYPE=PLMN@{ppg}"


def build_control(message: PushMessage) -> bytes:
    """The control entity: XML."""

    def tag(name: str, attributes: dict[str, str], end: str = "/>") -> str:
        return f"<{name}" + "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items()) + end

    service = {"priority": message.priority, "delivery-method": "unconfirmed"}
    for kind, value in (("network", message.network), ("bearer", message.bearer)):
        if value:
            service |= {kind: value, f"{kind}-required": "true"}
    head = {"push-id": message.push_id}
    if message.replaces:
        # all: this one is delivered whether the other was or not (WAP-247 §9.2.1)
        head |= {"replace-push-id": message.replaces, "replace-method": "all"}
    head["deliver-before-timestamp"] = build_time(message.before_s)
    return (
        f'<?xml version="1.0"?>\n{DOCTYPE}\n<pap>\n'
        + tag("push-message", head, ">\n")
        + tag("address", {"address-value": build_address(message.msisdn, message.ppg)})
        + tag("quality-of-service", service)
        + "\n</push-message>\n</pap>\n"
    ).encode()


def build_post(message: PushMessage) -> Posted:
    """What is posted: the control entity, then the document. BadDocument."""
    kind = SI_TYPE if isinstance(message.document, ServiceIndication) else SL_TYPE
    boundary = secrets.token_hex(16)  # 2^128: it stands in no part
    body = b"".join(
        (
            f"--{boundary}\r\nContent-Type: application/xml; charset=UTF-8\r\n\r\n".encode(),
            build_control(message),
            f"\r\n--{boundary}\r\nContent-Type: {kind}; charset=UTF-8\r\n".encode(),
            f"X-Wap-Application-Id: {APPLICATION}\r\n\r\n".encode(),
            build_xml(message.document),
            f"\r\n--{boundary}--\r\n".encode(),
        )
    )
    return Posted(f'multipart/related; boundary={boundary}; type="application/xml"', body)


def parse_answer(body: bytes) -> PapAnswer:
    """push-response or badmessage-response. BadAnswer."""
    try:
        root = read_tree(body)
    except BadXml:
        raise BadAnswer("is no XML") from None
    if root.name != "pap" or len(root.children) != 1:
        raise BadAnswer("is no pap with one message")
    message = root.children[0]
    if message.name == "badmessage-response":
        return PapAnswer(_parse_code(message))
    if message.name != "push-response":
        raise BadAnswer("is no answer to a push")
    results = [child for child in message.children if child.name == "response-result"]
    if len(results) != 1:
        raise BadAnswer("has not one result")
    return PapAnswer(_parse_code(results[0]), message.attributes.get("push-id", ""))


def _parse_code(element: Element) -> int:
    code = element.attributes.get("code", "")
    if not _CODE.fullmatch(code):
        raise BadAnswer("has no code")
    return int(code)


# --- the other side, for a PPG of tests


class Part(NamedTuple):
    headers: dict[str, str]  # names in lower case
    body: bytes


def parse_multipart(content_type: str, body: bytes) -> list[Part]:
    """Strict: every delimiter where it has to be (RFC 2046 §5.1.1), nothing before the first. BadAnswer."""
    header = Message()
    try:
        header["content-type"] = content_type
        boundary, kind, of = header.get_boundary(""), header.get_content_type(), header.get_param("type", "")
    except (ValueError, HeaderParseError, LookupError, TypeError):
        raise BadAnswer("the content type can not be read") from None
    if kind != "multipart/related" or of != "application/xml" or not boundary or not boundary.isascii():
        raise BadAnswer("is no multipart/related of application/xml with a boundary")
    delimiter = b"--" + boundary.encode()
    pieces = (b"\r\n" + body).split(b"\r\n" + delimiter)
    if len(pieces) < 2 or pieces[0] or pieces[-1] != b"--\r\n":
        raise BadAnswer("a delimiter is missing")
    parts: list[Part] = []
    for piece in pieces[1:-1]:
        head, middle, content = piece.partition(b"\r\n\r\n")
        if not middle or not head.startswith(b"\r\n"):
            raise BadAnswer("a part has no head")
        headers: dict[str, str] = {}
        for line in head[2:].decode("latin-1").split("\r\n"):
            name, colon, value = line.partition(":")
            if not colon or name.lower() in headers:
                raise BadAnswer("a part's head is none")
            headers[name.lower()] = value.strip()
        parts.append(Part(headers, content))
    return parts
