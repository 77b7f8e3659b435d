"""Mastodon, with the library Mastodon.py in a few threads. Not proven against a live server: tried on a server of our
own that takes nothing but what Mastodon's documentation describes."""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.mastodon.form import FORM, parse_login
from gateway.im.connectors.mastodon.session import MastodonSession, open_session
from gateway.model.im import Caps, Connector, Credentials, LoginField


class Mastodon:
    name: ClassVar[str] = "mastodon"
    #: not proven against a live server. Contacts are those whom the account follows; a place is its URI; a server
    #: knows a second try for an hour; how long a text may be each server decides
    caps: ClassVar[Caps] = Caps(
        contacts=True, befriend=True, media=True, location=True, replies=True, resumes=True, idempotent=True
    )
    form: ClassVar[tuple[LoginField, ...]] = FORM

    def __init__(self, settings: ConnectorSettings) -> None:
        self._settings = settings
        self._tls = ssl.create_default_context()
        self._threads = ThreadPoolExecutor(settings.threads, "im-mastodon")

    def host(self, credentials: Credentials) -> str:
        return parse_login(credentials).url

    def open(self, credentials: Credentials, cursor: bytes | None) -> AbstractAsyncContextManager[MastodonSession]:
        return open_session(credentials, cursor, self._settings, self._tls, self._threads)


def build(settings: ConnectorSettings) -> Connector:
    return Mastodon(settings)
