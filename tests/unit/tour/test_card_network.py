"""The network of simulated cards: messages both ways over SMPP, receipts that are true, terminals that change (E1 to
E4)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from sim_scene import FAST, NONCE, Server
from sms_scene import QUICK, until

from gateway.config.paging import Smsc
from gateway.config.sections import Config
from gateway.metrics import Metrics
from gateway.model.cards import CardRecord, Fate, IncomingMessage
from gateway.ota.cattp import State
from gateway.ota.channel import Channel, TransportType
from gateway.ota.check_request import parse_check_request
from gateway.ota.packet_security import Algorithm, Spi
from gateway.ota.push import OpenLink, PushAnswer, build_push, parse_push_answer
from gateway.ota.result import Meaning
from gateway.ota.secured_packet import Command, build_command, parse_answer
from gateway.ota.sim.terminal import Behaviour
from gateway.ota.sms_pp import parse_user_data, segment
from gateway.paging.sms.bearer import SmsBearer
from gateway.paging.sms.card_messages import SmsCardMessages
from gateway.tour.card_issue import MESSAGE_KEYS, PUSH_TAR, IssuedCard, build_imei, issue, write_cards
from gateway.tour.card_network import CardNetwork, Holder, parse_validity

SEED = b"a test's"


class Gateway:
    """What is bound to the network's SMSC."""

    def __init__(self, network: CardNetwork) -> None:
        self.network = network
        self.incoming: list[IncomingMessage] = []
        self.fates: list[Fate] = []
        self.counter = 0
        self.config = Config()
        self.config.ota.port, self.config.ota.smsc_rate = 0, 0.0
        self.bearer: SmsBearer

    async def bind(self) -> None:
        smsc = Smsc("smsc", "127.0.0.1", self.network.smsc.port, False, "pushgw", "", "secret")
        metrics = Metrics(process=False)
        self.bearer = SmsBearer(self.config.paging, [replace(QUICK, smsc=smsc)], metrics=metrics, card_receipts=1_000)
        self.cards = SmsCardMessages(self.config, self.bearer, metrics)
        self.cards.on_incoming = self.incoming.append
        self.bearer.start()

    async def push(self, record: CardRecord, data: bytes, *, valid_s: int = 60) -> Command:
        self.counter += 1
        command = Command(Spi(), PUSH_TAR, self.counter, data)
        packet = build_command(command, self.network.holders[0].issued.message_keys)
        sent = await self.cards.send(record, segment(packet, self.counter), valid_s=valid_s, on_fate=self.fates.append)
        assert sent.fate is Fate.TAKEN
        return command

    async def ask(self, data: bytes) -> PushAnswer:
        """Of the first card."""
        issued, before = self.network.holders[0].issued, len(self.incoming)
        command = await self.push(issued.record, data)
        await until(lambda: len(self.incoming) > before)
        message = self.incoming[-1]
        assert (message.source, message.has_header) == (issued.msisdn.lstrip("+"), True)
        packet = parse_user_data(message.user_data).body
        return parse_push_answer(parse_answer(packet, command, issued.message_keys).data)


@contextlib.asynccontextmanager
async def scene(*behaviours: Behaviour, count: int = 1) -> AsyncIterator[tuple[CardNetwork, Gateway]]:
    cards = [issue(number, SEED) for number in range(max(count, len(behaviours)))]
    behave = dict(enumerate(behaviours))
    network = CardNetwork(cards, behave=lambda number: behave.get(number, Behaviour()), limits=FAST)
    await network.start()
    gateway = Gateway(network)
    await gateway.bind()
    try:
        yield network, gateway
    finally:
        await gateway.bearer.close()
        await network.close()
        assert network.smsc.faults == []


def first(network: CardNetwork) -> Holder:
    return network.holders[0]


async def test_a_card_says_once_that_it_is_in_another_terminal() -> None:
    async with scene() as (network, gateway):
        holder = first(network)
        await network.power_on(holder)
        await until(lambda: len(gateway.incoming) == 1)
        message = gateway.incoming[0]
        request = parse_check_request(message.user_data)
        assert (request.iccid, message.source) == (holder.issued.iccid, holder.issued.msisdn.lstrip("+"))
        assert request.is_genuine(holder.issued.message_keys)
        await network.power_off(holder)
        await network.power_on(holder)
        await holder.terminal.settle()
        assert holder.said == 1
        await network.move(holder)
        await until(lambda: len(gateway.incoming) == 2)


async def test_a_push_opens_a_channel_on_a_real_socket() -> None:
    async with scene() as (network, gateway):
        _, server = await asyncio.get_running_loop().create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
        await network.power_on(first(network))
        channel = Channel(TransportType.UDP, server.port, ipaddress.ip_address("127.0.0.1"), "internet")
        assert (await gateway.ask(build_push(channel))).is_done
        assert (await gateway.ask(build_push(OpenLink(9_000, 4_000, NONCE)))).is_done
        await until(lambda: server.link.state is State.OPEN)
        await until(lambda: gateway.fates == [Fate.DELIVERED] * 2)
        server.close()


