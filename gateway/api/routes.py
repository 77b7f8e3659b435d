"""Every route of the provider API in one table; those of the other doors stand in their folders. A route that is in
none of them does not exist."""

from __future__ import annotations

from typing import Any

from gateway.api.apps import AppRoutes
from gateway.api.batch import BatchRoutes
from gateway.api.feedback import FeedbackRoutes
from gateway.api.media import EVENTS, NDJSON
from gateway.api.operations import OperationRoutes
from gateway.api.push import PushRoutes
from gateway.api.receipts import MAX_CURSOR, ReceiptRoutes
from gateway.api.registrations import RegistrationRoutes
from gateway.api.route import ANYBODY, OPERATOR, PROVIDER, Query, Route
from gateway.api.wire import (
    AppCreate,
    AppCreated,
    AppList,
    AppPatch,
    AppView,
    BatchResult,
    DeadTokenPage,
    Health,
    KeyCreate,
    KeyCreated,
    KeyList,
    KeyPatch,
    KeyView,
    PushAccepted,
    PushView,
    Readiness,
    Recalled,
    ReceiptPage,
    ReceiptView,
    RegistrationPage,
    RegistrationUpdate,
    RegistrationView,
    ScheduledPage,
    SpoolView,
    Statistics,
)
from gateway.delivery.request import PushRequest
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    Conflict,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    StoreUnavailable,
    TooManyRequests,
    UnknownApp,
    UnknownPush,
    UnknownToken,
    UnsupportedMedia,
)

_BODY = (BadRequest, PayloadTooLarge, UnsupportedMedia)
_STORE = (StoreUnavailable, AcceptTimeout)
_PAGE = (
    Query("offset", "skip this many", low=0, high=1 << 31),
    Query("limit", "at most this many, default 100", low=0, high=1_000),
)
_TOKEN = "W6yX1vV3S0i2kq0m9aUo_w"  # noqa: S105  (an example)
_PUSH_ID = "AAAAAAAAAAEr0mC1_oYpB7zq"
_PUSH: dict[str, Any] = {
    "target": {"token": _TOKEN},
    "title": "Ann",
    "text": "Are you there?",
    "data": {"chat": 17},
    "ttl": 3600,
    "urgency": "high",
}
_STEPS = [
    {"at_ms": 1760000000000, "what": "accepted", "channel": "", "detail": ""},
    {"at_ms": 1760000000003, "what": "sent", "channel": "edge", "detail": ""},
    {"at_ms": 1760000000041, "what": "acked", "channel": "edge", "detail": ""},
]
_DELIVERY = {"token": _TOKEN, "state": "acked", "at_ms": 1760000000041, "steps": _STEPS}
_RECEIPT = {"cursor": 7208960000000000, "push": _PUSH_ID, "delivery": 17, **_DELIVERY}
_APP = {
    "name": "chat",
    "ack_ms": 0,
    "notifier_ack_ms": 0,
    "ttl": 0,
    "fallback": ["webhook"],
    "notifiers": {"webhook": {"url": "***"}},
    "receipts_url": "",
    "receipts_signed": False,
    "limits": {"per_s": 0, "burst": 0, "per_day": 0},
    "device_per_hour": 0,
    "device_per_day": 0,
    "keys": 1,
    "created_at": 1760000000,
    "webpush": "vapid",
    "apns_topic": "com.example.chat",
    "apns_keys": [],
    "apns_certificates": [],
}
_KEY = "hk_3fmq8wzt_…"
_REGISTRATION = {
    "token": _TOKEN,
    "app": "chat",
    "version": "2.1.0",
    "account": "ann",
    "alias": "user-7",
    "tags": ["beta"],
    "os": "android",
    "locale": "pt-BR",
    "timezone": "America/Sao_Paulo",
    "quiet": "22:00-07:00",
    "connected": True,
    "created_at": 1760000000,
}


