"""The routes of the T8 door, a part of the one table (gateway.api.routes)."""

from __future__ import annotations

from typing import Any

from gateway.api.media import JSON
from gateway.api.route import PROVIDER, Route
from gateway.api.t8 import problem
from gateway.api.t8.door import T8Routes
from gateway.api.t8.wire import DeviceTriggering
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    Conflict,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    RequestTimeout,
    StoreUnavailable,
    TooManyRequests,
    UnsupportedMedia,
)

_SEND = (BadRequest, PayloadTooLarge, UnsupportedMedia, RequestTimeout, TooManyRequests, QueueFull)
_STORE = (StoreUnavailable, AcceptTimeout)
_ASKED = {
    "externalId": "k3v7q2m5x4z6b7n2c3d4f5g6h7@push.example.com",
    "validityPeriod": 3600,
    "priority": "NO_PRIORITY",
    "applicationPortId": 16000,
    "triggerPayload": "d2FrZSB1cA==",
    "notificationDestination": "https://app.example.com/reports",
}
_URL = "https://push.example.com/3gpp-device-triggering/v1/chat/transactions/6fOJ1q8mTqWJb3yVvYk3Zw"
_VIEW = {"self": _URL, **_ASKED, "deliveryResult": "TRIGGERED"}


def t8_routes(t8: T8Routes) -> list[Route]:
    common: dict[str, Any] = {"caller": PROVIDER, "group": "t8", "dialect": problem.DIALECT}
    gives: dict[str, Any] = {"gives": DeviceTriggering, "gives_example": _VIEW, "gives_media": JSON}
    every = f"{problem.PREFIX}{{scs_as_id}}/transactions"
    one = f"{every}/{{transaction_id}}"
    return [
        Route(
            method="POST",
            path=every,
            handle=t8.create,
            summary="Trigger a device (TS 29.122 §5.7)",
            about="scsAsId is the app whose key it is; externalId is an opaque id of a subscriber. `Location` names "
            "the transaction.",
            takes_media=JSON,
            example=_ASKED,
            status=201,
            errors=(*_SEND, NotFound, *_STORE),
            **gives,
            **common,
        ),
        Route(
            method="GET",
            path=every,
            handle=t8.all,
            summary="Transactions, the newest hundred",
            gives=list[DeviceTriggering],
            gives_example=[_VIEW],
            gives_media=JSON,
            **common,
        ),
        Route(
            method="GET",
            path=one,
            handle=t8.show,
            summary="A transaction and what became of it",
            errors=(NotFound,),
            **gives,
            **common,
        ),
        Route(
            method="PUT",
            path=one,
            handle=t8.change,
            summary="Replace a trigger that is pending",
            takes_media=JSON,
            example=_ASKED,
            errors=(*_SEND, NotFound, Conflict, *_STORE),
            **gives,
            **common,
        ),
        Route(
            method="DELETE",
            path=one,
            handle=t8.remove,
            summary="Recall a trigger",
            errors=(NotFound, *_STORE),
            **gives,
            **common,
        ),
    ]
