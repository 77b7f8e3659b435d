"""Reaches one card: PUSH out by short message, then its link, its own error, or the end of its time (E2 to E4); must
never conclude anything from an answer whose check is missing or wrong, nor from a message that did not arrive.

One card is called by one at a time: `hold` is its turn, and a second caller waits until the first has let go, link and
all. So two PUSHes never race at a card, which has one channel. Over all, `ota.at_once` hold cards; more wait, in order.

A call is one secured packet with two commands, OPEN CHANNEL and the CAT_TP link: one message, one counter, no order to
keep. A card that takes one command a packet says so (it stops after the first, or 6700, 6A80, 6D00 for the whole), and
gets the link's PUSH, or both, in packets of their own. The link is recognised by 16 random bytes that are nowhere else.

The card has `ota.validity_s` from the moment its message was delivered, so a message that lay at the SMSC does not cost
it any of that; where nobody says when it was, from the moment the SMSC took it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import structlog

from gateway.cards.answers import Answers, Awaited
from gateway.cards.card_keys import SPI_MESSAGE, Unusable, find_keys
from gateway.cards.line import Line
from gateway.cards.settings import Reach
from gateway.config.ota_section import Ota
from gateway.metrics import Metric, Metrics
from gateway.model.cards import CardLinks, CardMessages, CardRecord, CardRecords, Fate, LinkOpened
from gateway.model.errors import GatewayError
from gateway.ota.command_string import build_commands
from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import Keys
from gateway.ota.push import OpenLink, PushAnswer, build_push, parse_push_answer
from gateway.ota.result import Meaning
from gateway.ota.secured_packet import Command, PacketAnswer, Status, build_command
from gateway.ota.sms_pp import segment

_log = structlog.get_logger(__name__)

IDENTIFICATION_BYTES = 16
#: a card that is ahead of us, for its counters are of a backup that is older: we go on so far behind them
COUNTER_JUMP = 1 << 16
#: how long a link may be expected, should a call not end by itself: past any queue at an SMSC
_EXPECTED_MS = 24 * 3_600_000
_PERMANENT = (
    Status.CHECK_FAILED,
    Status.COUNTER_HIGH,
    Status.COUNTER_BLOCKED,
    Status.CIPHERING,
    Status.SECURITY,
    Status.TAR_UNKNOWN,
    Status.SECURITY_TOO_LOW,
)
_NO_SUCH_COMMAND = (0x6D00, 0x6E00)
_ONE_AT_A_TIME = (0x6700, 0x6A80, *_NO_SUCH_COMMAND)
#: a channel is open, or its toolkit is at work
_CARD_BUSY = (0x6985, 0x9300)
#: no reason given
_CARD_FAILED = 0x6F00


class Ending(StrEnum):
    """How a call ended."""

    OPENED = "opened"
    #: its terminal does not know channels (30, 31, 32), or the card does not know PUSH
    NOT_CAPABLE = "not_capable"
    #: its terminal could not now
    TERMINAL = "terminal"
    #: what was asked for is wrong for its terminal
    PARAMETERS = "parameters"
    #: the card has a channel open, now: it is there, and will be free
    BUSY = "busy"
    #: the card could not now: no room, no time, or it does not say why
    CARD = "card"
    #: the card refused, by an answer with a right check
    REFUSED = "refused"
    #: there was an error without a check, and then nothing
    UNTRUSTED = "untrusted"
    UNDELIVERED = "undelivered"
    #: the message was not sent: no SMSC, throttled, the store is full
    LATER = "later"
    #: no message can be sent to it: no number, no keys
    UNREACHABLE = "unreachable"
    #: the card opened its channel, and no link came
    NO_LINK = "no_link"
    #: the message was delivered, and then nothing
    SILENT = "silent"
    #: nobody knows whether the message was delivered
    UNKNOWN = "unknown"


class Called(NamedTuple):
    ending: Ending
    #: a result or status as hex digits, a time as `4.2 s`: never an identity
    detail: str = ""
    retry_after_ms: int = 0
    opened: LinkOpened | None = None


class Ended(Exception):
    """A call, or a message, is over before its time."""

    def __init__(self, called: Called) -> None:
        super().__init__(called.ending.value)
        self.called = called


def classify_status(status: int) -> Ending:
    """Of an authentic answer that is not OK."""
    return Ending.REFUSED if status in _PERMANENT else Ending.CARD


@dataclass(slots=True, eq=False)
class _Message:
    """One message of a call on its way."""

    awaited: Awaited
    #: what became of it, once it is known
    fate: asyncio.Future[Fate] = field(repr=False)


class Calls:
    """Control thread only."""

    def __init__(
        self,
        *,
        records: CardRecords,
        messages: CardMessages,
        links: CardLinks,
        answers: Answers,
        reach: Reach,
        settings: Ota,
        metrics: Metrics,
    ) -> None:
        self._records, self._messages, self._links, self._answers = records, messages, links, answers
        self._reach, self._settings, self._metrics = reach, settings, metrics
        self._turns: dict[bytes, tuple[asyncio.Lock, int]] = {}
        self._slots = asyncio.Semaphore(settings.at_once)

    @property
    def held(self) -> int:
        """Cards that are held, or waited for."""
        return len(self._turns)

    @asynccontextmanager
    async def hold(self, card: bytes) -> AsyncIterator[None]:
        """This card's turn: nobody else calls it or sends it packets until it is over."""
        lock, waiting = self._turns.get(card, (asyncio.Lock(), 0))
        self._turns[card] = (lock, waiting + 1)
        try:
            async with lock, self._slots:
                yield
        finally:
            lock, waiting = self._turns[card]
            if waiting == 1:
                del self._turns[card]
            else:
                self._turns[card] = (lock, waiting - 1)

    @asynccontextmanager
    async def call(self, card: bytes, record: CardRecord) -> AsyncIterator[tuple[Called, Line]]:
        """The caller holds the card. The line is there until the block ends; where the call ended otherwise it has no
        link."""
        line = Line(self._links, secrets.token_bytes(IDENTIFICATION_BYTES), self._metrics)
        try:
            called = await self._call(card, record, line)
            if called.ending is Ending.OPENED:
                took_s = asyncio.get_running_loop().time() - line.asked_s
                called = called._replace(detail=f"{took_s:.1f} s")
                self._metrics.observe(Metric.OTA_CALL_SECONDS, took_s)
            self._metrics.count(Metric.OTA_CALLS, label=called.ending.value)
            yield called, line
        finally:
            line.forget()

    async def _call(self, card: bytes, record: CardRecord, line: Line) -> Called:
        if not line.expect(_EXPECTED_MS):
            self._metrics.count(Metric.OTA_BOUNDS, label="expected")
            return Called(Ending.LATER, "too many cards are expected")
        try:
            keys = find_keys(record, record.push_keys)
            channel = build_push(self._reach.channel(record))
            link = build_push(OpenLink(self._reach.cattp_port, self._settings.max_sdu_bytes, line.identification))
        except Unusable as error:
            return Called(Ending.UNREACHABLE, error.cause)
        except ValueError:
            return Called(Ending.UNREACHABLE, "bearer_or_apn")
        try:
            answer = await self._push(card, record, keys, line, build_commands((channel, link)))
            if answer.commands <= 1 and not answer.is_done and answer.status_word in _ONE_AT_A_TIME:
                answer = await self._push(card, record, keys, line, channel)
                self._look(answer)
                answer = await self._push(card, record, keys, line, link)
            elif answer.commands == 1 and answer.is_done:
                answer = await self._push(card, record, keys, line, link)
            self._look(answer)
            # it said that it is calling
            return await self._wait_for_link(line, Called(Ending.NO_LINK, "channel open"))
        except Ended as ended:
            return ended.called

    @staticmethod
    def _look(answer: PushAnswer) -> None:
        """Ended where the card, or its terminal, says no."""
        if answer.is_done:
            return
        word = f"{answer.status_word:04X}"
        if answer.result is not None and answer.result.meaning is not Meaning.DONE:
            ending = {
                Meaning.NOT_CAPABLE: Ending.NOT_CAPABLE,
                Meaning.RETRY: Ending.TERMINAL,
                Meaning.PARAMETERS: Ending.PARAMETERS,
            }[answer.result.meaning]
            more = answer.result.additional[:1].hex().upper()
            raise Ended(Called(ending, f"result {answer.result.general:02X}{' ' + more if more else ''}"))
        if answer.status_word in _NO_SUCH_COMMAND:
            raise Ended(Called(Ending.NOT_CAPABLE, word))
        if answer.status_word == _CARD_FAILED:
            raise Ended(Called(Ending.CARD, word))
        raise Ended(Called(Ending.BUSY if answer.status_word in _CARD_BUSY else Ending.REFUSED, word))

    async def _wait_for_link(self, line: Line, else_: Called) -> Called:
        try:
            async with asyncio.timeout(self._settings.validity_s):
                while line.opened is None:
                    await line.next_event()
        except TimeoutError:
            return else_
        return Called(Ending.OPENED, opened=line.opened)

    # --- one message -------------------------------------------------------------------------------------------------

    async def _push(self, card: bytes, record: CardRecord, keys: Keys, line: Line, data: bytes) -> PushAnswer:
        """What the card says to it. Ended where the link came first, or nothing does."""
        answer = await self.ask(card, record, keys, record.push_tar, data, line)
        try:
            return parse_push_answer(answer.data)
        except Malformed:
            raise Ended(Called(Ending.REFUSED, "answer makes no sense")) from None

    async def ask(
        self,
        card: bytes,
        record: CardRecord,
        keys: Keys,
        tar: bytes,
        data: bytes,
        line: Line | None = None,
    ) -> PacketAnswer:
        """A packet by short message, and the card's authentic answer to it, with status OK. Ended. A card that is
        ahead of our counters is caught up with, once."""
        for jumps in (False, True):
            counter = await self._take_counter(card, keys.key_set, COUNTER_JUMP if jumps else 1)
            if jumps:
                self._metrics.count(Metric.OTA_COUNTER_JUMPS)
                _log.warning("card_counter_jumped", by=COUNTER_JUMP)
            answer = await self._send(card, record, keys, Command(SPI_MESSAGE, tar, counter, data), line)
            if answer.status != Status.COUNTER_LOW:
                break
        if answer.status != Status.OK:
            ending = Ending.REFUSED if answer.status == Status.COUNTER_LOW else classify_status(answer.status)
            raise Ended(Called(ending, f"status {answer.status:02X}"))
        return answer

    async def _take_counter(self, card: bytes, key_set: int, count: int) -> int:
        """The last of so many. Ended."""
        try:
            return await self._records.take_counters(card, key_set, count) + count - 1
        except OverflowError:
            raise Ended(Called(Ending.UNREACHABLE, "counter used up")) from None
        except GatewayError as error:
            raise Ended(Called(Ending.LATER, error.name, error.after_ms)) from None

    async def _send(
        self, card: bytes, record: CardRecord, keys: Keys, command: Command, line: Line | None
    ) -> PacketAnswer:
        """An authentic answer. Ended."""
        parts = segment(build_command(command, keys), command.counter)
        validity_s = self._settings.validity_s
        fate: asyncio.Future[Fate] = asyncio.get_running_loop().create_future()

        def on_fate(what: Fate) -> None:
            if not fate.done() and what in (Fate.DELIVERED, Fate.UNDELIVERED):
                fate.set_result(what)

        with self._answers.expect(card, command, keys) as awaited:
            sent = await self._messages.send(record, parts, valid_s=max(1, int(validity_s)), on_fate=on_fate)
            # one whose answer of the SMSC got lost may have arrived all the same: the card is waited for as if it had
            has_come = awaited.answer.done() or (line is not None and line.is_opening)
            if sent.fate is Fate.LATER and not has_come:
                raise Ended(Called(Ending.LATER, sent.detail or "smsc", sent.retry_after_ms))
            if sent.fate is Fate.REFUSED:
                raise Ended(Called(Ending.UNREACHABLE, sent.detail or "smsc"))
            if line is not None and not line.asked_s:
                line.asked_s = asyncio.get_running_loop().time()
            try:
                return await self._wait(_Message(awaited, fate), line)
            finally:
                fate.cancel()

    async def _wait(self, message: _Message, line: Line | None) -> PacketAnswer:
        """The first of: an authentic answer, the link, the message's end, the end of the card's time."""
        opened: asyncio.Task[Called] | None = None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.validity_s
        delivered = False
        waits: set[asyncio.Future[PacketAnswer] | asyncio.Future[Fate] | asyncio.Task[Called]] = {
            message.awaited.answer,
            message.fate,
        }
        if line is not None:
            opened = asyncio.create_task(self._wait_for_opening(line))
            waits.add(opened)
        try:
            while True:
                done, _ = await asyncio.wait(
                    waits, timeout=max(0.0, deadline - loop.time()), return_when=asyncio.FIRST_COMPLETED
                )
                if opened is not None and opened in done:
                    raise Ended(opened.result())
                if message.awaited.answer in done:
                    return message.awaited.answer.result()
                if not done:
                    raise Ended(_build_silence(message.awaited, delivered))
                waits.discard(message.fate)
                if message.fate.result() is not Fate.DELIVERED:
                    raise Ended(Called(Ending.UNDELIVERED))
                delivered = True
                deadline = loop.time() + self._settings.validity_s
        finally:
            if opened is not None:
                opened.cancel()

    @staticmethod
    async def _wait_for_opening(line: Line) -> Called:
        while line.opened is None:
            await line.next_event()
        return Called(Ending.OPENED, opened=line.opened)


def _build_silence(awaited: Awaited, delivered: bool) -> Called:
    """Its time is over, and no answer was heard that could be believed."""
    if awaited.more_time:
        return Called(Ending.CARD, f"status {Status.MORE_TIME:02X}")
    if awaited.bare >= 0:
        return Called(Ending.UNTRUSTED, f"status {awaited.bare:02X} without a check")
    if awaited.wrong_check:
        # somebody did answer: it says nothing of the terminal, and much of the keys
        return Called(Ending.UNTRUSTED, "wrong check")
    return Called(Ending.SILENT if delivered else Ending.UNKNOWN)
