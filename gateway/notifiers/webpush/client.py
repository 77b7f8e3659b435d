"""Posts a notification to a browser's push service, encrypted for the browser; must never log or keep a subscription.

Sources: RFC 8030 §5 (TTL, Urgency, Topic), RFC 8291 (encryption), RFC 8292 (VAPID). The plain text is JSON: push,
token, title, text; a service worker shows it, and the page acks it over its own channel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import httpx
import msgspec

from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metrics
from gateway.model.notification import Notification
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration
from gateway.notifiers.connections import Connections, build_client, build_context
from gateway.notifiers.fields import build_lane
from gateway.notifiers.payload import build_ids, fit
from gateway.notifiers.upstream import CONNECTION, NO_ADDRESS, NO_SETTINGS, Answer, Limits, Upstream, unix_ms
from gateway.notifiers.webpush.addresses import Addresses, Resolve, resolve
from gateway.notifiers.webpush.encryption import MAX_PLAIN_BYTES, encrypt
from gateway.notifiers.webpush.errors import NOT_ALLOWED, TOO_LARGE, parse_status
from gateway.notifiers.webpush.settings import NAME, SECRETS, AppSettings, build_app_settings, check_settings, encode
from gateway.notifiers.webpush.subscription import Subscription, parse_subscription
from gateway.notifiers.webpush.vapid import VapidTokens

_URGENCIES = ("very-low", "low", "normal", "high")
#: an origin that was not used for this time loses its connection: there are many
KEEP_S = 90.0
#: a title that is sent where the service finds the whole message too large
SHORT_TITLE_CHARS = 64


def build_topic(collapse_key: str) -> str:
    """RFC 8030 §5.4: at most 32 characters of base64url, so a hash of the key. It tells the service nothing of it."""
    return encode(hashlib.sha256(collapse_key.encode()).digest()[:24])


class WebPushNotifier:
    """Notifier port over Web Push. Its queue is the caller's (delivery.notify_queue)."""

    name = NAME
    secrets = SECRETS

    def __init__(
        self,
        limits: Limits,
        *,
        allows_private: bool,
        push_ids: PushIds,
        metrics: Metrics,
        clock: Callable[[], int] = unix_ms,
        resolve: Resolve = resolve,
    ) -> None:
        self._push_ids = push_ids
        self._clock = clock
        self._upstream = Upstream(self.name, limits, metrics, clock)
        self._connections = Connections(limits.gates, KEEP_S)
        self._addresses = Addresses(allows_private=allows_private, clock=clock, resolve=resolve)
        self._vapid = VapidTokens(self._upstream.count_token)

    def check(self, settings: Mapping[str, str]) -> None:
        check_settings(settings)

    def lane(self, app: App, registration: Registration) -> str:
        subscription = parse_subscription(registration.addresses.get(self.name, ""))
        return build_lane(app, self.name, subscription.origin if subscription is not None else "")

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        settings = build_app_settings(app.notifiers.get(self.name, {}))
        if settings is None:
            return self._upstream.refuse(NO_SETTINGS)
        subscription = parse_subscription(registration.addresses.get(self.name, ""))
        if subscription is None:
            return self._upstream.refuse(NO_ADDRESS)
        lane = self.lane(app, registration)

        async def call() -> Answer:
            return await self._send(lane, settings, subscription, registration, notification)

        return await self._upstream.ask(lane, call, subscription.target)

    async def _send(
        self,
        lane: str,
        settings: AppSettings,
        subscription: Subscription,
        registration: Registration,
        notification: Notification,
    ) -> Answer:
        try:
            address = await self._addresses.pick(
                subscription.host,
                subscription.port,
                allows_private=settings.allows_private,
                whose=registration.app,
            )
        except OSError:
            return Answer(CONNECTION, detail="no such host")
        if address is None:
            return Answer(NOT_ALLOWED, detail="private address", is_call=False)
        push_id = self._push_ids.build(notification.app, notification.push_seq)
        plain = self.build_plain(push_id, registration, notification)
        short = self.build_short(push_id, registration, notification)
        answer = await self._post(lane, settings, subscription, address, notification, plain)
        if answer.row is TOO_LARGE and len(short) < len(plain):
            answer = await self._post(lane, settings, subscription, address, notification, short)
        return answer

    async def _post(
        self,
        lane: str,
        settings: AppSettings,
        subscription: Subscription,
        address: str,
        notification: Notification,
        plain: bytes,
    ) -> Answer:
        try:
            body = encrypt(plain, subscription.p256dh, subscription.auth)
        except ValueError:
            return Answer(NO_ADDRESS, detail="p256dh is no key", is_call=False)
        now_ms = self._clock()
        headers = {
            "host": subscription.authority,
            "authorization": self._vapid.header(settings, subscription.origin, now_ms),
            "content-encoding": "aes128gcm",
            "content-type": "application/octet-stream",
            "ttl": str(self._ttl_s(notification, now_ms)),
            "urgency": _URGENCIES[notification.urgency],
        }
        if notification.collapse_key:
            headers["topic"] = build_topic(notification.collapse_key)
        # The address that was checked is the one to connect to; TLS still asks for the name.
        literal = f"[{address}]" if ":" in address else address
        url = f"https://{literal}:{subscription.port}{subscription.target}"
        extensions = {} if subscription.host == address else {"sni_hostname": subscription.host}
        got = await self._connections.post(
            f"{lane} {address}",
            lambda: self._build_client(settings),
            url,
            headers=headers,
            content=body,
            extensions=extensions,
        )
        return parse_status(got.status, got.headers, self._clock())

    @staticmethod
    def _build_client(settings: AppSettings) -> httpx.AsyncClient:
        return build_client(build_context(settings.ca))

    @staticmethod
    def _ttl_s(notification: Notification, now_ms: int) -> int:
        """0: now or never."""
        if notification.expires_s <= notification.accepted_ms // 1000:
            return 0
        return max(0, notification.expires_s - now_ms // 1000)

    def build_plain(self, push_id: str, registration: Registration, notification: Notification) -> bytes:
        """JSON that fits into one record; a text that is too long is cut."""
        ids = build_ids(push_id, registration)
        return fit(
            notification,
            MAX_PLAIN_BYTES,
            lambda title, text: msgspec.json.encode({**ids, "title": title, "text": text}),
        )

    def build_short(self, push_id: str, registration: Registration, notification: Notification) -> bytes:
        """The same for a service that takes less than it should: no text."""
        title = notification.content.title[:SHORT_TITLE_CHARS]
        return msgspec.json.encode({**build_ids(push_id, registration), "title": title, "text": ""})

    async def close(self) -> None:
        await self._addresses.close()
        await self._connections.close()