def app_routes(apps: AppRoutes) -> list[Route]:
    common: dict[str, Any] = {"caller": OPERATOR, "group": "apps"}
    one, keys = "/v1/apps/{app}", "/v1/apps/{app}/keys"
    return [
        Route(
            method="POST",
            path="/v1/apps",
            handle=apps.create,
            summary="Create an app and its first key",
            about="The key is shown once.",
            takes=AppCreate,
            example={
                "name": "chat",
                "fallback": ["webhook"],
                "notifiers": {"webhook": {"url": "https://push.example/wake"}},
            },
            gives=AppCreated,
            gives_example={"app": _APP, "key": _KEY},
            status=201,
            errors=(*_BODY, Conflict, *_STORE),
            **common,
        ),
        Route(
            method="GET",
            path="/v1/apps",
            handle=apps.list_apps,
            summary="All apps",
            gives=AppList,
            gives_example={"apps": [_APP]},
            **common,
        ),
        Route(
            method="GET",
            path=one,
            handle=apps.show,
            summary="One app",
            gives=AppView,
            gives_example=_APP,
            errors=(UnknownApp,),
            **common,
        ),
        Route(
            method="PATCH",
            path=one,
            handle=apps.change,
            summary="Change an app",
            about="Fields left out stay as they are, and so do notifiers; null takes a notifier away.",
            takes=AppPatch,
            example={"ack_ms": 5000},
            gives=AppView,
            gives_example=_APP,
            errors=(UnknownApp, *_BODY, *_STORE),
            **common,
        ),
        Route(
            method="POST",
            path=keys,
            handle=apps.create_key,
            summary="A further key of an app",
            about="Shown once. To rotate: create, change over, delete the old one.",
            takes=KeyCreate,
            takes_optional=True,
            example={"label": "production"},
            gives=KeyCreated,
            gives_example={"id": "3fmq8wzt", "key": _KEY, "label": "production", "created_at": 1760000000},
            status=201,
            errors=(UnknownApp, Conflict, *_BODY, *_STORE),
            **common,
        ),
        Route(
            method="GET",
            path=keys,
            handle=apps.list_keys,
            summary="Keys of an app, without their secrets",
            gives=KeyList,
            gives_example={
                "keys": [{"id": "3fmq8wzt", "label": "production", "limits": _APP["limits"], "created_at": 1760000000}]
            },
            errors=(UnknownApp,),
            **common,
        ),
        Route(
            method="PATCH",
            path=keys + "/{id}",
            handle=apps.change_key,
            summary="Change a key's label or limits",
            about="Fields left out stay as they are; the key itself does too.",
            takes=KeyPatch,
            example={"limits": {"per_s": 50, "per_day": 100_000}},
            gives=KeyView,
            gives_example={
                "id": "3fmq8wzt",
                "label": "production",
                "limits": {"per_s": 50, "burst": 0, "per_day": 100_000},
                "created_at": 1760000000,
            },
            errors=(UnknownApp, NotFound, *_BODY, *_STORE),
            **common,
        ),
        Route(
            method="DELETE",
            path=keys + "/{id}",
            handle=apps.delete_key,
            summary="Delete a key",
            about="It stops working at once; open receipt streams end within a heartbeat.",
            status=204,
            errors=(UnknownApp, NotFound, *_STORE),
            **common,
        ),
    ]


