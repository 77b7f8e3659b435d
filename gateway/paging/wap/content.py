"""A push as the document that a terminal gets; must never make one that does not fit, or leads to anything but a web
page.

Sources: WAP-167 §5 and §6 (one with the same si-id and a later time of creation takes the place of the other), WAP-168
§5.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from gateway.model.notification import Notification
from gateway.model.registration import Registration, build_token
from gateway.notifiers.payload import cut
from gateway.notifiers.upstream import Row
from gateway.paging.segments import Segment, segment_binary
from gateway.paging.wap import errors
from gateway.paging.wap.documents import (
    TIMES_S,
    Action,
    Document,
    Loading,
    ServiceIndication,
    ServiceLoading,
    clean_text,
    is_link,
)
from gateway.paging.wap.settings import AppSettings, fill
from gateway.paging.wap.wbxml import build_wbxml
from gateway.paging.wap.wsp import SIC, SLC, WAP_PUSH, WML_UA, WspPush, build_push

#: by urgency, very-low to high
ACTIONS = (Action.LOW, Action.LOW, Action.MEDIUM, Action.HIGH)
LOADINGS = (Loading.CACHE, Loading.EXECUTE_LOW, Loading.EXECUTE_LOW, Loading.EXECUTE_HIGH)
#: bytes in one binary message, and in each of several (gateway/paging/segments.py)
ALONE, PART = 133, 128
#: a PPG writes headers of its own (Kannel two bytes more than we do); room is left for them
PPG_HEADERS = 8
#: between title and text
_BETWEEN = " - "


class NoDocument(Exception):
    """Why there is none: a row."""

    def __init__(self, row: Row) -> None:
        super().__init__(row.reason)
        self.row = row


class Made(NamedTuple):
    document: Document
    #: did the text have to be cut?
    is_cut: bool

    def __repr__(self) -> str:
        return "Made(…)"


def find_link(settings: AppSettings, notification: Notification, push_id: str, token: bytes, most_bytes: int) -> str:
    """The push's own (`data.href`), else the app's. NoDocument."""
    data = notification.content.data
    href: object = None
    if data:
        try:
            body = msgspec.msgpack.decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            body = None
        href = body.get("href") if isinstance(body, dict) else None
    if href is not None:
        if not isinstance(href, str) or not is_link(href, most_bytes):
            raise NoDocument(errors.BAD_LINK)
        return href
    if not settings.href:
        raise NoDocument(errors.NO_LINK)
    href = fill(settings.href, push_id, build_token(token))
    if not is_link(href, most_bytes):  # `wap.href_bytes` became less since the app's settings were checked
        raise NoDocument(errors.BAD_LINK)
    return href


def build_si_id(app: str, collapse_key: str, push_id: str) -> str:
    """The same for pushes with the same collapse key, else the push's own. The key itself stays here: it may say
    something of its user."""
    if not collapse_key:
        return push_id
    return hashlib.blake2b(f"{app}\0{collapse_key}".encode(), digest_size=12).hexdigest()


def build_document(
    settings: AppSettings,
    registration: Registration,
    notification: Notification,
    *,
    push_id: str,
    least_expires_s: int,
    most_href_bytes: int,
    by_ppg: bool,
) -> Made:
    """As much of the text as `parts` short messages hold. NoDocument."""
    href = find_link(settings, notification, push_id, registration.token, most_href_bytes)
    urgency = min(max(notification.urgency, 0), 3)
    most = (ALONE if settings.parts == 1 else PART * settings.parts) - (PPG_HEADERS if by_ppg else 0)
    document: Document = ServiceLoading(href, LOADINGS[urgency])
    if settings.is_loading:
        if len(build_body(document, 0)) > most:
            raise NoDocument(errors.TOO_LONG)
        return Made(document, is_cut=False)
    words = [clean_text(text) for text in (notification.content.title, notification.content.text)]
    text = _BETWEEN.join(filter(None, words)) or settings.text
    if not text:
        raise NoDocument(errors.NO_TEXT)
    indication = ServiceIndication(
        href=href,
        si_id=build_si_id(notification.app, notification.collapse_key, push_id),
        action=ACTIONS[urgency],
        created_s=_within(notification.accepted_ms // 1000),
        expires_s=_within(max(notification.expires_s, least_expires_s)),
    )

    def at(characters: int) -> ServiceIndication:
        return indication._replace(text=clean_text(cut(text, characters)))

    def fits(characters: int) -> bool:
        return len(build_body(at(characters), 0)) <= most

    whole = len(text)
    if whole <= most and fits(whole):
        return Made(at(whole), is_cut=False)
    low, high = 0, min(whole, most)
    while low < high:  # the most that fits; a longer text never makes a shorter message
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    if low < 1:
        raise NoDocument(errors.TOO_LONG)
    return Made(at(low), is_cut=True)


def _within(time_s: int) -> int:
    return min(max(time_s, TIMES_S[0]), TIMES_S[-1])


def build_body(document: Document, transaction: int) -> bytes:
    """As it stands in short messages to port 2948."""
    kind = SIC if isinstance(document, ServiceIndication) else SLC
    return build_push(WspPush(transaction, kind, WML_UA, body=build_wbxml(document)))


def build_segments(document: Document, transaction: int, most: int) -> list[Segment]:
    """TooManyParts."""
    return segment_binary(build_body(document, transaction), WAP_PUSH, reference=transaction, most=most)
