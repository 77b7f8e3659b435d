"""An ASGI scope from the fields of an HTTP/2 request; sans-IO, and must never let through what HTTP/1.1 would refuse.

Nobody has looked at the fields before (http2_codec.py): whatever makes a request malformed (RFC 9113 §8.2, §8.3) is
found here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from gateway.model.errors import BadRequest

#: RFC 9110 §5.6.2
_METHOD = re.compile(rb"[A-Z!#$%&'*+.^_`|~-]{1,32}")
#: RFC 3986 §3.1, §3.2, §3.3: what a scheme, a path and an authority may be written with
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*")
_PATH = re.compile(rb"/[\x21\x22\x24-\x7e]*")
_AUTHORITY = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]{1,255}")
#: RFC 9113 §8.3.1; what RFC 8441 adds is not offered
_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path"})
#: RFC 9113 §8.2.1 and RFC 9110 §5.1, §5.5: a name in small letters, a value without control characters
_NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
#: RFC 9110 §8.6; more digits than any body has bytes
_LENGTH = re.compile(rb"[0-9]{1,18}")
#: what HTTP/2 has no field for (RFC 9113 §8.2.2)
CONNECTION_FIELDS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
#: of a request whose content-length is not that of its body (RFC 9113 §8.1.1)
UNEQUAL = "The body is not as long as Content-Length says."
_BLANK = (b" ", b"\t")
Headers = list[tuple[bytes, bytes]]


def build_scope(fields: Iterable[tuple[bytes, bytes]], *, is_whole: bool = False) -> tuple[dict[str, Any], int | None]:
    """Method, path and headers (`:authority` becomes Host, crumbs of Cookie one field, RFC 9113 §8.2.3), and how many
    bytes the body has, where Content-Length says it. `is_whole`: there is no body. Raises BadRequest for what no
    handler should see."""
    pseudo: dict[bytes, bytes] = {}
    headers: Headers = []
    cookies: list[bytes] = []
    host: bytes | None = None
    length: int | None = None
    is_head = True
    for name, value in fields:
        if name.startswith(b":"):
            if name not in _PSEUDO or name in pseudo or not is_head:
                raise BadRequest("A pseudo-header field is unknown, there twice or out of place.")
            pseudo[name] = value
            continue
        is_head = False
        _check_field(name, value)
        if name == b"cookie":
            cookies.append(value)
        elif name == b"host":
            if host is not None:
                raise BadRequest("Two Host fields.")
            host = value
        else:
            if name == b"content-length":
                if length is not None or not _LENGTH.fullmatch(value):
                    raise BadRequest("Content-Length is no number of bytes, or there twice.")
                length = int(value)
            headers.append((bytes(name), bytes(value)))
    if is_whole and length:
        raise BadRequest(UNEQUAL)
    method, target = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    authority = pseudo.get(b":authority", host or b"")
    if not _METHOD.fullmatch(method) or method == b"CONNECT":
        raise BadRequest("This method is not taken here.")
    if not _SCHEME.fullmatch(pseudo.get(b":scheme", b"")):
        raise BadRequest("The scheme is missing, or none.")
    if not _PATH.fullmatch(target):
        raise BadRequest("The path is not one.")
    if not _AUTHORITY.fullmatch(authority) or (host is not None and host != authority):
        raise BadRequest("The authority is missing, or Host says another.")
    headers.insert(0, (b"host", bytes(authority)))
    if cookies:
        headers.append((b"cookie", b"; ".join(cookies)))
    raw_path, _, query = target.partition(b"?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "method": method.decode(),
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": bytes(raw_path),
        "query_string": bytes(query),
        "root_path": "",
        "headers": headers,
        "state": {},
    }
    return scope, length


def check_trailers(fields: Iterable[tuple[bytes, bytes]]) -> None:
    """RFC 9113 §8.1. No handler sees them; raises BadRequest all the same."""
    for name, value in fields:
        if name.startswith(b":") or name == b"content-length":
            raise BadRequest("Trailers have no such field.")
        _check_field(name, value)


def _check_field(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise BadRequest("The name of a field is none, or not in small letters.")
    if not _VALUE.fullmatch(value) or value[:1] in _BLANK or value[-1:] in _BLANK:
        raise BadRequest("The value of a field has a control character, or a blank at its beginning or end.")
    if name in CONNECTION_FIELDS or (name == b"te" and value.lower() != b"trailers"):
        raise BadRequest("A field that HTTP/2 has no use for.")
