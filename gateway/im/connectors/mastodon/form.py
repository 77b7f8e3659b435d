"""What a person types to bind a Mastodon account, checked; must never put a value of it into an error."""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.im.connectors.site_server import TLS, parse_server, read_values
from gateway.model.im import Credentials, LoginField, Rejected

FORM = (
    LoginField("server", "Server, as mastodon.social"),
    TLS,
    LoginField("token", "Access token (Preferences, Development, New application)", is_secret=True),
)
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,1000}")


class Login(NamedTuple):
    server: str
    has_tls: bool
    url: str
    token: str

    def __repr__(self) -> str:
        return "Login(hidden)"


def parse_login(credentials: Credentials) -> Login:
    """Rejected, naming the field."""
    values = read_values(credentials, FORM)
    server = parse_server(values, "mastodon.social")
    if _TOKEN.fullmatch(values["token"]) is None:
        raise Rejected("token: letters, digits and ._~+/=-")
    return Login(server.name, server.has_tls, server.url, values["token"])
