"""Proactive commands, answers, events and profiles as bytes (TS 102 223)."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ota.channel import Channel, TransportType
from gateway.ota.malformed import Malformed
from gateway.ota.proactive import (
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
    Unknown,
    build_event,
    build_length_object,
    build_proactive,
    build_response,
    parse_event,
    parse_proactive,
    parse_response,
)
from gateway.ota.result import Result
from gateway.ota.sms_pp import parse_address_value
from gateway.ota.terminal_profile import (
    Instruction,
    TerminalProfile,
    build_apdu,
    build_profile,
    parse_apdu,
    parse_profile,
)
from gateway.ota.tlv import Tlv

hex_ = bytes.fromhex
CHANNEL = Channel(TransportType.UDP, 10_500, ipaddress.ip_address("10.0.0.1"), "internet")
SYN = hex_("80000021000123280000010000000004f6e8040002000a98443000000000000010")
SUBMIT = hex_("410105812143f57ff6050102030405")
COMMANDS = [
    ("d02781030140018202818235010339020578470908696e7465726e65743c030129043e05210a000001", OpenChannel(CHANNEL)),
    ("d02c8103014301820281213621" + SYN.hex(), SendData(1, SYN)),
    ("d00c81030142008202812137" + "0117", ReceiveData(1, 0x17)),
    ("d00981030141008202" + "8121", CloseChannel(1)),
    ("d00981030126018202" + "8182", ProvideImei()),
    (
        "d02381030113008202" + "8183" + "8607912143658709f1" + "8b0f" + SUBMIT.hex(),
        SendShortMessage(parse_address_value(hex_("912143658709f1")), SUBMIT),
    ),
    ("d00981030144008202" + "8182", GetChannelStatus()),
    ("d00d81030105008202" + "8182" + "9902090a", SetUpEventList(b"\x09\x0a")),
]


@pytest.mark.parametrize(("data", "command"), COMMANDS, ids=[type(command).__name__ for _, command in COMMANDS])
def test_commands_as_they_are_on_the_interface(data: str, command: Command) -> None:
    assert build_proactive(1, command).hex() == data
    assert parse_proactive(hex_(data)) == (1, command)
    for cut in range(len(hex_(data))):
        with pytest.raises(Malformed):
            parse_proactive(hex_(data)[:cut])


def test_a_command_that_is_not_known_is_not_taken_for_another() -> None:
    assert parse_proactive(hex_("d009810301210082028102")) == (1, Unknown(0x21, 0))
    assert parse_proactive(hex_("d009810301260082028182")) == (1, Unknown(0x26, 0))
    assert parse_proactive(build_proactive(9, Unknown(2, 0))) == (9, Unknown(2, 0))


@pytest.mark.parametrize(
    "data",
    [
        "d009810300410082028121",  # number 0
        "d009810301410082028120",  # channel 0
        "d009810301410082028128",
        "d009810301410082028221",  # from the terminal
        "d00c8103014200820281213701" + "00",
        "d109810301410082028121",
        "d0048202812",
        "d0058103014100",
    ],
)
def test_commands_that_are_none(data: str) -> None:
    with pytest.raises(Malformed):
        parse_proactive(hex_(data + "0" * (len(data) % 2)))


def test_answers_as_they_are_on_the_interface() -> None:
    opened = TerminalResponse(
        1, 0x40, 1, Result(0), (ChannelStatus(1, True).build(), Tlv(0x35, b"\3"), Tlv(0x39, hex_("0578")))
    )
    assert build_response(opened).hex() == "81030140018202828183010038028100" + "350103" + "39020578"
    again = parse_response(build_response(opened))
    assert again == opened
    assert again.status == ChannelStatus(1, True)
    assert again.buffer_bytes == 1_400
    failed = parse_response(hex_("810301400182028281" + "83023a01" + "350103" + "39020578"))
    assert failed.result == Result(0x3A, b"\1")
    assert failed.status is None
    received = parse_response(hex_("810301420082028281830100" + "3603616263" + "370105"))
    assert (received.data, received.length) == (b"abc", 5)
    imei = parse_response(hex_("810301260182028281830100" + "14085384090214365807"))
    assert imei.imei == hex_("5384090214365807")


def test_answers_that_lack_what_is_asked_of_them() -> None:
    bare = parse_response(hex_("810301260182028281830100"))
    for name in ("imei", "length", "buffer_bytes"):
        with pytest.raises(Malformed):
            getattr(bare, name)
    for data in ("", "810301260182028281", "8103012601820281828301", "810301260182028281" + "8300"):
        with pytest.raises(Malformed):
            parse_response(hex_(data))


def test_events_as_they_are_on_the_interface() -> None:
    event = EventDownload(Event.DATA_AVAILABLE, ChannelStatus(1, True), 0x17)
    assert build_event(event).hex() == "d60e190109820282813802" + "8100" + "370117"
    assert parse_event(build_event(event)) == event
    dropped = EventDownload(Event.CHANNEL_STATUS, ChannelStatus(2, False, 5))
    assert parse_event(build_event(dropped)) == dropped
    for cut in range(16):
        with pytest.raises(Malformed):
            parse_event(build_event(event)[:cut])
    with pytest.raises(Malformed):
        parse_event(hex_("d60b1901038202828138028100"))


def test_a_length_past_its_byte() -> None:
    assert [build_length_object(length).value[0] for length in (0, 254, 255, 1_000)] == [0, 254, 255, 255]


@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    for tag in ("", "d0", "d6"):
        whole = hex_(tag) + bytes((len(data),)) + data if tag else data
        for parse in (parse_proactive, parse_response, parse_event, parse_apdu):
            with contextlib.suppress(Malformed):
                parse(whole)


@given(
    st.lists(st.sampled_from([hex_(f"81030{n}400{q}") for n in range(3) for q in range(2)]), max_size=2),
    st.lists(
        st.sampled_from([b"\x82\x02\x81\x82", b"\x82\x02\x81\x21", b"\x82\x02\x82\x81", b"\x83\x01\x00"]), max_size=3
    ),
    st.lists(
        st.tuples(st.sampled_from([0x35, 0x36, 0x37, 0x38, 0x39, 0x3C, 0x3E, 0x47, 0x0D]), st.binary(max_size=6)),
        max_size=6,
    ),
)
def test_objects_in_any_order_and_of_any_length(details, devices, rest) -> None:
    body = b"".join([*details, *devices, *(bytes((tag, len(value))) + value for tag, value in rest)])
    for data in (body, b"\xd0" + bytes((len(body),)) + body, b"\xd6" + bytes((len(body),)) + body):
        for parse in (parse_proactive, parse_response, parse_event):
            with contextlib.suppress(Malformed):
                parse(data)


PROFILES = st.builds(TerminalProfile, *[st.booleans()] * 8, st.integers(0, 7), *[st.booleans()] * 3)


@given(PROFILES, st.binary(max_size=9))
def test_profiles_come_back_and_later_bytes_are_passed_over(profile: TerminalProfile, later: bytes) -> None:
    assert parse_profile(build_profile(profile) + later) == profile


def test_bits_are_where_the_specification_has_them() -> None:
    profile = parse_profile(hex_("ffffffff7f0f00dfff00001fe2000000ff00"))
    assert profile == TerminalProfile(*[True] * 8, 7, *[True] * 3)
    assert profile.says_udp
    short = parse_profile(hex_("ffffffff7f0f00dfff00001fe2"))
    assert not short.udp
    assert not short.says_udp
    assert parse_profile(b"") == TerminalProfile()
    with pytest.raises(ValueError, match="0 to 7"):
        build_profile(TerminalProfile(channels=8))


@given(st.sampled_from(Instruction), st.binary(max_size=255))
def test_apdus_come_back(instruction: Instruction, data: bytes) -> None:
    if instruction is Instruction.FETCH:
        assert parse_apdu(hex_("8012000029")) == (instruction, b"")
    else:
        assert parse_apdu(build_apdu(instruction, data)) == (instruction, data)


def test_an_apdu_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="255 bytes"):
        build_apdu(Instruction.ENVELOPE, bytes(256))


@pytest.mark.parametrize("number", [0, 255])
def test_numbers_of_commands_have_bounds(number: int) -> None:
    with pytest.raises(ValueError, match="1 to 254"):
        build_proactive(number, ProvideImei())


@pytest.mark.parametrize("command", [CloseChannel(0), CloseChannel(8), ReceiveData(1, 0), ReceiveData(1, 256)])
def test_commands_that_cannot_be_built(command: Command) -> None:
    with pytest.raises(ValueError, match="1 to"):
        build_proactive(1, command)


def test_neither_data_nor_addresses_show() -> None:
    shown = repr([command for _, command in COMMANDS])
    for text in ("10.0.0.1", "9844", "\\x98", "1234", SUBMIT.hex()):
        assert text not in shown
