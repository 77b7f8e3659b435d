"""Outside push services behind the Notifier port; must never know edge, store or each other."""

from __future__ import annotations

from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metrics
from gateway.model.ports import Notifier
from gateway.notifiers.apns.client import ApnsNotifier
from gateway.notifiers.fcm.client import FcmNotifier
from gateway.notifiers.stub.client import StubNotifier
from gateway.notifiers.upstream import build_limits
from gateway.notifiers.webhook.client import WebhookNotifier
from gateway.notifiers.webhook.settings import build_settings
from gateway.notifiers.webpush.client import WebPushNotifier


def build_notifiers(config: Config, metrics: Metrics, push_ids: PushIds) -> dict[str, Notifier]:
    """Every notifier there is but the pagers (gateway/paging), by the name a fallback chain uses. A new one is a folder
    and a line here."""
    limits = build_limits(config.delivery)
    private = config.delivery.webpush_private
    all_of_them: list[Notifier] = [
        ApnsNotifier(limits, push_ids=push_ids, metrics=metrics),
        FcmNotifier(limits, push_ids=push_ids, metrics=metrics),
        WebPushNotifier(limits, allows_private=private, push_ids=push_ids, metrics=metrics),
        WebhookNotifier(build_settings(config.delivery), push_ids=push_ids, metrics=metrics),
        StubNotifier(),
    ]
    return {notifier.name: notifier for notifier in all_of_them}
