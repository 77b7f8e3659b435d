"""The connector: its form, and accounts logged in; keeps the tokens of logins in memory, so that who comes back within
the life of the process makes no new login; must never write one anywhere."""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import ClassVar

import httpx

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.matrix.api import Api
from gateway.im.connectors.matrix.content import NETWORK, TEXT_BYTES, get_object, get_text
from gateway.im.connectors.matrix.form import FORM, Login, parse_base, parse_form
from gateway.im.connectors.matrix.refusals import Refusal
from gateway.im.connectors.matrix.session import MatrixSession
from gateway.im.connectors.matrix.wire import Wire
from gateway.model.im import AuthFailed, Caps, Credentials, LoginField, Rejected, Session, Transient

#: tokens of logins that are kept; past it the oldest go, and their accounts log in again
MAX_TOKENS = 20_000
#: of the question where a server is
MAX_REDIRECTS = 3


@cache
def _public_context() -> ssl.SSLContext:
    """The usual authorities; one for all sessions, for each takes most of a megabyte."""
    return httpx.create_ssl_context(trust_env=False)


class MatrixConnector:
    name: ClassVar[str] = NETWORK
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

    def __init__(self, settings: ConnectorSettings, context: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._context = context
        #: digest of a login → its token
        self._tokens: OrderedDict[bytes, str] = OrderedDict()

    def host(self, credentials: Credentials) -> str:
        login = parse_form(credentials)
        return login.base.lower() or login.host

    @asynccontextmanager
    async def open(self, credentials: Credentials, cursor: bytes | None) -> AsyncIterator[Session]:
        login = parse_form(credentials)
        base = login.base or await self._discover(login)
        async with self._wire(base) as wire:
            api = Api(wire)
            await self._log_in(api, login)
            session = MatrixSession(api, self._settings)
            await session.start(cursor)
            yield session

    async def _log_in(self, api: Api, login: Login) -> None:
        if login.token:
            await api.check_token(login.token)
            if login.server and api.user.lower() != login.user.lower():
                raise AuthFailed("the token is another user's")
            return
        digest = login.digest()
        kept = self._tokens.get(digest, "")
        if kept:
            try:
                await api.check_token(kept)
                return
            except AuthFailed:
                self._tokens.pop(digest, None)
                api.use("", "")
        self._tokens[digest] = await api.log_in(login)
        while len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)

    async def _discover(self, login: Login) -> str:
        """Where the server of a user id has its clients go (client-server API, 3.1)."""
        at = f"https://{login.server}"
        async with self._wire(at, keeps=0, redirects=MAX_REDIRECTS) as wire:
            try:
                answer = await wire.call("GET", "/.well-known/matrix/client")
            except Refusal as exc:
                if exc.status == 404:
                    return at
                raise Rejected("homeserver: the server of the user id does not say where it is") from None
            except AuthFailed:
                raise Rejected("homeserver: the server of the user id does not say where it is") from None
        base = parse_base(get_text(get_object(answer, "m.homeserver"), "base_url"), is_plain=False, field="homeserver")
        if not base:
            raise Transient("the server of the user id does not say where it is")
        return base

    def _wire(self, base: str, *, keeps: int = 2, redirects: int = 0) -> Wire:
        return Wire(
            base,
            context=self._context or _public_context(),
            allows_private=self._settings.private_hosts,
            request_s=self._settings.request_s,
            keeps=keeps,
            redirects=redirects,
        )
