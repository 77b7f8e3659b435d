"""What a request at the APNs door says in header fields and path; sans-IO, raises Refused with Apple's reason."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import NamedTuple

from gateway.api.apns.reasons import Refused
from gateway.delivery.request import UrgencyName
from gateway.model.registration import TOKEN_BYTES, parse_token

#: Source: "Sending notification requests to APNs", table of header fields
PUSH_TYPES = frozenset(
    {
        "alert",
        "background",
        "location",
        "voip",
        "complication",
        "fileprovider",
        "mdm",
        "liveactivity",
        "pushtotalk",
        "widgets",
        "controls",
    }
)
_SUFFIXES = {
    "voip": ".voip",
    "complication": ".complication",
    "fileprovider": ".pushkit.fileprovider",
    "location": ".location-query",
    "liveactivity": ".push-type.liveactivity",
    "pushtotalk": ".voip-ptt",
    "widgets": ".push-type.widgets",
    "controls": ".push-type.controls",
}
_URGENCIES: dict[str, UrgencyName] = {"10": "high", "5": "normal", "1": "low"}
MAX_COLLAPSE_BYTES = 64
MAX_PAYLOAD_BYTES, MAX_VOIP_BYTES = 4_096, 5_120
_ID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,255}")
_EXPIRATION = re.compile(r"[0-9]{1,15}")
_HEX = re.compile(rf"[0-9A-Fa-f]{{{TOKEN_BYTES * 2}}}")


class Asked(NamedTuple):
    """Of one push."""

    id: str
    #: seconds; None = the app's default; 0 = now or never
    ttl_s: int | None
    urgency: UrgencyName
    collapse_key: str
    push_type: str
    topic: str  # empty: none was named
    authorization: str  # empty: none

    @property
    def max_payload_bytes(self) -> int:
        return MAX_VOIP_BYTES if self.push_type == "voip" else MAX_PAYLOAD_BYTES


def collect(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The fields that mean something here. DuplicateHeaders where one is there twice."""
    found: dict[str, str] = {}
    for raw, value in fields:
        name = raw.decode("latin-1")
        if name.startswith("apns-") or name == "authorization":
            if name in found:
                raise Refused("DuplicateHeaders")
            found[name] = value.decode("latin-1")
    return found


def parse_id(found: dict[str, str]) -> str:
    """Echoed as it was sent; made here where there is none. BadMessageId."""
    text = found.get("apns-id")
    if text is None:
        return str(uuid.uuid4())
    if not _ID.fullmatch(text):
        raise Refused("BadMessageId")
    return text


def parse_asked(found: dict[str, str], apns_id: str, now_s: float, max_ttl_s: int) -> Asked:
    push_type = found.get("apns-push-type", "alert")
    if push_type not in PUSH_TYPES:
        raise Refused("InvalidPushType")
    priority = found.get("apns-priority", "10")
    # Apple: 10 is an error for what only wakes the app; who says nothing is not asked.
    if priority not in _URGENCIES or (push_type == "background" and found.get("apns-priority") == "10"):
        raise Refused("BadPriority")
    collapse = found.get("apns-collapse-id", "")
    # as bytes: latin-1 gives one character for each
    if len(collapse) > MAX_COLLAPSE_BYTES or not collapse.isprintable():
        raise Refused("BadCollapseId")
    topic = found.get("apns-topic", "")
    if topic and not _TOPIC.fullmatch(topic):
        raise Refused("BadTopic")
    return Asked(
        id=apns_id,
        ttl_s=parse_expiration(found.get("apns-expiration"), now_s, max_ttl_s),
        urgency=_URGENCIES[priority],
        collapse_key=collapse,
        push_type=push_type,
        topic=topic,
        authorization=found.get("authorization", ""),
    )


def parse_expiration(text: str | None, now_s: float, max_ttl_s: int) -> int | None:
    """Time to live of an end in Unix seconds; 0, and what is past, is not stored."""
    if text is None:
        return None
    if not _EXPIRATION.fullmatch(text):
        raise Refused("BadExpirationDate")
    return min(max(int(text) - int(now_s), 0), max_ttl_s)


def belongs(topic: str, app_topic: str, push_type: str) -> bool:
    """Is it the app's own topic, or that with the ending this kind of push has at Apple's?"""
    return topic == app_topic or (push_type in _SUFFIXES and topic == app_topic + _SUFFIXES[push_type])


def parse_device_token(text: str) -> bytes:
    """Our text form, or the same bytes in hex for libraries that insist on it. BadDeviceToken."""
    token = bytes.fromhex(text) if _HEX.fullmatch(text) else parse_token(text)
    if token is None:
        raise Refused("BadDeviceToken" if text else "MissingDeviceToken")
    return token
