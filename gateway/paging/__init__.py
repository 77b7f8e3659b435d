"""Waking a terminal through an operator's network, behind the Notifier port (C8 and on); must never hold more of a
subscriber's identity than the call that needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.diameter.node import Node
from gateway.metrics import Metrics
from gateway.model.ports import Addresses, DeliveryReports, Notifier, Subscribers
from gateway.model.short_messages import OpenParts
from gateway.notifiers.upstream import unix_ms
from gateway.paging.guard import Guard
from gateway.paging.ip.client import IpNotifier, build_ip
from gateway.paging.pager import Pager, Parts
from gateway.paging.service.bearers import DevicePages
from gateway.paging.service.client import ServiceNotifier, build_service
from gateway.paging.sms.bearer import build_bearer
from gateway.paging.sms.card_messages import SmsCardMessages
from gateway.paging.sms.client import SmsNotifier, build_sms
from gateway.paging.sms.code_messages import SmsCodes
from gateway.paging.sms.register import build_register
from gateway.paging.trigger.client import build_trigger
from gateway.paging.waiting import Waiting
from gateway.paging.wap.client import build_wap

#: each returns its pager, or None where the configuration names no upstream for it. ConfigError; reads disk
BUILDERS: Sequence[Callable[[Parts], Pager | None]] = (build_sms, build_wap, build_trigger, build_ip, build_service)


def build_pagers(
    config: Config,
    metrics: Metrics,
    push_ids: PushIds,
    subscribers: Subscribers,
    waiting: Waiting,
    reports: DeliveryReports | None,
    short_messages: OpenParts | None,
    diameter: Node | None = None,
) -> list[Pager]:
    """Those that the configuration names upstreams for; `diameter` is the gateway's node, for those that speak it.
    ConfigError; reads disk."""
    guard = Guard(config.paging, subscribers, waiting, metrics, unix_ms)
    register = build_register(config, diameter)
    bearer = build_bearer(config, metrics, waiting, reports, short_messages, register, unix_ms)
    parts = Parts(config, metrics, push_ids, guard, waiting, reports, bearer, unix_ms, diameter)
    return [pager for pager in (build(parts) for build in BUILDERS) if pager is not None]


def find_addresses(notifiers: Mapping[str, Notifier]) -> Addresses | None:
    """Who has which address, where a pager hears it (C15)."""
    return next((each.sessions for each in notifiers.values() if isinstance(each, IpNotifier)), None)


def build_card_messages(config: Config, notifiers: Mapping[str, Notifier], metrics: Metrics) -> SmsCardMessages | None:
    """Messages to cards and from them, over the links of the pagers that were built; None where the configuration names
    no SMSC. Before the pagers start. ConfigError."""
    bearer = next((each.bearer for each in notifiers.values() if isinstance(each, SmsNotifier)), None)
    return None if bearer is None else SmsCardMessages(config, bearer, metrics)


def build_code_messages(config: Config, notifiers: Mapping[str, Notifier]) -> SmsCodes | None:
    """One-time codes by short message; None where the configuration names no SMSC. ConfigError."""
    bearer = next((each.bearer for each in notifiers.values() if isinstance(each, SmsNotifier)), None)
    return None if bearer is None else SmsCodes(config, bearer)


def start_pagers(notifiers: Mapping[str, Notifier]) -> None:
    """Connect those that are pagers now: what is wrong with a login shows at the start, and receipts are heard. On the
    loop; `close` of each ends it."""
    for notifier in notifiers.values():
        if isinstance(notifier, Pager):
            notifier.start()


def pagers_of(notifiers: Mapping[str, Notifier]) -> list[str]:
    """Names of those that reach who has an opaque id and nothing else, in order. Not `service`: what it sends is signed
    for a registration, and who never registered can not check it."""
    pagers = (name for name, notifier in notifiers.items() if isinstance(notifier, Pager))
    return [name for name in pagers if not isinstance(notifiers[name], ServiceNotifier)]


def use_links(notifiers: Mapping[str, Notifier], pages: DevicePages) -> None:
    """Device links are there from now on: service pages go over them first (C13)."""
    for notifier in notifiers.values():
        if isinstance(notifier, ServiceNotifier):
            notifier.use_links(pages)