async def test_a_terminal_that_is_not_capable_says_so() -> None:
    async with scene(Behaviour(capable=False)) as (network, gateway):
        await network.power_on(first(network))
        channel = Channel(TransportType.UDP, 9, ipaddress.ip_address("127.0.0.1"), "internet")
        answer = await gateway.ask(build_push(channel))
        assert answer.result is not None
        assert answer.result.meaning is Meaning.NOT_CAPABLE


async def test_a_message_for_a_terminal_that_is_off_waits_for_it() -> None:
    async with scene() as (network, gateway):
        await gateway.push(first(network).issued.record, b"")
        assert len(first(network).kept) == 1
        assert gateway.fates == []
        await network.power_on(first(network))
        await until(lambda: gateway.fates == [Fate.DELIVERED])


async def test_a_message_that_nobody_fetches_expires() -> None:
    async with scene() as (network, gateway):
        await gateway.push(first(network).issued.record, b"", valid_s=1)
        await until(lambda: gateway.fates == [Fate.UNDELIVERED])
        assert network.counts["expired"] == 1
        assert not first(network).kept


async def test_a_number_that_nobody_has() -> None:
    async with scene() as (network, gateway):
        record = replace_number(first(network).issued.record, "+999100")
        await gateway.push(record, b"")
        await until(lambda: gateway.fates == [Fate.UNDELIVERED])


def replace_number(record: CardRecord, msisdn: str) -> CardRecord:
    return msgspec.structs.replace(record, msisdn=msisdn)


async def test_by_imsi_the_same_card() -> None:
    async with scene() as (network, gateway):
        await network.power_on(first(network))
        await gateway.push(replace_number(first(network).issued.record, ""), b"")
        await until(lambda: gateway.fates == [Fate.DELIVERED])


async def test_a_notice_is_read_by_the_user() -> None:
    async with scene() as (network, gateway):
        await network.power_on(first(network))
        for text in ("Visit a shop.", "Besuchen Sie uns – ☺"):
            assert (await gateway.cards.send_text(first(network).issued.record, text, valid_s=60)).fate is Fate.TAKEN
        assert first(network).inbox == ["Visit a shop.", "Besuchen Sie uns – ☺"]


async def test_what_a_card_says_while_nobody_is_bound_is_said_later() -> None:
    cards = [issue(0, SEED)]
    network = CardNetwork(cards)
    await network.start()
    try:
        await network.power_on(first(network))
        await first(network).terminal.settle()
        assert first(network).said == 1
        gateway = Gateway(network)
        await gateway.bind()
        await until(lambda: len(gateway.incoming) == 1)
        await gateway.bearer.close()
    finally:
        await network.close()


async def test_a_thousand_terminals() -> None:
    async with scene(count=1_000) as (network, gateway):
        for holder in network.holders:
            await network.power_on(holder)
        await until(lambda: len(gateway.incoming) == 1_000)
        assert {message.source for message in gateway.incoming} == {
            holder.issued.msisdn.lstrip("+") for holder in network.holders
        }


# --- cards


def test_cards_are_the_same_each_time_and_each_another_one() -> None:
    cards = [issue(number, SEED) for number in range(200)]
    assert [card.line() for card in cards] == [issue(number, SEED).line() for number in range(200)]
    for what in ("iccid", "imsi", "msisdn"):
        assert len({getattr(card, what) for card in cards}) == 200
    assert len({card.message_keys.kid for card in cards} | {card.data_keys.kid for card in cards}) == 400
    assert issue(0, b"other").message_keys != cards[0].message_keys


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_line_says_what_is_on_the_card(algorithm: Algorithm) -> None:
    card = issue(7, SEED, algorithm)
    line = json.loads(card.line())
    assert (line["iccid"], line["imsi"], line["msisdn"]) == (card.iccid, card.imsi, card.msisdn)
    named = {each["number"]: each for each in line["key_sets"]}
    assert bytes.fromhex(named[MESSAGE_KEYS]["kid"]) == card.message_keys.kid
    assert card.record.key_set(line["data_keys"]).kic == bytes.fromhex(named[line["data_keys"]]["kic"])  # type: ignore[union-attr]


def test_a_file_of_keys_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "cards.jsonl"
    file.write_text("old")
    cards: list[IssuedCard] = [issue(number, SEED) for number in range(3)]
    write_cards(cards, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().splitlines() == [card.line() for card in cards]


def test_no_two_terminals_are_the_same() -> None:
    assert len({build_imei(number) for number in range(1_000)}) == 1_000
    assert {len(build_imei(number)) for number in range(1_000)} == {8}


@pytest.mark.parametrize(
    ("text", "seconds"), [("000000000500000R", 300), ("000002030405000R", 183_845), ("", 259_200), ("x", 259_200)]
)
def test_validities(text: str, seconds: int) -> None:
    assert parse_validity(text) == seconds
