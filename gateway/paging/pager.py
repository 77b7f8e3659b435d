"""What pagers are built from, and what makes a notifier one; must never hold what only one of them needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.diameter.node import Node
from gateway.metrics import Metrics
from gateway.model.ports import DeliveryReports, Notifier
from gateway.paging.guard import Guard
from gateway.paging.sms.bearer import SmsBearer
from gateway.paging.waiting import Waiting


class Parts(NamedTuple):
    """What every pager is given."""

    config: Config
    metrics: Metrics
    push_ids: PushIds
    guard: Guard
    waiting: Waiting
    reports: DeliveryReports | None
    #: the one way to send short messages; None where no SMSC is named
    bearer: SmsBearer | None
    clock: Callable[[], int]
    #: the gateway's own, which the gateway starts and closes; None where it speaks no Diameter
    diameter: Node | None = None


@runtime_checkable
class Pager(Notifier, Protocol):
    """A notifier that keeps connections of its own."""

    def start(self) -> None:
        """Connect now, so that what is wrong shows at the start. On the loop; `close` ends it."""
        ...
