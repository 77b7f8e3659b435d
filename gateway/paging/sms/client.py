"""Sends a notification as short messages to whom an opaque id stands for (C8); must never let a number, an IMSI or a
text reach a log, a metric, an error or a history.

Source: 3GPP TS 23.040 §9.2.3.9 (replacing by TP-PID), §9.2.3.24 (ports, concatenation).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping

from gateway.config.operator_sections import Paging
from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metrics
from gateway.model.notification import Notification
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration
from gateway.model.subscriber import Subscriber
from gateway.notifiers.upstream import Answer, Upstream, build_limits, unix_ms
from gateway.paging.app_payload import AppPayload, build_payload
from gateway.paging.gsm7 import build_septets
from gateway.paging.guard import Guard
from gateway.paging.pager import Parts
from gateway.paging.segments import Segment, TooManyParts, segment_binary, segment_text
from gateway.paging.sms import errors
from gateway.paging.sms.bearer import SmsBearer
from gateway.paging.sms.settings import NAME, AppSettings, build_app_settings, check_settings
from gateway.paging.udh import Ports

#: TP-PID 0x41 to 0x47 (TS 23.040 §9.2.3.9): replace the earlier message of the same sender and type
REPLACE_TYPES = range(0x41, 0x48)
#: bytes of a binary message, alone and in each of several parts (gateway/paging/segments.py)
BINARY_ALONE, BINARY_PART = 133, 128
#: characters that no number of parts could hold are not even looked at
SEPTETS_ALONE = 160


class SmsNotifier:
    """Notifier port over SMPP. Its queue is the caller's (delivery.notify_queue)."""

    name = NAME
    secrets: frozenset[str] = frozenset()

    def __init__(
        self,
        config: Config,
        bearer: SmsBearer,
        *,
        metrics: Metrics,
        push_ids: PushIds,
        guard: Guard,
        clock: Callable[[], int] = unix_ms,
    ) -> None:
        self._paging: Paging = config.paging
        self._bearer = bearer
        self._push_ids = push_ids
        self._guard = guard
        self._upstream = Upstream(self.name, build_limits(config.delivery), metrics, clock)

    @property
    def bearer(self) -> SmsBearer:
        """The one that all share."""
        return self._bearer

    def start(self) -> None:
        """Bind now, so that receipts of messages sent before are heard."""
        self._bearer.start()

    def check(self, settings: Mapping[str, str]) -> None:
        check_settings(settings)

    def lane(self, app: App, registration: Registration) -> str:  # noqa: ARG002 - the port's signature
        """The SMSCs are the gateway's, and so is the login there: all apps share a circuit."""
        return "smsc"

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        settings = build_app_settings(app.notifiers.get(self.name, {}), self._paging)
        if settings.is_text and not (notification.content.title or notification.content.text):
            return self._upstream.refuse(errors.NO_TEXT)  # the user would get an empty message

        async def send(subscriber: Subscriber) -> Answer:
            return await self._send(settings, subscriber, registration, notification)

        lane = self.lane(app, registration)
        return await self._guard.page(self._upstream, lane, app, registration, send, wakes=not settings.is_text)

    # --- out

    async def _send(
        self, settings: AppSettings, subscriber: Subscriber, registration: Registration, notification: Notification
    ) -> Answer:
        try:
            segments = self._segments(settings, registration, notification)
        except TooManyParts:
            return Answer(errors.TOO_LONG)
        protocol_id = 0
        if notification.collapse_key and settings.is_text and len(segments) == 1:
            # Seven types for all keys: two keys may share one, and then replace each other's message on the phone.
            # Parts would replace each other, and an app reads its port itself.
            protocol_id = REPLACE_TYPES[zlib.crc32(notification.collapse_key.encode()) % len(REPLACE_TYPES)]
        return await self._bearer.send(
            subscriber,
            registration,
            notification,
            self.name,
            segments,
            source=settings.source,
            protocol_id=protocol_id,
        )

    def _segments(self, settings: AppSettings, registration: Registration, notification: Notification) -> list[Segment]:
        content = notification.content
        reference = notification.seq & 0xFF
        if settings.is_text:
            words = "\n".join(part for part in (content.title, content.text) if part)
            return fit_text(words, settings.parts, reference)
        payload = AppPayload(
            push_id=base64.urlsafe_b64decode(self._push_ids.build(notification.app, notification.push_seq) + "=="),
            token=registration.token,
            expires_s=notification.expires_s,
            urgency=notification.urgency,
            title=content.title,
            text=content.text,
            is_cut=content.data != b"",
        )
        most = BINARY_ALONE if settings.parts == 1 else BINARY_PART * settings.parts
        return segment_binary(
            build_payload(payload, most), Ports(settings.port, settings.port), reference=reference, most=settings.parts
        )

    async def close(self) -> None:
        await self._bearer.close()


def fit_text(words: str, parts: int, reference: int) -> list[Segment]:
    """As much of it as so many short messages hold; what is cut ends with dots that do not change the coding."""
    head = words[: parts * SEPTETS_ALONE + 1]
    dots = "..." if build_septets(head) is not None else "…"

    def segments(characters: int) -> list[Segment]:
        text = words if characters >= len(words) else words[:characters] + dots
        return segment_text(text, reference=reference)

    if len(head) == len(words):
        whole = segments(len(words))
        if len(whole) <= parts:
            return whole
    low, high = 0, len(head) - 1
    while low < high:  # the longest that fits; a longer text never takes fewer parts
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(segments(middle)) <= parts else (low, middle - 1)
    return segments(low)


def build_sms(parts: Parts) -> SmsNotifier | None:
    """None where the configuration names no SMSC."""
    if parts.bearer is None:
        return None
    return SmsNotifier(
        parts.config, parts.bearer, metrics=parts.metrics, push_ids=parts.push_ids, guard=parts.guard, clock=parts.clock
    )
