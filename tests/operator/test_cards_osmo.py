"""A card behind real network elements: PUSH goes through osmo-msc's SMSC, the MSC and paging to a simulated card, and
what the card says comes back the same way (E1 to E3)."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from card_messages_scene import CardMessagesScene
from needs import needs
from sim_scene import FAST, NONCE, Server
from sms_scene import until

from gateway.metrics import Metric
from gateway.model.cards import Fate
from gateway.ota.cattp import State
from gateway.ota.channel import Channel, TransportType
from gateway.ota.check_request import parse_check_request
from gateway.ota.packet_security import Spi
from gateway.ota.push import OpenLink, build_push, parse_push_answer
from gateway.ota.secured_packet import Command, build_command, parse_answer
from gateway.ota.sim.card import Card
from gateway.ota.sim.terminal import Behaviour
from gateway.ota.sim.terminal import Terminal as CardTerminal
from gateway.ota.sms_pp import DCS_CLASS2, PID_DOWNLOAD, build_address, parse_user_data, segment
from gateway.tour.card_issue import PUSH_TAR, build_imei, issue
from gateway.tour.operator.osmo import NEEDED, Operator
from gateway.tour.operator.terminal import IMSI, MSISDN, Terminal

pytestmark = [pytest.mark.slow, needs(NEEDED)]

ISSUED = issue(0, b"behind osmo-msc")


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    async with Operator(tmp_path) as operator:
        yield operator


class OperatorScene(CardMessagesScene):
    def __init__(self, operator: Operator) -> None:
        super().__init__(0)
        self.operator = operator

    def links(self, ports: Any) -> Any:
        (link,) = super().links([2775])
        return [replace(link, smsc=replace(link.smsc, host=self.operator.ip), answer_s=5.0)]


async def test_a_card_is_called_and_answers_through_an_operators_network(operator: Operator) -> None:
    record = msgspec.structs.replace(ISSUED.record, msisdn="+" + MSISDN, imsi=IMSI)
    centre, server_number = build_address("49170010"), build_address("4999", 0x81)
    card = Card(ISSUED.profile(centre, server_number, FAST), lambda: 7)
    submitting: list[asyncio.Task[None]] = []
    inside: list[CardTerminal] = []

    def on_submit(tpdu: bytes) -> None:
        submitting.append(asyncio.ensure_future(terminal.submit(tpdu)))

    async with (
        Terminal(operator.ip, lambda tpdu: inside[0].deliver(tpdu)) as terminal,
        OperatorScene(operator) as scene,
    ):
        await terminal.attach()
        await until(lambda: scene.bearer.links[0].is_bound)
        inside.append(CardTerminal(card, build_imei(1), centre, Behaviour(), on_submit))
        _, server = await asyncio.get_running_loop().create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
        try:
            # E1: it is in a terminal that it does not know
            await inside[0].power_on()
            await until(lambda: bool(scene.messages) or bool(terminal.refused))
            assert terminal.refused == []
            message = scene.messages[0]
            assert (message.source, message.has_header) == (MSISDN, False)
            request = parse_check_request(message.user_data)
            assert request.iccid == ISSUED.iccid
            assert request.is_genuine(ISSUED.message_keys)

            # E2, E3: PUSH in one message, the answer in another, the channel on a real socket
            channel = Channel(TransportType.UDP, server.port, ipaddress.ip_address("127.0.0.1"), "internet")
            both = build_push(channel) + build_push(OpenLink(9_000, 4_000, NONCE))
            command = Command(Spi(), PUSH_TAR, 1, both)
            parts = segment(build_command(command, ISSUED.message_keys), 1)
            sent = await scene.cards.send(record, parts, valid_s=300, on_fate=scene.fates.append)
            assert sent.fate is Fate.TAKEN
            await until(lambda: len(scene.messages) == 2)
            taken = terminal.delivered[0]
            assert (taken.has_header, taken.protocol_id, taken.coding) == (True, PID_DOWNLOAD, DCS_CLASS2)
            assert taken.data == parts[0]
            answer = parse_answer(parse_user_data(scene.messages[1].user_data).body, command, ISSUED.message_keys)
            assert answer.authentic
            assert parse_push_answer(answer.data).is_done
            await until(lambda: server.link.state is State.OPEN)
            assert await scene.fate() is Fate.DELIVERED

            # E7: commands in three messages, by IMSI
            blind = msgspec.structs.replace(record, msisdn="")
            data = b"".join(bytes((0, 0xD6, 0, number, 100)) + bytes((number,)) * 100 for number in range(3))
            command = Command(Spi(), PUSH_TAR, 2, data)
            parts = segment(build_command(command, ISSUED.message_keys), 2)
            assert len(parts) == 3
            assert (await scene.cards.send(blind, parts, valid_s=300, on_fate=scene.fates.append)).fate is Fate.TAKEN
            await until(lambda: len(scene.fates) == 2)
            assert scene.fates[1] is Fate.DELIVERED
            assert [each.data for each in terminal.delivered[1:]] == parts
            await until(lambda: len(card.executed) == 3)
            await until(lambda: len(scene.messages) == 3)
            assert scene.metrics.value(Metric.SMS_INCOMING, "malformed") == 0
        finally:
            await inside[0].power_off()
            server.close()
            await asyncio.gather(*submitting, return_exceptions=True)