def push_routes(pushes: PushRoutes, batches: BatchRoutes) -> list[Route]:
    common: dict[str, Any] = {"caller": PROVIDER, "group": "push"}
    return [
        Route(
            method="POST",
            path="/v1/push",
            handle=pushes.push,
            summary="Push to a token, an alias, a tag, a range of app versions or everyone",
            about="Answered when the push is durable or acked, whichever is first. With an idempotency key the same "
            "body is one push however often it is sent; another body with that key is a conflict. Version ranges are "
            "PEP 440 specifier sets: `>=2.0,<3`.",
            takes=PushRequest,
            example=_PUSH,
            gives=PushAccepted,
            gives_example={"id": _PUSH_ID, "targeted": 1},
            status=201,
            also=(
                (200, "The push this idempotency key already stands for (Idempotent-Replay: true)"),
                (202, "Kept in the spool of a node whose fleet can not take it now (`spooled`); see its look-up"),
            ),
            params=(Query("Idempotency-Key", "1 to 128 characters", kind="string", place="header"),),
            errors=(*_BODY, UnknownToken, Conflict, TooManyRequests, QueueFull, *_STORE),
            **common,
        ),
        Route(
            method="POST",
            path="/v1/push/batch",
            handle=batches.push,
            summary="Many pushes, streamed",
            about="A JSON array, NDJSON, a msgpack array or msgpack maps one after the other; read, accepted and "
            "answered item by item, never held whole. The answer is one result an item in order (NDJSON, or msgpack "
            "maps one after the other); a last result with an error and no item of its own says why the "
            "rest was not read. Each push has an `idempotency_key` of its own; an Idempotency-Key header is refused.",
            takes=list[PushRequest],
            takes_also=(NDJSON,),
            example=[_PUSH, {"target": {"tag": "beta"}, "title": "New build"}],
            gives=BatchResult,
            gives_example={"index": 0, "status": 201, "id": _PUSH_ID},
            gives_media=NDJSON,
            errors=(*_BODY,),
            **common,
        ),
        Route(
            method="GET",
            path="/v1/push/{id}",
            handle=pushes.show,
            summary="Where is my push?",
            about="State and history of each delivery, or the figures of a broadcast. A push that was answered 202 is "
            "looked up by that id too: once the fleet has taken it in, this is its view, with the id it has there.",
            gives=PushView,
            also=((202, "It is in the spool of a node, or ended there"),),
            gives_also=((202, SpoolView),),
            gives_example={
                "id": _PUSH_ID,
                "target": {"token": _TOKEN},
                "state": "done",
                "accepted_at_ms": 1760000000000,
                "deliver_at": None,
                "over": 0,
                "expires_at": 1760003600,
                "urgency": "high",
                "collapse_key": "",
                "body": "auto",
                "ack_ms": 3000,
                "notifier_ack_ms": 30000,
                "fallback": None,
                "deliveries": [_DELIVERY],
                "figures": {"acked": 1},
                "next_offset": None,
            },
            params=_PAGE,
            errors=(BadRequest, UnknownPush),
            **common,
        ),
        Route(
            method="DELETE",
            path="/v1/push/{id}",
            handle=pushes.recall,
            summary="Recall a push",
            about="Deliveries not acked yet end; devices that show it take it away.",
            gives=Recalled,
            gives_example={"recalled": 1, "too_late": 0},
            errors=(UnknownPush, *_STORE),
            **common,
        ),
    ]


def receipt_routes(receipts: ReceiptRoutes) -> list[Route]:
    common: dict[str, Any] = {"caller": PROVIDER, "group": "receipts"}
    return [
        Route(
            method="GET",
            path="/v1/receipts",
            handle=receipts.page,
            summary="Final outcomes after a cursor",
            about="Of pushes to a token, an alias or a tag; a broadcast (versions, everyone) has figures instead, see "
            "its look-up.",
            gives=ReceiptPage,
            gives_example={"receipts": [_RECEIPT], "cursor": 7208960000000000},
            params=(
                Query("after", "cursor of the last answer; 0 = from the oldest kept", low=0, high=MAX_CURSOR),
                Query("limit", "at most this many, default 100", low=1, high=1_000),
                Query("wait", "seconds to wait for the first one", low=0, high=30),
            ),
            errors=(BadRequest, TooManyRequests),
            **common,
        ),
        Route(
            method="GET",
            path="/v1/receipts/stream",
            handle=receipts.stream,
            summary="Final outcomes as server-sent events",
            about="`id` is the cursor, `data` a receipt. Begins now, or after `Last-Event-ID`. A reader that takes "
            "nothing is cut off; it comes back with its cursor and misses nothing.",
            gives=ReceiptView,
            gives_example=_RECEIPT,
            gives_media=EVENTS,
            params=(
                Query("Last-Event-ID", "resume after this cursor", place="header", low=0, high=MAX_CURSOR),
                Query("after", "the same, where headers can not be set", low=0, high=MAX_CURSOR),
            ),
            errors=(BadRequest, TooManyRequests),
            **common,
        ),
    ]


