"""Posts a notification to the app's own server; must never send a device id, nor trust the answer's body.

The body is JSON: push, token, title, text, urgency, collapse_key, account, expires. The account is the app's own name
for its user. Signed as delivery.signature says, with the app's secret for this notifier.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx
import msgspec

from gateway.delivery.push_ids import PushIds
from gateway.delivery.signature import HEADER, build_signature
from gateway.metrics import Metric, Metrics
from gateway.model.notification import Notification
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration, build_token
from gateway.notifiers.webhook.circuit import Circuits
from gateway.notifiers.webhook.errors import parse_status
from gateway.notifiers.webhook.settings import Settings, parse_endpoint

#: of an answer's body at most this much is read, so that the connection can be kept
MAX_ANSWER_BYTES = 4_096
#: and at most this long
ANSWER_S = 1.0

_URGENCIES = ("very-low", "low", "normal", "high")


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000


async def _read_some(response: httpx.Response) -> None:
    """The head was the answer: trouble with the body costs the connection, not the result."""
    read = 0
    try:
        async with asyncio.timeout(ANSWER_S):
            async for chunk in response.aiter_raw(MAX_ANSWER_BYTES):
                read += len(chunk)
                if read >= MAX_ANSWER_BYTES:
                    return
    except (TimeoutError, httpx.HTTPError):
        return


class WebhookNotifier:
    """Notifier port over HTTP POST. Its queue and its time limit are the caller's (delivery.notify_queue)."""

    name = "webhook"

    def __init__(
        self,
        settings: Settings,
        *,
        push_ids: PushIds,
        metrics: Metrics,
        clock: Callable[[], int] = _unix_ms,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self._push_ids = push_ids
        self._metrics = metrics
        self._clock = clock
        self._circuits = Circuits(settings)
        self._client = client or httpx.AsyncClient(
            timeout=settings.timeout_s,
            limits=httpx.Limits(max_connections=settings.connections),
            follow_redirects=False,
            trust_env=False,
        )

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        endpoint = parse_endpoint(app)
        if endpoint is None:
            return NotifierResult(ok=False, dead=True, detail="no url")
        now_ms = self._clock()
        refused_ms = self._circuits.refused_ms(endpoint.url, now_ms)
        if refused_ms:
            return NotifierResult(ok=False, retry_after_ms=refused_ms, detail="circuit open")
        body = self._build_body(registration, notification)
        headers = {"Content-Type": "application/json"}
        if endpoint.secret:
            headers[HEADER] = build_signature(endpoint.secret, body, now_ms // 1000)
        reported = False
        try:
            result = await self._post(endpoint.url, body, headers)
            # An answer that refuses this registration still is an answer: only "later" speaks against the address.
            fine = result.ok or result.dead
            if self._circuits.report(endpoint.url, ok=fine, now_ms=self._clock()):
                self._metrics.count(Metric.CIRCUITS_OPENED, label=self.name)
            reported = True
        finally:
            if not reported:  # cancelled: timed out, or shut down
                self._circuits.report(endpoint.url, ok=False, now_ms=self._clock())
        return result

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> NotifierResult:
        try:
            async with self._client.stream("POST", url, content=body, headers=headers) as response:
                result = parse_status(response.status_code, response.headers, self._clock())
                await _read_some(response)
                return result
        except httpx.InvalidURL:
            return NotifierResult(ok=False, dead=True, detail="no url")
        except httpx.TimeoutException:
            return NotifierResult(ok=False, detail="timeout")
        except httpx.HTTPError:
            return NotifierResult(ok=False, detail="connection")

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
        await self._client.aclose()
