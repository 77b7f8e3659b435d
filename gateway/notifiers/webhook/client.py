"""Posts a notification to the app's own server; must never send a device id, nor trust the answer's body.

The body is JSON: push, token, title, text, urgency, collapse_key, account, expires. The account is the app's own name
for its user. Signed as delivery.signature says, with the app's secret for this notifier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import httpx
import msgspec

from gateway.delivery.no_cookies import build_no_cookies
from gateway.delivery.push_ids import PushIds
from gateway.delivery.signature import HEADER, build_signature
from gateway.metrics import Metrics
from gateway.model.notification import Notification
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration, build_token
from gateway.notifiers.connections import Connections
from gateway.notifiers.fields import build_lane
from gateway.notifiers.upstream import NO_SETTINGS, Answer, Upstream, unix_ms
from gateway.notifiers.webhook.errors import parse_status
from gateway.notifiers.webhook.settings import SECRETS, Settings, check_settings, parse_endpoint

#: of an answer's body at most this much is read, so that the connection can be kept
MAX_ANSWER_BYTES = 4_096
#: and at most this long
ANSWER_S = 1.0

#: a lane that was not used for this time loses its connections
KEEP_S = 90.0

_URGENCIES = ("very-low", "low", "normal", "high")


async def _read_some(response: httpx.Response) -> bytes:
    """The head was the answer: trouble with the body costs the connection, not the result."""
    read = 0
    try:
        async with asyncio.timeout(ANSWER_S):
            async for chunk in response.aiter_raw(MAX_ANSWER_BYTES):
                read += len(chunk)
                if read >= MAX_ANSWER_BYTES:
                    break
    except (TimeoutError, httpx.HTTPError):
        pass
    return b""


class WebhookNotifier:
    """Notifier port over HTTP POST. Its queue and its time limit are the caller's (delivery.notify_queue)."""

    name = "webhook"
    secrets = SECRETS

    def __init__(
        self,
        settings: Settings,
        *,
        push_ids: PushIds,
        metrics: Metrics,
        clock: Callable[[], int] = unix_ms,
        build: Callable[[], httpx.AsyncClient] | None = None,
    ) -> None:
        self._push_ids = push_ids
        self._clock = clock
        self._upstream = Upstream(self.name, settings.limits, metrics, clock)
        self._settings = settings
        self._connections = Connections(settings.limits.gates, KEEP_S)
        # Not the other notifiers': httpx writes into a context which versions of HTTP it offers.
        self._context = httpx.create_ssl_context(trust_env=False)
        self._build = build or self._build_client

    def check(self, settings: Mapping[str, str]) -> None:
        check_settings(settings)

    def lane(self, app: App, registration: Registration) -> str:  # noqa: ARG002 - the port's signature
        endpoint = parse_endpoint(app)
        return build_lane(app, self.name, endpoint.host if endpoint is not None else "")

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        endpoint = parse_endpoint(app)
        if endpoint is None:
            return self._upstream.refuse(NO_SETTINGS, "no url")
        body = self._build_body(registration, notification)
        headers = {"Content-Type": "application/json"}
        if endpoint.secret:
            headers[HEADER] = build_signature(endpoint.secret, body, self._clock() // 1000)

        lane = self.lane(app, registration)

        async def call() -> Answer:
            return await self._post(lane, endpoint.url, body, headers)

        return await self._upstream.ask(lane, call)

    async def _post(self, lane: str, url: str, body: bytes, headers: dict[str, str]) -> Answer:
        try:
            got = await self._connections.post(lane, self._build, url, headers=headers, content=body, read=_read_some)
        except httpx.InvalidURL:
            return Answer(NO_SETTINGS, detail="no url", is_call=False)
        return parse_status(got.status, got.headers, self._clock())

    def _build_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            verify=self._context,
            timeout=self._settings.limits.timeout_s,
            limits=httpx.Limits(max_connections=self._settings.connections),
            follow_redirects=False,
            trust_env=False,
            cookies=build_no_cookies(),
        )

    def _build_body(self, registration: Registration, notification: Notification) -> bytes:
        return msgspec.json.encode(
            {
                "push": self._push_ids.build(notification.app, notification.push_seq),
                "app": notification.app,
                "token": build_token(registration.token),
                "account": registration.account,
                "title": notification.content.title,
                "text": notification.content.text,
                "urgency": _URGENCIES[notification.urgency],
                "collapse_key": notification.collapse_key,
                "expires": notification.expires_s,
            }
        )

    async def close(self) -> None:
        await self._connections.close()
