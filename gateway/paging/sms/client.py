"""Sends a notification as short messages to whom an opaque id stands for (C8); must never let a number, an IMSI or a
text reach a log, a metric, an error or a history.

Sources: SMPP 3.4 §4.4 (submit_sm), 3GPP TS 23.040 §9.2.3.9 (replacing by TP-PID), §9.2.3.24 (ports, concatenation).
"""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import Callable, Mapping

from gateway.config.operator_sections import Paging
from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metric, Metrics
from gateway.model.notification import Notification
from gateway.model.outcome import Step
from gateway.model.ports import DeliveryReports, HomeRegister, NotifierResult, Numbered, Numbers
from gateway.model.registration import App, Registration
from gateway.model.subscriber import Subscriber
from gateway.notifiers.upstream import Answer, Upstream, build_limits, unix_ms
from gateway.paging.app_payload import AppPayload, build_payload
from gateway.paging.errors import NO_NUMBER
from gateway.paging.gsm7 import build_septets
from gateway.paging.guard import Guard
from gateway.paging.pager import Parts
from gateway.paging.segments import Segment, TooManyParts, segment_binary, segment_text
from gateway.paging.sms import errors
from gateway.paging.sms.link import LinkLost, LinkSettings, NotSent, SmscLink
from gateway.paging.sms.pdu import (
    ESM_UDHI,
    NPI_E164,
    NPI_E212,
    TON_INTERNATIONAL,
    TON_UNKNOWN,
    Address,
    ShortMessage,
    Tag,
    build_validity,
)
from gateway.paging.sms.receipt import ReceiptOf, parse_receipt
from gateway.paging.sms.register import build_register
from gateway.paging.sms.settings import NAME, AppSettings, build_app_settings, build_links, check_settings
from gateway.paging.sms.smscs import AllRest, NoneBound, Smscs
from gateway.paging.sms.tracking import Part, Tracking
from gateway.paging.udh import Ports

