"""What a person types to bind an XMPP account; must never show any of it by being printed."""

from __future__ import annotations

from typing import NamedTuple

from slixmpp.jid import JID, InvalidJID
from slixmpp.util.sasl.client import saslprep

from gateway.model.im import Credentials, LoginField, Rejected

#: STARTTLS; TLS from the first byte (XEP-0368); none (closed networks)
TLS = ("required", "direct", "never")
FORM = (
    LoginField("jid", "Address, as in juliet@example.org"),
    LoginField("password", "Password", is_secret=True),
    LoginField("host", "Server, where it is another than the address says", is_required=False),
    LoginField("port", "Port", is_required=False),
    LoginField("tls", f"TLS: {', '.join(TLS)}", is_required=False, default=TLS[0]),
)


class Login(NamedTuple):
    #: bare: local part and domain
    jid: str
    domain: str
    password: str
    #: empty: by DNS
    host: str
    #: 0: by DNS, or the usual one
    port: int
    tls: str

    def __repr__(self) -> str:
        return "Login(hidden)"


def parse_login(credentials: Credentials) -> Login:
    """Rejected, naming the field."""
    values = credentials.values
    try:
        jid = JID(values.get("jid", "").strip())
    except InvalidJID:
        raise Rejected("jid: this is no address; it looks like juliet@example.org") from None
    if not jid.user or not jid.domain:
        raise Rejected("jid: this is no address; it looks like juliet@example.org")
    try:
        jid.domain.encode("idna")
        saslprep(jid.user)
    except UnicodeError:
        raise Rejected("jid: this is no address; it looks like juliet@example.org") from None
    password = values.get("password", "")
    try:
        saslprep(password)
        is_good = 0 < len(password.encode()) <= 1024
    except UnicodeError:
        is_good = False
    if not is_good:
        raise Rejected("password: 1 to 1,024 bytes are expected, without control characters")
    host = values.get("host", "").strip()
    if len(host) > 253:
        raise Rejected("host: this is no name of a server")
    port = values.get("port", "").strip()
    if port and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65_536):
        raise Rejected("port: a number from 1 to 65535 is expected")
    tls = values.get("tls", "").strip() or TLS[0]
    if tls not in TLS:
        raise Rejected(f"tls: one of {', '.join(TLS)} is expected")
    return Login(jid.bare, jid.domain, password, host, int(port or 0), tls)
