"""The routes of the APNs door, a part of the one table (gateway.api.routes)."""

from __future__ import annotations

from typing import Any

from gateway.api.apns import reasons
from gateway.api.apns.door import ApnsRoutes
from gateway.api.media import JSON
from gateway.api.route import ANYBODY, Query, Route
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    Forbidden,
    Gone,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    StoreUnavailable,
    TooManyRequests,
)


def apns_routes(apns: ApnsRoutes) -> list[Route]:
    common: dict[str, Any] = {"caller": ANYBODY, "group": "apns", "dialect": reasons.DIALECT}
    return [
        Route(
            method="POST",
            path="/3/device/{token}",
            handle=apns.push,
            summary="Push as to Apple's service",
            about="Header fields, payload and answers are Apple's; the provider token or client certificate is one "
            "registered with the app.",
            takes_media=JSON,
            example={"aps": {"alert": {"title": "Ann", "body": "Are you there?"}}, "chat": 17},
            params=tuple(
                Query(name, about, kind="string", place="header")
                for name, about in (
                    ("apns-topic", "of the app"),
                    ("apns-id", "a UUID; echoed"),
                    ("apns-expiration", "Unix seconds; 0: now or never"),
                    ("apns-priority", "10, 5 or 1"),
                    ("apns-collapse-id", "replaces a pending one, at most 64 bytes"),
                    ("apns-push-type", "alert, background, voip, …"),
                )
            ),
            errors=(
                BadRequest,
                Forbidden,
                NotFound,
                Gone,
                PayloadTooLarge,
                TooManyRequests,
                QueueFull,
                StoreUnavailable,
                AcceptTimeout,
            ),
            **common,
        ),
        Route(method="POST", path="/3/device/", handle=apns.no_token, summary="", hidden=True, **common),
    ]
