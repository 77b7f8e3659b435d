"""A payload over a card's link, packet by packet, each with its proof of receipt (E6); must never take a command for
executed without one, nor send a command again that a plan covers.

Where the key set of packets is not that of messages, nobody else takes its counters while a download is open (the
engine sees to that), so counters tell what was done. The plan is written first: which command a packet begins with,
which counter the first has, how large they are. A packet in doubt (sent, no answer; or the gateway was killed) is sent
once more with the same counter: the card executes it, or says that the counter is too low, and then it had executed it
before. Exactly once, whatever dies here, but for its result: of a packet that the card took before, that all of it was
executed is believed, though the card may have met an error, or lost its power, in the middle of it.

That a counter is too low means that only if the card is not ahead of us, as it is where the store is an older backup.
The first packet that it takes proves that; the proof is written before a second one goes. Where the first packet itself
is in doubt and refused, an empty packet asks, with a counter right behind it that was never used: taken, the first one
had been executed; refused, the card is ahead.

With one key set for both, the PUSH of the next call takes a counter behind that of a packet in doubt, which the card
would then refuse in any case. It is sent anew: at least once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import structlog

from gateway.cards.calls import COUNTER_JUMP, Ending, classify_status
from gateway.cards.card_keys import SPI_LINK
from gateway.cards.download_policy import Event
from gateway.cards.line import Line
from gateway.cards.packets import Batch, Unbringable, build_batch, pack, room
from gateway.cards.progress import Progress
from gateway.config.ota_section import Ota
from gateway.metrics import Metric, Metrics
from gateway.model.cards import CardRecord, CardRecords, LinkClosed, LinkOpened, LinkReceived, PacketPlan
from gateway.model.errors import GatewayError
from gateway.ota.command_string import parse_command_answer
from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import Keys
from gateway.ota.secured_packet import (
    Command,
    PacketAnswer,
    Status,
    Transport,
    Untrusted,
    build_command,
    parse_answer,
)

_log = structlog.get_logger(__name__)

#: counters between a plan's first packet and its second, for empty packets that ask
SPARE_COUNTERS = 15
#: a packet that was not taken is given again after this
NOT_TAKEN_S = 0.05


class Happened(NamedTuple):
    event: Event
    detail: str = ""
    retry_after_ms: int = 0


@dataclass(slots=True, eq=False)
class _Sent:
    batch: Batch
    command: Command
    packet: bytes = field(repr=False)
    deadline: float = 0.0
    #: an older link, or process, may have sent it
    in_doubt: bool = False
    answer: PacketAnswer | None = field(default=None, repr=False)

    @property
    def is_counter_low(self) -> bool:
        return self.answer is not None and self.answer.status == Status.COUNTER_LOW


class _Over(Exception):
    def __init__(self, event: Event, detail: str = "", retry_after_ms: int = 0) -> None:
        super().__init__(event.value)
        self.happened = Happened(event, detail, retry_after_ms)


class Transfer:
    """One transfer over one line. `run` once."""

    def __init__(
        self,
        *,
        progress: Progress,
        record: CardRecord,
        keys: Keys,
        line: Line,
        records: CardRecords,
        settings: Ota,
        metrics: Metrics,
    ) -> None:
        self._progress, self._keys, self._line = progress, keys, line
        self._records, self._settings, self._metrics = records, settings, metrics
        self._tar = progress.download.tar or record.tar
        #: counters tell what was executed
        self._is_planned = record.push_keys != record.data_keys
        self._sent: deque[_Sent] = deque()
        self._jumped = False
        self._plan = PacketPlan(0, 0, 0, 0)
        #: how often the card came back under the same identification since its last answer
        self._returns = 0

    async def run(self) -> Happened:
        try:
            in_doubt = await self._take_plan()
            while not self._progress.is_done:
                jump = await self._run_plan(in_doubt)
                if not self._progress.is_done:
                    await self._make_plan(jump)
                    in_doubt = False
            return Happened(Event.DONE)
        except _Over as over:
            return over.happened
        except Unbringable as error:
            return Happened(Event.IMPOSSIBLE, str(error))

    # --- the plan ----------------------------------------------------------------------------------------------------

    def _room(self) -> int:
        """Bytes of commands in a packet, as this link is."""
        opened = self._line.opened
        if opened is None:
            raise _Over(Event.LINK_LOST)
        most = min(self._settings.packet_bytes, opened.max_sdu)
        return room(most, self._keys.block_bytes, Transport.CAT_TP)

    async def _take_plan(self) -> bool:
        """The one that a transfer before this began with, where its packets fit this link; else a new one. True:
        packets of it may have been sent."""
        progress = self._progress
        plan = progress.download.plan
        if plan is not None and self._is_planned and plan.key_set == self._keys.key_set:
            if plan.room_bytes <= self._room():
                progress.step("resumed", f"at command {progress.download.done + 1}")
                self._metrics.count(Metric.OTA_RESUMES, label="plan")
                self._plan = plan
                return True
            # what is in doubt is too large for this link: at least once
            self._metrics.count(Metric.OTA_RESUMES, label="smaller_link")
        elif progress.download.done:
            self._metrics.count(Metric.OTA_RESUMES, label="anew")
        await self._make_plan(0)
        return False

    async def _make_plan(self, jump: int) -> None:
        """From the first command that is not executed. `jump`: so many counters are left out."""
        progress = self._progress
        room_bytes, key_set = self._room(), self._keys.key_set
        start = progress.download.done
        counters = sum(1 for _ in pack(progress.commands, start, room_bytes)) + SPARE_COUNTERS
        try:
            first = await self._records.take_counters(progress.download.card, key_set, counters + jump)
        except OverflowError:
            raise _Over(Event.IMPOSSIBLE, "counter used up") from None
        except GatewayError as error:
            raise _Over(Event.LATER, error.name, error.after_ms) from None
        await self._write_plan(PacketPlan(start, first + jump, room_bytes, key_set))

    async def _write_plan(self, plan: PacketPlan) -> None:
        """Before what it speaks of is sent."""
        self._plan = plan
        if not self._is_planned:
            return
        self._progress.set(plan=plan)
        written = self._progress.write()
        if written is None:
            raise _Over(Event.LATER, "store")
        try:
            await written
        except GatewayError as error:
            raise _Over(Event.LATER, error.name, error.after_ms) from None

    # --- packets -----------------------------------------------------------------------------------------------------

    async def _run_plan(self, in_doubt: bool) -> int:
        """Until all of it is executed, or another plan is needed, one so many counters ahead. _Over."""
        progress, plan = self._progress, self._plan
        done = progress.download.done
        waiting = deque(
            (plan.counter + (SPARE_COUNTERS + index if index else 0), batch)
            for index, batch in enumerate(pack(progress.commands, plan.start, plan.room_bytes))
            if batch.end > done
        )
        if waiting and waiting[0][1].start < done:
            return 0  # a card stopped inside a packet: what is left of it is another packet
        self._sent.clear()
        while waiting or self._sent:
            # the first by itself: it shows whether the card takes our counters
            at_once = self._settings.packets_at_once if self._plan.proved else 1
            while waiting and len(self._sent) < at_once and not progress.is_stopping:
                counter, batch = waiting.popleft()
                await self._send_new(counter, batch, in_doubt)
            if not self._sent:
                raise _Over(Event.LINK_LOST, "stopped")
            await self._next_event()
            while self._sent and self._sent[0].answer is not None:
                sent = self._sent.popleft()
                if sent.is_counter_low:
                    if not sent.in_doubt or not (self._plan.proved or await self._was_executed()):
                        return self._jump()
                    self._metrics.count(Metric.OTA_PACKETS, label="executed_before")
                    progress.executed(sent.batch.size, planned=self._is_planned)
                    if not self._plan.proved:
                        return 0  # its other packets have counters behind that of the empty one
                elif not self._settle(sent):
                    return 0
                elif not self._plan.proved:
                    proved = msgspec.structs.replace(self._plan, proved=True)
                    if waiting:
                        await self._write_plan(proved)
                    self._plan = proved
        return 0

    def _jump(self) -> int:
        """The card is ahead. _Over where that was so before."""
        if self._jumped:
            raise _Over(Event.REFUSED, f"status {Status.COUNTER_LOW:02X}")
        self._jumped = True
        self._metrics.count(Metric.OTA_COUNTER_JUMPS)
        _log.warning("card_counter_jumped", by=COUNTER_JUMP)
        return COUNTER_JUMP

    async def _was_executed(self) -> bool:
        """Whether the first packet of the plan was, whose counter is too low for the card: an empty one asks. _Over."""
        plan = self._plan
        if plan.probes >= SPARE_COUNTERS:
            return False
        await self._write_plan(msgspec.structs.replace(plan, probes=plan.probes + 1))
        self._metrics.count(Metric.OTA_PACKETS, label="probes")
        sent = await self._send_new(plan.counter + self._plan.probes, Batch(plan.start, plan.start), False)
        while sent.answer is None:
            await self._next_event()
        self._sent.clear()
        if sent.is_counter_low and sent.in_doubt:
            raise _Over(Event.LINK_LOST, "asked twice")  # of itself it may speak; the next one knows
        if not sent.is_counter_low and sent.answer.status != Status.OK:
            raise _Over(Event.CARD, f"status {sent.answer.status:02X}")
        return not sent.is_counter_low

    async def _send_new(self, counter: int, batch: Batch, in_doubt: bool) -> _Sent:
        data = build_batch(self._progress.commands, batch) if batch.size else b""
        command = Command(SPI_LINK, self._tar, counter, data)
        sent = _Sent(batch, command, build_command(command, self._keys, Transport.CAT_TP), in_doubt=in_doubt)
        self._sent.append(sent)
        await self._send(sent)
        return sent

    async def _send(self, sent: _Sent) -> None:
        loop = asyncio.get_running_loop()
        sent.deadline = loop.time() + self._settings.answer_s
        while not self._line.send(sent.packet):
            # the way to the server is full, or the card reads slowly
            if loop.time() > sent.deadline:
                raise _Over(Event.LINK_LOST, "not taken")
            if self._line.is_lost:
                return  # as the next event says
            await asyncio.sleep(NOT_TAKEN_S)
        self._metrics.count(Metric.OTA_PACKETS, label="sent")

    async def _next_event(self) -> None:
        try:
            async with asyncio.timeout_at(self._sent[0].deadline):
                event = await self._line.next_event()
        except TimeoutError:
            raise _Over(Event.NO_ANSWER, f"after {self._settings.answer_s:g} s") from None
        match event:
            case LinkReceived(sdu=sdu):
                self._match(sdu)
            case LinkClosed(cause=cause, reason=reason):
                # one that was replaced is opened again with the next event, or the deadline comes
                if cause != "replaced":
                    raise _Over(Event.LINK_LOST, cause if cause != "peer" else f"peer {reason}")
            case LinkOpened():
                if self._room() < self._plan.room_bytes:
                    raise _Over(Event.LINK_LOST, "came back smaller")
                self._returns += 1
                if self._returns > self._settings.attempts:
                    raise _Over(Event.LINK_LOST, "came back too often")
                self._metrics.count(Metric.OTA_RESUMES, label="same_link")
                self._progress.step("resumed", "the card came back")
                for sent in self._sent:
                    if sent.answer is None:
                        sent.in_doubt = True
                        await self._send(sent)

    def _match(self, sdu: bytes) -> None:
        """To which packet this is the answer. What proves nothing is counted, and changes nothing."""
        label = "unexpected"
        for sent in self._sent:
            try:
                answer = parse_answer(sdu, sent.command, self._keys, Transport.CAT_TP)
            except Malformed:
                label = "malformed"
                break
            except Untrusted:
                label = "untrusted"
                continue
            if not answer.authentic:
                label = "bare"
                continue
            if answer.status == Status.MORE_TIME:
                label = "more_time"
            elif sent.answer is None:
                sent.answer = answer
                self._returns = 0
                label = "answered"
            break
        self._metrics.count(Metric.OTA_PACKETS, label=label)

    def _settle(self, sent: _Sent) -> bool:
        """What its answer says. False: a new plan is needed, for the card stopped inside the packet. _Over."""
        answer, size = sent.answer, sent.batch.size
        assert answer is not None
        if answer.status != Status.OK:
            refused = classify_status(answer.status) is Ending.REFUSED
            # it was not executed, and the card may have taken its counter all the same: that one tells nothing any more
            self._progress.set(plan=None)
            raise _Over(Event.REFUSED if refused else Event.CARD, f"status {answer.status:02X}")
        try:
            said = parse_command_answer(answer.data)
        except Malformed:
            raise _Over(Event.REFUSED, "answer makes no sense") from None
        if not said.is_good:
            self._progress.executed(max(0, min(said.commands, size) - 1), planned=False)
            at = self._progress.download.done + 1
            raise _Over(Event.REFUSED, f"{said.status_word:04X} at command {at}")
        if not 0 < said.commands <= size:
            raise _Over(Event.REFUSED, "answer makes no sense")
        self._metrics.count(Metric.OTA_PACKETS, label="executed")
        if said.commands < size:
            # it calls that no error: go on behind it
            self._progress.set(plan=None)
            self._progress.executed(said.commands, planned=False)
            return False
        self._progress.executed(size, planned=self._is_planned)
        return True
