"""What a binary short message says to an application's port; must never hold a device id, an account or the message
body.

Version 1, big-endian:

```
0      version, 1
1      flags: bits 0-1 urgency (as in NOTIFY), bit 2: the app should fetch, for title or text were cut
2-17   push id, the 16 bytes of its text form (base64url)
18-33  token of the registration
34-37  expiry, Unix seconds
38     length of the title in bytes, title (UTF-8)
…      text (UTF-8), to the end
```

A short message can be forged by anybody who can send one, so it is a hint to connect and no more: the app fetches what
there is over its own channel, by the push id, and shows nothing it has not got there where that matters.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

VERSION = 1
_CUT = 0x04
_HEAD = struct.Struct(">BB16s16sIB")
HEAD_BYTES = _HEAD.size


class AppPayload(NamedTuple):
    push_id: bytes  # 16 bytes
    token: bytes  # 16 bytes
    expires_s: int  # Unix seconds
    urgency: int = 2
    title: str = ""
    text: str = ""
    is_cut: bool = False

    def __repr__(self) -> str:
        return "AppPayload(…)"


class BadPayload(ValueError):
    """The bytes are no payload of this version."""


def _cut_utf8(text: str, most_bytes: int) -> bytes:
    """As many whole characters as fit."""
    data = text.encode("utf-8", "replace")
    if len(data) <= most_bytes:
        return data
    return data[: max(0, most_bytes)].decode("utf-8", "ignore").encode()


def build_payload(payload: AppPayload, most_bytes: int) -> bytes:
    """With as much of the title, then of the text, as `most_bytes` takes; ValueError where not even none fits."""
    if most_bytes < HEAD_BYTES:
        raise ValueError(f"takes {HEAD_BYTES} bytes at least")
    title = _cut_utf8(payload.title, min(255, most_bytes - HEAD_BYTES))
    text = _cut_utf8(payload.text, most_bytes - HEAD_BYTES - len(title))
    is_cut = payload.is_cut or title.decode() != payload.title or text.decode() != payload.text
    flags = payload.urgency & 3 | (_CUT if is_cut else 0)
    expires_s = min(max(payload.expires_s, 0), 0xFFFFFFFF)
    return _HEAD.pack(VERSION, flags, payload.push_id, payload.token, expires_s, len(title)) + title + text


def parse_payload(data: bytes) -> AppPayload:
    """What an app does with it. BadPayload."""
    if len(data) < HEAD_BYTES:
        raise BadPayload("too short")
    version, flags, push_id, token, expires_s, title_bytes = _HEAD.unpack_from(data)
    if version != VERSION:
        raise BadPayload("not of this version")
    if HEAD_BYTES + title_bytes > len(data):
        raise BadPayload("the title is longer than the message")
    try:
        title = data[HEAD_BYTES : HEAD_BYTES + title_bytes].decode()
        text = data[HEAD_BYTES + title_bytes :].decode()
    except UnicodeDecodeError:
        raise BadPayload("title or text is not UTF-8") from None
    return AppPayload(push_id, token, expires_s, flags & 3, title, text, bool(flags & _CUT))
