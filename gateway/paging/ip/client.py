"""Sends a notification over IP to whom an opaque id stands for, where the network says that it is on line (C11); must
never let an address, a number or a text reach a log, a metric, an error or a history, nor send to an address outside
the operator's pools.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence

from gateway.config.paging import parse_host
from gateway.config.radius import Network, is_allowed, read_clients, read_networks
from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metric
from gateway.model.coap import MOST_PAYLOAD_BYTES
from gateway.model.notification import Notification
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration
from gateway.model.subscriber import Subscriber
from gateway.notifiers.upstream import Answer, Upstream, build_limits
from gateway.paging.app_payload import AppPayload, build_payload
from gateway.paging.errors import NO_NUMBER
from gateway.paging.ip import errors
from gateway.paging.ip.accounting import Accounting
from gateway.paging.ip.datagram import Timing, post
from gateway.paging.ip.ggsn import OsmoGgsn
from gateway.paging.ip.listener import AccountingListener
from gateway.paging.ip.online import Address, Cached, Finder, SessionRegister
from gateway.paging.ip.sessions import Sessions
from gateway.paging.ip.settings import NAME, AppSettings, build_app_settings, check_settings
from gateway.paging.ip.watch import Watch
from gateway.paging.pager import Parts


class IpNotifier:
    """Notifier port over CoAP, and the accounting listener beside it. Its queue is the caller's."""

    name = NAME
    secrets: frozenset[str] = frozenset()

    def __init__(
        self,
        parts: Parts,
        networks: Sequence[Network],
        *,
        sessions: Sessions | None,
        listener: AccountingListener | None,
        ggsn: Cached | None,
    ) -> None:
        self._ip = parts.config.ip
        self._parts = parts
        self._push_ids: PushIds = parts.push_ids
        self._networks = networks
        #: model.subscribers.Addresses; None: no accounting is heard
        self.sessions = sessions
        self.listener = listener
        self._finder = Finder(SessionRegister(sessions, self._ip.apns) if sessions is not None else None, ggsn)
        self._asks_again = ggsn is not None
        self._upstream = Upstream(self.name, build_limits(parts.config.delivery), parts.metrics, parts.clock)
        self._places = asyncio.Semaphore(self._ip.at_once)
        self._watch = Watch(self._ip, parts.metrics, self._is_online, parts.waiting.back, parts.clock)
        self._timing = Timing(self._ip.ack_s, self._ip.retransmits)
        if listener is not None:
            listener.on_told = self._on_told

    def start(self) -> None:
        """Listen now. ConfigError."""
        if self.listener is not None:
            self.listener.start()

    def check(self, settings: Mapping[str, str]) -> None:
        check_settings(settings)

    def lane(self, app: App, registration: Registration) -> str:  # noqa: ARG002 - the port's signature
        """The network is the gateway's: all apps share a circuit, and only the GGSN's trouble opens it."""
        return "network"

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        settings = build_app_settings(app.notifiers.get(self.name, {}), self._ip)

        async def send(subscriber: Subscriber) -> Answer:
            return await self._send(settings, subscriber, registration, notification)

        lane = self.lane(app, registration)
        return await self._parts.guard.page(self._upstream, lane, app, registration, send, wakes=True)

    # --- out

    async def _send(
        self, settings: AppSettings, subscriber: Subscriber, registration: Registration, notification: Notification
    ) -> Answer:
        try:
            where = await self._finder.find(subscriber)
        except TimeoutError:
            return Answer(errors.GGSN_TIMEOUT)
        except (OSError, ValueError):
            return Answer(errors.GGSN_FAILED)
        if where is None:
            return Answer(NO_NUMBER)
        if not where.is_online:
            return self._off_line(subscriber, registration, notification)
        if not where.addresses:
            return Answer(errors.NO_HOST)
        address = self._choose(where.addresses)
        if address is None:
            return Answer(errors.NOT_ALLOWED)
        payload = self._payload(settings, registration, notification)
        if self._places.locked():
            return Answer(
                errors.BUSY, detail="busy", asked=False
            )  # waiting here would look like a slow network to the lane
        async with self._places:
            exchanged = await post(
                address, settings.port, self._ip.path, payload, self._timing, allows_own=self._ip.loopback
            )
        self._parts.metrics.count(Metric.IP_DATAGRAMS, exchanged.sent)
        answer = errors.parse_exchanged(exchanged)
        if answer.row is not errors.OK:
            self._finder.forget(subscriber)  # it may have another address by now
        return answer

    def _off_line(self, subscriber: Subscriber, registration: Registration, notification: Notification) -> Answer:
        if self._asks_again:
            opaque = registration.addresses[self.name]
            self._watch.add(subscriber.handle, opaque, notification.app, notification.expires_s * 1000)
        return Answer(errors.OFFLINE)

    def _choose(self, addresses: Sequence[Address]) -> Address | None:
        """The first that may be sent to: the newest session's."""
        loopback = self._ip.loopback
        return next((each for each in addresses if is_allowed(each, self._networks, loopback=loopback)), None)

    def _payload(self, settings: AppSettings, registration: Registration, notification: Notification) -> bytes:
        content = notification.content
        payload = AppPayload(
            push_id=base64.urlsafe_b64decode(self._push_ids.build(notification.app, notification.push_seq) + "=="),
            token=registration.token,
            expires_s=notification.expires_s,
            urgency=notification.urgency,
            title=content.title if settings.has_text else "",
            text=content.text if settings.has_text else "",
            is_cut=content.data != b"" or not settings.has_text,
        )
        return build_payload(payload, MOST_PAYLOAD_BYTES)

    # --- back

    def _on_told(self, told: Accounting) -> None:
        """Accounting says that it is on line: what waits for it goes now."""
        if not len(self._parts.waiting):
            return
        # identity may know the subscriber by one of these alone, and each may be another's in a stale record
        waiting = self._parts.waiting
        waiting.back(imsi=told.imsi)
        waiting.back(msisdn=told.msisdn)
        waiting.back(nai=told.nai)

    async def _is_online(self, opaque: str, app: str) -> bool | None:
        subscriber = await self._parts.guard.look_up(opaque, app)
        if subscriber is None:
            return None
        where = await self._finder.find(subscriber, fresh=True)
        return where is not None and where.is_online

    async def close(self) -> None:
        if self.listener is not None:
            self.listener.close()
        await self._watch.close()
        await self._finder.close()


def build_ip(parts: Parts) -> IpNotifier | None:
    """As `radius` and `ip` say; None where neither accounting is heard nor a pool may be sent to. ConfigError; reads
    disk."""
    config = parts.config
    networks = read_networks(config.ip)
    sessions: Sessions | None = None
    listener: AccountingListener | None = None
    if config.radius.port >= 0:
        sessions = Sessions(config.radius, parts.metrics, parts.clock)
        clients = read_clients(config.radius)
        listener = AccountingListener(config.radius, clients, sessions, parts.metrics, parts.clock)
    elif not networks:
        return None
    return IpNotifier(parts, networks, sessions=sessions, listener=listener, ggsn=_build_ggsn(parts))


def _build_ggsn(parts: Parts) -> Cached | None:
    ip = parts.config.ip
    if not ip.ggsn:
        return None
    host, port = parse_host(ip.ggsn, "ip.ggsn")
    ggsn = OsmoGgsn(host, port, ip.ggsn_name, ip.ggsn_timeout_s, ip.apns)
    return Cached(ggsn, ip.online_cache_s, ip.watched, parts.clock)
