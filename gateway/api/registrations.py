"""Registrations as their provider may see and change them: never a device id, never an address."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.ports import Backend
from gateway.api.wire import RegistrationPage, RegistrationUpdate, RegistrationView
from gateway.delivery.opaque_tokens import is_paging_only
from gateway.model.errors import BadRequest, UnknownToken
from gateway.model.registration import Profile, Registration, build_token

PAGE = 100
MAX_PAGE = 1_000


class RegistrationRoutes:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._directory = backend.directory

    async def show(self, call: Call) -> Response:
        number = self._number(call)
        registration = self._directory.registration(number)
        if registration is None:
            raise UnknownToken
        return call.answer(self._view(number, registration))

    async def change(self, call: Call) -> Response:
        self._number(call)  # an unknown token is told before a bad body
        wanted = await call.body(RegistrationUpdate)
        self._check_channels(wanted)
        number = self._number(call)
        before = self._directory.registration(number)
        if before is not None and is_paging_only(before) and (wanted.addresses, wanted.fallback) != (None, None):
            raise BadRequest(
                "addresses and fallback of a paging-only registration are the gateway's own; give the push a fallback",
                field="addresses" if wanted.addresses is not None else "fallback",
            )
        updated = await call.committed(
            self._directory.update(
                number,
                alias=wanted.alias,
                tags=wanted.tags,
                addresses=wanted.addresses,
                fallback=wanted.fallback,
                profile=Profile(wanted.os, wanted.locale, wanted.timezone, wanted.quiet),
            )
        )
        if wanted.quiet is not None or wanted.timezone is not None:
            self._backend.dispatcher.look_again(number)
        return call.answer(self._view(number, updated))

    def _check_channels(self, wanted: RegistrationUpdate) -> None:
        known = self._backend.dispatcher.notifiers
        for field, names in (("fallback", wanted.fallback or ()), ("addresses", wanted.addresses or ())):
            for name in names:
                if name not in known:
                    raise BadRequest(
                        f"{name!r} is no notifier here; there are: {', '.join(sorted(known)) or 'none'}", field=field
                    )

    async def revoke(self, call: Call) -> Response:
        number = self._number(call)
        await call.committed(self._directory.revoke(number))
        # Only now: where the store refuses, the token lives on and so does what waits for it.
        self._backend.dispatcher.revoke(number)
        return Response(status_code=204)

    async def find(self, call: Call) -> Response:
        params = call.request.query_params
        alias, tag = params.get("alias", ""), params.get("tag", "")
        if bool(alias) == bool(tag):
            raise BadRequest("give either alias or tag", field="alias")
        offset = call.query("offset", 0, 0, 1 << 31)
        limit = call.query("limit", PAGE, 0, MAX_PAGE)
        numbers: Sequence[int]
        numbers = (
            self._directory.by_alias(call.app.name, alias) if alias else self._directory.by_tag(call.app.name, tag)
        )
        page = []
        for number in numbers[offset : offset + limit]:
            registration = self._directory.registration(number)
            if registration is not None:
                page.append(self._view(number, registration))
        after = offset + limit
        more = after if after < len(numbers) else None
        return call.answer(RegistrationPage(count=len(numbers), registrations=page, next_offset=more))

    def _number(self, call: Call) -> int:
        number = self._directory.find(call.path("token"), call.app.name)
        if number < 0:  # unknown, revoked and foreign alike
            raise UnknownToken
        return number

    def _view(self, number: int, registration: Registration) -> RegistrationView:
        return RegistrationView(
            token=build_token(registration.token),
            app=registration.app,
            version=registration.version,
            account=registration.account,
            alias=registration.alias,
            tags=registration.tags,
            os=registration.os,
            locale=registration.locale,
            timezone=registration.timezone,
            quiet=registration.quiet,
            connected=self._backend.is_connected(number),
            created_at=registration.created_at,
        )
