"""The cheap cards of O3 check what they are sent as a card does, and execute each command once."""

import asyncio
import ipaddress
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.system.card_fleet import CardFleet, Network
from bench.system.light_cards import DATA_KEYS, PUSH_KEYS, TAR, LightCards, find_keys, iccid, key, msisdn
from gateway.ota.cattp import Limits, Link, Opened, Received, Transmit
from gateway.ota.channel import Channel, TransportType
from gateway.ota.packet_security import Keys, Spi
from gateway.ota.push import OpenLink, build_push, parse_push_answer
from gateway.ota.secured_packet import Command, PacketAnswer, Status, Transport, build_command, parse_answer
from gateway.ota.sms_pp import parse_user_data, segment
from gateway.paging.sms.pdu import (
    ESM_UDHI,
    NPI_E164,
    TON_INTERNATIONAL,
    Address,
    Bind,
    Frames,
    Pdu,
    ShortMessage,
    build_bind,
    build_message,
    build_pdu,
    parse_message,
)
from gateway.paging.sms.pdu import Command as Smpp

COMMANDS = [bytes.fromhex("00a40004023f00"), bytes.fromhex("00d6000003") + b"abc"]
CARD = 3


class Server:
    """What the gateway does, for one card and by hand."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.cards = LightCards(10, COMMANDS, lambda _number, data: self.answers.append(data), loss=0.0, seed=1)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.link = Link(Limits(), 9000, 1)
        self.link.listen()
        self.received: list[bytes] = []
        self.opened = 0
        self._card: tuple[str, int] | None = None
        self.counter = 0

    def keys(self, key_set: int) -> Keys:
        found = find_keys(CARD, key_set)
        assert found is not None
        return found

    def command(self, data: bytes, key_set: int) -> Command:
        self.counter += 1
        return Command(Spi(), TAR, self.counter, data)

    def push(self, what: Channel | OpenLink) -> PacketAnswer:
        command = self.command(build_push(what), PUSH_KEYS)
        for part in segment(build_command(command, self.keys(PUSH_KEYS)), 1):
            self.cards.on_message(CARD, part)
        answer = parse_user_data(self.answers.pop())
        return parse_answer(answer.body, command, self.keys(PUSH_KEYS))

    async def until(self, opened: int = 0, received: int = 0) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while self.opened < opened or len(self.received) < received:
                data, self._card = await loop.sock_recvfrom(self.socket, 2048)
                self.run(self.link.handle(data, 0))

    def run(self, outputs: list[object]) -> None:
        for output in outputs:
            if isinstance(output, Transmit):
                self.socket.sendto(output.data, self._card)  # type: ignore[arg-type]
            elif isinstance(output, Received):
                self.received.append(output.sdu)
            elif isinstance(output, Opened):
                self.opened += 1

    async def bring(self, data: bytes, command: Command | None = None) -> PacketAnswer:
        command = command or self.command(data, DATA_KEYS)
        before = len(self.received)
        self.run([*self.link.send(build_command(command, self.keys(DATA_KEYS), Transport.CAT_TP), 0)])
        await self.until(received=before + 1)
        return parse_answer(self.received[-1], command, self.keys(DATA_KEYS), Transport.CAT_TP)


@asynccontextmanager
async def called() -> AsyncIterator[Server]:
    """A server with a card on its link."""
    server = Server()
    address = ipaddress.ip_address("127.0.0.1")
    channel = Channel(TransportType.UDP, server.socket.getsockname()[1], address, "internet", 1_400)
    try:
        assert parse_push_answer(server.push(channel).data).is_done
        assert parse_push_answer(server.push(OpenLink(9000, 1_024, b"nonce-of-16-byte")).data).is_done
        await server.until(opened=1)
        yield server
    finally:
        server.socket.close()
        server.cards.close()


async def test_a_card_that_is_called_connects_and_executes_what_comes_once_and_in_order() -> None:
    async with called() as server:
        answer = await server.bring(b"".join(COMMANDS))
        assert (answer.status, answer.authentic) == (Status.OK, True)
        said = parse_push_answer(answer.data)
        assert (said.commands, said.status_word) == (2, 0x9000)
        assert (server.cards.complete, server.cards.done[CARD], server.cards.counts["wrong"]) == (1, 2, 0)


async def test_the_same_packet_again_is_not_executed_again() -> None:
    async with called() as server:
        command = server.command(COMMANDS[0], DATA_KEYS)
        assert (await server.bring(b"", command)).status == Status.OK
        assert (await server.bring(b"", command)).status == Status.COUNTER_LOW
        assert server.cards.done[CARD] == 1


async def test_a_command_out_of_order_is_counted_as_wrong() -> None:
    async with called() as server:
        await server.bring(COMMANDS[1])
        assert server.cards.counts["wrong"] == 1


async def test_a_packet_with_another_card_s_keys_is_not_taken() -> None:
    server = Server()
    with server.socket:
        keys = find_keys(CARD + 1, PUSH_KEYS)
        (part,) = segment(build_command(server.command(COMMANDS[0], PUSH_KEYS), keys), 1)
        server.cards.on_message(CARD, part)
        server.cards.on_message(CARD, b"garbage")
        assert server.answers == []
        assert server.cards.done[CARD] == 0
        assert server.cards.counts["malformed"] == 1
        assert sum(count for name, count in server.cards.counts.items() if name.startswith("rejected")) == 1


def test_each_card_has_an_identity_of_its_own() -> None:
    numbers = range(100)
    assert len({msisdn(number) for number in numbers}) == len({iccid(number) for number in numbers}) == 100
    assert len({key(number, which) for number in numbers for which in ("kic1", "kid1", "kic2", "kid2")}) == 400
    assert find_keys(1, 7) is None


async def test_the_network_answers_submissions_with_receipts_and_tells_what_cards_say() -> None:
    network = Network(10, 0.0, 1, COMMANDS)
    reader, writer = await asyncio.open_connection("127.0.0.1", await network.smsc.start())
    try:
        frames, waiting = Frames(), list[Pdu]()

        async def following() -> Pdu:
            while not waiting:
                async with asyncio.timeout(60):
                    waiting.extend(frames.feed(await reader.read(4_096)))
            return waiting.pop(0)

        writer.write(build_pdu(Smpp.BIND_TRANSCEIVER, 1, build_bind(Bind("gateway", "secret"))))
        assert (await following()).status == 0
        keys = find_keys(CARD, PUSH_KEYS)
        channel = Channel(TransportType.UDP, 9, ipaddress.ip_address("127.0.0.1"), "internet", 1_400)
        (part,) = segment(build_command(Command(Spi(), TAR, 1, build_push(channel)), keys), 1)
        to = Address(TON_INTERNATIONAL, NPI_E164, msisdn(CARD))
        sm = ShortMessage(Address(0, 0, "777"), to, part, ESM_UDHI, registered_delivery=1, data_coding=0xF6)
        writer.write(build_pdu(Smpp.SUBMIT_SM, 2, build_message(sm)))
        assert (await following()).command == Smpp.SUBMIT_SM | 0x80000000
        assert parse_message((await following()).body).is_receipt
        answer = parse_message((await following()).body)
        assert (answer.source.digits, answer.esm_class) == (msisdn(CARD), ESM_UDHI)
        assert parse_user_data(answer.message).kind == 0x71
        writer.write(build_pdu(Smpp.ENQUIRE_LINK, 3))
        assert (await following()).sequence == 3
        assert network.counts()["smsc_submitted"] == 1
    finally:
        writer.close()
        network.cards.close()
        await network.smsc.close()


async def test_a_fleet_in_a_process_of_its_own_says_what_it_counted() -> None:
    async with CardFleet(5, loss=0.05, seed=1, commands=COMMANDS) as fleet:
        assert fleet.port > 0
        counts = await fleet.counts()
        assert json.dumps(counts)
        assert (counts["complete"], counts["in_channels"]) == (0, 0)
        assert fleet.cpu_seconds() > 0


@pytest.mark.parametrize("loss", [0.3])
async def test_losses_are_drawn_from_the_seed(loss: float) -> None:
    one, other = (LightCards(1, [], lambda *_: None, loss=loss, seed=5) for _ in range(2))
    assert [one._is_lost() for _ in range(50)] == [other._is_lost() for _ in range(50)]
    assert 0 < one.counts["datagrams_lost"] < 50
