"""An SMSC of our own for tests and trials: strict about what it is sent, and able to misbehave in every way that is
known of real ones; must never be reachable from anywhere but this machine.

What breaks SMPP 3.4 or 3GPP TS 23.040 is a line in `faults`, which a test expects to be empty.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.ota.malformed import Malformed as MalformedData
from gateway.ota.sms_pp import COMMAND_PACKET, parse_user_data
from gateway.ota.sms_pp import DCS_CLASS2 as CARD_CODING
from gateway.ota.sms_pp import PID_DOWNLOAD as CARD_PID
from gateway.paging.segments import BINARY, GSM7, UCS2
from gateway.paging.sms.pdu import (
    ESM_RECEIPT,
    ESM_UDHI,
    NPI_E164,
    NPI_E212,
    RESPONSE,
    TON_ALPHANUMERIC,
    TON_INTERNATIONAL,
    Address,
    Command,
    Frames,
    Malformed,
    Pdu,
    ShortMessage,
    Status,
    Tag,
    build_alert,
    build_message,
    build_pdu,
    build_text,
    parse_bind,
    parse_message,
)
from gateway.paging.sms.receipt import MessageState
from gateway.paging.udh import BadHeader, parse_header

_BINDS = (Command.BIND_TRANSCEIVER, Command.BIND_TRANSMITTER)
#: what was written to a connection has so long to go out before it is cut
_CLOSING_S = 1.0
_VALIDITY = re.compile(r"\d{15}R|\d{15}[+-]|")
_WORDS = {
    MessageState.ENROUTE: "ENROUTE",
    MessageState.DELIVERED: "DELIVRD",
    MessageState.EXPIRED: "EXPIRED",
    MessageState.DELETED: "DELETED",
    MessageState.UNDELIVERABLE: "UNDELIV",
    MessageState.ACCEPTED: "ACCEPTD",
    MessageState.UNKNOWN: "UNKNOWN",
    MessageState.REJECTED: "REJECTD",
}


@dataclass(slots=True, frozen=True)
class Behaviour:
    """Of one submit_sm and its receipts."""

    status: int = 0
    #: no answer at all
    hangs: bool = False
    answers: int = 1
    delay_s: float = 0.0
    #: close the connection instead of answering
    closes: bool = False
    #: one receipt for each; none: they are lost
    receipts: tuple[MessageState, ...] = (MessageState.DELIVERED,)
    receipt_delay_s: float = 0.0
    #: the receipt goes out before the answer
    receipt_first: bool = False
    #: TLVs in the receipt; else the text alone
    tlvs: bool = True
    #: what stands where a date should
    date: str = "2611222300"
    #: None: one id a message; else this one for all, as osmo-msc does
    same_id: str | None = None
    #: the id is hexadecimal in the answer and decimal in the receipt
    hexadecimal: bool = False
    #: echo no more than the low byte of user_message_reference
    echoes_reference: bool = False


class Submission(NamedTuple):
    message: ShortMessage
    message_id: str
    at_s: float  # the loop's clock

    def __repr__(self) -> str:
        return f"Submission({self.message_id})"


@dataclass(slots=True, eq=False)
class _Peer:
    writer: asyncio.StreamWriter
    bound: int = 0
    last_sequence: int = 0
    sequence: int = 0
    waiting: dict[int, asyncio.Future[int]] = field(default_factory=dict)


class LocalSmsc:
    """Listens on loopback from `start` to `close`. `next` holds the behaviour of the next messages, `behaviour` that of
    those behind them."""

    def __init__(
        self,
        *,
        system_id: str = "pushgw",
        password: str = "secret",  # noqa: S107
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.system_id, self.password = system_id, password
        self.behaviour = Behaviour()
        self.next: deque[Behaviour] = deque()
        #: what enquire_link is answered with: nothing, where false
        self.answers_enquiries = True
        self.bind_status = 0
        self.submissions: list[Submission] = []
        #: called with each message that is taken
        self.on_submission: Callable[[Submission], None] | None = None
        self.faults: list[str] = []
        self.binds = 0
        self.enquiries = 0
        self.unbinds = 0
        #: most messages without an answer at one time
        self.widest = 0
        self.port = 0
        self._open = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._peers: list[_Peer] = []
        self._tasks: set[asyncio.Task[None]] = set()
        #: one for each connection
        self._serving: set[asyncio.Task[None]] = set()
        self._ids = 0x9_0000

    async def start(self, port: int = 0) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def close(self) -> None:
        """Go down: no listener, no connection."""
        if self._server is not None:
            self._server.close()
        self.drop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end_connections()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def _end_connections(self) -> None:
        """Until none is served: one that is still there when the loop ends would be cancelled, and asyncio log that."""
        if self._serving:
            # who does not read what was written to it may keep a connection open
            await asyncio.wait(self._serving, timeout=_CLOSING_S)
        for peer in self._peers:
            peer.writer.transport.abort()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def drop(self) -> None:
        """Close every connection."""
        for peer in self._peers:
            peer.writer.close()

    @property
    def is_bound(self) -> bool:
        return any(peer.bound for peer in self._peers)

    # --- what an SMSC says of its own accord

    def send(self, data: bytes) -> None:
        """Any bytes, to who is bound."""
        for peer in self._peers:
            if peer.bound:
                peer.writer.write(data)

    async def deliver(self, sm: ShortMessage) -> int:
        """deliver_sm; returns the status it is answered with."""
        peer = next(peer for peer in self._peers if peer.bound == Command.BIND_TRANSCEIVER)
        peer.sequence += 1
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        peer.waiting[peer.sequence] = future
        peer.writer.write(build_pdu(Command.DELIVER_SM, peer.sequence, build_message(sm)))
        return await future

    def alert(self, who: Address, available: int | None = None) -> None:
        self.send(build_pdu(Command.ALERT_NOTIFICATION, 77, build_alert(who, Address(0, 0, ""), available)))

    def unbind(self) -> None:
        self.send(build_pdu(Command.UNBIND, 78))

    # --- connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer, frames = _Peer(writer), Frames()
        self._peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            while data := await reader.read(65_536):
                for pdu in frames.feed(data):
                    self._handle(peer, pdu)
                await writer.drain()
        except Malformed as error:
            self.faults.append(f"frame: {error}")
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            self._peers.remove(peer)
            writer.close()

    def _handle(self, peer: _Peer, pdu: Pdu) -> None:
        try:
            if pdu.command & RESPONSE:
                self._handle_response(peer, pdu)
            elif pdu.command in _BINDS:
                self._handle_bind(peer, pdu)
            elif not peer.bound:
                self._fault(f"{pdu} before a bind")
                self._reply(peer, pdu, Status.RINVBNDSTS)
            else:
                self._handle_request(peer, pdu)
        except Malformed as error:
            self._fault(f"{pdu}: {error}")
            self._reply(peer, pdu, error.status)

    def _handle_response(self, peer: _Peer, pdu: Pdu) -> None:
        future = peer.waiting.pop(pdu.sequence, None)
        if future is not None and not future.done():
            future.set_result(pdu.status)
        elif pdu.command != Command.GENERIC_NACK:
            self._fault(f"{pdu} answers nothing")

    def _handle_bind(self, peer: _Peer, pdu: Pdu) -> None:
        bind = parse_bind(pdu.body)
        self.binds += 1
        status = self.bind_status
        if bind.system_id != self.system_id:
            status = Status.RINVSYSID
        elif bind.password != self.password:
            status = Status.RINVPASWD
        if bind.interface_version != 0x34:
            self._fault("interface_version is not 3.4")
        if peer.bound:
            self._fault("a second bind")
            status = Status.RALYBND
        self._reply(peer, pdu, status, build_text("local", 16) if not status else b"")
        if not status:
            peer.bound = pdu.command
            peer.last_sequence = pdu.sequence

    def _handle_request(self, peer: _Peer, pdu: Pdu) -> None:
        if pdu.sequence != peer.last_sequence + 1:
            self._fault(f"{pdu}: sequence numbers do not rise by one (§2.6)")
        peer.last_sequence = pdu.sequence
        if pdu.command == Command.ENQUIRE_LINK:
            self.enquiries += 1
            if self.answers_enquiries:
                self._reply(peer, pdu)
        elif pdu.command == Command.UNBIND:
            self.unbinds += 1
            self._reply(peer, pdu)
            peer.writer.close()
        elif pdu.command == Command.SUBMIT_SM:
            self._handle_submit(peer, pdu)
        else:
            self._fault(f"{pdu} is not known")
            self._reply(peer, pdu, Status.RINVCMDID)

    def _reply(self, peer: _Peer, pdu: Pdu, status: int = 0, body: bytes = b"") -> None:
        peer.writer.write(build_pdu(pdu.command | RESPONSE, pdu.sequence, body, status))

    def _fault(self, words: str) -> None:
        self.faults.append(words)

    # --- messages

    def _handle_submit(self, peer: _Peer, pdu: Pdu) -> None:
        sm = parse_message(pdu.body)
        for words in check_message(sm):
            self._fault(words)
        behaviour = self.next.popleft() if self.next else self.behaviour
        self._ids += 1
        message_id = behaviour.same_id or (f"{self._ids:X}" if behaviour.hexadecimal else f"m{self._ids}")
        if behaviour.closes:
            peer.writer.close()
            return
        self._open += 1
        self.widest = max(self.widest, self._open)
        if not behaviour.status:
            self.submissions.append(Submission(sm, message_id, asyncio.get_running_loop().time()))
            if self.on_submission is not None:
                self.on_submission(self.submissions[-1])
        self._run(self._answer(peer, pdu, sm, message_id, behaviour))

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, peer: _Peer, pdu: Pdu, sm: ShortMessage, message_id: str, behaviour: Behaviour) -> None:
        if behaviour.delay_s:
            await asyncio.sleep(behaviour.delay_s)
        if behaviour.receipt_first:
            await self._send_receipts(sm, message_id, behaviour)
        if behaviour.hangs:
            return
        self._open -= 1
        body = b"" if behaviour.status else build_text(message_id, 65)
        for _ in range(behaviour.answers):
            self._reply(peer, pdu, behaviour.status, body)
        if not behaviour.status and not behaviour.receipt_first:
            await self._send_receipts(sm, message_id, behaviour)

    async def _send_receipts(self, sm: ShortMessage, message_id: str, behaviour: Behaviour) -> None:
        if not sm.registered_delivery & 1 or all(peer.bound != Command.BIND_TRANSCEIVER for peer in self._peers):
            return
        for state in behaviour.receipts:
            if behaviour.receipt_delay_s:
                await asyncio.sleep(behaviour.receipt_delay_s)
            status = await self.deliver(build_receipt(sm, message_id, state, behaviour))
            if status:
                self._fault(f"a receipt was answered with {status:#x}")


def build_receipt(sm: ShortMessage, message_id: str, state: MessageState, behaviour: Behaviour) -> ShortMessage:
    """As in appendix B of SMPP 3.4, addresses the other way round."""
    if behaviour.hexadecimal:
        message_id = str(int(message_id, 16))
    text = (
        f"id:{message_id} sub:001 dlvrd:001 submit date:{behaviour.date} done date:{behaviour.date}"
        f" stat:{_WORDS[state]} err:000 text:id:no stat:NONE"
    )
    tlvs: dict[int, bytes] = {}
    if behaviour.tlvs:
        tlvs = {Tag.RECEIPTED_MESSAGE_ID: message_id.encode() + b"\0", Tag.MESSAGE_STATE: bytes((state,))}
    if behaviour.echoes_reference:
        reference = sm.tlvs.get(Tag.USER_MESSAGE_REFERENCE, b"\0\0")
        tlvs[Tag.USER_MESSAGE_REFERENCE] = b"\0" + reference[-1:]
    return ShortMessage(
        source=sm.destination, destination=sm.source, message=text.encode(), esm_class=ESM_RECEIPT, tlvs=tlvs
    )


def check_message(sm: ShortMessage) -> list[str]:
    """What breaks the rules, in words without an address or a text."""
    wrong: list[str] = []

    def expect(holds: bool, words: str) -> None:
        if not holds:
            wrong.append(words)

    expect(sm.destination.npi in (NPI_E164, NPI_E212), "destination: numbering plan is neither E.164 nor E.212")
    expect(sm.destination.digits.isdigit() and len(sm.destination.digits) <= 15, "destination: no number")
    if sm.destination.npi == NPI_E164:
        expect(sm.destination.ton == TON_INTERNATIONAL, "destination: a MSISDN is international")
    if sm.source.ton == TON_ALPHANUMERIC:
        expect(1 <= len(sm.source.digits) <= 11 and sm.source.npi == 0, "source: no name")
    elif sm.source.digits:
        expect(sm.source.digits.isdigit(), "source: no number")
    expect(_VALIDITY.fullmatch(sm.validity) is not None, "validity_period has no form of §7.1.1")
    expect(sm.schedule == "", "nothing is scheduled")
    expect(sm.priority <= 3, "priority_flag is more than 3")
    wrong += _check_user_data(sm)
    return wrong


def _check_card_data(sm: ShortMessage) -> list[str]:
    """A message that the terminal gives to its card (3GPP TS 31.115 §4)."""
    wrong = [] if sm.esm_class & ESM_UDHI else ["a card's message has a header"]
    if sm.data_coding != CARD_CODING:
        wrong.append("a card's message has coding F6")
    try:
        data = parse_user_data(sm.message)
    except MalformedData as error:
        return [*wrong, f"user data: {error}"]
    is_first = data.part is None or data.part.part == 1
    if is_first != (data.kind == COMMAND_PACKET):
        wrong.append("only the first part says that it is a command packet")
    return wrong


def _check_user_data(sm: ShortMessage) -> list[str]:
    if sm.protocol_id == CARD_PID:
        return _check_card_data(sm)
    wrong: list[str] = []
    header_bytes, body = 0, sm.message
    if sm.esm_class & ESM_UDHI:
        try:
            header, body = parse_header(sm.message)
            header_bytes = len(sm.message) - len(body)
        except BadHeader as error:
            return [f"user data header: {error}"]
        if header.ports is None and header.concat is None:
            wrong.append("user data header: says nothing")
        if header.ports is not None and sm.data_coding != BINARY:
            wrong.append("a port gets bytes")
    if sm.data_coding == GSM7:
        limit = (140 - header_bytes) * 8 // 7
        if any(byte > 0x7F for byte in body):
            wrong.append("a septet has its high bit set")
        if body[-1:] == b"\x1b":
            wrong.append("an escape pair was split")
    elif sm.data_coding in (BINARY, UCS2):
        limit = 140 - header_bytes
    else:
        return [*wrong, "data_coding is none that is used here"]
    if len(body) > limit:
        wrong.append(f"{len(body)} units do not fit into {limit}")
    if sm.data_coding == UCS2:
        try:
            body.decode("utf-16-be")
        except UnicodeDecodeError:
            wrong.append("a surrogate pair was split")
    return wrong
