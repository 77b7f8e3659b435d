"""Waking a terminal through an operator's network, behind the Notifier port (C8 and on); must never hold more of a
subscriber's identity than the call that needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.diameter.node import Node
from gateway.metrics import Metrics
from gateway.model.ports import DeliveryReports, Notifier, Subscribers
from gateway.notifiers.upstream import unix_ms
from gateway.paging.guard import Guard
from gateway.paging.pager import Pager, Parts
from gateway.paging.sms.client import build_sms
from gateway.paging.trigger.client import build_trigger
from gateway.paging.waiting import Waiting

#: each returns its pager, or None where the configuration names no upstream for it. ConfigError; reads disk
BUILDERS: Sequence[Callable[[Parts], Pager | None]] = (build_sms, build_trigger)


def build_pagers(
    config: Config,
    metrics: Metrics,
    push_ids: PushIds,
    subscribers: Subscribers,
    reports: DeliveryReports | None,
    diameter: Node | None = None,
) -> list[Pager]:
    """Those that the configuration names upstreams for. ConfigError; reads disk."""
    guard = Guard(config.paging, subscribers, metrics, unix_ms)
    parts = Parts(config, metrics, push_ids, guard, Waiting(config.paging, metrics), reports, unix_ms, diameter)
    return [pager for pager in (build(parts) for build in BUILDERS) if pager is not None]


def start_pagers(notifiers: Mapping[str, Notifier]) -> None:
    """Connect those that are pagers now: what is wrong with a login shows at the start, and receipts are heard. On the
    loop; `close` of each ends it."""
    for notifier in notifiers.values():
        if isinstance(notifier, Pager):
            notifier.start()
