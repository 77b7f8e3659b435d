"""One connection to one SMSC: bind, window, rate, enquire_link, reconnection; must never submit a message twice.

Source: SMPP 3.4 §2 (sessions), §4. What is written and not answered may have been taken: the caller is told apart from
what was never written (`NotSent`), so that it asks another SMSC only where that can not double the message.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from gateway.config.paging import Smsc
from gateway.metrics import Metric, Metrics
from gateway.paging.sms.pdu import (
    MOST_SEQUENCE,
    RESPONSE,
    Address,
    Bind,
    Command,
    Frames,
    Malformed,
    Pdu,
    ShortMessage,
    Status,
    build_bind,
    build_message,
    build_pdu,
    build_text,
    parse_alert,
    parse_message,
    parse_message_id,
)

_log = structlog.get_logger(__name__)

READ_BYTES = 65_536
#: a bind that lived this long was a good one: the next pause is the first again
STEADY_S = 10.0


class NotSent(Exception):
    """The message was not written: another SMSC may be asked."""


class LinkLost(Exception):
    """The connection ended between the message and its answer."""


class SessionEnd(Exception):
    """Why a session is over, as one word for log and metric."""


class Submitted(NamedTuple):
    status: int
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Of one SMSC; times in seconds."""

    smsc: Smsc
    bind: str = "transceiver"
    system_type: str = ""
    tls: ssl.SSLContext | None = None
    window: int = 10
    rate: float = 0.0  # messages a second; 0 = no limit
    enquire_s: float = 30.0
    answer_s: float = 5.0
    reconnect_s: float = 1.0
    reconnect_max_s: float = 60.0


