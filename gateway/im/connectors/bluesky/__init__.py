"""Bluesky (AT Protocol), with the library atproto: posts out, and new posts of those an account follows."""

from __future__ import annotations

import ssl
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.bluesky.form import FORM, parse_login
from gateway.im.connectors.bluesky.posts import TEXT_BYTES
from gateway.im.connectors.bluesky.session import BlueskySession, open_session
from gateway.im.connectors.bluesky.tokens import Tokens
from gateway.model.im import Caps, Connector, Credentials, LoginField


class Bluesky:
    name: ClassVar[str] = "bluesky"
    #: contacts are those whom the account follows. A place is its URI
    caps: ClassVar[Caps] = Caps(
        contacts=True,
        befriend=True,
        media=True,
        location=True,
        replies=True,
        resumes=True,
        idempotent=True,
        text_bytes=TEXT_BYTES,
    )
    form: ClassVar[tuple[LoginField, ...]] = FORM

    def __init__(self, settings: ConnectorSettings) -> None:
        self._settings = settings
        self._tls = ssl.create_default_context()
        self._tokens = Tokens()

    def host(self, credentials: Credentials) -> str:
        return parse_login(credentials).url

    def open(self, credentials: Credentials, cursor: bytes | None) -> AbstractAsyncContextManager[BlueskySession]:
        return open_session(credentials, cursor, self._settings, self._tls, self._tokens)


def build(settings: ConnectorSettings) -> Connector:
    return Bluesky(settings)
