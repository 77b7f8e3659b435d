"""What we write is what Wireshark reads: CAT_TP PDUs of a run, and every APDU between card and terminal (E8)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from cattp_net import FAST, Net
from needs import needs
from sim_scene import Scene, write_apdu

from gateway.ota.cattp import State
from gateway.ota.cattp_pdu import ACK, EACK, NUL, RST, SEG, SYN, Pdu, Reason, build_pdu, parse_pdu
from gateway.ota.channel import Channel
from gateway.ota.packet_security import Algorithm, Keys, Spi
from gateway.ota.proactive import (
    ChannelStatus,
    CloseChannel,
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
    Type,
    build_event,
    build_length_object,
    build_proactive,
    build_response,
)
from gateway.ota.push import OpenLink, build_push, parse_push
from gateway.ota.result import Result
from gateway.ota.secured_packet import Command, build_command
from gateway.ota.sim.terminal import Behaviour
from gateway.ota.sms_pp import (
    Deliver,
    Submit,
    build_address,
    build_deliver,
    build_download,
    build_submit,
    segment,
)
from gateway.ota.terminal_profile import Instruction, TerminalProfile, build_apdu, build_profile
from gateway.ota.tlv import Tlv
from gateway.tour.card_capture import CARD_UDP, GSMTAP_UDP, SERVER_UDP, read_capture, run_tshark, write_capture
from gateway.tour.cards import cards, write_command

pytestmark = [pytest.mark.slow, needs({"tshark": "tshark"})]

#: version 2, four words, SIM
GSMTAP_HEADER = bytes((2, 4, 4, 0)) + bytes(12)


def fields(file: Path, *names: str) -> list[list[str]]:
    return run_tshark(file, "-T", "fields", *(part for name in names for part in ("-e", name)))


def test_every_pdu_of_a_run_has_a_good_checksum_and_nothing_is_malformed(tmp_path: Path) -> None:
    """A link through a bad network, so that EACK, NUL, SEG, RST and copies are among them."""
    net = Net(seed=3, loss=0.3, twice=0.2, delay_ms=(1, 400), card_first=65_500, server_first=65_520)
    net.open()
    for number in range(40):
        net.send(net.server, bytes((number,)) * (1 + 9 * number))
        net.send(net.card, b"up" * (1 + number))
    net.until(lambda: len(net.card.sdus) == len(net.server.sdus) == 40)
    net.run_for(20_000)
    net.close(net.card)
    net.until(lambda: net.card.link.state is net.server.link.state is State.CLOSE)

    pdus = [parse_pdu(data) for _, data in net.wire]
    seen = 0
    for pdu in pdus:
        seen |= pdu.flags
    assert seen == SYN | ACK | EACK | RST | NUL | SEG
    capture = tmp_path / "run.pcap"
    ports = {True: (CARD_UDP, SERVER_UDP), False: (SERVER_UDP, CARD_UDP)}
    write_capture([(*ports[is_card], data) for is_card, data in net.wire], capture)
    assert run_tshark(capture, "-Y", "_ws.malformed || _ws.expert.severity >= 8388608 || !cattp") == []
    rows = fields(
        capture,
        "cattp.flags",
        "cattp.srcport",
        "cattp.dstport",
        "cattp.seq",
        "cattp.ack",
        "cattp.windowsize",
        "cattp.datalen",
        "cattp.checksum.status",
    )
    assert len(rows) == len(pdus)
    for row, pdu in zip(rows, pdus, strict=True):
        flags, *numbers, status = row
        assert int(flags, 0) == pdu.flags
        assert [int(number) for number in numbers] == [
            pdu.source,
            pdu.destination,
            pdu.sequence,
            pdu.acknowledgement,
            pdu.window,
            len(pdu.data),
        ]
        assert int(status) == 1


def test_a_wrong_checksum_is_seen_by_it(tmp_path: Path) -> None:
    """The oracle can say no."""
    data = build_pdu(Pdu(ACK, 1, 9_000, 1, 1, 1, b"data"))
    capture = tmp_path / "wrong.pcap"
    write_capture([(CARD_UDP, SERVER_UDP, data), (CARD_UDP, SERVER_UDP, data[:-1] + b"x")], capture)
    assert fields(capture, "cattp.checksum.status") == [["1"], ["0"]]


def test_openings_and_reasons(tmp_path: Path) -> None:
    net = Net(card=dataclasses.replace(FAST, max_pdu=1_024, max_sdu=512))
    net.connect()
    datagrams = [(CARD_UDP, SERVER_UDP, net.wire[0][1])]
    datagrams += [(SERVER_UDP, CARD_UDP, build_pdu(Pdu(RST | ACK, 9_000, 1, 2, 3, reason=reason))) for reason in Reason]
    capture = tmp_path / "open.pcap"
    write_capture(datagrams, capture)
    rows = fields(capture, "cattp.maxpdu", "cattp.maxsdu", "cattp.iccid", "cattp.rc")
    assert [int(value) for value in rows[0][:2]] == [1_024, 512]
    assert rows[0][2].replace(":", "") in ("98443000000000000010", "89440300000000000001")
    assert [int(row[3]) for row in rows[1:]] == list(Reason)


def apdus() -> list[bytes]:
    """Everything that goes between terminal and card, with its status word."""
    keys = Keys(2, Algorithm.AES, bytes(16), bytes(range(16)))
    channel = parse_push(bytes.fromhex("80ec01011e35010339020578470908696e7465726e65743c030129043e05210a000001"))
    assert isinstance(channel, Channel)
    centre, card = build_address("12345678901"), build_address("12345678", 0x81)
    pdu = build_pdu(Pdu(ACK, 1, 9_000, 1, 1, 1, bytes(range(100))))
    packet = build_command(Command(Spi(), b"\xb0\0\x11", 1, build_push(channel)), keys)
    long = build_command(Command(Spi(), b"\xb0\0\x11", 2, bytes(300)), keys)
    link = build_command(Command(Spi(), b"\xb0\0\x11", 3, build_push(OpenLink(9_000, 512, bytes(8)))), keys)
    commands = [
        ProvideImei(),
        SetUpEventList(bytes((Event.DATA_AVAILABLE, Event.CHANNEL_STATUS))),
        SendShortMessage(centre, build_submit(Submit(card, b"\1\2\3", has_header=False))),
        OpenChannel(channel),
        SendData(1, pdu),
        ReceiveData(1, 200),
        GetChannelStatus(),
        CloseChannel(1),
    ]
    opened = (ChannelStatus(1, True).build(), Tlv(0x35, b"\3"), Tlv(0x39, b"\5\x78"))
    responses = [
        TerminalResponse(
            1, Type.PROVIDE_LOCAL_INFORMATION, 1, Result(0), (Tlv(0x14, b"\x53\x84\x09\2\x14\x36\x58\7"),)
        ),
        TerminalResponse(1, Type.SET_UP_EVENT_LIST, 0, Result(0)),
        TerminalResponse(1, Type.SEND_SHORT_MESSAGE, 0, Result(0)),
        TerminalResponse(1, Type.OPEN_CHANNEL, 1, Result(0), opened),
        TerminalResponse(1, Type.OPEN_CHANNEL, 1, Result(0x3A, b"\1"), opened[1:]),
        TerminalResponse(1, Type.OPEN_CHANNEL, 1, Result(0x30)),
        TerminalResponse(1, Type.SEND_DATA, 1, Result(0), (build_length_object(1_000),)),
        TerminalResponse(1, Type.RECEIVE_DATA, 0, Result(0), (Tlv(0x36, pdu), build_length_object(0))),
        TerminalResponse(1, Type.GET_CHANNEL_STATUS, 0, Result(0), (ChannelStatus(1, True).build(),)),
        TerminalResponse(1, Type.CLOSE_CHANNEL, 0, Result(0)),
    ]
    envelopes = [
        build_download(centre, build_deliver(Deliver(card, user_data)))
        for whole in (packet, link, long)
        for user_data in segment(whole, 0xAA)
    ]
    envelopes += [
        build_event(EventDownload(Event.DATA_AVAILABLE, ChannelStatus(1, True), 300)),
        build_event(EventDownload(Event.CHANNEL_STATUS, ChannelStatus(1, False, 5))),
    ]
    profile = build_profile(TerminalProfile(*[True] * 8, 7, *[True] * 3))
    fetched = [build_proactive(1, command) for command in commands]
    return [
        build_apdu(Instruction.TERMINAL_PROFILE, profile) + b"\x91\x20",
        *(bytes((0x80, Instruction.FETCH, 0, 0, len(data))) + data + b"\x90\0" for data in fetched),
        *(build_apdu(Instruction.TERMINAL_RESPONSE, build_response(item)) + b"\x90\0" for item in responses),
        *(build_apdu(Instruction.ENVELOPE, data) + b"\x91\0" for data in envelopes),
    ]


def test_no_apdu_is_malformed(tmp_path: Path) -> None:
    every = apdus()
    capture = tmp_path / "apdus.pcap"
    write_capture([(50_000, GSMTAP_UDP, GSMTAP_HEADER + apdu) for apdu in every], capture)
    assert run_tshark(capture, "-Y", "_ws.malformed") == []
    assert len(run_tshark(capture, "-Y", "gsm_sim")) == len(every)
    types = [int(row[0], 0) for row in fields(capture, "etsi_cat.comp_tlv.cmd_type") if row[0]]
    commands = [0x26, 0x05, 0x13, 0x40, 0x43, 0x42, 0x44, 0x41]
    assert types == [*commands, 0x26, 0x05, 0x13, 0x40, 0x40, 0x40, 0x43, 0x42, 0x44, 0x41]
    results = [int(row[0], 0) for row in fields(capture, "etsi_cat.comp_tlv.result") if row[0]]
    assert results == [0, 0, 0, 0, 0x3A, 0x30, 0, 0, 0, 0]
    # a cut one is: the oracle can say no
    cut = tmp_path / "cut.pcap"
    data = every[4][:-12]
    write_capture([(50_000, GSMTAP_UDP, GSMTAP_HEADER + data)], cut)
    assert run_tshark(cut, "-Y", "_ws.malformed") != []


async def test_a_whole_download_of_the_simulated_card(tmp_path: Path) -> None:
    """From power-on to the closed channel, through a network that loses and doubles."""
    async with Scene(Behaviour(loss=0.1, twice=0.1, delay_s=0.01, seed=4), imei=b"") as scene:
        await scene.open()
        await scene.download([write_apdu(number, 200) * 3 for number in range(6)])
        await scene.hang_up()
        await scene.terminal.settle()
        every = list(scene.apdus)
        datagrams = [(CARD_UDP, SERVER_UDP, command.data) for command in joined(scene.fetched())]
    assert len(every) > 50
    capture = tmp_path / "card.pcap"
    write_capture([(50_000, GSMTAP_UDP, GSMTAP_HEADER + apdu) for apdu in every] + datagrams, capture)
    assert run_tshark(capture, "-Y", "_ws.malformed") == []
    assert len(run_tshark(capture, "-Y", "gsm_sim")) == len(every)
    statuses = {row[0] for row in fields(capture, "cattp.checksum.status") if row[0]}
    assert statuses == {"1"}


async def test_a_download_through_the_whole_gateway(tmp_path: Path) -> None:
    """From the check request to the closed channel, over SMPP and UDP, through a network that loses, doubles and
    reorders: every PDU and every APDU, and each PDU as our own parser has it."""
    commands = [write_command(number, 180) for number in range(50)]
    async with cards(Behaviour(loss=0.15, twice=0.1, delay_s=0.02, seed=11), Behaviour(capable=False)) as scene:
        await scene.power_on(0, 1)
        await scene.known(0, "capable", 30)
        await scene.known(1, "not_capable", 30)
        await scene.over(await scene.download(0, commands), "done", 60)
        await scene.over(await scene.download(1, commands[:2]), "done")
        assert scene.holder(0).card.executed == commands
        assert scene.holder(1).card.executed == commands[:2]
        assert scene.holder(0).terminal.counts["lost"] > 0
        for number in (0, 1):
            await scene.holder(number).terminal.settle()
        taken = list(scene.capture.datagrams)
        assert scene.network.smsc.faults == []
    capture = tmp_path / "gateway.pcap"
    write_capture(taken, capture)
    seen = read_capture(capture)
    pdus = [parse_pdu(data) for source, to, data in taken if SERVER_UDP in (source, to)]
    assert (seen.pdus, seen.bad_sums, seen.malformed) == (len(pdus), 0, 0)
    assert seen.apdus == sum(to == GSMTAP_UDP for _, to, _ in taken)
    assert {Type.OPEN_CHANNEL, Type.SEND_DATA, Type.RECEIVE_DATA, Type.SEND_SHORT_MESSAGE} <= set(seen.commands)
    rows = [row for row in fields(capture, "cattp.flags", "cattp.seq", "cattp.ack", "cattp.datalen") if row[0]]
    assert [(int(row[0], 0), *map(int, row[1:])) for row in rows] == [
        (pdu.flags, pdu.sequence, pdu.acknowledgement, len(pdu.data)) for pdu in pdus
    ]
    assert run_tshark(capture, "-Y", "_ws.expert.severity >= 8388608 && cattp") == []


def joined(commands: Iterator[object]) -> Iterator[SendData]:
    """Datagrams of what a card gave its terminal in pieces."""
    waiting = b""
    for command in commands:
        if isinstance(command, SendData):
            waiting += command.data
            if command.immediate:
                yield SendData(command.channel, waiting)
                waiting = b""


def test_parts_are_read_as_parts_and_secured_packets_as_such(tmp_path: Path) -> None:
    capture = tmp_path / "parts.pcap"
    write_capture([(50_000, GSMTAP_UDP, GSMTAP_HEADER + apdu) for apdu in apdus()], capture)
    rows = fields(capture, "gsm_sms.udh.mm.msg_id", "gsm_sms.udh.mm.msg_parts", "gsm_sms.udh.mm.msg_part")
    parts = [[int(value, 0) for value in row] for row in rows if row[0]]
    assert parts == [[0xAA, 3, 1], [0xAA, 3, 2], [0xAA, 3, 3]]