#: shortest validity: a push that is "now or never" needs a moment on the air
LEAST_VALIDITY_S = 30
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
        links: list[LinkSettings],
        *,
        metrics: Metrics,
        push_ids: PushIds,
        guard: Guard,
        reports: DeliveryReports | None = None,
        register: HomeRegister | None = None,
        on_back: Callable[[Numbered], None] = lambda _subscriber: None,
        on_incoming: Callable[[ShortMessage], None] = lambda _message: None,
        clock: Callable[[], int] = unix_ms,
    ) -> None:
        self._paging: Paging = config.paging
        self._metrics = metrics
        self._push_ids = push_ids
        self._guard = guard
        self._reports = reports
        self._register = register
        self._on_back = on_back
        self._on_incoming = on_incoming
        self._clock = clock
        self._upstream = Upstream(self.name, build_limits(config.delivery), metrics, clock)
        self._hears_receipts = config.paging.smsc_bind == "transceiver"
        self._tracking = Tracking(config.paging.sms_receipts, metrics, clock, self._on_receipt_missing)
        self._smscs = Smscs(
            links,
            metrics,
            throttle_s=config.paging.smsc_throttle_s,
            on_message=self._on_message,
            on_alert=self._on_alert,
            clock=clock,
        )
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Bind now, so that receipts of messages sent before are heard. `notify` does it by itself."""
        if self._sweeping is None:
            self._smscs.start()
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep(), name="sms-receipts")

    def check(self, settings: Mapping[str, str]) -> None:
        check_settings(settings)

    def lane(self, app: App, registration: Registration) -> str:  # noqa: ARG002 - the port's signature
        """The SMSCs are the gateway's, and so is the login there: all apps share a circuit."""
        return "smsc"

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        self.start()
        settings = build_app_settings(app.notifiers.get(self.name, {}), self._paging)
        if settings.is_text and not (notification.content.title or notification.content.text):
            return self._upstream.refuse(errors.NO_TEXT)  # the user would get an empty message

        async def send(subscriber: Subscriber) -> Answer:
            return await self._send(settings, subscriber, registration, notification)

        lane = self.lane(app, registration)
        return await self._guard.page(self._upstream, lane, app, registration, send, wakes=not settings.is_text)

    # --- out

    async def _send(
        self, settings: AppSettings, subscriber: Numbered, registration: Registration, notification: Notification
    ) -> Answer:
        if self._register is not None:
            try:
                known = await self._register.look_up(subscriber)
            except TimeoutError:
                return Answer(errors.HLR_TIMEOUT)
            except (OSError, ValueError):
                return Answer(errors.HLR_FAILED)
            if known is None:
                return Answer(errors.HLR_UNKNOWN)
            subscriber = known
        destination = build_destination(subscriber)
        if destination is None:
            return Answer(NO_NUMBER)
        seq = self._reports.delivery_of(notification, registration.number) if self._reports is not None else -1
        try:
            segments = self._segments(settings, registration, notification)
        except TooManyParts:
            return Answer(errors.TOO_LONG)
        link: SmscLink | None = None
        for number, segment in enumerate(segments, 1):
            part = Part(seq, registration.number, number, len(segments))
            sm = self._message(settings, segment, destination, notification, alone=len(segments) == 1)
            link, answer = await self._submit(sm, part, notification, link)
            if answer.row is not errors.OK:
                # the whole message is tried again, with the same reference: a phone puts both tries together
                return answer
        return Answer(errors.OK, detail=f"{len(segments)} parts" if len(segments) > 1 else "ok")

    async def _submit(
        self, sm: ShortMessage, part: Part, notification: Notification, on: SmscLink | None
    ) -> tuple[SmscLink | None, Answer]:
        until_ms = max(notification.expires_s, self._clock() // 1000 + LEAST_VALIDITY_S) * 1000 + int(
            self._paging.sms_receipt_s * 1000
        )
        entry = None
        if self._hears_receipts:
            by_imsi = sm.destination.npi == NPI_E212
            entry = self._tracking.open(part, sm.destination.digits, until_ms, by_imsi=by_imsi)
            sm.tlvs[Tag.USER_MESSAGE_REFERENCE] = entry.reference.to_bytes(2, "big")
        was_written = False
        try:
            link, submitted = await self._smscs.submit(sm, on)
            was_written = submitted.status == 0
        except NoneBound:
            return on, Answer(errors.NOT_BOUND)
        except NotSent:  # between two parts
            return on, Answer(errors.NOT_BOUND)
        except AllRest as rest:
            throttled = errors.parse_status(rest.status)
            return on, throttled._replace(retry_after_ms=rest.for_ms)
        except LinkLost:
            was_written = True
            return on, Answer(errors.LINK_LOST)
        except TimeoutError:
            was_written = True
            raise
        finally:
            if entry is not None and not was_written:
                self._tracking.refused(entry)
        if submitted.status == 0:
            self._metrics.count(Metric.SMS_PARTS)
            if entry is not None:
                early = self._tracking.taken(entry, link.name, submitted.message_id)
                if early is not None:
                    self._tell(part, early)
        return link, errors.parse_status(submitted.status)

    def _message(
        self,
        settings: AppSettings,
        segment: Segment,
        destination: Address,
        notification: Notification,
        *,
        alone: bool,
    ) -> ShortMessage:
        protocol_id = 0
        if notification.collapse_key and settings.is_text and alone:
            # Seven types for all keys: two keys may share one, and then replace each other's message on the phone.
            # Parts would replace each other, and an app reads its port itself.
            protocol_id = REPLACE_TYPES[zlib.crc32(notification.collapse_key.encode()) % len(REPLACE_TYPES)]
        left_s = max(LEAST_VALIDITY_S, notification.expires_s - self._clock() // 1000)
        return ShortMessage(
            source=settings.source,
            destination=destination,
            message=segment.user_data,
            esm_class=ESM_UDHI if segment.header else 0,
            protocol_id=protocol_id,
            priority=1 if notification.urgency >= 3 else 0,
            validity=build_validity(left_s),
            registered_delivery=int(self._hears_receipts),
            data_coding=segment.coding,
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

    # --- back

    def _on_message(self, smsc: str, sm: ShortMessage) -> int:
        """deliver_sm: always taken, for an SMSC repeats what is refused, and there is nothing better to do with it."""
        if not sm.is_receipt:
            self._metrics.count(Metric.SMS_INCOMING, label="message")
            self._on_incoming(sm)
            return 0
        receipt = parse_receipt(sm)
        if receipt is None:
            self._metrics.count(Metric.SMS_RECEIPTS, label="unreadable")
            return 0
        part = self._tracking.find(smsc, receipt, sm.source.digits.lstrip("+"))
        if part is not None:
            self._tell(part, receipt)
        return 0

    def _tell(self, part: Part, receipt: ReceiptOf) -> None:
        what = "delivered" if receipt.is_delivered else "failed"
        self._metrics.count(Metric.SMS_RECEIPTS, label=receipt.state.name.lower())
        detail = "" if receipt.is_delivered else receipt.state.name.lower()
        if receipt.error and detail:
            detail += f" {receipt.error}"
        self._report(part, what, detail)

    def _on_receipt_missing(self, part: Part) -> None:
        self._report(part, "no_receipt", "")

    def _report(self, part: Part, what: str, detail: str) -> None:
        if self._reports is None or part.seq < 0:
            return
        # the part is in the word itself: a history that is closed takes each word once
        words = what if part.parts == 1 else f"{what} {part.part}/{part.parts}"
        self._reports.report(part.seq, part.registration, Step(self._clock(), words, self.name, detail))

    def _on_alert(self, who: Address, available: bool) -> None:
        """alert_notification: the subscriber is back on the network (§4.12)."""
        self._metrics.count(Metric.SMS_INCOMING, label="alert")
        if available:
            digits = who.digits.lstrip("+")
            self._on_back(Numbers(imsi=digits) if who.npi == NPI_E212 else Numbers(msisdn=digits))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._paging.smsc_enquire_s)
            self._tracking.sweep()

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await self._smscs.close()
        if self._register is not None:
            await self._register.close()


def build_destination(subscriber: Numbered) -> Address | None:
    """By MSISDN, else by IMSI (SMPP 3.4 §5.2.6: numbering plan 6, E.212). None where neither is one."""
    msisdn, imsi = subscriber.msisdn.lstrip("+"), subscriber.imsi
    if _is_digits(msisdn, 1):
        return Address(TON_INTERNATIONAL, NPI_E164, msisdn)
    return Address(TON_UNKNOWN, NPI_E212, imsi) if _is_digits(imsi, 6) else None


def _is_digits(text: str, least: int) -> bool:
    return text.isascii() and text.isdigit() and least <= len(text) <= 15


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
    """As `paging` says, None where it names no SMSC. ConfigError; reads disk."""
    paging = parts.config.paging
    if not paging.smscs:
        return None
    return SmsNotifier(
        parts.config,
        build_links(paging),
        metrics=parts.metrics,
        push_ids=parts.push_ids,
        guard=parts.guard,
        reports=parts.reports,
        register=build_register(parts),
    )
