"""The scene of an upstream notifier's tests: an upstream that runs here, notifiers that ask it, one clock for both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, Self, TypeVar

from upstream_rig import IDS, PATIENT, MovedClock, build_app, build_notification

from gateway.metrics import Metrics
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration
from gateway.notifiers.apns.client import ApnsNotifier
from gateway.notifiers.apns.local import LocalApns
from gateway.notifiers.fcm.client import FcmNotifier
from gateway.notifiers.fcm.local import LocalFcm
from gateway.notifiers.local_tls import Authority
from gateway.notifiers.upstream import Limits
from gateway.notifiers.webpush.client import WebPushNotifier
from gateway.notifiers.webpush.local import LocalPushService

U = TypeVar("U", LocalApns, LocalFcm, LocalPushService)
N = TypeVar("N", ApnsNotifier, FcmNotifier, WebPushNotifier)


class UpstreamScene(ABC, Generic[U, N]):
    """As a context manager: the upstream listens, and in the end all is closed."""

    def __init__(self, upstream_type: type[U], notifier_type: type[N], authority: Authority) -> None:
        self.clock = MovedClock()
        self.metrics = Metrics(process=False)
        self.upstream: U = upstream_type(authority=authority, now_s=self.clock.now_s)
        self._notifier_type: Any = notifier_type
        self.notifiers: list[N] = []
        #: has time enough for a slow machine
        self.notifier: N = self.build(PATIENT)

    def build(self, limits: Limits, **options: Any) -> N:
        """One more notifier before the same upstream; closed with the scene."""
        options = {"clock": self.clock.now_ms, **options}
        notifier: N = self._notifier_type(limits, push_ids=IDS, metrics=self.metrics, **options)
        self.notifiers.append(notifier)
        return notifier

    def app(self, **changes: str) -> App:
        """An app with the upstream's settings and these changes."""
        return build_app(self.notifier.name, {**self.upstream.settings(), **changes})

    @abstractmethod
    def device(self) -> Registration:
        """Of an address that the upstream knows."""

    async def push(self, registration: Registration | None = None, **changes: Any) -> NotifierResult:
        return await self.notifier.notify(self.app(), registration or self.device(), build_notification(**changes))

    async def __aenter__(self) -> Self:
        await self.upstream.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for notifier in self.notifiers:
            await notifier.close()
        await self.upstream.close()
