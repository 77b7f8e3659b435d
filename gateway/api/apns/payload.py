"""An APNs payload: what a person reads of it, and the whole for the app; sans-IO.

Source: "Generating a remote notification", Table 2 (keys of aps.alert).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from gateway.api.apns.reasons import Refused

MAX_TITLE_CHARS, MAX_TEXT_CHARS = 4_096, 16_384
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Payload(NamedTuple):
    title: str
    text: str
    data: dict[str, Any]


def parse_payload(body: bytes) -> Payload:
    """PayloadEmpty where there is nothing, or no JSON object: Apple's table has no other word for it."""
    try:
        data = _decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Refused("PayloadEmpty") from None
    if not data:
        raise Refused("PayloadEmpty")
    aps = data.get("aps")
    alert = aps.get("alert") if isinstance(aps, dict) else None
    if isinstance(alert, str):
        return Payload("", alert[:MAX_TEXT_CHARS], data)
    if not isinstance(alert, dict):
        return Payload("", "", data)
    return Payload(_text(alert, "title")[:MAX_TITLE_CHARS], _text(alert, "body")[:MAX_TEXT_CHARS], data)


def _text(alert: dict[str, Any], name: str) -> str:
    value = alert.get(name)
    return value if isinstance(value, str) else ""
