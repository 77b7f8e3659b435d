"""A terminal with a card in it and a real UDP socket for each channel (E1 to E4); must never tell a card of a datagram
that it has no room for.

ETSI TS 102 223 §6.4.27 to §6.4.31. It can be capable, or not, slow to open, or on a network that loses, doubles and
reorders."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from gateway.ota.channel import TAG_BEARER, TAG_BUFFER, TAG_CHANNEL_DATA, TransportType
from gateway.ota.proactive import (
    TAG_IMEI,
    ChannelStatus,
    CloseChannel,
    Command,
    Event,
    EventDownload,
    GetChannelStatus,
    OpenChannel,
    ProvideImei,
    ReceiveData,
    SendData,
    SendShortMessage,
    SetUpEventList,
    TerminalResponse,
    build_event,
    build_length_object,
    build_response,
    describe,
    parse_proactive,
)
from gateway.ota.result import Bearer, General, Result
from gateway.ota.sim.card import Card
from gateway.ota.sms_pp import Address, build_download
from gateway.ota.terminal_profile import Instruction, TerminalProfile, build_apdu, build_profile
from gateway.ota.tlv import Tlv

_CHANNEL = 1
#: datagrams that wait for the card; a further one is dropped, as a full buffer does
MOST_DATAGRAMS = 32
_OPEN = ChannelStatus(_CHANNEL, True)


@dataclass(frozen=True, slots=True)
class Behaviour:
    #: False: it knows no channels, says so in its profile, and answers 30
    capable: bool = True
    #: what OPEN CHANNEL gets instead of a channel
    failure: Result | None = None
    open_delay_s: float = 0.0
    #: of each datagram, both ways: lost, doubled, late by up to so much
    loss: float = 0.0
    twice: float = 0.0
    delay_s: float = 0.0
    seed: int = 0
    #: a short message of the card goes out
    sends_messages: bool = True


class _Socket(asyncio.DatagramProtocol):
    def __init__(self, on_datagram: Callable[[bytes], None]) -> None:
        self._on_datagram = on_datagram
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002
        self._on_datagram(data)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there: UDP tells late or never, so the card's own timers find out."""


