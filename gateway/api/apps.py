"""The operator's routes: apps and their keys. Secrets go in and never come out again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.ports import Backend
from gateway.api.wire import (
    ApnsKeyIn,
    ApnsKeyView,
    AppCreate,
    AppCreated,
    AppList,
    AppPatch,
    AppView,
    KeyCreate,
    KeyCreated,
    KeyList,
    KeyPatch,
    KeyView,
    LimitsBody,
)
from gateway.auth import es256
from gateway.auth.api_keys import issue_key
from gateway.model.errors import BadRequest, Conflict, NotFound, UnknownApp
from gateway.model.ports import Notifier
from gateway.model.registration import ApiKey, ApnsKey, App, Limits

#: of one app; past it a new key is refused (409)
MAX_KEYS = 32


#: what stands for a secret value
HIDDEN = "***"


def view_app(app: App, known: Mapping[str, Notifier]) -> AppView:
    """Without its secrets. Of a notifier that is not here (any more) nothing is known, so nothing is shown."""
    return AppView(
        name=app.name,
        ack_ms=app.ack_ms,
        notifier_ack_ms=app.notifier_ack_ms,
        ttl=app.ttl_s,
        fallback=app.fallback,
        notifiers={name: _view_settings(settings, known.get(name)) for name, settings in app.notifiers.items()},
        receipts_url=app.receipts_url,
        receipts_signed=bool(app.receipts_secret),
        limits=_view_limits(app.limits),
        device_per_hour=app.device_per_hour,
        device_per_day=app.device_per_day,
        keys=len(app.keys),
        created_at=app.created_at,
        webpush=cast(Any, app.webpush),
        apns_topic=app.apns_topic,
        apns_keys=[ApnsKeyView(key_id=k.key_id, team_id=k.team_id, public_key=k.public_key) for k in app.apns_keys],
        apns_certificates=app.apns_certificates,
    )


def _limits(wanted: LimitsBody) -> Limits:
    if wanted.burst and not wanted.per_s:
        raise BadRequest("a burst is what a rate lets through at once: say per_s too", field="limits.burst")
    return Limits(per_s=wanted.per_s, burst=wanted.burst, per_day=wanted.per_day)


def _view_limits(limits: Limits) -> LimitsBody:
    return LimitsBody(per_s=limits.per_s, burst=limits.burst, per_day=limits.per_day)


def _view_settings(settings: Mapping[str, str], notifier: Notifier | None) -> dict[str, str]:
    def is_secret(key: str, value: str) -> bool:
        # A private key in a field that is none of those was taken once, beside the certificate in one PEM.
        return notifier is None or key in notifier.secrets or "PRIVATE KEY-----" in value

    return {key: HIDDEN if value and is_secret(key, value) else value for key, value in sorted(settings.items())}


def _keep_secrets(wanted: dict[str, dict[str, str]], app: App) -> dict[str, dict[str, str]]:
    """What a view showed as *** and came back as it was means: leave it."""
    return {
        name: {
            key: app.notifiers.get(name, {}).get(key, value) if value == HIDDEN else value
            for key, value in settings.items()
        }
        for name, settings in wanted.items()
    }


def _view_key(key: ApiKey) -> KeyView:
    return KeyView(id=key.id, label=key.label, limits=_view_limits(key.limits), created_at=key.created_at)


def check_apns_keys(keys: list[ApnsKeyIn]) -> list[ApnsKey]:
    """BadRequest where one is no P-256 public key, or stands there twice."""
    if len({(key.team_id, key.key_id) for key in keys}) < len(keys):
        raise BadRequest("the same team_id and key_id stand there twice", field="apns_keys")
    for key in keys:
        if es256.load_pem(key.public_key) is None:
            raise BadRequest(
                "expected a P-256 public key in PEM; of a private one: openssl pkey -in AuthKey.p8 -pubout",
                field="apns_keys.public_key",
            )
    return [ApnsKey(key.key_id, key.team_id, key.public_key) for key in keys]


class AppRoutes:
    def __init__(self, backend: Backend, *, now_s: Callable[[], float] = time.time) -> None:
        self._backend = backend
        self._directory = backend.directory
        self._now_s = now_s
        # Read, change, write: one change at a time, or one of two would be lost.
        self._changing = asyncio.Lock()

    async def create(self, call: Call) -> Response:
        wanted = await call.body(AppCreate)
        self._check_chain(wanted.fallback, wanted.notifiers)
        async with self._changing:
            if self._directory.app(wanted.name) is not None:
                raise Conflict("There is an app of this name already.", field="name")
            key, text = issue_key("first", now_s=int(self._now_s()))
            app = App(
                name=wanted.name,
                keys=[key],
                ack_ms=wanted.ack_ms,
                notifier_ack_ms=wanted.notifier_ack_ms,
                ttl_s=wanted.ttl,
                fallback=wanted.fallback,
                notifiers=wanted.notifiers,
                receipts_url=wanted.receipts_url,
                receipts_secret=wanted.receipts_secret,
                limits=_limits(wanted.limits),
                device_per_hour=wanted.device_per_hour,
                device_per_day=wanted.device_per_day,
                created_at=int(self._now_s()),
                webpush=wanted.webpush,
                apns_topic=wanted.apns_topic,
                apns_keys=check_apns_keys(wanted.apns_keys),
                apns_certificates=wanted.apns_certificates,
            )
            app = await self._put(call, app)
        headers = {"location": f"/v1/apps/{app.name}"}
        return call.answer(AppCreated(app=self._view(app), key=text), status=201, headers=headers)

    async def list_apps(self, call: Call) -> Response:
        apps = (self._directory.app(name) for name in sorted(self._directory.app_names()))
        return call.answer(AppList(apps=[self._view(app) for app in apps if app is not None]))

    async def show(self, call: Call) -> Response:
        return call.answer(self._view(self._app(call)))

    async def change(self, call: Call) -> Response:
        patch = await call.body(AppPatch)
        changes: dict[str, Any] = {
            "ttl_s" if name == "ttl" else name: value
            for name in patch.__struct_fields__
            if (value := getattr(patch, name)) is not UNSET
        }
        if "limits" in changes:
            changes["limits"] = _limits(changes["limits"])
        if "apns_keys" in changes:
            changes["apns_keys"] = check_apns_keys(changes["apns_keys"])
        async with self._changing:
            app = self._app(call)
            given = changes.pop("notifiers", {})
            wanted = _keep_secrets({name: settings for name, settings in given.items() if settings is not None}, app)
            self._check_chain(changes.get("fallback", []), wanted)
            left = {name: settings for name, settings in app.notifiers.items() if name not in given}
            changes["notifiers"] = {**left, **wanted}
            app = await self._put(call, msgspec.structs.replace(app, **changes))
        return call.answer(self._view(app))

    async def create_key(self, call: Call) -> Response:
        wanted = await call.body(KeyCreate, optional=True)
        async with self._changing:
            app = self._app(call)
            if len(app.keys) >= MAX_KEYS:
                raise Conflict(f"An app has at most {MAX_KEYS} keys; delete one first.")
            key, text = issue_key(wanted.label, now_s=int(self._now_s()))
            key = msgspec.structs.replace(key, limits=_limits(wanted.limits))
            await self._put(call, msgspec.structs.replace(app, keys=[*app.keys, key]))
        made = KeyCreated(id=key.id, key=text, label=key.label, created_at=key.created_at)
        return call.answer(made, status=201, headers={"location": f"/v1/apps/{app.name}/keys/{key.id}"})

    async def list_keys(self, call: Call) -> Response:
        keys = self._app(call).keys
        return call.answer(KeyList(keys=[_view_key(key) for key in keys]))

    async def change_key(self, call: Call) -> Response:
        patch = await call.body(KeyPatch)
        changes: dict[str, Any] = {} if patch.label is UNSET else {"label": patch.label}
        if patch.limits is not UNSET:
            changes["limits"] = _limits(patch.limits)
        async with self._changing:
            app = self._app(call)
            found = self._key(app, call)
            changed = msgspec.structs.replace(found, **changes)
            keys = [changed if key is found else key for key in app.keys]
            await self._put(call, msgspec.structs.replace(app, keys=keys))
        return call.answer(_view_key(changed))

    async def delete_key(self, call: Call) -> Response:
        async with self._changing:
            app = self._app(call)
            found = self._key(app, call)
            keys = [key for key in app.keys if key is not found]
            await self._put(call, msgspec.structs.replace(app, keys=keys))
        return Response(status_code=204)

    def _view(self, app: App) -> AppView:
        return view_app(app, self._backend.dispatcher.notifiers)

    def _app(self, call: Call) -> App:
        app = self._directory.app(call.path("app"))
        if app is None:
            raise UnknownApp
        return app

    def _key(self, app: App, call: Call) -> ApiKey:
        for key in app.keys:
            if key.id == call.path("id"):
                return key
        raise NotFound("This app has no such key.")

    async def _put(self, call: Call, app: App) -> App:
        app = msgspec.structs.replace(app, changes=app.changes + 1)
        app = await call.committed(self._directory.put_app(app))
        self._backend.keys.update(app)
        self._backend.app_changes += 1
        return app

    def _check_chain(self, fallback: list[str], notifiers: dict[str, dict[str, str]]) -> None:
        known = self._backend.dispatcher.notifiers
        for field, names in (("fallback", fallback), ("notifiers", list(notifiers))):
            for name in names:
                if name not in known:
                    raise BadRequest(
                        f"{name!r} is no notifier here; there are: {', '.join(sorted(known)) or 'none'}", field=field
                    )
        for name, settings in notifiers.items():
            for key, value in settings.items():
                if value == HIDDEN:
                    raise BadRequest(
                        f"{HIDDEN} stands for a value that is kept, and there is none; give the value itself",
                        field=f"notifiers.{name}.{key}",
                    )
            known[name].check(settings)
