"""The subscribers' routes, a part of the one table (gateway.api.routes)."""

from __future__ import annotations

from typing import Any

from gateway.api.receipts import MAX_CURSOR
from gateway.api.route import OPERATOR, PROVIDER, Query, Route
from gateway.api.subscribers.door import SubscriberRoutes
from gateway.api.subscribers.wire import (
    AskBody,
    ByNetworkId,
    HistoryBody,
    HistoryView,
    IdsView,
    LocateBody,
    Located,
    NewsPage,
    OptOutBody,
    OptOuts,
    ResolveBody,
    Resolved,
    RevokeBody,
    Revoked,
    TriggerAnswer,
    TriggerBody,
)
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    Conflict,
    PayloadTooLarge,
    QueueFull,
    StoreUnavailable,
    TooManyRequests,
    UnknownApp,
    UnknownSubscriber,
    UnsupportedMedia,
)

_BODY = (BadRequest, PayloadTooLarge, UnsupportedMedia)
_STORE = (StoreUnavailable, AcceptTimeout, QueueFull)
_LOCAL = "k3v7q2m5x4z6b7n2c3d4f5g6h7"
_ID = f"{_LOCAL}@push.example.com"
_IMSI = {"kind": "imsi", "value": "001019876543210"}
_VIEW = {
    "id": _ID,
    "url": f"https://push.example.com/push/{_LOCAL}",
    "kinds": ["o-tmsi"],
    "app": "chat",
    "class": None,
    "from_ms": 1760000000000,
    "until_ms": 1760086400000,
}


def subscriber_routes(subscribers: SubscriberRoutes) -> list[Route]:
    operator: dict[str, Any] = {"method": "POST", "caller": OPERATOR, "group": "subscribers"}
    provider: dict[str, Any] = {"method": "POST", "caller": PROVIDER, "group": "subscribers"}
    return [
        Route(
            path="/v1/subscribers",
            handle=subscribers.trigger,
            summary="A trigger: the subscriber's ids, drawn where there is none",
            about="A new subscriber is made where a trigger tells of one. An attach draws fresh ids; the others answer "
            "with those that are live and draw where there is none or the last one lapses soon; `replace` and "
            "`further` say otherwise.",
            takes=TriggerBody,
            example={"network_ids": [_IMSI], "trigger": "attach", "app": "chat"},
            gives=TriggerAnswer,
            gives_example={"ids": [_VIEW], "drawn": 1, "replaced": False},
            errors=(*_BODY, UnknownApp, UnknownSubscriber, Conflict, TooManyRequests, *_STORE),
            **operator,
        ),
        Route(
            path="/v1/subscribers/ids",
            handle=subscribers.ids,
            summary="Live ids of a subscriber",
            takes=ByNetworkId,
            example={"network_id": _IMSI},
            gives=IdsView,
            gives_example={"ids": [_VIEW]},
            errors=(*_BODY, UnknownSubscriber),
            **operator,
        ),
        Route(
            path="/v1/subscribers/revoke",
            handle=subscribers.revoke,
            summary="Revoke an id, or all of a subscriber, for good",
            takes=RevokeBody,
            example={"id": _ID},
            gives=Revoked,
            gives_example={"revoked": 1},
            errors=(*_BODY, UnknownSubscriber, *_STORE),
            **operator,
        ),
        Route(
            path="/v1/subscribers/opt-out",
            handle=subscribers.opt_out,
            summary="A subscriber opts out of an app, a class or everything, or takes part again",
            about="In force at once; the ids are kept, and are as unknown.",
            takes=OptOutBody,
            example={"network_id": _IMSI, "app": "chat"},
            gives=OptOuts,
            gives_example={"out": ["app:chat"]},
            errors=(*_BODY, UnknownApp, UnknownSubscriber, Conflict, *_STORE),
            **operator,
        ),
        Route(
            path="/v1/subscribers/resolve",
            handle=subscribers.resolve,
            summary="Whom an id stands for, as an app would reach it",
            about="The answer has network ids. An id of another gateway is not looked up there: `elsewhere` says where "
            "it belongs.",
            takes=ResolveBody,
            example={"id": _ID, "app": "chat"},
            gives=Resolved,
            gives_example={"network_ids": [_IMSI], "kinds": ["o-tmsi"], "elsewhere": None},
            errors=(*_BODY, UnknownSubscriber),
            **operator,
        ),
        Route(
            path="/v1/subscribers/history",
            handle=subscribers.history,
            summary="Whom an id stood for, and when",
            about="Kept for identity.history_days after the end of the id. The answer has network ids.",
            takes=HistoryBody,
            example={"id": _ID},
            gives=HistoryView,
            gives_example={
                "history": [
                    {"network_ids": [_IMSI], "from_ms": 1760000000000, "until_ms": 1760003600000, "why": "revoked"}
                ]
            },
            errors=(*_BODY, UnknownSubscriber),
            **operator,
        ),
        Route(
            path="/v1/subscriber-ids",
            handle=subscribers.ask,
            summary="Ask for an id of a user with a NAI",
            about="For apps the operator lets ask (identity.ask_apps). Those who are unknown and those who opted out "
            "get the same answer.",
            takes=AskBody,
            example={"nai": "ann@example.com"},
            gives=IdsView,
            gives_example={"ids": [{**_VIEW, "kinds": ["app-uid"]}]},
            errors=(*_BODY, UnknownSubscriber, TooManyRequests, *_STORE),
            **provider,
        ),
        Route(
            method="GET",
            path="/v1/subscriber-ids",
            handle=subscribers.news,
            summary="New ids of the app and its classes, after a cursor",
            about="Told unasked, and again after each re-allocation; goes back for identity.news_days.",
            gives=NewsPage,
            gives_example={
                "ids": [{**_VIEW, "cursor": 1760000000000000, "replaces": [f"{'a' * 26}@push.example.com"]}],
                "cursor": 1760000000000000,
            },
            params=(
                Query("after", "cursor of the last answer; 0 = from the oldest kept", low=0, high=MAX_CURSOR),
                Query("limit", "at most this many, default 100", low=1, high=1_000),
            ),
            errors=(BadRequest,),
            caller=PROVIDER,
            group="subscribers",
        ),
        Route(
            path="/v1/subscriber-ids/locate",
            handle=subscribers.locate,
            summary="Which gateway an id belongs to",
            about="From the id alone; whether it is known is not looked at. Nothing is forwarded.",
            takes=LocateBody,
            example={"id": _ID},
            gives=Located,
            gives_example={"gateway": "https://push.example.com"},
            errors=(*_BODY, UnknownSubscriber),
            **provider,
        ),
    ]
