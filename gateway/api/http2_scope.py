"""An ASGI scope from the fields of an HTTP/2 request; sans-IO, and must never let through what HTTP/1.1 would refuse.

The codec has checked the order and number of pseudo-header fields, connection-specific fields, TE, and characters
(RFC 9113 §8.2, §8.3); what is left is what only matters to a server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from gateway.model.errors import BadRequest

#: RFC 9110 §5.6.2
_METHOD = re.compile(rb"[A-Z!#$%&'*+.^_`|~-]{1,32}")
#: RFC 3986 §3.2, §3.3: what a path and an authority may be written with
_PATH = re.compile(rb"/[\x21\x22\x24-\x7e]*")
_AUTHORITY = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]{1,255}")
Headers = list[tuple[bytes, bytes]]


def build_scope(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, Any]:
    """Method, path and headers (`:authority` becomes Host, crumbs of Cookie one field, RFC 9113 §8.2.3). Raises
    BadRequest for what no handler should see."""
    pseudo: dict[bytes, bytes] = {}
    headers: Headers = []
    cookies: list[bytes] = []
    host: bytes | None = None
    for name, value in fields:
        if name.startswith(b":"):
            pseudo[name] = value
        elif name == b"cookie":
            cookies.append(value)
        elif name == b"host":
            if host is not None and host != value:
                raise BadRequest("Two Host fields.")
            host = value
        else:
            headers.append((bytes(name), bytes(value)))
    method, target = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    authority = pseudo.get(b":authority", host or b"")
    if not _METHOD.fullmatch(method) or method == b"CONNECT":
        raise BadRequest("This method is not taken here.")
    if not _PATH.fullmatch(target):
        raise BadRequest("The path is not one.")
    if not _AUTHORITY.fullmatch(authority) or (host is not None and host != authority):
        raise BadRequest("The authority is missing, or Host says another.")
    headers.insert(0, (b"host", bytes(authority)))
    if cookies:
        headers.append((b"cookie", b"; ".join(cookies)))
    raw_path, _, query = target.partition(b"?")
    return {
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
