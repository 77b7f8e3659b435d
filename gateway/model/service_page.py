"""The bytes that invite a terminal to start an app (C13): both sides' codec; must never believe what is not signed, nor
carry the address of a server.

Version 1, big-endian, made to fit into one short message to an application's port (3GPP TS 23.040 §9.2.3.24.4: 133
bytes are left there):

```
0      0x81: the high bit tells it from the payload of pager sms, which may come to the same port; version 1
1      flags, 0
2-9    AID: HMAC-SHA-256 of it under the page key, the first 8 bytes; zeros: the id alone is looked up
10-17  id: SHA-256 of the registration's token, the first 8 bytes
18-33  ticket of the invitation, which only the gateway can make or read (gateway/auth/service_keys.py)
34-37  expiry, Unix seconds
38-45  counter: grows with each page of the gateway, microseconds of its clock
46     index into the servers the app has for the AID
47     length of the parameters in bytes; the parameters follow, opaque
…      the first 12 bytes of HMAC-SHA-256 of all before, under the registration's page key
```

A short message can be forged by anybody who can send one. So a page names a server by its place in the list that the
app has registered for the AID, never by its address, and nothing is done with a page whose signature does not fit. Who
reads it on its way learns neither which app it is for nor, of two pages to two terminals, that it is the same one.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import NamedTuple

VERSION = 0x81
#: of a page; what one short message to a port takes
MOST_BYTES = 133
KEY_BYTES, TICKET_BYTES, TAG_BYTES, HASH_BYTES = 32, 16, 12, 8
_HEAD = struct.Struct(">BB8s8s16sIQBB")
#: bytes of parameters
MOST_PARAMS = MOST_BYTES - _HEAD.size - TAG_BYTES
#: characters of an AID
MOST_AID = 64
MOST_SERVERS = 8
_NO_AID = bytes(HASH_BYTES)


class ServicePage(NamedTuple):
    """One invitation; `aid` and `id` are hashes."""

    aid: bytes
    id: bytes
    ticket: bytes
    expires_s: int
    counter: int
    server: int = 0
    params: bytes = b""

    def __repr__(self) -> str:
        return "ServicePage(…)"


class BadPage(ValueError):
    """The bytes are no page of this version."""


def hash_aid(aid: str, key: bytes) -> bytes:
    """Under the page key of the registration. Zeros for an empty one."""
    return hmac.digest(key, b"aid\0" + aid.encode(), "sha256")[:HASH_BYTES] if aid else _NO_AID


def hash_id(token: bytes) -> bytes:
    """`token`: its bytes."""
    return hashlib.sha256(b"heliograph page id\0" + token).digest()[:HASH_BYTES]


def build_page(page: ServicePage, key: bytes) -> bytes:
    """Signed. ValueError where a part does not fit."""
    if len(page.params) > MOST_PARAMS:
        raise ValueError(f"parameters take {MOST_PARAMS} bytes at most")
    if (len(page.aid), len(page.id), len(page.ticket)) != (HASH_BYTES, HASH_BYTES, TICKET_BYTES):
        raise ValueError("a hash or the ticket has another length")
    try:
        head = _HEAD.pack(
            VERSION,
            0,
            page.aid,
            page.id,
            page.ticket,
            page.expires_s,
            page.counter,
            page.server,
            len(page.params),
        )
    except struct.error:
        raise ValueError("a number does not fit into its field") from None
    signed = head + page.params
    return signed + _sign(signed, key)


def is_page(data: bytes) -> bool:
    """Does it begin like one? What comes to the port may be something else."""
    return data[:1] == bytes((VERSION,))


def parse_page(data: bytes) -> ServicePage:
    """What it says; nobody has looked at its signature yet. BadPage."""
    if not _HEAD.size + TAG_BYTES <= len(data) <= MOST_BYTES:
        raise BadPage("too short or too long")
    version, flags, aid, id_, ticket, expires_s, counter, server, params_bytes = _HEAD.unpack_from(data)
    if version != VERSION or flags:
        raise BadPage("not of this version")
    if len(data) != _HEAD.size + params_bytes + TAG_BYTES:
        raise BadPage("the length of the parameters does not fit")
    return ServicePage(aid, id_, ticket, expires_s, counter, server, data[_HEAD.size : -TAG_BYTES])


def is_signed(data: bytes, key: bytes) -> bool:
    """Was it signed with this key? Takes the same time whichever byte is wrong."""
    return hmac.compare_digest(data[-TAG_BYTES:], _sign(data[:-TAG_BYTES], key))


def _sign(signed: bytes, key: bytes) -> bytes:
    return hmac.digest(key, b"page\0" + signed, "sha256")[:TAG_BYTES]


def parse_servers(text: str) -> list[str]:
    """A list of servers as an app's settings have it: URLs with spaces between. What is too many is left out."""
    return text.split()[:MOST_SERVERS]
