"""A card in a terminal, a server on a real UDP socket, and what stands for an SMSC between them."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
from collections.abc import Callable, Iterator
from typing import Self, cast

from gateway.ota.cattp import Closed, Limits, Link, Opened, Output, Received, State, Transmit
from gateway.ota.channel import Channel, TransportType
from gateway.ota.check_request import build_check_request, build_iccid
from gateway.ota.packet_security import Algorithm, Keys, Spi
from gateway.ota.proactive import Command as ProactiveCommand
from gateway.ota.proactive import parse_proactive
from gateway.ota.push import OpenLink, PushAnswer, build_push, parse_push_answer
from gateway.ota.secured_packet import Command, PacketAnswer, Transport, build_command, parse_answer
from gateway.ota.sim.card import Card, Profile
from gateway.ota.sim.terminal import Behaviour, Terminal
from gateway.ota.sms_pp import (
    ANSWER_PACKET,
    Assembly,
    Deliver,
    build_address,
    build_deliver,
    parse_submit,
    parse_user_data,
    segment,
)
from gateway.ota.terminal_profile import Instruction

TAR = bytes.fromhex("b00011")
KEYS = Keys(2, Algorithm.AES, bytes(range(16)), bytes(range(16, 32)))
IMEI = bytes.fromhex("5384090214365807")
NONCE = b"\x9cunguessable"
ICCID = "89440000000000000001"
CHECK_REQUEST = build_check_request(ICCID, KEYS)
PATIENCE_S = 60.0

FAST = Limits(
    max_pdu=400,
    max_sdu=4_000,
    rto_first_ms=60,
    rto_least_ms=20,
    rto_most_ms=200,
    retries=60,
    opening_retries=60,
    close_wait_ms=200,
)


def write_apdu(number: int, size: int, what: bytes = b"") -> bytes:
    """UPDATE BINARY of so many bytes."""
    return bytes((0, 0xD6, 0, number, size)) + (what or bytes((number,)) * size)


class Server(asyncio.DatagramProtocol):
    """One link on a real socket; answers where its last datagram came from."""

    def __init__(self) -> None:
        self.link = Link(FAST, 9_000, 65_530, admit=lambda identification: identification == NONCE)
        self.link.listen()
        self.events: list[Output] = []
        self.changed = asyncio.Event()
        self._peer: tuple[str, int] | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    @property
    def port(self) -> int:
        assert self._transport is not None
        return self._transport.get_extra_info("sockname")[1]

    @staticmethod
    def now_ms() -> int:
        return int(asyncio.get_running_loop().time() * 1_000)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._peer = addr
        self.run(self.link.handle(data, self.now_ms()))

    def run(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Transmit):
                self._transport.sendto(output.data, self._peer)
            else:
                self.events.append(output)
                self.changed.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.link.due_ms
        if due is not None:
            late_s = max(0, due - self.now_ms()) / 1_000
            self._timer = asyncio.get_running_loop().call_later(late_s, lambda: self.run(self.link.tick(self.now_ms())))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport.close()


class Scene:
    def __init__(self, behaviour: Behaviour = Behaviour(), imei: bytes = IMEI) -> None:  # noqa: B008 - it is frozen
        profile = Profile(
            iccid=build_iccid(ICCID),
            keys=KEYS,
            tar=TAR,
            centre=build_address("12345678901"),
            server=build_address("4999", 0x81),
            check_request=CHECK_REQUEST,
            imei=imei,
            limits=dataclasses.replace(FAST, window=4),
        )
        self.card = Card(profile, lambda: 65_533)
        self.behaviour = behaviour
        self.apdus: list[bytes] = []
        self.on_apdu: Callable[[bytes], None] = lambda _apdu: None
        #: user data of the card's short messages that are no packets
        self.requests: list[bytes] = []
        self.packets: list[bytes] = []
        self._assembly = Assembly(4, 60_000)
        self._changed = asyncio.Event()
        self.counter = 0

    async def __aenter__(self) -> Self:
        _, self.server = await asyncio.get_running_loop().create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
        self.terminal = self.insert(IMEI)
        await self.terminal.power_on()
        await self.terminal.settle()
        return self

    def insert(self, imei: bytes) -> Terminal:
        return Terminal(self.card, imei, build_address("12345678901"), self.behaviour, self._on_submit, self._keep)

    async def __aexit__(self, *_: object) -> None:
        await self.terminal.power_off()
        self.server.close()

    def _keep(self, apdu: bytes) -> None:
        self.apdus.append(apdu)
        self.on_apdu(apdu)

    def _on_submit(self, tpdu: bytes) -> None:
        submit = parse_submit(tpdu)
        if not submit.has_header:
            self.requests.append(submit.user_data)
            return
        packet = self._assembly.add(b"", parse_user_data(submit.user_data), 0)
        if packet is not None:
            assert packet.kind == ANSWER_PACKET
            self.packets.append(packet.packet)
            self._changed.set()

    def fetched(self) -> Iterator[ProactiveCommand]:
        """What the card asked its terminal for."""
        for apdu in self.apdus:
            if apdu[1] == Instruction.FETCH:
                yield parse_proactive(apdu[5:-2])[1]

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not done():
                self._changed.clear()
                self.server.changed.clear()
                waits = [asyncio.ensure_future(event.wait()) for event in (self._changed, self.server.changed)]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=0.02)
                for wait in waits:
                    wait.cancel()

    def command(self, data: bytes, spi: Spi = Spi()) -> Command:  # noqa: B008 - it is frozen
        self.counter += 1
        return Command(spi, TAR, self.counter, data)

    def deliver(self, packet: bytes) -> None:
        for user_data in segment(packet, self.counter):
            self.terminal.deliver(build_deliver(Deliver(build_address("4999", 0x81), user_data)))

    async def ask(self, command: Command, keys: Keys = KEYS) -> PacketAnswer:
        """By short message."""
        before = len(self.packets)
        self.deliver(build_command(command, keys))
        await self.until(lambda: len(self.packets) > before)
        return parse_answer(self.packets[before], command, KEYS)

    def command_channel(self) -> Command:
        channel = Channel(TransportType.UDP, self.server.port, ipaddress.ip_address("127.0.0.1"), "internet")
        return self.command(build_push(channel))

    async def push_channel(self) -> PushAnswer:
        return parse_push_answer((await self.ask(self.command_channel())).data)

    async def push_link(self) -> PushAnswer:
        asked = OpenLink(9_000, 4_000, NONCE)
        return parse_push_answer((await self.ask(self.command(build_push(asked)))).data)

    async def open(self) -> None:
        assert (await self.push_channel()).is_done
        assert (await self.push_link()).is_done
        await self.until(lambda: self.server.link.state is State.OPEN)
        assert any(isinstance(event, Opened) for event in self.server.events)

    async def download(self, blocks: list[bytes]) -> list[PacketAnswer]:
        """Over the link, each a secured packet of its own, all at once."""
        commands = [self.command(block) for block in blocks]
        before = len(self.answers)
        for command in commands:
            packet = build_command(command, KEYS, Transport.CAT_TP)
            self.server.run(self.server.link.send(packet, self.server.now_ms()))
        await self.until(lambda: len(self.answers) >= before + len(blocks))
        return [
            parse_answer(packet, command, KEYS, Transport.CAT_TP)
            for packet, command in zip(self.answers[before:], commands, strict=True)
        ]

    @property
    def answers(self) -> list[bytes]:
        return [event.sdu for event in self.server.events if isinstance(event, Received)]

    async def hang_up(self) -> None:
        self.server.run(self.server.link.close(self.server.now_ms()))
        await self.until(lambda: any(isinstance(event, Closed) for event in self.server.events))
