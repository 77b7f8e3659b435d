"""Takes short messages to a subscriber, whoever has made them, over the one set of links that the gateway has to its
SMSCs (C8, C9); must never let a number or an IMSI reach a log, a metric, an error or a history.

Sources: SMPP 3.4 §4.4 (submit_sm), §5.2.6 (numbering plans). Receipts are told to the history under the name of the
pager whose message it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway.config.operator_sections import Paging
from gateway.config.sections import Config
from gateway.metrics import Metric, Metrics
from gateway.model.notification import Notification
from gateway.model.outcome import Step
from gateway.model.ports import DeliveryReports, HomeRegister, Numbered, Numbers
from gateway.model.registration import Registration
from gateway.model.short_messages import OpenParts
from gateway.notifiers.upstream import Answer, unix_ms
from gateway.paging.errors import NO_NUMBER
from gateway.paging.segments import Segment
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
from gateway.paging.sms.settings import build_links
from gateway.paging.sms.smscs import AllRest, NoneBound, Smscs
from gateway.paging.sms.tracking import Part, Tracking
from gateway.paging.waiting import Waiting

#: shortest validity: a push that is "now or never" needs a moment on the air
LEAST_VALIDITY_S = 30


class SmsBearer:
    """One for all pagers of a gateway that send short messages. `start` and `close` may be called by each of them."""

    def __init__(
        self,
        paging: Paging,
        links: list[LinkSettings],
        *,
        metrics: Metrics,
        reports: DeliveryReports | None = None,
        kept: OpenParts | None = None,
        register: HomeRegister | None = None,
        on_back: Callable[[Numbered], object] = lambda _subscriber: None,
        on_incoming: Callable[[ShortMessage], None] = lambda _message: None,
        card_receipts: int = 0,
        clock: Callable[[], int] = unix_ms,
    ) -> None:
        self._paging = paging
        self._metrics = metrics
        self._reports = reports
        self._register = register
        self._on_back = on_back
        #: called with each message that is not a receipt; set once, before the start
        self.on_incoming = on_incoming
        self._clock = clock
        self.hears_receipts = paging.smsc_bind == "transceiver"
        self._tracking = Tracking(
            paging.sms_receipts, metrics, clock, self._on_receipt_missing, kept, most_heard=card_receipts
        )
        self._smscs = Smscs(
            links,
            metrics,
            throttle_s=paging.smsc_throttle_s,
            on_message=self._on_message,
            on_alert=self._on_alert,
            clock=clock,
        )
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Bind now, so that receipts of messages sent before are heard. `send` does it by itself."""
        if self._sweeping is None:
            self._smscs.start()
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep(), name="sms-receipts")

    # --- out

    async def send(
        self,
        subscriber: Numbered,
        registration: Registration,
        notification: Notification,
        channel: str,
        segments: Sequence[Segment],
        *,
        source: Address,
        protocol_id: int = 0,
    ) -> Answer:
        """Every segment, in order, on one link; receipts of each stand in the history as `channel`'s. The answer has a
        row of gateway.paging.sms.errors, or NO_NUMBER; OK: the SMSC has taken all of them. Raises TimeoutError where an
        SMSC does not answer; else nothing but CancelledError.

        A second try sends all again: its segments need the same concatenation reference, so that a phone puts both
        tries together."""
        self.start()
        if self._register is not None:
            try:
                known = await self._register.look_up(subscriber)
            except TimeoutError:
                return Answer(errors.HLR_TIMEOUT)
            except (OSError, ValueError):
                return Answer(errors.HLR_FAILED)
            if known is None:
                return Answer(errors.HLR_UNKNOWN)
            if known.is_away:
                return Answer(errors.HLR_ABSENT)
            subscriber = known
        destination = build_destination(subscriber)
        if destination is None:
            return Answer(NO_NUMBER)
        seq = self._reports.delivery_of(notification, registration.number) if self._reports is not None else -1
        left_s = max(LEAST_VALIDITY_S, notification.expires_s - self._clock() // 1000)
        link: SmscLink | None = None
        for number, segment in enumerate(segments, 1):
            part = Part(seq, registration.number, number, len(segments), channel)
            sm = ShortMessage(
                source=source,
                destination=destination,
                message=segment.user_data,
                esm_class=ESM_UDHI if segment.header else 0,
                protocol_id=protocol_id,
                priority=1 if notification.urgency >= 3 else 0,
                validity=build_validity(left_s),
                registered_delivery=int(self.hears_receipts),
                data_coding=segment.coding,
            )
            until_s = max(notification.expires_s, self._clock() // 1000 + LEAST_VALIDITY_S)
            link, answer = await self.submit(sm, part, until_s, link)
            if answer.row is not errors.OK:
                return answer
        return Answer(errors.OK, detail=f"{len(segments)} parts" if len(segments) > 1 else "ok")

    @property
    def links(self) -> list[SmscLink]:
        """One an SMSC, the first choice first."""
        return self._smscs.links

    async def choose(self) -> SmscLink | None:
        """The SMSC that takes a message now, for who sends at a pace of its own. None: `rest_ms` says when to ask
        again."""
        self.start()
        return await self._smscs.choose()

    def rest_ms(self) -> int:
        """How long those that are bound rest because they are throttling; 0: none is bound, or one takes messages."""
        return self._smscs.rest_ms()

    def rest_of(self, link: SmscLink) -> int:
        """How long this SMSC rests yet, ms: who chose it and then waited asks once more."""
        return self._smscs.rest_of(link)

    async def submit(
        self, sm: ShortMessage, part: Part, until_s: int, on: SmscLink | None
    ) -> tuple[SmscLink | None, Answer]:
        """One short message that is valid until then, on this link, else on the first that takes it. Its receipt goes
        to `part`'s listener, or to the history. The answer has a row of gateway.paging.sms.errors. TimeoutError."""
        until_ms = until_s * 1000 + int(self._paging.sms_receipt_s * 1000)
        entry = None
        if sm.registered_delivery:
            by_imsi = sm.destination.npi == NPI_E212
            entry = self._tracking.open(part, sm.destination.digits, until_ms, by_imsi=by_imsi)
            sm.tlvs[Tag.USER_MESSAGE_REFERENCE] = entry.reference.to_bytes(2, "big")
        was_written = False

        def on_written() -> None:
            nonlocal was_written
            was_written = True  # whoever cuts this off: its receipt is listened for

        try:
            link, submitted = await self._smscs.submit(sm, on, on_written)
            was_written = submitted.status == 0
        except NoneBound:
            was_written = False
            return on, Answer(errors.NOT_BOUND)
        except NotSent:  # between two parts
            was_written = False
            return on, Answer(errors.NOT_BOUND)
        except AllRest as rest:
            was_written = False
            throttled = errors.parse_status(rest.status)
            return on, throttled._replace(retry_after_ms=rest.for_ms)
        except LinkLost:
            return on, Answer(errors.LINK_LOST)
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

    # --- back

    def _on_message(self, smsc: str, sm: ShortMessage) -> int:
        """deliver_sm: always taken, for an SMSC repeats what is refused, and there is nothing better to do with it."""
        if not sm.is_receipt:
            self._metrics.count(Metric.SMS_INCOMING, label="message")
            self.on_incoming(sm)
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
        self._metrics.count(Metric.SMS_RECEIPTS, label=receipt.state.name.lower())
        if part.listener is not None:
            part.listener(receipt.is_delivered)
            return
        what = "delivered" if receipt.is_delivered else "failed"
        detail = "" if receipt.is_delivered else receipt.state.name.lower()
        if receipt.error and detail:
            detail += f" {receipt.error}"
        self._report(part, what, detail)

    def _on_receipt_missing(self, part: Part) -> None:
        if part.listener is not None:
            part.listener(False)
            return
        self._report(part, "no_receipt", "")

    def _report(self, part: Part, what: str, detail: str) -> None:
        if self._reports is None or part.seq < 0:
            return
        # the part is in the word itself: a history that is closed takes each word once
        words = what if part.parts == 1 else f"{what} {part.part}/{part.parts}"
        self._reports.report(part.seq, part.registration, Step(self._clock(), words, part.channel, detail))

    def _on_alert(self, who: Address, available: bool) -> None:
        """alert_notification: the subscriber is back on the network (§4.12)."""
        self._metrics.count(Metric.SMS_INCOMING, label="alert")
        if available:
            digits = who.digits.lstrip("+")
            self._on_back(Numbers(imsi=digits) if who.npi == NPI_E212 else Numbers(msisdn=digits))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._paging.smsc_enquire_s)
            is_more = True
            while is_more:
                is_more = self._tracking.sweep()
                await asyncio.sleep(0)

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


def build_bearer(
    config: Config,
    metrics: Metrics,
    waiting: Waiting,
    reports: DeliveryReports | None,
    kept: OpenParts | None,
    register: HomeRegister | None,
    clock: Callable[[], int],
) -> SmsBearer | None:
    """As `paging` says, None where it names no SMSC. ConfigError; reads disk."""
    paging = config.paging
    if not paging.smscs:
        return None
    return SmsBearer(
        paging,
        build_links(paging),
        metrics=metrics,
        reports=reports,
        kept=kept,
        register=register,
        on_back=lambda who: waiting.back(imsi=who.imsi, msisdn=who.msisdn),
        card_receipts=config.ota.receipts if config.ota.port >= 0 else 0,
        clock=clock,
    )
