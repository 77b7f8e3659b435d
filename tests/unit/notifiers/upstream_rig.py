"""What the tests of the upstream notifiers share: an app, a registration, a notification, a clock that can be moved."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metric, Metrics
from gateway.model.notification import Content, Notification, Target
from gateway.model.ports import Notifier, NotifierResult
from gateway.model.registration import App, Registration
from gateway.notifiers.upstream import Limits

IDS = PushIds(b"k" * 16)
TOKEN = b"t" * 16
#: a call that hangs is cut off after this time, which is all that a test of one has to wait
QUICK = Limits(timeout_s=0.3, failures=1_000)
PATIENT = Limits(timeout_s=20.0, failures=1_000)


class MovedClock:
    """The real time, moved on by as much as a test says; both ends of a test share it."""

    def __init__(self) -> None:
        self.moved_s = 0.0

    def now_s(self) -> float:
        return time.time() + self.moved_s

    def now_ms(self) -> int:
        return int(self.now_s() * 1000)


def build_app(name: str, settings: Mapping[str, str], app: str = "shop") -> App:
    return App(name=app, notifiers={name: dict(settings)})


def build_registration(name: str, address: str, number: int = 3) -> Registration:
    return Registration(
        number=number,
        token=TOKEN,
        device="secret-device",
        app="shop",
        version="1",
        account="secret-account",
        addresses={name: address},
    )


def build_notification(**changes: Any) -> Notification:
    now_s = int(time.time())
    values: dict[str, Any] = {
        "seq": 9,
        "app": "shop",
        "target": Target(tag="vip"),
        "content": Content(title="Hi", text="there", data=b"\x01"),
        "accepted_ms": now_s * 1000,
        "expires_s": now_s + 3_600,
        "urgency": 2,
        "ack_ms": 1,
        "notifier_ack_ms": 1,
    }
    return Notification(**{**values, **changes})


async def until_ok(notifier: Notifier, app: App, registration: Registration) -> NotifierResult:
    """Push until it is taken: on a machine that is busy a quick notifier may give up a few times more."""
    while True:
        result = await notifier.notify(app, registration, build_notification())
        if result.ok:
            return result
        assert "timeout" in result.detail


def outcomes(metrics: Metrics, name: str) -> dict[str, float]:
    """Reasons counted so far, without the notifier's name."""
    return {
        label.removeprefix(f"{name} "): value
        for (metric, label), value in metrics.snapshot().items()
        if metric is Metric.NOTIFIER_OUTCOMES
    }
