"""Waking a terminal through an operator's network, behind the Notifier port (C8 and on); must never hold more of a
subscriber's identity than the call that needs it."""

from __future__ import annotations

from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metrics
from gateway.model.ports import DeliveryReports, Notifier, Subscribers
from gateway.paging.sms.client import build_sms


def build_pagers(
    config: Config, metrics: Metrics, push_ids: PushIds, subscribers: Subscribers, reports: DeliveryReports | None
) -> list[Notifier]:
    """Those that the configuration names upstreams for. ConfigError; reads disk."""
    if not config.paging.smscs:
        return []
    return [build_sms(config, metrics, push_ids, subscribers, reports)]
