"""One push through a pager, as delivery would ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.model.notification import Content, Notification, Target
from gateway.model.ports import Notifier, NotifierResult
from gateway.model.registration import App, Registration


async def push_through(
    notifier: Notifier,
    settings: Mapping[str, str],
    address: str,
    *,
    now_s: int,
    seq: int = 9,
    number: int = 3,
    token: bytes = b"t" * 16,
    **changes: Any,
) -> NotifierResult:
    """To the registration `number` of the app shop, whose address for this pager is `address`; `changes` are fields of
    the notification."""
    values: dict[str, Any] = {
        "seq": seq,
        "app": "shop",
        "target": Target(tag="vip"),
        "content": Content(title="Hi", text="there"),
        "accepted_ms": now_s * 1000,
        "expires_s": now_s + 3_600,
        "ack_ms": 1,
        "notifier_ack_ms": 1,
    }
    registration = Registration(
        number=number,
        token=token,
        device="d",
        app="shop",
        version="1",
        addresses={notifier.name: address} if address else {},
    )
    app = App(name="shop", notifiers={notifier.name: dict(settings)})
    return await notifier.notify(app, registration, Notification(**{**values, **changes}))
