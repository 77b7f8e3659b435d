"""CONNECT at the plain door, for libraries that know the host they push to and can only be told of a proxy (aioapns).

    CONNECT api.push.apple.com:443 HTTP/1.1   where a certificate of ours bears that name
    → 200, and TLS begins on the same connection, ended by this gateway

Must never open a connection to anywhere: whatever the name is, it is this gateway that answers, or nobody.
Source: RFC 9110 §9.3.6, RFC 9112 §3.2.3.
"""

from __future__ import annotations

import re

from gateway.api.tls import Certificates
from gateway.model.errors import BadRequest, Forbidden, HeadersTooLarge

#: what such a connection begins with
OPENING = b"CONNECT "
MAX_HEAD_BYTES = 8_192
#: aioapns takes an answer for one that begins with `HTTP/1.1 200 Connect`
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

_END = b"\r\n\r\n"
_LINE = re.compile(rb"CONNECT ([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5} HTTP/1\.[01]")


def is_whole(head: bytes) -> bool:
    """Is its end there? HeadersTooLarge where it has none for too long."""
    if _END in head:
        return True
    if len(head) > MAX_HEAD_BYTES:
        raise HeadersTooLarge(f"A CONNECT request may have {MAX_HEAD_BYTES} bytes.")
    return False


def parse_host(head: bytes, certificates: Certificates | None) -> str:
    """The host that is asked for. BadRequest, and Forbidden where it is not this gateway.

    What follows the head is refused too: a client speaks on when it has the answer.
    """
    if not head.endswith(_END) or head.count(_END) != 1:
        raise BadRequest("Nothing may follow a CONNECT request before its answer.")
    line = _LINE.fullmatch(head.partition(b"\r\n")[0])
    if line is None:
        raise BadRequest("Expected CONNECT host:port (RFC 9112 §3.2.3).")
    host = line[1].decode().strip("[]").lower().rstrip(".")
    if certificates is None or not certificates.bears(host):
        raise Forbidden("No certificate of this gateway bears that name, and it leads to nowhere else.")
    return host