class Terminal:
    """`on_submit` gets the TPDU of each short message of the card, `on_apdu` each APDU with its data and status word,
    `on_datagram` each datagram that went out (True) or came in (False)."""

    def __init__(
        self,
        card: Card,
        imei: bytes,
        centre: Address,
        behaviour: Behaviour,
        on_submit: Callable[[bytes], None],
        on_apdu: Callable[[bytes], None] = lambda _apdu: None,
        on_datagram: Callable[[bytes, bool], None] = lambda _datagram, _is_out: None,
    ) -> None:
        self.card = card
        self.counts: Counter[str] = Counter()
        self.imei, self._centre, self.behaviour = imei, centre, behaviour
        self._on_submit, self._on_apdu, self._on_wire = on_submit, on_apdu, on_datagram
        self._random = random.Random(behaviour.seed)  # noqa: S311 - which datagrams are lost
        self._work: asyncio.Queue[Callable[[], tuple[bytes, int]] | None] = asyncio.Queue(256)
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._received: deque[bytes] = deque()
        #: what is left of the datagram that the card is receiving
        self._current = b""
        self._outgoing = bytearray()
        #: the card was told of it, or will be; and that is what it is busy with
        self._is_told = self._is_receiving = False

    # --- what happens to it ----------------------------------------------------------------------------------------

    async def power_on(self) -> None:
        self._task = asyncio.create_task(self._serve())
        has = self.behaviour.capable
        profile = TerminalProfile(
            sms_pp=True,
            send_short_message=True,
            local_information=True,
            event_list=True,
            data_available=has,
            channel_status_event=has,
            channel_commands=has,
            gprs=True,
            channels=1 if has else 0,
            udp=has,
            eutran=True,
        )
        self._put(lambda: self._exchange(Instruction.TERMINAL_PROFILE, build_profile(profile)))

    def deliver(self, tpdu: bytes) -> None:
        """A SMS-DELIVER for the card comes from the network."""
        envelope = build_download(self._centre, tpdu)
        self._put(lambda: self._exchange(Instruction.ENVELOPE, envelope))

    def drop_channel(self) -> None:
        """The network takes the bearer away, where there is one."""
        if self._transport is None:
            return
        self._close()
        lost = EventDownload(Event.CHANNEL_STATUS, ChannelStatus(_CHANNEL, False, 0x05))

        def tell() -> tuple[bytes, int]:
            # the card may have closed that channel and opened another meanwhile, with the same number: it would forget
            # the new one, which stayed open here for ever, and no later PUSH found a channel
            if self._transport is not None:
                return b"", self.card.tick(self._now_ms())
            return self._exchange(Instruction.ENVELOPE, build_event(lost))

        self._put(tell)

    async def power_off(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._close()  # behind its task, which may have been about to open a channel
        while not self._work.empty():  # what a card was not told is gone with the power
            self._work.get_nowait()
            self._work.task_done()

    async def settle(self) -> None:
        """Until the card was told all that has happened so far, and asks for nothing more."""
        await self._work.join()

    def _put(self, work: Callable[[], tuple[bytes, int]]) -> None:
        try:
            self._work.put_nowait(work)
        except asyncio.QueueFull:
            self.counts["too_much"] += 1

    # --- the interface to the card ---------------------------------------------------------------------------------

    @staticmethod
    def _now_ms() -> int:
        return int(asyncio.get_running_loop().time() * 1_000)

    def _exchange(self, instruction: Instruction, data: bytes = b"") -> tuple[bytes, int]:
        apdu = build_apdu(instruction, data)
        answer, status_word = self.card.apdu(apdu, self._now_ms())
        # as it is traced: a length counts what follows it, be it the answer's
        whole = apdu[:4] + bytes((len(answer),)) + answer if instruction is Instruction.FETCH else apdu
        self._on_apdu(whole + status_word.to_bytes(2, "big"))
        return answer, status_word

    async def _serve(self) -> None:
        while True:
            work = await self._next()
            try:
                status_word = work()[1] if work is not None else self.card.tick(self._now_ms())
                while status_word >> 8 == 0x91:
                    data, _ = self._exchange(Instruction.FETCH)
                    number, command = parse_proactive(data)
                    response = await self._perform(number, command)
                    _, status_word = self._exchange(Instruction.TERMINAL_RESPONSE, build_response(response))
            finally:
                if work is not None:
                    self._work.task_done()
            if self._is_receiving:
                # what the card did not ask for now, it does not want
                self._is_receiving = self._is_told = False
                self._current = b""
            self._tell()

    async def _next(self) -> Callable[[], tuple[bytes, int]] | None:
        """None: the card's time has come."""
        due = self.card.due_ms
        timeout = None if due is None else max(0, due - self._now_ms()) / 1_000
        try:
            async with asyncio.timeout(timeout):
                return await self._work.get()
        except TimeoutError:
            return None

    async def _perform(self, number: int, command: Command) -> TerminalResponse:
        result = Result(General.PERFORMED)
        rest: tuple[Tlv, ...] = ()
        match command:
            case ProvideImei():
                rest = (Tlv(TAG_IMEI, self.imei),)
            case SetUpEventList():
                pass
            case SendShortMessage(tpdu=tpdu):
                if self.behaviour.sends_messages:
                    self._on_submit(tpdu)
                else:
                    result = Result(General.SMS_RP_ERROR, b"\x26")
            case OpenChannel():
                result, rest = await self._open(command)
            case SendData() | ReceiveData() | CloseChannel() if self._transport is None:
                result = Result(General.BEARER, bytes((Bearer.CHANNEL_CLOSED,)))
            case SendData(data=data, immediate=immediate):
                self._outgoing += data
                if immediate:
                    self._post(bytes(self._outgoing), self._transmit)
                    self._outgoing.clear()
                rest = (build_length_object(0xFF),)
            case ReceiveData(length=length):
                piece, self._current = self._current[:length], self._current[length:]
                rest = (Tlv(TAG_CHANNEL_DATA, piece), build_length_object(len(self._current)))
            case CloseChannel():
                self._close()
            case GetChannelStatus():
                rest = (_OPEN.build() if self._transport else ChannelStatus(0, False).build(),)
            case _:
                result = Result(General.BEYOND_CAPABILITIES)
        return TerminalResponse(number, *describe(command), result, rest)

    # --- the channel -----------------------------------------------------------------------------------------------

    async def _open(self, command: OpenChannel) -> tuple[Result, tuple[Tlv, ...]]:
        channel = command.channel
        if not self.behaviour.capable or channel.transport is not TransportType.UDP:
            return Result(General.BEYOND_CAPABILITIES), ()
        await asyncio.sleep(self.behaviour.open_delay_s)
        said = (Tlv(TAG_BEARER, channel.bearer), Tlv(TAG_BUFFER, channel.buffer_bytes.to_bytes(2, "big")))
        if self.behaviour.failure is not None:
            return self.behaviour.failure, said
        if self._transport is not None:
            return Result(General.BEARER, bytes((Bearer.NO_CHANNEL,))), said
        opening = _Socket(lambda data: self._post(data, self._on_datagram))
        try:
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: opening, remote_addr=(str(channel.address), channel.port)
            )
        except OSError:
            return Result(General.BEARER, bytes((Bearer.UNREACHABLE,))), said
        except asyncio.CancelledError:
            if opening.transport is not None:
                opening.transport.close()
            raise
        self._transport = transport
        return Result(General.PERFORMED), (_OPEN.build(), *said)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        self._received.clear()
        self._current, self._is_told = b"", False
        self._outgoing.clear()

    def _post(self, datagram: bytes, onward: Callable[[bytes], None]) -> None:
        """Through the network as it is."""
        for _ in range(2 if self._random.random() < self.behaviour.twice else 1):
            if self._random.random() < self.behaviour.loss:
                self.counts["lost"] += 1
            elif self.behaviour.delay_s:
                late_s = self._random.uniform(0, self.behaviour.delay_s)
                asyncio.get_running_loop().call_later(late_s, onward, datagram)
            else:
                onward(datagram)

    def _transmit(self, datagram: bytes) -> None:
        if self._transport is not None:
            self._on_wire(datagram, True)
            self._transport.sendto(datagram)

    def _on_datagram(self, datagram: bytes) -> None:
        if self._transport is None or not datagram:
            return
        self._on_wire(datagram, False)
        if len(self._received) >= MOST_DATAGRAMS:
            self.counts["buffer_full"] += 1
            return
        self._received.append(datagram)
        self._tell()

    def _tell(self) -> None:
        """Of the next datagram, one at a time: what a card receives ends where a datagram does."""
        if self._is_told or not self._received:
            return
        self._is_told = True
        self._current = self._received.popleft()
        length = min(len(self._current), 0xFF)
        event = build_event(EventDownload(Event.DATA_AVAILABLE, _OPEN, length))

        def tell() -> tuple[bytes, int]:
            self._is_receiving = True
            return self._exchange(Instruction.ENVELOPE, event)

        self._put(tell)
