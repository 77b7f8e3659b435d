"""The scene of the WAP pager's tests: a push proxy gateway that runs here, or an SMSC, and a notifier before it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Self

from pager_push import push_through
from sms_scene import IDS, OPAQUE, FixedSubscribers, Histories, SmsScene

from gateway.config.sections import Config
from gateway.metrics import Metric, Metrics
from gateway.model.ports import NotifierResult
from gateway.notifiers.upstream import unix_ms
from gateway.paging.guard import Guard
from gateway.paging.sms.bearer import SmsBearer
from gateway.paging.waiting import Waiting
from gateway.paging.wap.client import WapNotifier
from gateway.paging.wap.local import LocalPpg
from gateway.paging.wap.settings import build_ppg_settings

HREF = "https://shop.example/m/{push}"


class WapScene:
    """As a context manager. `url`: of a PPG that is not ours; `folder`: for the password file."""

    def __init__(self, folder: Path, *, url: str = "", ppg: LocalPpg | None = None, **wap: Any) -> None:
        self.ppg = ppg or LocalPpg()
        self.config = Config()
        self.config.delivery.notifier_failures = 1_000
        self.config.paging.subscriber_per_hour = self.config.paging.coalesce_s = self.config.paging.jitter_s = 0
        self.config.identity.host = "push.example.com"
        password = folder / "ppg-password"
        password.write_text(self.ppg.password)
        values = {"ppg_user": self.ppg.user, "ppg_password_file": str(password), "ppg_timeout_s": 2.0, **wap}
        for name, value in values.items():
            setattr(self.config.wap, name, value)
        self.metrics = Metrics(process=False)
        self.subscribers = FixedSubscribers()
        self.settings: dict[str, str] = {"href": HREF}
        self.moved_ms = 0
        self._url = url
        self.notifier: WapNotifier

    async def __aenter__(self) -> Self:
        if not self._url:
            await self.ppg.start()
        self.config.wap.ppg = self._url or self.ppg.url
        self.build(None)
        return self

    def build(self, bearer: SmsBearer | None) -> None:
        self.notifier = WapNotifier(
            self.config,
            build_ppg_settings(self.config.wap) if bearer is None else None,
            bearer,
            metrics=self.metrics,
            push_ids=IDS,
            guard=Guard(
                self.config.paging, self.subscribers, Waiting(self.config.paging, self.metrics), self.metrics, unix_ms
            ),
            clock=lambda: unix_ms() + self.moved_ms,
        )
        self.notifier.start()

    async def __aexit__(self, *_: object) -> None:
        await self.notifier.close()
        await self.ppg.close()

    async def push(self, *, address: str = OPAQUE, seq: int = 9, number: int = 3, **changes: Any) -> NotifierResult:
        now_s, token = int(time.time()), bytes((number,)) * 16
        return await push_through(
            self.notifier, self.settings, address, now_s=now_s, seq=seq, number=number, token=token, **changes
        )

    def outcomes(self, reason: str) -> float:
        return self.metrics.value(Metric.NOTIFIER_OUTCOMES, f"wap {reason}")

    def assert_strict(self) -> None:
        assert self.ppg.faults == []


class DirectScene(WapScene):
    """No PPG: the links of an SMS scene."""

    def __init__(self, folder: Path, sms: SmsScene) -> None:
        super().__init__(folder)
        self.sms = sms
        self.history: Histories = sms.history

    async def __aenter__(self) -> Self:
        await self.sms.__aenter__()
        self.build(self.sms.bearer)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.notifier.close()
        await self.sms.__aexit__()
