"""The form of a Matrix account, and what is made of it; must never show a value, only names of fields."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

import httpx

from gateway.model.im import Credentials, LoginField, Rejected

FORM = (
    LoginField("user", "User id (@name:server), or the name alone beside a homeserver"),
    LoginField("homeserver", "Address of the homeserver; empty: as the server of the user id says", is_required=False),
    LoginField("password", "Password", is_secret=True, is_required=False),
    LoginField("token", "Access token, instead of a password", is_secret=True, is_required=False),
    LoginField("device", "Device id; only where the account is bound more than once", is_required=False),
    LoginField("tls", "never: without TLS, in closed networks", is_required=False, default="always"),
)
#: no field is longer
MAX_CHARACTERS = 1_024
_SERVER = re.compile(r"[A-Za-z0-9.\-]{1,230}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_DEVICE = re.compile(r"[A-Za-z0-9_\-]{1,64}")


class Login(NamedTuple):
    """Who is to be logged in, and where."""

    #: @name:server, or a name
    user: str
    #: without a slash at its end; empty: ask `server`
    base: str
    #: of the user id; empty: not said
    server: str
    password: str
    token: str
    device: str
    is_plain: bool

    def __repr__(self) -> str:
        return "Login(hidden)"

    @property
    def host(self) -> str:
        return httpx.URL(self.base).host if self.base else self.server.lower()

    def digest(self) -> bytes:
        """Tells this login from others, and tells nothing of it."""
        return hashlib.sha256("\x00".join((self.user, self.base, self.password, self.device)).encode()).digest()


def parse_form(credentials: Credentials) -> Login:
    """Rejected, with the name of the field."""
    values = {name: value.strip() for name, value in credentials.values.items()}
    for name, value in values.items():
        if len(value) > MAX_CHARACTERS or not value.isprintable():
            raise Rejected(f"{name if name in _NAMES else 'a field'}: too long, or not text")
    user, password, token = values.get("user", ""), values.get("password", ""), values.get("token", "")
    tls = values.get("tls") or "always"
    if tls not in ("always", "never"):
        raise Rejected("tls: always or never")
    if not user:
        raise Rejected("user: expected @name:server, or a name")
    if not password and not token:
        raise Rejected("password: expected a password, or a token")
    name, _, server = user.removeprefix("@").partition(":")
    if not name or (user.startswith("@") and _SERVER.fullmatch(server) is None) or (server and user[0] != "@"):
        raise Rejected("user: expected @name:server, or a name")
    base = parse_base(values.get("homeserver", ""), is_plain=tls == "never", field="homeserver")
    if not base and (not server or tls == "never"):
        raise Rejected("homeserver: expected its address, https://…, or a user id with its server")
    device = values.get("device", "")
    if device and _DEVICE.fullmatch(device) is None:
        raise Rejected("device: letters, digits, - and _, at most 64")
    # the same at each login, so that there is no pile of devices, and a second try of a message is known as one
    device = device or "HELIOGRAPH" + hashlib.sha256(f"{base or server}\x00{user}".encode()).hexdigest()[:12].upper()
    return Login(user, base, server, password, token, device, tls == "never")


def parse_base(address: str, *, is_plain: bool, field: str) -> str:
    """A URL without a slash at its end; empty where there is none. Rejected."""
    if not address:
        return ""
    if "://" not in address:
        address = f"{'http' if is_plain else 'https'}://{address}"
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, ValueError):
        raise Rejected(f"{field}: no address") from None
    if not url.host or url.userinfo or url.query or url.fragment or url.scheme not in ("https", "http"):
        raise Rejected(f"{field}: expected https:// and a host")
    if url.scheme == "http" and not is_plain:
        raise Rejected(f"{field}: https alone, but where tls is never")
    return str(url).rstrip("/")


_NAMES = frozenset(field.name for field in FORM)
