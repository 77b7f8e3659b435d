"""Sends a notification as a WAP push to whom an opaque id stands for (C9): through the operator's push proxy gateway,
or by short messages over the links of the pager `sms`; must never let a number, a link or a text reach a log, a
metric, an error or a history.

Source: WAP-247 (PAP 2.0). A push has one push id at the PPG however often it is tried, so one that was taken before its
answer was lost does not reach the terminal twice where the PPG keeps to it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping

import httpx

from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metric, Metrics
from gateway.model.notification import Notification
from gateway.model.ports import NotifierResult, Numbered
from gateway.model.registration import App, Registration
from gateway.model.subscriber import Subscriber
from gateway.notifiers.connections import Connections, build_client, build_context
from gateway.notifiers.upstream import TIMEOUT, Answer, Upstream, Verdict, build_limits, unix_ms
from gateway.paging.errors import NO_NUMBER
from gateway.paging.guard import Guard
from gateway.paging.pager import Parts
from gateway.paging.sms.bearer import LEAST_VALIDITY_S, SmsBearer
from gateway.paging.wap.content import Made, NoDocument, build_document, build_segments
from gateway.paging.wap.documents import TIMES_S, ServiceIndication
from gateway.paging.wap.errors import NOT_REPLACED, parse_exchange, parse_sent
from gateway.paging.wap.pap import PushMessage, build_post
from gateway.paging.wap.replaces import LastPushes
from gateway.paging.wap.settings import (
    NAME,
    AppSettings,
    PpgSettings,
    build_app_settings,
    build_ppg_settings,
    check_settings,
)

#: by urgency, very-low to high (WAP-247 §9.2.3)
PRIORITIES = ("low", "low", "medium", "high")


class WapNotifier:
    """Notifier port over PAP or SMPP. Its queue is the caller's (delivery.notify_queue)."""

    name = NAME
    secrets: frozenset[str] = frozenset()

    def __init__(
        self,
        config: Config,
        ppg: PpgSettings | None,
        bearer: SmsBearer | None,
        *,
        metrics: Metrics,
        push_ids: PushIds,
        guard: Guard,
        clock: Callable[[], int] = unix_ms,
    ) -> None:
        if ppg is None and bearer is None:
            raise ValueError("takes a PPG or an SMSC")
        self._config = config
        self._ppg = ppg
        self._bearer = bearer if ppg is None else None
        self._metrics = metrics
        self._push_ids = push_ids
        self._guard = guard
        self._clock = clock
        self._upstream = Upstream(self.name, build_limits(config.delivery), metrics, clock)
        self._connections = Connections(1)
        self._last = LastPushes(config.wap.ppg_replaces, metrics)
        self._places = asyncio.Semaphore(config.wap.ppg_connections)

    def start(self) -> None:
        """Without a PPG: bind to the SMSCs now."""
        if self._bearer is not None:
            self._bearer.start()

    def check(self, settings: Mapping[str, str]) -> None:
        check_settings(settings, self._config.wap)

    def lane(self, app: App, registration: Registration) -> str:  # noqa: ARG002 - the port's signature
        """The PPG and the SMSCs are the gateway's, and so is the login there: all apps share a circuit."""
        return "ppg" if self._ppg is not None else "smsc"

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        settings = build_app_settings(app.notifiers.get(self.name, {}), self._config.paging)
        push_id = self._push_ids.build(notification.app, notification.push_seq)
        try:
            made = build_document(
                settings,
                registration,
                notification,
                push_id=push_id,
                least_expires_s=self._clock() // 1000 + LEAST_VALIDITY_S,
                most_href_bytes=self._config.wap.href_bytes,
                by_ppg=self._ppg is not None,
            )
        except NoDocument as none:
            return self._upstream.refuse(none.row)
        if made.is_cut:
            self._metrics.count(Metric.NOTIFIER_BOUNDS, label="wap text")

        async def send(subscriber: Subscriber) -> Answer:
            if self._ppg is not None:
                return await self._post(self._ppg, made, subscriber, registration, notification, push_id)
            return await self._submit(settings, made, subscriber, registration, notification)

        lane = self.lane(app, registration)
        # each says something of its own to the user, so none stands for another
        return await self._guard.page(self._upstream, lane, app, registration, send, wakes=False)

    # --- by a push proxy gateway

    async def _post(
        self,
        settings: PpgSettings,
        made: Made,
        subscriber: Numbered,
        registration: Registration,
        notification: Notification,
        push_id: str,
    ) -> Answer:
        msisdn = subscriber.msisdn.lstrip("+")
        if not (msisdn.isascii() and msisdn.isdigit() and len(msisdn) <= 15):
            return Answer(NO_NUMBER)
        message = PushMessage(
            push_id=self._build_pap_id(push_id, registration),
            msisdn=msisdn,
            ppg=settings.ppg.name,
            document=made.document,
            before_s=min(max(notification.expires_s, self._clock() // 1000 + LEAST_VALIDITY_S), TIMES_S[-1]),
            priority=PRIORITIES[min(max(notification.urgency, 0), 3)],
            network=settings.network,
            bearer=settings.bearer,
        )
        key = self._find_key(made, notification)
        before = self._last.before(registration.number, key, message.push_id) if key else ""
        answer = await self._exchange(settings, message._replace(replaces=before))
        if before and answer.row.status in NOT_REPLACED:
            answer = await self._exchange(settings, message)
        if key and answer.row.verdict is Verdict.OK:
            self._last.took(registration.number, key, message.push_id)
        return answer

    @staticmethod
    def _find_key(made: Made, notification: Notification) -> str:
        """What is the same for pushes with one collapse key; a loading has none, for the terminal opens each link."""
        document = made.document
        return document.si_id if notification.collapse_key and isinstance(document, ServiceIndication) else ""

    async def _exchange(self, settings: PpgSettings, message: PushMessage) -> Answer:
        posted = build_post(message)
        headers = {"content-type": posted.content_type}
        if settings.authorization:
            headers["authorization"] = settings.authorization
        try:
            async with self._places, asyncio.timeout(settings.timeout_s):
                exchange = await self._connections.post(
                    "ppg", self._build_client, settings.ppg.url, headers=headers, content=posted.body
                )
        except TimeoutError:
            return Answer(TIMEOUT, detail="timeout")
        return parse_exchange(exchange.status, exchange.headers, exchange.body, message.push_id, self._clock())

    def _build_pap_id(self, push_id: str, registration: Registration) -> str:
        """One a delivery, the same for each try (WAP-247 §9.2.1: unique, best with a host that is the sender's)."""
        name = hashlib.blake2b(push_id.encode() + registration.token, digest_size=12).hexdigest()
        return f"{name}@{self._config.identity.host}"

    def _build_client(self) -> httpx.AsyncClient:
        assert self._ppg is not None
        client = build_client(self._ppg.context or build_context(), connections=self._config.wap.ppg_connections)
        # a PPG hands on to the terminal what it is told in headers (Kannel does), and each takes room on the air
        for name in ("accept", "accept-encoding", "user-agent"):
            del client.headers[name]
        return client

    # --- as short messages

    async def _submit(
        self,
        settings: AppSettings,
        made: Made,
        subscriber: Numbered,
        registration: Registration,
        notification: Notification,
    ) -> Answer:
        assert self._bearer is not None
        segments = build_segments(made.document, notification.seq & 0xFF, settings.parts)
        return parse_sent(
            await self._bearer.send(subscriber, registration, notification, self.name, segments, source=settings.source)
        )

    async def close(self) -> None:
        await self._connections.close()
        if self._bearer is not None:
            await self._bearer.close()


def build_wap(parts: Parts) -> WapNotifier | None:
    """As `wap` says, None where there is neither a PPG nor an SMSC. ConfigError; reads disk."""
    ppg = build_ppg_settings(parts.config.wap)
    if ppg is None and parts.bearer is None:
        return None
    return WapNotifier(
        parts.config,
        ppg,
        parts.bearer,
        metrics=parts.metrics,
        push_ids=parts.push_ids,
        guard=parts.guard,
        clock=parts.clock,
    )
