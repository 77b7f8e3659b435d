"""What a person types to bind a Bluesky account, checked; must never put a value of it into an error."""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.model.im import Credentials, LoginField, Rejected

FORM = (
    LoginField("server", "Server (PDS)", is_required=False, default="bsky.social"),
    LoginField("tls", "TLS: always, or never (closed networks only)", is_required=False, default="always"),
    LoginField("handle", "Handle, as name.bsky.social"),
    LoginField("password", "App password (Settings, Privacy and security)", is_secret=True),
)
_SERVER = re.compile(r"([A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_HANDLE = re.compile(r"[A-Za-z0-9:._-]{1,253}")
_SECRET_BYTES = 400


class Login(NamedTuple):
    server: str
    has_tls: bool
    handle: str
    password: str

    @property
    def url(self) -> str:
        return f"{'https' if self.has_tls else 'http'}://{self.server}"

    def __repr__(self) -> str:
        return "Login(hidden)"


def parse_login(credentials: Credentials) -> Login:
    """Rejected, naming the field."""
    values = {field.name: credentials.values.get(field.name, "").strip() or field.default for field in FORM}
    for field in FORM:
        if not values[field.name]:
            raise Rejected(f"{field.name}: this field is needed")
    found = _SERVER.fullmatch(values["server"])
    if found is None or not 0 < int(found[2] or 443) < 65_536:
        raise Rejected("server: a name such as bsky.social, with a port behind a colon where it has one of its own")
    if values["tls"] not in ("always", "never"):
        raise Rejected("tls: always or never")
    handle = values["handle"].removeprefix("@")
    if _HANDLE.fullmatch(handle) is None:
        raise Rejected("handle: as name.bsky.social")
    if len(values["password"].encode("utf-8", "replace")) > _SECRET_BYTES:
        raise Rejected(f"password: at most {_SECRET_BYTES} bytes")
    return Login(values["server"].lower(), values["tls"] == "always", handle, values["password"])
