"""Posts a notification to APNs; must never log or keep a device token.

Source: Apple, "Sending notification requests to APNs". The payload has the alert (title, body) and beside `aps` our own
`heliograph` with push id and token, so that the app finds the same message on its channel and acks it.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import msgspec

from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metrics
from gateway.model.notification import Notification
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration
from gateway.notifiers.apns.certificate_ends import CertificateEnds
from gateway.notifiers.apns.errors import EXPIRED_PROVIDER_TOKEN, parse_answer
from gateway.notifiers.apns.provider_token import ProviderTokens
from gateway.notifiers.apns.settings import NAME, SECRETS, AppSettings, build_app_settings, check_settings
from gateway.notifiers.connections import Connections, build_client, build_context
from gateway.notifiers.fields import build_lane
from gateway.notifiers.payload import build_ids, fit
from gateway.notifiers.upstream import GARBAGE, NO_ADDRESS, NO_SETTINGS, Answer, Limits, Upstream, unix_ms

#: Apple, "Generating a remote notification"
MAX_PAYLOAD_BYTES = 4_096
MAX_COLLAPSE_BYTES = 64
#: hexadecimal; Apple says not to count on a length
_DEVICE_TOKEN = re.compile(r"[0-9a-fA-F]{16,512}")
#: by urgency (very-low, low, normal, high): 10 at once, 5 when it suits the battery, 1 when nothing else does
_PRIORITIES = ("1", "5", "10", "10")
_NAMESPACE = uuid.UUID("5f0a6b0e-0d4c-5d2b-9c3a-6d1f7e0b52a1")


def build_apns_id(push_id: str, token: str) -> str:
    """The same for every try of one push to one registration."""
    return str(uuid.uuid5(_NAMESPACE, f"{push_id}/{token}"))


def build_collapse_id(collapse_key: str, push_id: str) -> str:
    """At most 64 bytes that a header may hold. Without a key the push id: a repeated try replaces the first."""
    text = collapse_key or push_id
    if len(text.encode()) <= MAX_COLLAPSE_BYTES and text.isascii() and text.isprintable() and text.strip() == text:
        return text
    return hashlib.sha256(text.encode()).hexdigest()


class ApnsNotifier:
    """Notifier port over APNs. Its queue is the caller's (delivery.notify_queue)."""

    name = NAME
    secrets = SECRETS

    def __init__(
        self, limits: Limits, *, push_ids: PushIds, metrics: Metrics, clock: Callable[[], int] = unix_ms
    ) -> None:
        self._push_ids = push_ids
        self._clock = clock
        self._upstream = Upstream(self.name, limits, metrics, clock)
        self._connections = Connections(limits.gates)
        self._ends = CertificateEnds(limits.gates)
        self._tokens = ProviderTokens(limits.gates, self._upstream.count_token)

    def check(self, settings: Mapping[str, str]) -> None:
        check_settings(settings, self._clock() / 1000)

    def lane(self, app: App, registration: Registration) -> str:  # noqa: ARG002 - the port's signature
        return build_lane(app, self.name)

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        settings = build_app_settings(app.notifiers.get(self.name, {}))
        if settings is None:
            return self._upstream.refuse(NO_SETTINGS)
        address = registration.addresses.get(self.name, "")
        if not _DEVICE_TOKEN.fullmatch(address):
            return self._upstream.refuse(NO_ADDRESS)
        if settings.certificate:
            self._ends.look(app.name, settings, self._clock() / 1000)
        push_id = self._push_ids.build(notification.app, notification.push_seq)
        payload = self.build_payload(push_id, registration, notification)
        headers = self.build_headers(settings, push_id, registration, notification)

        async def call() -> Answer:
            return await self._post(app.name, settings, f"{settings.url}/3/device/{address}", headers, payload)

        return await self._upstream.ask(self.lane(app, registration), call, address)

    async def _post(
        self, lane: str, settings: AppSettings, url: str, headers: dict[str, str], payload: bytes
    ) -> Answer:
        try:
            token = self._tokens.current(settings, self._clock()) if settings.key else ""
            answer = await self._post_once(lane, settings, url, headers, payload, token)
        except (ValueError, TypeError):  # of the key or the certificate: `check` refuses such settings
            return Answer(NO_SETTINGS, detail="unusable key or certificate", is_call=False)
        if answer.row is EXPIRED_PROVIDER_TOKEN and token:
            renewed = self._tokens.renew(settings, token, self._clock())
            if renewed is not None:
                return await self._post_once(lane, settings, url, headers, payload, renewed)
        return answer

    async def _post_once(
        self, lane: str, settings: AppSettings, url: str, headers: dict[str, str], payload: bytes, token: str
    ) -> Answer:
        def build() -> httpx.AsyncClient:
            return build_client(build_context(settings.ca, settings.certificate, settings.certificate_key))

        if token:
            headers = {**headers, "authorization": f"bearer {token}"}
        got = await self._connections.post(lane, build, url, headers=headers, content=payload)
        if got.version != "HTTP/2":  # APNs speaks nothing else, so it is not what answers at `url`
            return Answer(GARBAGE, detail="no HTTP/2")
        return parse_answer(got.status, got.headers, got.body, self._clock())

    def build_headers(
        self, settings: AppSettings, push_id: str, registration: Registration, notification: Notification
    ) -> dict[str, str]:
        is_alert = bool(notification.content.title or notification.content.text)
        ttl_0 = notification.expires_s <= notification.accepted_ms // 1000
        return {
            "apns-id": build_apns_id(push_id, build_ids(push_id, registration)["token"]),
            # 0: try once, do not store
            "apns-expiration": "0" if ttl_0 else str(notification.expires_s),
            # Priority 10 is an error for what only wakes the app.
            "apns-priority": _PRIORITIES[notification.urgency] if is_alert else "5",
            "apns-topic": settings.topic,
            "apns-push-type": "alert" if is_alert else "background",
            "apns-collapse-id": build_collapse_id(notification.collapse_key, push_id),
            "content-type": "application/json",
        }

    def build_payload(self, push_id: str, registration: Registration, notification: Notification) -> bytes:
        """At most 4096 bytes of JSON; a text that is too long is cut."""
        ids = build_ids(push_id, registration)

        def build(title: str, text: str) -> bytes:
            aps: dict[str, Any] = {"content-available": 1}
            if title or text:
                alert = {key: value for key, value in (("title", title), ("body", text)) if value}
                aps = {"alert": alert, "sound": "default"}
            return msgspec.json.encode({"aps": aps, "heliograph": ids})

        return fit(notification, MAX_PAYLOAD_BYTES, build)

    async def close(self) -> None:
        await self._connections.close()