def feedback_routes(feedback: FeedbackRoutes) -> list[Route]:
    common: dict[str, Any] = {"caller": PROVIDER, "group": "push"}
    counts = {"targeted": 2, "sent": 2, "acked": 1, "shown": 1, "notified": 1, "expired": 0, "pending": 1}
    return [
        Route(
            method="GET",
            path="/v1/push/{id}/statistics",
            handle=feedback.statistics,
            summary="Statistics of one push, by app version too",
            gives=Statistics,
            gives_example={**counts, "versions": {"2.1.0": counts}, "complete": True},
            errors=(UnknownPush, TooManyRequests),
            **common,
        ),
        Route(
            method="GET",
            path="/v1/scheduled",
            handle=feedback.scheduled,
            summary="Pushes that wait for their time",
            about="`DELETE /v1/push/{id}` cancels one. A push with a condition on tags or last-seen times is among "
            "them until its audience is found.",
            gives=ScheduledPage,
            gives_example={
                "count": 1,
                "scheduled": [{"id": _PUSH_ID, "deliver_at": 1760000600}],
                "next_offset": None,
            },
            params=_PAGE,
            errors=(BadRequest,),
            **common,
        ),
        Route(
            method="GET",
            path="/v1/dead-tokens",
            handle=feedback.dead_tokens,
            summary="Tokens and addresses that are dead, after a cursor",
            about="Posted to `receipts_url` as well, where the app has one.",
            gives=DeadTokenPage,
            gives_example={
                "dead_tokens": [
                    {"cursor": 9, "token": _TOKEN, "at_ms": 1760000000000, "why": "gone", "channel": "apns"}
                ],
                "cursor": 9,
            },
            params=(
                Query("after", "cursor of the last answer; 0 = from the oldest kept", low=0, high=MAX_CURSOR),
                Query("limit", "at most this many, default 100", low=1, high=1_000),
            ),
            errors=(BadRequest,),
            **common,
        ),
    ]


def registration_routes(registrations: RegistrationRoutes) -> list[Route]:
    common: dict[str, Any] = {"caller": PROVIDER, "group": "registrations"}
    one = "/v1/registrations/{token}"
    return [
        Route(
            method="GET",
            path="/v1/registrations",
            handle=registrations.find,
            summary="Registrations with an alias or a tag",
            gives=RegistrationPage,
            gives_example={"count": 1, "registrations": [_REGISTRATION], "next_offset": None},
            params=(
                Query("alias", "either this", kind="string"),
                Query("tag", "or this", kind="string"),
                *_PAGE,
            ),
            errors=(BadRequest,),
            **common,
        ),
        Route(
            method="GET",
            path=one,
            handle=registrations.show,
            summary="One registration",
            gives=RegistrationView,
            gives_example=_REGISTRATION,
            errors=(UnknownToken,),
            **common,
        ),
        Route(
            method="PUT",
            path=one,
            handle=registrations.change,
            summary="Set alias, tags, addresses and fallback of a registration",
            about="What is left out stays as it is. Addresses are write-only.",
            takes=RegistrationUpdate,
            example={"alias": "user-7", "tags": ["beta"]},
            gives=RegistrationView,
            gives_example=_REGISTRATION,
            errors=(UnknownToken, *_BODY, *_STORE),
            **common,
        ),
        Route(
            method="DELETE",
            path=one,
            handle=registrations.revoke,
            summary="Revoke a token for good",
            about="What is pending for it is rejected; the device gets another token when it registers again.",
            status=204,
            errors=(UnknownToken, *_STORE),
            **common,
        ),
    ]


def operation_routes(operations: OperationRoutes) -> list[Route]:
    common: dict[str, Any] = {"method": "GET", "caller": ANYBODY, "group": "operations"}
    return [
        Route(
            path="/healthz",
            handle=operations.alive,
            summary="Is the process alive?",
            gives=Health,
            gives_example={"status": "alive"},
            **common,
        ),
        Route(
            path="/readyz",
            handle=operations.ready,
            summary="Can it take pushes?",
            gives=Readiness,
            gives_example={"ready": True, "reasons": []},
            also=((503, "Not now, for these reasons"),),
            **common,
        ),
        Route(
            path="/metrics",
            handle=operations.metrics,
            summary="Figures, Prometheus text",
            gives_media="text/plain",
            **common,
        ),
        Route(path="/openapi.json", handle=operations.description, summary="", hidden=True, **common),
        Route(path="/docs", handle=operations.page, summary="", hidden=True, **common),
        Route(path="/docs/openapi-3.0.json", handle=operations.page_description, summary="", hidden=True, **common),
        Route(path="/docs/{name}", handle=operations.asset, summary="", hidden=True, **common),
        Route(path="/", handle=operations.home, summary="", hidden=True, **common),
    ]
