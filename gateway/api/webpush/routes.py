"""The routes of the Web Push door, a part of the one table (gateway.api.routes)."""

from __future__ import annotations

from typing import Any

from gateway.api.media import JSON
from gateway.api.receipts import MAX_CURSOR
from gateway.api.route import ANYBODY, Query, Route
from gateway.api.webpush import problem
from gateway.api.webpush.door import Discovery, MessageView, WebPushRoutes
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    Forbidden,
    Gone,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    RequestTimeout,
    StoreUnavailable,
    TooManyRequests,
    Unauthorized,
    UnknownToken,
    UnsupportedMedia,
)

_BODY = (BadRequest, PayloadTooLarge, UnsupportedMedia)
_STORE = (StoreUnavailable, AcceptTimeout)


def webpush_routes(webpush: WebPushRoutes) -> list[Route]:
    common: dict[str, Any] = {"caller": ANYBODY, "group": "webpush", "dialect": problem.DIALECT}
    token, message, receipts = "/push/{token}", "/push/message/{id}", "/push/receipts/{id}"
    return [
        Route(
            method="POST",
            path=token,
            handle=webpush.push,
            summary="Push to a subscription (RFC 8030 §5)",
            about="The body is passed on as it came. Signed with VAPID (RFC 8292) unless the app takes unsigned ones. "
            "`Prefer: respond-async` asks for a receipt: 202, and `Link` names where to get it.",
            takes_media="application/octet-stream",
            takes_optional=True,
            status=201,
            also=((202, "Accepted; a receipt follows"),),
            params=(
                Query("TTL", "seconds it is kept for a device that is away", place="header", required=True, low=0),
                Query("Urgency", "very-low, low, normal or high", kind="string", place="header"),
                Query("Topic", "replaces a pending message with this topic", kind="string", place="header"),
                Query("Content-Encoding", "aes128gcm, or aesgcm", kind="string", place="header"),
                Query("Prefer", "respond-async", kind="string", place="header"),
                Query("Push-Receipt", "the receipt subscription to use again", kind="string", place="header"),
            ),
            errors=(*_BODY, Unauthorized, Forbidden, UnknownToken, Gone, RequestTimeout, QueueFull, *_STORE),
            **common,
        ),
        Route(
            method="GET",
            path=token,
            handle=webpush.discover,
            summary="Is this a push URL? (UnifiedPush)",
            gives=Discovery,
            gives_example={"unifiedpush": {"version": 1}},
            gives_media=JSON,
            errors=(UnknownToken, Gone),
            **common,
        ),
        *(
            Route(
                method="OPTIONS",
                path=path,
                handle=webpush.preflight,
                summary="What a page of another origin may ask",
                status=204,
                **common,
            )
            for path in (token, message, receipts)
        ),
        Route(
            method="GET",
            path=message,
            handle=webpush.show,
            summary="State of a message",
            gives=MessageView,
            gives_example={"state": "acked", "at_ms": 1760000000041, "expires_at": 1760003600},
            gives_media=JSON,
            errors=(NotFound,),
            **common,
        ),
        Route(
            method="DELETE",
            path=message,
            handle=webpush.recall,
            summary="Recall a message",
            status=204,
            errors=(NotFound, Gone, *_STORE),
            **common,
        ),
        Route(
            method="GET",
            path=receipts,
            handle=webpush.receipts,
            summary="Delivery receipts (RFC 8030 §5.1)",
            about="Waits for the next receipt: 204, the device acknowledged it; 410, it never will; `Link` names the "
            "message, `Last-Event-ID` is to be sent the next time. With `Accept: text/event-stream` an event each.",
            status=204,
            also=((200, "An event stream"), (202, "Nothing yet")),
            params=(
                Query("Last-Event-ID", "go on after this receipt", place="header", low=0, high=MAX_CURSOR),
                Query("after", "the same, where headers can not be set", low=0, high=MAX_CURSOR),
                Query("Prefer", "wait=0 to 30 seconds", kind="string", place="header"),
            ),
            errors=(BadRequest, NotFound, Gone, TooManyRequests),
            **common,
        ),
    ]
