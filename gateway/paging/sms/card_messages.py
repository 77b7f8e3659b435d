"""Short messages to cards and from them, over the links that all pagers share (E1, E2, E7); must never take a page's
room, nor let a number or what is sent reach a log, a metric or an error.

Sources: 3GPP TS 31.115 §4 (PID 7F, DCS F6, user data headers 70 and 71), TS 23.040 §9.2.3, SMPP 3.4 §4.4, §4.6. What
was sent and waits for its receipts is in RAM alone: after a restart the card is called again.

Pages go first: cards have a rate of their own at each SMSC (`ota.smsc_rate`) and at most half of its window, so that no
campaign fills a queue that a page has to stand in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from gateway.config.ota_rates import read_rates
from gateway.config.sections import Config
from gateway.metrics import Metric, Metrics
from gateway.model.cards import CardRecord, Fate, IncomingMessage, SentMessage
from gateway.notifiers.upstream import Answer, Fault, Verdict, unix_ms
from gateway.ota.sms_pp import DCS_CLASS2, MOST_PARTS, PID_DOWNLOAD, USER_DATA_BYTES
from gateway.paging.segments import segment_text
from gateway.paging.sms import errors
from gateway.paging.sms.bearer import SmsBearer, build_destination
from gateway.paging.sms.link import SmscLink
from gateway.paging.sms.pdu import ESM_UDHI, Address, ShortMessage, build_validity
from gateway.paging.sms.settings import build_source
from gateway.paging.sms.tracking import Part
from gateway.paging.sms.turns import TooLong, Turns

_log = structlog.get_logger(__name__)

#: messages that wait at one SMSC for a rate, an answer or the window; more are told to come back
MOST_AT_ONCE = 10_000
#: E.164 §6, and what TS 23.040 §9.1.2.5 leaves room for
MOST_DIGITS = 20
TON_NATIONAL = 2
#: only a first part may be asked of another SMSC, and only where this one has not taken it
_ANOTHER = (errors.NOT_BOUND, errors.THROTTLED, errors.FULL)
CHANNEL = "card"


class _Unanswered(Exception):
    """The last part was written, and nobody knows whether the SMSC took it."""


class _Message:
    """One message until its fate is known: a part that fails ends it, the last that is delivered too."""

    __slots__ = ("_is_failed", "_is_sent", "_left", "_on_fate")

    def __init__(self, parts: int, on_fate: Callable[[Fate], None]) -> None:
        self._left = parts
        self._on_fate: Callable[[Fate], None] | None = on_fate
        self._is_sent = self._is_failed = False

    def heard(self, is_delivered: bool) -> None:
        if is_delivered:
            self._left -= 1
        else:
            self._is_failed = True
        self._tell()

    def sent(self) -> None:
        """All parts are with the SMSC: who sent them hears that first, whatever came before it."""
        self._is_sent = True
        self._tell()

    def forget(self) -> None:
        """It was not sent after all: what is heard of its parts concerns nobody."""
        self._on_fate = None

    def _tell(self) -> None:
        if self._is_sent and self._on_fate is not None and (self._is_failed or not self._left):
            on_fate, self._on_fate = self._on_fate, None
            fate = Fate.UNDELIVERED if self._is_failed else Fate.DELIVERED
            asyncio.get_running_loop().call_soon(on_fate, fate)


class SmsCardMessages:
    """CardMessages port over SMPP. Control thread only; ConfigError where a rate names no SMSC."""

    def __init__(
        self, config: Config, bearer: SmsBearer, metrics: Metrics, *, clock: Callable[[], int] = unix_ms
    ) -> None:
        self.on_incoming: Callable[[IncomingMessage], None] = lambda _message: None
        self._ota = config.ota
        self._bearer = bearer
        self._metrics = metrics
        self._clock = clock
        self._source = build_source(config.ota.source or config.paging.sms_source)
        self._rates = read_rates(config.ota, [link.name for link in bearer.links])
        self._turns: dict[str, Turns] = {}
        self._rooms = {link.name: asyncio.Semaphore(max(1, config.paging.smsc_window // 2)) for link in bearer.links}
        self._busy = dict.fromkeys(self._rooms, 0)
        bearer.on_incoming = self.handle

    # --- out

    async def send(
        self,
        record: CardRecord,
        parts: Sequence[bytes],
        *,
        valid_s: int,
        on_fate: Callable[[Fate], None] | None = None,
    ) -> SentMessage:
        destination = build_destination(record)
        if destination is None:
            return self._count(SentMessage(Fate.REFUSED, detail="no number"))
        if not 1 <= len(parts) <= MOST_PARTS or any(len(part) > USER_DATA_BYTES for part in parts):
            return self._count(SentMessage(Fate.REFUSED, detail="size"))
        listens = on_fate is not None and self._bearer.hears_receipts
        messages = [
            ShortMessage(
                source=self._source,
                destination=destination,
                message=part,
                esm_class=ESM_UDHI,
                protocol_id=PID_DOWNLOAD,
                validity=build_validity(valid_s),
                registered_delivery=int(listens),
                data_coding=DCS_CLASS2,
            )
            for part in parts
        ]

        def tell(fate: Fate) -> None:
            self._metrics.count(Metric.OTA_MESSAGES, label=fate.name.lower())
            if on_fate is not None:
                on_fate(fate)

        return self._count(await self._send(messages, _Message(len(parts), tell), valid_s, listens=listens))

    async def send_text(self, record: CardRecord, text: str, *, valid_s: int) -> SentMessage:
        destination = build_destination(record)
        if destination is None:
            return self._count(SentMessage(Fate.REFUSED, detail="no number"))
        messages = [
            ShortMessage(
                source=self._source,
                destination=destination,
                message=segment.user_data,
                esm_class=ESM_UDHI if segment.header else 0,
                validity=build_validity(valid_s),
                data_coding=segment.coding,
            )
            # parts of two notices to one phone differ in this
            for segment in segment_text(text, reference=self._clock() // 1000 & 0xFF)
        ]
        return self._count(await self._send(messages, _Message(len(messages), lambda _: None), valid_s, listens=False))

    def _count(self, sent: SentMessage) -> SentMessage:
        self._metrics.count(Metric.OTA_MESSAGES, label=sent.fate.name.lower())
        return sent

    async def _send(
        self, messages: list[ShortMessage], message: _Message, valid_s: int, *, listens: bool
    ) -> SentMessage:
        """On the first SMSC that takes it."""
        sent = self._later()
        try:
            for _ in self._bearer.links:
                link = await self._bearer.choose()
                if link is None:
                    return self._later()
                if self._busy[link.name] >= MOST_AT_ONCE:
                    return self._later("busy")
                self._busy[link.name] += 1
                try:
                    taken, answer = await self._send_on(link, messages, message, valid_s, listens=listens)
                except TooLong as too_long:
                    return SentMessage(Fate.LATER, max(1, int(too_long.for_s * 1000)), "rate")
                except _Unanswered as unanswered:
                    # one more has another counter, and the card would execute both
                    sent = SentMessage(Fate.UNANSWERED, detail=str(unanswered))
                    break
                except TimeoutError:
                    # a card that has not all of it does nothing
                    return self._later("no answer")
                finally:
                    self._busy[link.name] -= 1
                sent = self._read(answer)
                if taken or answer.row not in _ANOTHER:
                    break
            return sent
        finally:
            if sent.fate in (Fate.TAKEN, Fate.UNANSWERED):
                message.sent()
            else:
                message.forget()

    async def _send_on(
        self, link: SmscLink, messages: list[ShortMessage], message: _Message, valid_s: int, *, listens: bool
    ) -> tuple[int, Answer]:
        """(parts that were taken, answer to the last). TooLong: no turn or no room; _Unanswered; TimeoutError: no
        answer to a part that others were to follow."""
        loop = asyncio.get_running_loop()
        for number, at_s in enumerate(self._turns_of(link).take(len(messages)), 1):
            if at_s > loop.time():
                await asyncio.sleep(at_s - loop.time())
            part = Part(-1, 0, number, len(messages), CHANNEL, message.heard if listens else None)
            until_s = -(-self._clock() // 1000) + valid_s
            try:
                async with asyncio.timeout(self._ota.smsc_wait_s):
                    await self._rooms[link.name].acquire()
            except TimeoutError:
                raise TooLong(self._ota.smsc_retry_s) from None
            try:
                rest_ms = self._bearer.rest_of(link)
                if rest_ms:
                    # it began to rest meanwhile: one more would make its rest longer, for pages too
                    return number - 1, Answer(errors.THROTTLED, retry_after_ms=rest_ms)
                _, answer = await self._bearer.submit(replace(messages[number - 1], tlvs={}), part, until_s, link)
            except TimeoutError:
                if number == len(messages):
                    raise _Unanswered("no answer") from None
                raise
            finally:
                self._rooms[link.name].release()
            if answer.row is errors.LINK_LOST and number == len(messages):
                raise _Unanswered(answer.row.reason)
            if answer.row is not errors.OK:
                return number - 1, answer
        return len(messages), answer

    def _turns_of(self, link: SmscLink) -> Turns:
        turns = self._turns.get(link.name)
        if turns is None:
            rate = self._rates.get(link.name, self._ota.smsc_rate)
            turns = self._turns[link.name] = Turns(rate, self._ota.smsc_wait_s, asyncio.get_running_loop().time)
        return turns

    def _read(self, answer: Answer) -> SentMessage:
        row = answer.row
        if row.verdict is Verdict.OK:
            return SentMessage(Fate.TAKEN)
        # a sender that is refused is a setting's fault: all cards would be given up for it
        if row.verdict is Verdict.DEAD and row.fault is not Fault.CREDENTIAL:
            return SentMessage(Fate.REFUSED, detail=row.reason)
        return self._later(row.reason, answer.retry_after_ms)

    def _later(self, why: str = "", for_ms: int = 0) -> SentMessage:
        rest_ms = self._bearer.rest_ms()
        why = why or ("throttled" if rest_ms else errors.NOT_BOUND.reason)
        return SentMessage(Fate.LATER, for_ms or rest_ms or max(1, int(self._ota.smsc_retry_s * 1000)), why)

    # --- in

    def handle(self, sm: ShortMessage) -> None:
        """A message that is not a receipt. Never raises: the SMSC has to be answered, or it says it again for ever."""
        source = find_source(sm.source, self._ota.country_code)
        if not source or not 1 <= len(sm.message) <= USER_DATA_BYTES:
            self._metrics.count(Metric.OTA_SMS_IN, label="unreadable")
            return
        has_header = bool(sm.esm_class & ESM_UDHI)
        self._metrics.count(Metric.OTA_SMS_IN, label="header" if has_header else "plain")
        try:
            self.on_incoming(IncomingMessage(source, sm.message, has_header))
        except Exception as error:
            self._metrics.count(Metric.OTA_SMS_IN, label="failed")
            _log.warning("card_message_failed", error=type(error).__name__)


def find_source(source: Address, country_code: str) -> str:
    """The sender's number with its country code, digits alone; empty where it is none. SMSCs write an international
    number with its plus, with 00, or bare, as they like (SMPP 3.4 §5.2.5 says only what kind it is)."""
    digits = source.digits.removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS):
        return ""
    if digits != source.digits:
        return digits
    if digits.startswith("00"):
        return digits[2:]
    is_national = source.ton == TON_NATIONAL or digits.startswith("0")
    return country_code + digits.removeprefix("0") if country_code and is_national else digits
