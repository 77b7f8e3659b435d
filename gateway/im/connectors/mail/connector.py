"""Mailboxes (D14, D15): new mail by IMAP IDLE, mail out by SMTP."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.mail.form import FORM, parse_form
from gateway.im.connectors.mail.letters import NETWORK
from gateway.im.connectors.mail.link import Link, Threads
from gateway.im.connectors.mail.session import open_session
from gateway.model.im import Caps, Credentials, LoginField, Session

# it logs commands and answers
logging.getLogger("imapclient").setLevel(logging.CRITICAL + 1)


class MailConnector:
    name: ClassVar[str] = NETWORK
    caps: ClassVar[Caps] = Caps(media=True, location=True, read_marks=True, replies=True, resumes=True)
    form: ClassVar[tuple[LoginField, ...]] = FORM

    def __init__(self, settings: ConnectorSettings) -> None:
        self._settings = settings
        self._threads = Threads(settings.threads)
        #: one for all: each costs hundreds of kilobytes
        self._context = ssl.create_default_context()

    def host(self, credentials: Credentials) -> str:
        mailbox = parse_form(credentials)
        return f"{mailbox.imap_host}:{mailbox.imap_port} {mailbox.imap_tls}"

    @asynccontextmanager
    async def open(self, credentials: Credentials, cursor: bytes | None) -> AsyncIterator[Session]:
        mailbox = parse_form(credentials)
        link = Link(self._threads, self._settings.request_s)
        try:
            yield await open_session(mailbox, cursor, link, self._settings, self._threads, self._context)
        finally:
            await link.close()
