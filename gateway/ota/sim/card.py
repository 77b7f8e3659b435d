"""A card: compares the IMEI at power-on, takes secured packets, opens channels, speaks CAT_TP (E1, E3, E6); must never
take a command twice, nor one whose check is wrong.

No input or output: APDUs go in, status words come out, and where there is something to FETCH the status word is 91xx
(ETSI TS 102 221 §7.4.2). It differs from a card in two things: its time is told to it, and its answers to secured
packets in short messages all go by SEND SHORT MESSAGE, whether SPI asks for that or for the delivery report.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.ota.cattp import Closed, Limits, Link, Opened, Output, Received, Refused, State, Transmit
from gateway.ota.channel import Channel
from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import Keys, Spi
from gateway.ota.proactive import (
    CloseChannel,
    Command,
    Event,
    OpenChannel,
    ProvideImei,
    ReceiveData,
    SendData,
    SendShortMessage,
    SetUpEventList,
    TerminalResponse,
    build_proactive,
    describe,
    parse_event,
    parse_response,
)
from gateway.ota.push import OpenLink, PushAnswer, build_push_answer, parse_push
from gateway.ota.result import Meaning, Result
from gateway.ota.secured_packet import (
    PacketAnswer,
    Rejected,
    Status,
    Transport,
    build_answer,
    check_counter,
    parse_command,
    wants_answer,
)
from gateway.ota.sim.commands import split_commands
from gateway.ota.sms_pp import (
    ANSWER_PACKET,
    Address,
    Assembly,
    Submit,
    build_submit,
    parse_deliver,
    parse_download,
    parse_user_data,
    segment,
)
from gateway.ota.terminal_profile import Instruction, TerminalProfile, parse_apdu, parse_profile

OK, WRONG_DATA, FAILED, NOT_ALLOWED, WRONG_LENGTH = 0x9000, 0x6A80, 0x6F00, 0x6985, 0x6700
_FETCH = 0x9100
#: of one datagram in one SEND DATA, and of one RECEIVE DATA: each has to fit an APDU
CHUNK_BYTES = 200
#: commands that wait for a FETCH; past it a card has no room for more
MOST_WAITING = 64
_BLIND = Limits()


@dataclass(slots=True)
class Profile:
    """What is on a card when it leaves its maker."""

    iccid: bytes = field(repr=False)
    #: protects its messages, and says that its check request is its own
    keys: Keys
    tar: bytes
    #: where its messages go: the centre, and whom they are for
    centre: Address
    server: Address
    #: what it says when its terminal is another one: who it is
    check_request: bytes = field(repr=False)
    #: the terminal that it was in last (E1)
    imei: bytes = field(default=b"", repr=False)
    limits: Limits = _BLIND
    #: further key sets, each with a counter of its own
    more_keys: tuple[Keys, ...] = ()
    #: what PUSH is sent to, where that is another application
    push_tar: bytes = b""
    #: the last counter that it took, by key set
    counters: dict[int, int] = field(default_factory=dict)

    def find_keys(self, kic: int, kid: int) -> Keys | None:
        return next((keys for keys in (self.keys, *self.more_keys) if keys.key_set in (kic >> 4, kid >> 4)), None)


Done = Callable[[TerminalResponse], None]


class Card:
    """`apdu` and `tick` are all that a terminal calls."""

    def __init__(self, profile: Profile, first_number: Callable[[], int]) -> None:
        self.profile = profile
        self.terminal = TerminalProfile()
        self.counts: Counter[str] = Counter()
        #: commands that were executed, in order, but for PUSH
        self.executed: list[bytes] = []
        #: what the applications of the card say to a command
        self.perform: Callable[[bytes], int] = lambda _command: OK
        #: hears each PUSH that it takes
        self.on_push: Callable[[Channel | OpenLink], None] = lambda _asked: None
        self.link: Link | None = None
        self._first_number = first_number
        self._waiting: deque[tuple[Command, Done]] = deque()
        #: what was fetched and is not answered
        self._running: tuple[int, Command, Done] | None = None
        self._number = 0
        self._assembly = Assembly(4, 60_000)
        self._reference = 0
        self._channel = 0
        self._incoming = bytearray()
        self._now_ms = 0

    # --- the interface ---------------------------------------------------------------------------------------------

    def apdu(self, apdu: bytes, now_ms: int) -> tuple[bytes, int]:
        """(data, status word)."""
        self._now_ms = now_ms
        try:
            instruction, data = parse_apdu(apdu)
            if instruction is Instruction.FETCH:
                return self._fetch()
            if instruction is Instruction.TERMINAL_PROFILE:
                self._on_power(parse_profile(data))
            elif instruction is Instruction.TERMINAL_RESPONSE:
                self._on_response(parse_response(data))
            elif data[:1] == b"\xd6":
                self._on_event(data)
            else:
                self._on_message(parse_deliver(parse_download(data)).user_data)
        except Malformed:
            self.counts["malformed"] += 1
            return b"", WRONG_DATA
        return b"", self._status_word()

    def _status_word(self) -> int:
        if not self._waiting or self._running is not None:
            return OK
        number = self._number % 0xFE + 1
        return _FETCH | min(len(build_proactive(number, self._waiting[0][0])), 0xFF)

    def _fetch(self) -> tuple[bytes, int]:
        if not self._waiting or self._running is not None:
            return b"", NOT_ALLOWED
        self._number = self._number % 0xFE + 1
        command, done = self._waiting.popleft()
        self._running = (self._number, command, done)
        return build_proactive(self._number, command), OK

    def _on_response(self, response: TerminalResponse) -> None:
        if self._running is None:
            raise Malformed("nothing was fetched")
        number, command, done = self._running
        if (response.number, response.kind, response.qualifier) != (number, *describe(command)):
            raise Malformed("a response to another command")
        self._running = None
        done(response)

    def _ask(self, command: Command, done: Done = lambda _response: None) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self.counts["no_room"] += 1
        else:
            self._waiting.append((command, done))

    @property
    def due_ms(self) -> int | None:
        return self.link.due_ms if self.link is not None else None

    def tick(self, now_ms: int) -> int:
        """The status word of a STATUS, with which a terminal polls a card."""
        self._now_ms = now_ms
        if self.link is not None:
            self._run(self.link.tick(now_ms))
        return self._status_word()

    # --- power-on (E1) ---------------------------------------------------------------------------------------------

    def _on_power(self, terminal: TerminalProfile) -> None:
        self.terminal = terminal
        self._waiting.clear()
        self._running = None
        self._drop_link()
        if terminal.event_list and terminal.channel_commands:
            self._ask(SetUpEventList(bytes((Event.DATA_AVAILABLE, Event.CHANNEL_STATUS))))
        if terminal.local_information:
            self._ask(ProvideImei(), self._on_imei)

    def _on_imei(self, response: TerminalResponse) -> None:
        if response.result.meaning is not Meaning.DONE:
            return
        imei = response.imei
        if imei == self.profile.imei:
            return

        def sent(response: TerminalResponse) -> None:
            # one that did not go out is asked again at the next power-on
            if response.result.meaning is Meaning.DONE:
                self.profile.imei = imei

        self._submit(self.profile.check_request, has_header=False, done=sent)

    def _submit(self, user_data: bytes, *, has_header: bool, done: Done = lambda _response: None) -> None:
        self._reference = (self._reference + 1) & 0xFF
        submit = Submit(self.profile.server, user_data, has_header, self._reference)
        self._ask(SendShortMessage(self.profile.centre, build_submit(submit)), done)

    # --- secured packets -------------------------------------------------------------------------------------------

    def _on_message(self, user_data: bytes) -> None:
        packet = self._assembly.add(b"", parse_user_data(user_data), self._now_ms)
        if packet is not None and packet.kind != ANSWER_PACKET:
            self._on_packet(packet.packet, Transport.SMS, self._answer_by_message)

    def _answer_by_message(self, packet: bytes) -> None:
        for user_data in segment(packet, self._reference + 1, ANSWER_PACKET):
            self._submit(user_data, has_header=True)

    def _on_packet(self, packet: bytes, transport: Transport, send: Callable[[bytes], None]) -> None:
        profile = self.profile
        keys = profile.keys

        def find_keys(kic: int, kid: int) -> Keys | None:
            nonlocal keys
            found = profile.find_keys(kic, kid)
            keys = found or keys
            return found

        try:
            command = parse_command(packet, find_keys, transport)
        except Rejected as rejected:
            self.counts[rejected.status.name.lower()] += 1
            # it trusts nothing of the packet, not even that an answer is wanted: one without a check
            bare = PacketAnswer(rejected.tar, 0, rejected.status, b"", authentic=False)
            send(build_answer(bare, Spi(), None, transport))
            return

        def answer(data: bytes, status: Status = Status.OK) -> None:
            if wants_answer(command.spi, status):
                said = PacketAnswer(command.tar, command.counter, status, data)
                send(build_answer(said, command.spi, keys, transport))

        last = profile.counters.get(keys.key_set, 0)
        status = check_counter(command.spi.counting, last, command.counter)
        if command.tar not in (profile.tar, profile.push_tar):
            status = Status.TAR_UNKNOWN
        if status is not Status.OK:
            self.counts[status.name.lower()] += 1
            answer(b"", status)
            return
        profile.counters[keys.key_set] = max(last, command.counter)
        try:
            commands = split_commands(command.data)
        except Malformed:
            answer(build_push_answer(PushAnswer(1, WRONG_LENGTH)))
            return
        self._execute(commands, 0, answer)

    def _execute(self, commands: list[bytes], at: int, answer: Callable[[bytes], None]) -> None:
        """One after the other from this one on; the first that fails is the last. The answer counts them (ETSI TS 102
        226 §5.1.2)."""

        def answered(status_word: int, result: Result | None = None) -> None:
            if status_word == OK and at + 1 < len(commands):
                self._execute(commands, at + 1, answer)
            else:
                answer(build_push_answer(PushAnswer(at + 1, status_word, result)))

        if at >= len(commands):
            answer(build_push_answer(PushAnswer(0, OK)))
            return
        command = commands[at]
        if command[:2] != b"\x80\xec":
            status_word = self.perform(command)
            if status_word == OK:
                self.executed.append(command)
            answered(status_word)
            return
        try:
            asked = parse_push(command)
        except Malformed:
            answered(WRONG_DATA)
            return
        self.on_push(asked)
        if isinstance(asked, Channel):
            self._open_channel(asked, answered)
        else:
            answered(self._open_link(asked))

    # --- the channel and the link (E3) -----------------------------------------------------------------------------

    def _open_channel(self, channel: Channel, answered: Callable[[int, Result | None], None]) -> None:
        if self._channel:
            answered(NOT_ALLOWED, None)
            return

        def opened(response: TerminalResponse) -> None:
            status = response.status
            if response.result.meaning is not Meaning.DONE or status is None or not status.channel:
                answered(FAILED, response.result)
                return
            self._channel = status.channel
            answered(OK, None)

        self._ask(OpenChannel(channel), opened)

    def _open_link(self, asked: OpenLink) -> int:
        if not self._channel or self.link is not None:
            return NOT_ALLOWED
        self.link = Link(
            self.profile.limits,
            1,
            self._first_number(),
            remote_port=asked.port,
            identification=asked.identification or self.profile.iccid,
        )
        self._run(self.link.connect(self._now_ms))
        return OK

    def _run(self, outputs: list[Output]) -> None:
        """What the link wants; events in their order."""
        for output in outputs:
            match output:
                case Transmit(data):
                    self._send(data)
                case Received(sdu):
                    self._on_sdu(sdu)
                case Opened():
                    self.counts["opened"] += 1
                case Closed(cause):
                    self.counts[f"closed_{cause.value}"] += 1
                    self._close_channel()

    def _close_channel(self) -> None:
        """Before all else, and however much waits: a channel that stays open keeps every later PUSH out."""
        closing = CloseChannel(self._channel)
        self._waiting = deque(each for each in self._waiting if not isinstance(each[0], ReceiveData | CloseChannel))
        self._waiting.append((closing, lambda _response: self._drop_link()))

    def _drop_link(self) -> None:
        self.link = None
        self._channel = 0
        self._incoming.clear()

    def _send(self, datagram: bytes) -> None:
        """In pieces: all but the last wait in the terminal's buffer."""
        for at in range(0, len(datagram), CHUNK_BYTES):
            piece = datagram[at : at + CHUNK_BYTES]
            self._ask(SendData(self._channel, piece, immediate=at + len(piece) == len(datagram)))

    def _on_event(self, envelope: bytes) -> None:
        event = parse_event(envelope)
        if not self._channel or event.status.channel != self._channel:
            return
        if event.event == Event.CHANNEL_STATUS and not event.status.is_open:
            self._drop_link()
        elif event.length:
            self._receive(event.length)

    def _receive(self, length: int) -> None:
        self._ask(ReceiveData(self._channel, min(length, CHUNK_BYTES)), self._on_received)

    def _on_received(self, response: TerminalResponse) -> None:
        if response.result.meaning is not Meaning.DONE:
            self._incoming.clear()
            return
        self._incoming += response.data
        if response.length:
            self._receive(response.length)
            return
        datagram = bytes(self._incoming)
        self._incoming.clear()
        if self.link is not None and self.link.state is not State.CLOSE:
            self._run(self.link.handle(datagram, self._now_ms))

    def _on_sdu(self, sdu: bytes) -> None:
        def send(packet: bytes) -> None:
            if self.link is None:
                return
            try:
                self._run(self.link.send(packet, self._now_ms))
            except Refused:
                self.counts["answer_refused"] += 1

        try:
            self._on_packet(sdu, Transport.CAT_TP, send)
        except Malformed:
            self.counts["malformed"] += 1
