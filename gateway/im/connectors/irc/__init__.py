"""IRC: a codec of our own over asyncio streams (RFC 2812, IRCv3). The library `irc` puts every line into a log, has no
bound on a line and none on what waits, and can not stop reading; it is the peer in the tests instead."""

from __future__ import annotations

import ssl
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.irc.form import FORM, parse_login
from gateway.im.connectors.irc.session import IrcSession, open_session
from gateway.model.im import Caps, Connector, Credentials, LoginField


class Irc:
    name: ClassVar[str] = "irc"
    #: no contacts, no read marks, and nothing of what was said while nobody was there. A place is its URI
    caps: ClassVar[Caps] = Caps(rooms=True, location=True, text_bytes=4_096)
    form: ClassVar[tuple[LoginField, ...]] = FORM

    def __init__(self, settings: ConnectorSettings) -> None:
        self._settings = settings
        self._tls = ssl.create_default_context()

    def host(self, credentials: Credentials) -> str:
        login = parse_login(credentials)
        return f"{login.server.lower()}:{login.port} {login.tls}"

    def open(self, credentials: Credentials, cursor: bytes | None) -> AbstractAsyncContextManager[IrcSession]:
        """The cursor says which rooms were joined and left since the account was bound, and nothing of messages."""
        return open_session(credentials, cursor, self._settings, self._tls)


def build(settings: ConnectorSettings) -> Connector:
    return Irc(settings)
