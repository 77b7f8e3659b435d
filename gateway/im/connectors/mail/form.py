"""What a person types in to bind a mailbox, checked: nothing that could end a command or name a file."""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.im.mime import is_address
from gateway.im.smtp import TLS_MODES, SmtpServer
from gateway.model.im import Credentials, LoginField, Rejected

FORM = (
    LoginField("address", "Mail address"),
    LoginField("user", "User name, where it is not the address", is_required=False),
    LoginField("password", "Password, or app password", is_secret=True),
    LoginField("imap_host", "IMAP server"),
    LoginField("imap_port", "IMAP port", is_required=False, default="993"),
    LoginField("smtp_host", "SMTP server"),
    LoginField("smtp_port", "SMTP port", is_required=False, default="465"),
    LoginField("tls", "tls, starttls, or never (closed networks only)", is_required=False, default="tls"),
)
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:]{2,45}")
#: RFC 6409: it begins in the clear wherever it is spoken
_SUBMISSION_PORT = 587


class Mailbox(NamedTuple):
    address: str
    user: str
    password: str
    imap_host: str
    imap_port: int
    imap_tls: str
    smtp: SmtpServer

    def __repr__(self) -> str:
        return "Mailbox(hidden)"


def parse_form(credentials: Credentials) -> Mailbox:
    """Rejected, naming the field."""
    typed = {field.name: credentials.values.get(field.name, "").strip() or field.default for field in FORM[:2]}
    typed |= {field.name: credentials.values.get(field.name, "").strip() or field.default for field in FORM[3:]}
    password = credentials.values.get("password", "")
    address = typed["address"].lower()
    if not is_address(address):
        raise Rejected("address: expected a mail address")
    user = typed["user"] or typed["address"]
    for name, text in (("user", user), ("password", password)):
        if not text or len(text) > 1_024 or any(ord(c) < 32 or ord(c) == 127 for c in text):
            raise Rejected(f"{name}: expected 1 to 1024 characters, none of them a control character")
    if typed["tls"] not in TLS_MODES:
        raise Rejected("tls: expected tls, starttls or never")
    for name in ("imap_host", "smtp_host"):
        if not _HOST.fullmatch(typed[name]):
            raise Rejected(f"{name}: expected the name of a server")
    smtp_port = _port(typed, "smtp_port")
    smtp_tls = "starttls" if typed["tls"] == "tls" and smtp_port == _SUBMISSION_PORT else typed["tls"]
    return Mailbox(
        address,
        user,
        password,
        typed["imap_host"].lower(),
        _port(typed, "imap_port"),
        typed["tls"],
        SmtpServer(typed["smtp_host"].lower(), smtp_port, smtp_tls, user, password),
    )


def _port(typed: dict[str, str], name: str) -> int:
    text = typed[name]
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65_535):
        raise Rejected(f"{name}: expected a port, 1 to 65535")
    return int(text)
