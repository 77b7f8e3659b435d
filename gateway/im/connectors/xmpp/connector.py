"""XMPP as a network: its form, what it can do, and how a session begins; must keep nothing of an account but its
session."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.hosts import resolve
from gateway.im.connectors.xmpp.archive import parse_cursor
from gateway.im.connectors.xmpp.form import FORM, Login, parse_login
from gateway.im.connectors.xmpp.incoming import NETWORK
from gateway.im.connectors.xmpp.outgoing import TEXT_BYTES
from gateway.im.connectors.xmpp.servers import Server, find_servers
from gateway.im.connectors.xmpp.session import XmppSession
from gateway.model.im import Caps, Credentials, LoginField, Session, Transient


class XmppConnector:
    """One for all accounts: they share a TLS context, which is larger than an account is."""

    name: ClassVar[str] = NETWORK
    #: resumes and idempotent: where the account's server keeps an archive (XEP-0313), as all in wide use do
    caps: ClassVar[Caps] = Caps(
        contacts=True,
        presence=True,
        typing=True,
        befriend=True,
        rooms=True,
        media=True,
        location=True,
        read_marks=True,
        replies=True,
        edits=True,
        resumes=True,
        idempotent=True,
        text_bytes=TEXT_BYTES,
    )
    form: ClassVar[tuple[LoginField, ...]] = FORM

    def __init__(self, settings: ConnectorSettings) -> None:
        self._settings = settings
        self._context = ssl.create_default_context()
        # an account connects once: what would shorten a second handshake is held for nothing
        self._context.options |= ssl.OP_NO_TICKET

    def host(self, credentials: Credentials) -> str:
        login = parse_login(credentials)
        return f"{login.domain} {login.host}:{login.port} {login.tls}"

    @asynccontextmanager
    async def open(self, credentials: Credentials, cursor: bytes | None) -> AsyncIterator[Session]:
        login = parse_login(credentials)
        last, rooms = (None, None) if cursor is None else parse_cursor(cursor)
        session = await self._connect(login)
        try:
            await session.begin(last, rooms)
            yield session
        finally:
            await session.close()

    async def _connect(self, login: Login) -> XmppSession:
        """To the first address that takes us; an address that was reached has the last word."""
        failure: Transient | None = None
        for server in await find_servers(login):
            for address in await resolve(server.host, server.port, allows_private=self._settings.private_hosts):
                try:
                    return await self._log_in(login, server, address)
                except Transient as exc:
                    failure = exc
        raise failure or Transient("the domain names no server")

    async def _log_in(self, login: Login, server: Server, address: str) -> XmppSession:
        session = XmppSession(login, self._settings, self._context)
        try:
            async with asyncio.timeout(self._settings.request_s):
                await session.log_in(address, server.port, is_direct=server.is_direct)
        except TimeoutError:
            await session.close()
            raise Transient("the login took too long") from None
        except BaseException:
            await session.close()
            raise
        return session
