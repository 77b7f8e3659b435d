"""The scene of the SMS pager's tests: SMSCs that run here, a notifier bound to them, a history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

from pager_push import push_through

from gateway.config.paging import Smsc
from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metric, Metrics
from gateway.model.notification import Content, Notification
from gateway.model.outcome import Step
from gateway.model.ports import NotifierResult, Numbered, Numbers
from gateway.model.subscriber import NetworkId, NetworkIdKind, OpaqueKind, Subscriber
from gateway.notifiers.upstream import unix_ms
from gateway.paging.guard import Guard
from gateway.paging.sms.bearer import SmsBearer
from gateway.paging.sms.client import SmsNotifier
from gateway.paging.sms.link import LinkSettings
from gateway.paging.sms.local import LocalSmsc
from gateway.paging.waiting import Waiting

IDS = PushIds(b"k" * 16)
MSISDN, IMSI = "491701234567", "001010000000001"
OPAQUE = "q7zk3mduc4efhv2r6tnsapwxyj"
PATIENCE_S = 60.0
#: three short messages in mode text
LONG = Content(title="Hi", text="a" * 400)
QUICK = LinkSettings(
    Smsc("local", "127.0.0.1", 0, False, "pushgw", "", "secret"),
    enquire_s=5.0,
    answer_s=2.0,
    reconnect_s=0.05,
    reconnect_max_s=0.1,
)


class FixedSubscribers:
    """Subscribers port: one table."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Numbered] = {(OPAQUE, "shop"): Numbers(MSISDN, IMSI)}

    async def resolve(self, opaque: str, app: str) -> Subscriber | None:
        found = self.known.get((opaque, app))
        if found is None:
            return None
        kinds = ((NetworkIdKind.MSISDN, found.msisdn), (NetworkIdKind.IMSI, found.imsi))
        ids = [NetworkId(kind, value) for kind, value in kinds if value]
        return Subscriber(b"\x01" * 16, ids, OpaqueKind.O_TMSI, app)


class Histories:
    """DeliveryReports port that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, str, str, str]] = []

    def delivery_of(self, notification: Notification, registration: int) -> int:
        return notification.seq

    def report(self, seq: int, registration: int, step: Step) -> None:
        self.steps.append((seq, registration, step.what, step.channel, step.detail))

    @property
    def words(self) -> list[str]:
        return [step[2] for step in self.steps]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.005)


class SmsScene:
    """As a context manager. `links`: changes to the settings of each SMSC's link."""

    def __init__(self, smscs: int = 1, *, paging: dict[str, Any] | None = None, **link: Any) -> None:
        self.smscs = [LocalSmsc() for _ in range(smscs)]
        self.config = Config()
        self.config.delivery.notifier_failures = 1_000
        self.config.paging.subscriber_per_hour = self.config.paging.coalesce_s = self.config.paging.jitter_s = 0
        for name, value in {"smsc_throttle_s": 0.2, **(paging or {})}.items():
            setattr(self.config.paging, name, value)
        self.metrics = Metrics(process=False)
        self.subscribers = FixedSubscribers()
        self.history = Histories()
        self.settings: dict[str, str] = {}
        self.backs: list[Numbered] = []
        self.incoming: list[bytes] = []
        self.moved_ms = 0
        self.register: Any = None
        self._link = link
        self.notifier: SmsNotifier

    @property
    def smsc(self) -> LocalSmsc:
        return self.smscs[0]

    def links(self, ports: Sequence[int]) -> list[LinkSettings]:
        settings = replace(QUICK, bind=self.config.paging.smsc_bind, **self._link)
        return [
            replace(settings, smsc=Smsc(f"smsc{n}", "127.0.0.1", port, False, "pushgw", "", "secret"))
            for n, port in enumerate(ports)
        ]

    async def __aenter__(self) -> Self:
        ports = [await smsc.start() for smsc in self.smscs]

        def clock() -> int:
            return unix_ms() + self.moved_ms

        self.bearer = SmsBearer(
            self.config.paging,
            self.links(ports),
            metrics=self.metrics,
            reports=self.history,
            register=self.register,
            on_back=self.backs.append,
            on_incoming=lambda sm: self.incoming.append(sm.message),
            card_receipts=self.config.ota.receipts,
            clock=clock,
        )
        self.notifier = SmsNotifier(
            self.config,
            self.bearer,
            metrics=self.metrics,
            push_ids=IDS,
            guard=Guard(
                self.config.paging, self.subscribers, Waiting(self.config.paging, self.metrics), self.metrics, unix_ms
            ),
            clock=clock,
        )
        self.notifier.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.notifier.close()
        for smsc in self.smscs:
            await smsc.close()

    async def bound(self) -> None:
        """Each link knows: an SMSC takes itself for bound a moment before its answer is read, or while it is left."""
        await until(lambda: all(link.is_bound for link in self.bearer.links))

    async def push(self, *, address: str = OPAQUE, seq: int = 9, **changes: Any) -> NotifierResult:
        now_s = int(time.time())
        return await push_through(self.notifier, self.settings, address, now_s=now_s, seq=seq, **changes)

    def receipts(self, result: str) -> float:
        return self.metrics.value(Metric.SMS_RECEIPTS, result)

    def assert_strict(self) -> None:
        """No SMSC found anything wrong."""
        assert [smsc.faults for smsc in self.smscs] == [[] for _ in self.smscs]
