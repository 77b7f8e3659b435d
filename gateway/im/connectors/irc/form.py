"""What a person types to bind an IRC account, checked; must never put a value of it into an error."""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.im.connectors.irc.lines import is_word
from gateway.model.im import Credentials, LoginField, Rejected

FORM = (
    LoginField("server", "Server"),
    LoginField("port", "Port", is_required=False, default="6697"),
    LoginField("tls", "TLS: always, or never (closed networks only)", is_required=False, default="always"),
    LoginField("nick", "Nickname you want"),
    LoginField("name", "Real name, as others see it", is_required=False),
    LoginField("server_password", "Password of the server", is_secret=True, is_required=False),
    LoginField("account", "Account", is_required=False),
    LoginField("password", "Password of the account", is_secret=True, is_required=False),
    LoginField("login", "How to log in to the account: sasl or nickserv", is_required=False, default="sasl"),
    LoginField("channels", "Channels to be in, with commas between them", is_required=False),
)
_NICK = re.compile(r"[A-Za-z\[\]\\`_^{|}][A-Za-z0-9\[\]\\`_^{|}-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9:._-]{1,253}")
_CHANNEL = re.compile(r"[#&+!][^\x00-\x20,:\x7f]{1,199}(?: [^\x00-\x20,:\x7f]{1,64})?")
#: one line of a password (RFC 2812 §3.1.1), and SASL in a few pieces
_SECRET_BYTES = 400
_MOST_CHANNELS = 50


class Login(NamedTuple):
    server: str
    port: int
    tls: bool
    nick: str
    name: str
    server_password: str
    account: str
    password: str
    by_nickserv: bool
    #: each with its key behind a space, or without
    channels: tuple[str, ...]

    def __repr__(self) -> str:
        return "Login(hidden)"


def parse_channel(text: str) -> tuple[str, str]:
    """Name and key, empty where there is none. Rejected."""
    if _CHANNEL.fullmatch(text) is None:
        raise Rejected("a channel is its name, as #room, and its key behind a space where it has one")
    name, _, key = text.partition(" ")
    return name, key


def parse_login(credentials: Credentials) -> Login:
    """Rejected, naming the field."""
    known = {field.name: field for field in FORM}
    values = {name: credentials.values.get(name, "").strip() or field.default for name, field in known.items()}
    for field in FORM:
        if field.is_required and not values[field.name]:
            raise Rejected(f"{field.name}: this field is needed")
    if _HOST.fullmatch(values["server"]) is None:
        raise Rejected("server: a name such as irc.example.org")
    port = values["port"]
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65_536):
        raise Rejected("port: a number from 1 to 65535")
    if values["tls"] not in ("always", "never"):
        raise Rejected("tls: always or never")
    if _NICK.fullmatch(values["nick"]) is None:
        raise Rejected("nick: letters, digits and []\\`_^{|}-, and no digit first")
    if values["login"] not in ("sasl", "nickserv"):
        raise Rejected("login: sasl or nickserv")
    for name in ("server_password", "account", "password", "name"):
        value = values[name]
        if any(char in value for char in "\x00\r\n") or len(value.encode("utf-8", "replace")) > _SECRET_BYTES:
            raise Rejected(f"{name}: one line of at most {_SECRET_BYTES} bytes")
    if bool(values["account"]) != bool(values["password"]):
        raise Rejected("password: account and password go together")
    if values["login"] == "nickserv" and not all(
        is_word(values[name]) for name in ("account", "password") if values[name]
    ):
        raise Rejected("password: NickServ takes none with spaces")
    channels = tuple(channel.strip() for channel in values["channels"].split(",") if channel.strip())
    if len(channels) > _MOST_CHANNELS:
        raise Rejected(f"channels: at most {_MOST_CHANNELS}")
    for channel in channels:
        try:
            parse_channel(channel)
        except Rejected as exc:
            raise Rejected(f"channels: {exc}") from None
    return Login(
        values["server"],
        int(port),
        values["tls"] == "always",
        values["nick"],
        values["name"] or values["nick"],
        values["server_password"],
        values["account"],
        values["password"],
        values["login"] == "nickserv",
        channels,
    )
