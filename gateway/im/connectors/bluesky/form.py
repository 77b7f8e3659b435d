"""What a person types to bind a Bluesky account, checked; must never put a value of it into an error."""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.im.connectors.site_server import TLS, parse_server, read_values
from gateway.model.im import Credentials, LoginField, Rejected

FORM = (
    LoginField("server", "Server (PDS)", is_required=False, default="bsky.social"),
    TLS,
    LoginField("handle", "Handle, as name.bsky.social"),
    LoginField("password", "App password (Settings, Privacy and security)", is_secret=True),
)
_HANDLE = re.compile(r"[A-Za-z0-9:._-]{1,253}")
_SECRET_BYTES = 400


class Login(NamedTuple):
    server: str
    has_tls: bool
    url: str
    handle: str
    password: str

    def __repr__(self) -> str:
        return "Login(hidden)"


def parse_login(credentials: Credentials) -> Login:
    """Rejected, naming the field."""
    values = read_values(credentials, FORM)
    server = parse_server(values, "bsky.social")
    handle = values["handle"].removeprefix("@")
    if _HANDLE.fullmatch(handle) is None:
        raise Rejected("handle: as name.bsky.social")
    if len(values["password"].encode("utf-8", "replace")) > _SECRET_BYTES:
        raise Rejected(f"password: at most {_SECRET_BYTES} bytes")
    return Login(server.name, server.has_tls, server.url, handle, values["password"])
