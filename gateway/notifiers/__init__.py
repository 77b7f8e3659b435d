"""Outside push services behind the Notifier port; must never know edge, store or each other."""

from __future__ import annotations

from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metrics
from gateway.model.ports import Notifier
from gateway.notifiers.stub.client import StubNotifier
from gateway.notifiers.webhook.client import WebhookNotifier
from gateway.notifiers.webhook.settings import build_settings


def build_notifiers(config: Config, metrics: Metrics, push_ids: PushIds) -> dict[str, Notifier]:
    """Every notifier there is, by the name a fallback chain uses. A new one is a folder and a line here."""
    webhook = WebhookNotifier(build_settings(config.delivery), push_ids=push_ids, metrics=metrics)
    stub = StubNotifier()
    return {webhook.name: webhook, stub.name: stub}
