"""Simulated cards that cost little, for a campaign of many: secured packets with real keys, counters, PUSH, CAT_TP over
real UDP, and no APDUs between card and terminal; must never execute a command that its checks do not allow.

A card is a number: its MSISDN, ICCID and keys follow from it, so that 100,000 of them are a few arrays. What it has
only while it is at work (parts of a message, a link, a socket) goes when that is over. `gateway.ota.sim` is the whole
card.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import random
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable

from gateway.ota.cattp import Closed, Limits, Link, Opened, Output, Received, Refused, State, Transmit
from gateway.ota.channel import Channel
from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import Algorithm, Keys
from gateway.ota.push import OpenLink, PushAnswer, build_push_answer, parse_push
from gateway.ota.secured_packet import (
    Command,
    PacketAnswer,
    Rejected,
    Status,
    Transport,
    build_answer,
    check_counter,
    parse_command,
    wants_answer,
)
from gateway.ota.sms_pp import ANSWER_PACKET, COMMAND_PACKET, Assembly, parse_user_data, segment

PUSH_KEYS, DATA_KEYS = 1, 2
TAR = bytes.fromhex("b00010")
OK, WRONG_DATA, WRONG_LENGTH, NOT_ALLOWED = 0x9000, 0x6A80, 0x6700, 0x6985
_MSISDN, _ICCID = "4917{:09d}", "894917{:013d}"
#: how long a CLOSE-WAIT answers what is late: a campaign does not keep 100,000 sockets for it
LIMITS = Limits(close_wait_ms=4_000)
POLL_S = 0.05


def msisdn(number: int) -> str:
    return _MSISDN.format(number)


def iccid(number: int) -> str:
    return _ICCID.format(number)


def key(number: int, which: str) -> bytes:
    """16 bytes; every card has its own."""
    return hashlib.blake2b(which.encode() + number.to_bytes(4, "big"), digest_size=16).digest()


def find_keys(number: int, key_set: int) -> Keys | None:
    if key_set not in (PUSH_KEYS, DATA_KEYS):
        return None
    return Keys(key_set, Algorithm.AES, key(number, f"kic{key_set}"), key(number, f"kid{key_set}"))


def split_commands(data: bytes) -> list[bytes]:
    """One behind the other, each as long as its fifth byte says (TS 102 226 §5.1.1). Malformed."""
    commands: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 5 + (data[at + 4] if at + 4 < len(data) else 0)
        if end > len(data):
            raise Malformed("a command ends early")
        commands.append(data[at:end])
        at = end
    return commands


class _Call:
    """A card in a channel."""

    __slots__ = ("link", "sock", "wakes_ms")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.link: Link | None = None
        self.wakes_ms = 0


class LightCards:
    """`answer(number, user_data)` sends a short message for a card. `loss`: share of datagrams dropped, each way.
    `expected`: the commands that each is to execute, once and in order; anything else is counted as `wrong`."""

    def __init__(
        self, count: int, expected: list[bytes], answer: Callable[[int, bytes], None], *, loss: float, seed: int
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.count = count
        self._expected = expected
        self._answer = answer
        self._loss = loss
        self._chance = random.Random(seed)
        self._assembly = Assembly(100_000, 600_000)
        #: the last counter taken, by key set; commands executed
        self._counters = {PUSH_KEYS: array("Q", bytes(8 * count)), DATA_KEYS: array("Q", bytes(8 * count))}
        self.done = array("L", bytes(array("L").itemsize * count))
        self._calls: dict[int, _Call] = {}
        self._due: list[tuple[int, int]] = []
        self._loop = asyncio.get_running_loop()
        self._reference = 0

    @property
    def complete(self) -> int:
        """Cards that have executed all that they were to."""
        return self.counts["complete"]

    @property
    def in_channels(self) -> int:
        return len(self._calls)

    # --- short messages --------------------------------------------------------------------------------------------

    def on_message(self, number: int, user_data: bytes) -> None:
        """User data with a header 70, or a later part."""
        try:
            packet = self._assembly.add(number.to_bytes(4, "big"), parse_user_data(user_data), _now_ms())
            if packet is not None and packet.kind == COMMAND_PACKET:
                self._on_packet(number, packet.packet, Transport.SMS, lambda answer: self._say(number, answer))
        except Malformed:
            self.counts["malformed"] += 1

    def _say(self, number: int, answer: bytes) -> None:
        self._reference = (self._reference + 1) & 0xFF
        for user_data in segment(answer, self._reference, ANSWER_PACKET):
            self._answer(number, user_data)

    def _on_packet(self, number: int, packet: bytes, transport: Transport, send: Callable[[bytes], None]) -> None:
        keys: Keys | None = None

        def find(kic: int, _kid: int) -> Keys | None:
            nonlocal keys
            keys = find_keys(number, kic >> 4)
            return keys

        try:
            command = parse_command(packet, find, transport)
        except Rejected as rejected:
            self.counts[f"rejected_{rejected.status.name.lower()}"] += 1
            return
        if keys is None:
            self.counts["unprotected"] += 1
            return
        counters = self._counters[keys.key_set]
        status = check_counter(command.spi.counting, counters[number], command.counter)
        if status is Status.OK:
            counters[number] = command.counter
            data = build_push_answer(self._execute(number, command))
        else:
            self.counts[status.name.lower()] += 1
            data = b""
        if wants_answer(command.spi, status):
            answer = PacketAnswer(command.tar, command.counter, status, data)
            send(build_answer(answer, command.spi, keys, transport))

    def _execute(self, number: int, command: Command) -> PushAnswer:
        try:
            commands = split_commands(command.data)
        except Malformed:
            return PushAnswer(1, WRONG_LENGTH)
        for at, apdu in enumerate(commands, 1):
            status_word = self._push(number, apdu) if apdu[:2] == b"\x80\xec" else self._perform(number, apdu)
            if status_word != OK:
                return PushAnswer(at, status_word)
        return PushAnswer(len(commands), OK)

    def _perform(self, number: int, apdu: bytes) -> int:
        at = self.done[number]
        if at >= len(self._expected) or self._expected[at] != apdu:
            self.counts["wrong"] += 1
        self.done[number] = at + 1
        if at + 1 == len(self._expected):
            self.counts["complete"] += 1
        return OK

    # --- the channel and the link ----------------------------------------------------------------------------------

    def _push(self, number: int, apdu: bytes) -> int:
        try:
            asked = parse_push(apdu)
        except Malformed:
            return WRONG_DATA
        if isinstance(asked, Channel):
            return self._open_channel(number, asked)
        return self._open_link(number, asked)

    def _open_channel(self, number: int, channel: Channel) -> int:
        call = self._calls.get(number)
        if call is not None:
            if call.link is not None and call.link.state in (State.SYN_SENT, State.OPEN):
                return NOT_ALLOWED
            self._drop(number)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect((str(channel.address), channel.port))
        self._calls[number] = _Call(sock)
        self._loop.add_reader(sock, self._on_readable, number)
        self.counts["channels"] += 1
        return OK

    def _open_link(self, number: int, asked: OpenLink) -> int:
        call = self._calls.get(number)
        if call is None or call.link is not None:
            return NOT_ALLOWED
        first = self._chance.randrange(1 << 16)
        said = asked.identification or iccid(number).encode()
        call.link = Link(LIMITS, 1, first, remote_port=asked.port, identification=said)
        self._run(number, call, call.link.connect(_now_ms()))
        return OK

    def _on_readable(self, number: int) -> None:
        call = self._calls.get(number)
        while call is not None:
            try:
                datagram = call.sock.recv(65_536)
            except BlockingIOError:
                return
            except OSError:
                self.counts["unreachable"] += 1
                return
            if self._is_lost():
                continue
            if call.link is not None:
                self._run(number, call, call.link.handle(datagram, _now_ms()))
            if self._calls.get(number) is not call:
                return

    def _is_lost(self) -> bool:
        if self._loss and self._chance.random() < self._loss:
            self.counts["datagrams_lost"] += 1
            return True
        return False

    def _run(self, number: int, call: _Call, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Transmit(data):
                    self._transmit(call, data)
                case Received(sdu):
                    self._on_sdu(number, call, sdu)
                case Opened():
                    self.counts["opened"] += 1
                case Closed(cause):
                    self.counts[f"closed_{cause.value}"] += 1
                    self.counts["resent"] += call.link.counts["resent"] if call.link else 0
        self._arm(number, call)

    def _transmit(self, call: _Call, data: bytes) -> None:
        self.counts["datagrams"] += 1
        if self._is_lost():
            return
        try:
            call.sock.send(data)
        except OSError:
            self.counts["unsent"] += 1

    def _on_sdu(self, number: int, call: _Call, sdu: bytes) -> None:
        def send(answer: bytes) -> None:
            try:
                if call.link is not None:
                    self._run(number, call, call.link.send(answer, _now_ms()))
            except Refused:
                self.counts["answer_refused"] += 1

        try:
            self._on_packet(number, sdu, Transport.CAT_TP, send)
        except Malformed:
            self.counts["malformed"] += 1

    # --- time ------------------------------------------------------------------------------------------------------

    def _arm(self, number: int, call: _Call) -> None:
        link = call.link
        if link is None:
            return
        if link.state is State.CLOSE:
            self._drop(number)
            return
        due = link.due_ms
        # one entry a card: one that comes too early looks again
        if due is not None and (not call.wakes_ms or due < call.wakes_ms):
            call.wakes_ms = due
            heapq.heappush(self._due, (due, number))

    def tick(self) -> None:
        """Every POLL_S."""
        now = _now_ms()
        while self._due and self._due[0][0] <= now:
            due, number = heapq.heappop(self._due)
            call = self._calls.get(number)
            if call is not None and call.link is not None and call.wakes_ms == due:
                call.wakes_ms = 0
                self._run(number, call, call.link.tick(now))

    def close(self) -> None:
        for number in list(self._calls):
            self._drop(number)

    def _drop(self, number: int) -> None:
        call = self._calls.pop(number)
        self._loop.remove_reader(call.sock)
        call.sock.close()


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