class SmscLink:
    """Keeps itself bound from `start` to `close`. `on_message` gives the status of deliver_sm_resp."""

    def __init__(
        self,
        settings: LinkSettings,
        metrics: Metrics,
        *,
        on_message: Callable[[str, ShortMessage], int],
        on_alert: Callable[[Address, bool], None],
        on_bound: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = settings.smsc.name
        self.is_bound = False
        self._settings = settings
        self._metrics = metrics
        self._on_message = on_message
        self._on_alert = on_alert
        self._on_bound = on_bound
        self._window = asyncio.Semaphore(settings.window)
        self._next_slot_s = 0.0  # loop time at which the rate allows the next message
        self._turn = asyncio.Lock()  # whose turn it is to wait for that
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[Pdu]] = {}
        self._sequence = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep(), name="smsc-link")

    async def close(self) -> None:
        """Unbind politely, wait a moment for nobody."""
        if self._writer is not None and self.is_bound:
            self._writer.write(build_pdu(Command.UNBIND, self._take_sequence()))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- sending

    async def submit(self, sm: ShortMessage, on_written: Callable[[], None] = lambda: None) -> Submitted:
        """The SMSC's answer. NotSent, LinkLost, or TimeoutError where it does not answer in time (it may have been
        taken). `on_written`: from here on it may have been."""
        body = build_message(sm)
        async with self._window:
            await self._pace()
            if not self.is_bound:
                raise NotSent
            on_written()
            async with asyncio.timeout(self._settings.answer_s):
                answer = await self._ask(Command.SUBMIT_SM, body)
        if answer.command != Command.SUBMIT_SM | RESPONSE:
            # generic_nack says that the PDU was not understood (§4.3)
            return Submitted(answer.status or Status.RSYSERR)
        try:
            return Submitted(answer.status, parse_message_id(answer.body))
        except Malformed:
            return Submitted(answer.status)  # taken, under an id nobody can read

    async def _pace(self) -> None:
        if not self._settings.rate:
            return
        loop = asyncio.get_running_loop()
        async with self._turn:
            # who is cut off here has taken no slot, or those behind would wait for the slots of the dead
            if self._next_slot_s > loop.time():
                await asyncio.sleep(self._next_slot_s - loop.time())
            self._next_slot_s = max(self._next_slot_s, loop.time()) + 1 / self._settings.rate

    def _take_sequence(self) -> int:
        self._sequence = self._sequence % MOST_SEQUENCE + 1
        return self._sequence

    async def _ask(self, command: int, body: bytes = b"") -> Pdu:
        writer = self._writer
        if writer is None:
            raise NotSent
        sequence = self._take_sequence()
        future: asyncio.Future[Pdu] = asyncio.get_running_loop().create_future()
        self._waiting[sequence] = future
        try:
            writer.write(build_pdu(command, sequence, body))
            return await future
        finally:
            self._waiting.pop(sequence, None)

    # --- one session after the other

    async def _keep(self) -> None:
        pause_s = self._settings.reconnect_s
        loop = asyncio.get_running_loop()
        while True:
            self._bound_at_s = 0.0
            try:
                await self._session()
                reason = "closed"
            except TimeoutError:
                reason = "timeout"
            except SessionEnd as end:
                reason = str(end)
            except Malformed:
                reason = "malformed"
            except ssl.SSLError:
                reason = "tls"
            except OSError:
                reason = "connection"
            except Exception as error:
                # ours; its text may hold what a PDU held
                reason = "internal"
                _log.warning("smsc_session_failed", smsc=self.name, error=type(error).__name__)
            self._metrics.count(Metric.SMSC_ENDED, label=reason)
            if self._bound_at_s and loop.time() - self._bound_at_s >= STEADY_S:
                pause_s = self._settings.reconnect_s
            wait_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads gateways, hides nothing
            _log.warning("smsc_down", smsc=self.name, reason=reason, again_in_s=round(wait_s, 1))
            pause_s = min(pause_s * 2, self._settings.reconnect_max_s)
            await asyncio.sleep(wait_s)

    async def _session(self) -> None:
        smsc = self._settings.smsc
        async with asyncio.timeout(self._settings.answer_s):
            reader, writer = await asyncio.open_connection(
                smsc.host, smsc.port, ssl=self._settings.tls, server_hostname=smsc.host if self._settings.tls else None
            )
        self._writer = writer
        frames = Frames()
        try:
            await self._bind(reader, frames)
            self.is_bound = True
            self._bound_at_s = asyncio.get_running_loop().time()
            self._metrics.set(Metric.SMSC_LINKS, 1, label=self.name)
            _log.info("smsc_bound", smsc=self.name)
            self._on_bound()
            await self._serve(reader, writer, frames)
        finally:
            self.is_bound = False
            self._writer = None
            self._metrics.set(Metric.SMSC_LINKS, 0, label=self.name)
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(LinkLost())
            writer.close()

    async def _bind(self, reader: asyncio.StreamReader, frames: Frames) -> None:
        """§4.1. Whatever comes before the answer is out of order, but for what a peer may say at any time."""
        smsc, writer = self._settings.smsc, self._writer
        assert writer is not None
        command = Command.BIND_TRANSCEIVER if self._settings.bind == "transceiver" else Command.BIND_TRANSMITTER
        sequence = self._take_sequence()
        writer.write(
            build_pdu(command, sequence, build_bind(Bind(smsc.system_id, smsc.password, self._settings.system_type)))
        )
        async with asyncio.timeout(self._settings.answer_s):
            while True:
                data = await reader.read(READ_BYTES)
                if not data:
                    raise SessionEnd("refused")
                for place, pdu in enumerate(pdus := frames.feed(data)):
                    if pdu.command not in (command | RESPONSE, Command.GENERIC_NACK) or pdu.sequence != sequence:
                        continue
                    if pdu.status or pdu.command == Command.GENERIC_NACK:
                        raise SessionEnd(_name_bind_status(pdu.status))
                    self._answer_all(pdus[place + 1 :])
                    return

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: Frames) -> None:
        asked = False
        while True:
            try:
                async with asyncio.timeout(self._settings.answer_s if asked else self._settings.enquire_s):
                    data = await reader.read(READ_BYTES)
            except TimeoutError:
                if asked:
                    raise
                asked = True
                writer.write(build_pdu(Command.ENQUIRE_LINK, self._take_sequence()))
                continue
            if not data:
                return
            asked = False
            self._answer_all(frames.feed(data))
            # a peer that sends and does not read has to wait, not our memory
            async with asyncio.timeout(self._settings.answer_s):
                await writer.drain()

    def _answer_all(self, pdus: list[Pdu]) -> None:
        for pdu in pdus:
            self._answer(pdu)

    def _answer(self, pdu: Pdu) -> None:
        writer = self._writer
        if writer is None:
            return
        if pdu.command & RESPONSE:
            future = self._waiting.get(pdu.sequence)
            if future is not None and not future.done():
                future.set_result(pdu)
            return  # late ones, and answers to what was never asked, are nobody's
        try:
            if pdu.command == Command.DELIVER_SM:
                status = self._on_message(self.name, parse_message(pdu.body))
                writer.write(build_pdu(Command.DELIVER_SM | RESPONSE, pdu.sequence, build_text("", 65), status))
            elif pdu.command == Command.ALERT_NOTIFICATION:
                self._on_alert(*parse_alert(pdu.body))  # has no answer (§4.12)
            elif pdu.command == Command.ENQUIRE_LINK:
                writer.write(build_pdu(Command.ENQUIRE_LINK | RESPONSE, pdu.sequence))
            elif pdu.command == Command.UNBIND:
                writer.write(build_pdu(Command.UNBIND | RESPONSE, pdu.sequence))
                raise SessionEnd("unbind")
            else:
                writer.write(build_pdu(Command.GENERIC_NACK, pdu.sequence, status=Status.RINVCMDID))
        except Malformed as error:
            # the frame was whole, so what is behind it can be read
            self._metrics.count(Metric.SMS_INCOMING, label="malformed")
            writer.write(build_pdu(Command.GENERIC_NACK, pdu.sequence, status=error.status))


def _name_bind_status(status: int) -> str:
    """Few words, so that a peer can not fill the metric with its own."""
    known = (Status.RBINDFAIL, Status.RINVPASWD, Status.RINVSYSID, Status.RALYBND, Status.RTHROTTLED, Status.RSYSERR)
    return f"bind_{Status(status).name}" if status in known else "bind_refused"
