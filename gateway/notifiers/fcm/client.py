"""Posts a notification to FCM; must never log or keep a registration token.

Source: Firebase, REST reference of `projects.messages.send`. The message has the notification (title, body) and, in
`data`, push id and token as strings, so that the app finds the same message on its channel and acks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx
import msgspec

from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metrics
from gateway.model.notification import Notification
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration
from gateway.notifiers.connections import Connections, Exchange, build_client, build_context
from gateway.notifiers.fcm.access_token import AccessTokens
from gateway.notifiers.fcm.errors import UNAUTHENTICATED, parse_answer
from gateway.notifiers.fcm.settings import NAME, SECRETS, AppSettings, build_app_settings, check_settings
from gateway.notifiers.fields import build_lane
from gateway.notifiers.payload import build_ids, fit
from gateway.notifiers.upstream import NO_ADDRESS, NO_SETTINGS, Answer, Limits, Upstream, unix_ms

#: Firebase, "Message size": notification and data together
MAX_PAYLOAD_BYTES = 4_096
MAX_ADDRESS_CHARS = 2_048
#: four weeks, the longest FCM keeps a message
MAX_TTL_S = 2_419_200
#: urgency from which a message wakes the phone
_HIGH = 3


class FcmNotifier:
    """Notifier port over FCM HTTP v1. Its queue is the caller's (delivery.notify_queue)."""

    name = NAME
    secrets = SECRETS

    def __init__(
        self, limits: Limits, *, push_ids: PushIds, metrics: Metrics, clock: Callable[[], int] = unix_ms
    ) -> None:
        self._push_ids = push_ids
        self._clock = clock
        self._upstream = Upstream(self.name, limits, metrics, clock)
        self._connections = Connections(2 * limits.gates)
        self._tokens = AccessTokens(
            limits.gates,
            post=self._post_assertion,
            timeout_s=limits.timeout_s,
            clock=clock,
            on_fetched=self._upstream.count_token,
        )

    def check(self, settings: Mapping[str, str]) -> None:
        check_settings(settings)

    def lane(self, app: App, registration: Registration) -> str:  # noqa: ARG002 - the port's signature
        return build_lane(app, self.name)

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        settings = build_app_settings(app.notifiers.get(self.name, {}))
        if settings is None:
            return self._upstream.refuse(NO_SETTINGS)
        address = registration.addresses.get(self.name, "")
        if not address or len(address) > MAX_ADDRESS_CHARS:
            return self._upstream.refuse(NO_ADDRESS)
        push_id = self._push_ids.build(notification.app, notification.push_seq)
        body = self.build_message(push_id, address, registration, notification)

        async def call() -> Answer:
            return await self._send(settings, body)

        return await self._upstream.ask(self.lane(app, registration), call, address)

    async def _send(self, settings: AppSettings, body: bytes) -> Answer:
        try:
            token = await self._tokens.current(settings)
        except (ValueError, TypeError):  # of the key: `check` refuses such settings
            return Answer(NO_SETTINGS, detail="unusable service account", is_call=False)
        if isinstance(token, Answer):
            return token
        answer = await self._send_once(settings, body, token)
        if answer.row is not UNAUTHENTICATED:
            return answer
        renewed = await self._tokens.renew(settings, token)
        return renewed if isinstance(renewed, Answer) else await self._send_once(settings, body, renewed)

    async def _send_once(self, settings: AppSettings, body: bytes, token: str) -> Answer:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        url = f"{settings.url}/v1/projects/{settings.project}/messages:send"
        got = await self._connections.post(
            f"send {settings.fingerprint}", self._building(settings), url, headers=headers, content=body
        )
        return parse_answer(got.status, got.headers, got.body, self._clock())

    async def _post_assertion(self, settings: AppSettings, body: bytes) -> Exchange:
        # A connection of its own: what befalls one of the two hosts is not the other's.
        headers = {"content-type": "application/x-www-form-urlencoded"}
        return await self._connections.post(
            f"token {settings.fingerprint}", self._building(settings), settings.token_url, headers=headers, content=body
        )

    @staticmethod
    def _building(settings: AppSettings) -> Callable[[], httpx.AsyncClient]:
        return lambda: build_client(build_context(settings.ca))

    def build_message(
        self, push_id: str, address: str, registration: Registration, notification: Notification
    ) -> bytes:
        """JSON of at most 4096 bytes beside the address; a text that is too long is cut."""
        ttl_s = notification.expires_s - self._clock() // 1000
        if notification.expires_s <= notification.accepted_ms // 1000:
            ttl_s = 0  # now or never
        android: dict[str, Any] = {
            "priority": "HIGH" if notification.urgency >= _HIGH else "NORMAL",
            "ttl": f"{min(max(ttl_s, 0), MAX_TTL_S)}s",
        }
        if notification.collapse_key:
            android["collapse_key"] = notification.collapse_key
        data = {f"heliograph_{key}": value for key, value in build_ids(push_id, registration).items()}

        def build(title: str, text: str) -> bytes:
            message: dict[str, Any] = {"token": address, "data": data, "android": android}
            shown = {key: value for key, value in (("title", title), ("body", text)) if value}
            if shown:
                message["notification"] = shown
                # The same tag replaces what is shown already: a repeated try is not seen twice.
                message["android"] = {**android, "notification": {"tag": notification.collapse_key or push_id}}
            return msgspec.json.encode({"message": message})

        return fit(notification, MAX_PAYLOAD_BYTES + len(address.encode()), build)

    async def close(self) -> None:
        await self._tokens.close()
        await self._connections.close()
