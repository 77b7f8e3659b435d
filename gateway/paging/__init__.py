"""Waking a terminal through an operator's network, behind the Notifier port (C8 and on); must never hold more of a
subscriber's identity than the call that needs it."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metrics
from gateway.model.ports import DeliveryReports, Notifier, Subscribers
from gateway.paging.sms.client import SmsNotifier, build_sms


def build_pagers(
    config: Config, metrics: Metrics, push_ids: PushIds, subscribers: Subscribers, reports: DeliveryReports | None
) -> list[Notifier]:
    """Those that the configuration names upstreams for. ConfigError; reads disk."""
    if not config.paging.smscs:
        return []
    return [build_sms(config, metrics, push_ids, subscribers, reports)]


def start_pagers(notifiers: Mapping[str, Notifier]) -> None:
    """Bind those that are pagers now: what is wrong with a login shows at the start, and receipts are heard. On the
    loop; `close` of each ends it."""
    for notifier in notifiers.values():
        if isinstance(notifier, SmsNotifier):
            notifier.start()
