"""Invites a terminal to start an app that does not run: builds the page, and has a bearer take it there (C13); must
never let what it says reach a log, a metric, an error or a history.

Over the device's own link first, where there is one: the device may be connected though the app does not run. Without
its word that the app was started, by a message of the network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from gateway.auth.service_keys import PURPOSE, Counters, ServiceKeys, Ticket
from gateway.config.operator_sections import Service
from gateway.config.sections import Config
from gateway.metrics import Metric, Metrics
from gateway.model.notification import Invitation, Notification
from gateway.model.ports import DeliveryReports, NotifierResult
from gateway.model.registration import App, Registration
from gateway.model.service_page import ServicePage, build_page, hash_aid, hash_id
from gateway.model.subscriber import Subscriber
from gateway.notifiers.upstream import Answer, Upstream, Verdict, build_limits, unix_ms
from gateway.paging.guard import Guard
from gateway.paging.pager import Parts
from gateway.paging.service import errors
from gateway.paging.service.bearers import DevicePages, PageBearer, SmsPages
from gateway.paging.service.settings import NAME, build_app_settings, check_settings
from gateway.paging.sms.settings import build_source

#: a push that is "now or never" needs a moment on the air
LEAST_VALIDITY_S = 30
_NOTHING = Invitation()


class ServiceNotifier:
    """Notifier port. Its queue is the caller's (delivery.notify_queue)."""

    name = NAME
    secrets: frozenset[str] = frozenset()

    def __init__(
        self,
        config: Config,
        *,
        network: PageBearer | None,
        metrics: Metrics,
        keys: ServiceKeys,
        guard: Guard,
        reports: DeliveryReports | None = None,
        counters: Counters | None = None,
        clock: Callable[[], int] = unix_ms,
    ) -> None:
        self._service: Service = config.service
        self._network = network
        self._links: DevicePages | None = None
        self._metrics = metrics
        self._keys = keys
        self._guard = guard
        self._reports = reports
        self._counters = counters or Counters()
        self._clock = clock
        self._upstream = Upstream(self.name, build_limits(config.delivery), metrics, clock)

    def use_links(self, pages: DevicePages) -> None:
        self._links = pages

    def start(self) -> None:
        if self._network is not None:
            self._network.start()

    def check(self, settings: Mapping[str, str]) -> None:
        check_settings(settings)

    def lane(self, app: App, registration: Registration) -> str:  # noqa: ARG002 - the port's signature
        """The network is the gateway's, and so is the login there: all apps share a circuit."""
        return "network"

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        settings = build_app_settings(app.name, app.notifiers.get(self.name, {}), self._service)
        asked = notification.service or _NOTHING
        aid = settings.aid if asked.aid is None else asked.aid
        if settings.servers and asked.server >= len(settings.servers):
            # without a list here, the app on the terminal has its own
            return self._upstream.refuse(errors.NO_SERVER)
        page = self._build(registration, notification, aid, asked)
        if self._links is not None and await self._links.page(registration.number, page, self._service.link_answer_s):
            self._metrics.count(Metric.SERVICE_PAGES, label="link")
            return self._upstream.refuse(errors.STARTED, detail="link")
        network = self._network
        if network is None:
            return self._upstream.refuse(errors.NO_BEARER)

        async def send(subscriber: Subscriber) -> Answer:
            answer = await network.send(subscriber, registration, notification, page, settings.port)
            if answer.row.verdict is Verdict.OK:
                self._metrics.count(Metric.SERVICE_PAGES, label=network.name)
            return answer

        # another application, server or parameters: another purpose, which no earlier page stands for
        said = b"\0".join((aid.encode(), bytes((asked.server,)), asked.params))
        purpose = hashlib.sha256(said).digest()
        lane = self.lane(app, registration)

        def stands() -> bool:
            # a page carries a ticket of its push, which is worth nothing once that was recalled or is over
            return self._reports is None or self._reports.is_pending(notification, registration.number)

        return await self._guard.page(
            self._upstream, lane, app, registration, send, wakes=True, purpose=purpose, stands=stands
        )

    def _build(self, registration: Registration, notification: Notification, aid: str, asked: Invitation) -> bytes:
        # from the acceptance on, not from now: a second try has to have the same ticket
        least_s = notification.accepted_ms // 1000 + LEAST_VALIDITY_S
        expires_s = min(max(notification.expires_s, least_s), 0xFFFFFFFF)
        # its provider knows the push by this sequence; a second try has the same ticket, so that no app starts twice
        ticket = Ticket(notification.push_seq, registration.number, expires_s)
        key = self._keys.page_key(registration.token)
        page = ServicePage(
            aid=hash_aid(aid, key),
            id=hash_id(registration.token),
            ticket=self._keys.build_ticket(registration.app, ticket, aid, asked.server),
            expires_s=expires_s,
            counter=self._counters.next(),
            server=asked.server,
            params=asked.params,
        )
        return build_page(page, key)

    async def close(self) -> None:
        if self._network is not None:
            await self._network.close()


def build_service(parts: Parts) -> ServiceNotifier:
    """There without an SMSC too, for device links."""
    network = None
    if parts.bearer is not None:
        network = SmsPages(parts.bearer, build_source(parts.config.paging.sms_source), NAME)
    return ServiceNotifier(
        parts.config,
        network=network,
        metrics=parts.metrics,
        keys=ServiceKeys(parts.push_ids.derive(PURPOSE)),
        guard=parts.guard,
        reports=parts.reports,
        clock=parts.clock,
    )
