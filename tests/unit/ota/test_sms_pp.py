"""Secured packets in short messages: capacities, parts, TPDUs, envelopes (3GPP TS 31.115 §4)."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ota.malformed import Malformed
from gateway.ota.sms_pp import (
    ANSWER_PACKET,
    COMMAND_PACKET,
    MOST_OF_ONE,
    USER_DATA_BYTES,
    Address,
    Assembly,
    Deliver,
    Packet,
    Part,
    Submit,
    UserData,
    build_address,
    build_address_value,
    build_deliver,
    build_download,
    build_submit,
    parse_address_value,
    parse_deliver,
    parse_download,
    parse_submit,
    parse_user_data,
    segment,
)

hex_ = bytes.fromhex
PACKET = hex_("00281506192222b00011e87cceebb2d93083011ce294f93fc4d8de80da1abae8c37ca3e72ec4432e5058")
SERVICE_CENTRE = "912143658709f1"
TPDU_HEAD = "400881214365877ff622705200000000" + "2d"
ENVELOPE = "d14d82028381" + "0607" + SERVICE_CENTRE + "8b3e" + TPDU_HEAD + "027000" + PACKET.hex()
DIGITS = st.text("0123456789*#abc", min_size=1, max_size=20)
USER_DATA = st.binary(max_size=USER_DATA_BYTES)


def test_an_envelope_as_a_terminal_hands_it_over() -> None:
    tpdu = parse_download(hex_(ENVELOPE))
    deliver = parse_deliver(tpdu)
    assert deliver.originator.digits == "12345678"
    assert (deliver.pid, deliver.dcs, deliver.has_header) == (0x7F, 0xF6, True)
    assert parse_user_data(deliver.user_data) == UserData(COMMAND_PACKET, None, PACKET)
    again = Deliver(build_address("12345678", 0x81), segment(PACKET, 1)[0], timestamp=hex_("22705200000000"))
    centre = parse_address_value(hex_(SERVICE_CENTRE))
    assert centre.digits == "12345678901"
    assert build_download(centre, build_deliver(again)).hex() == ENVELOPE


def test_a_check_request_as_a_card_sends_it() -> None:
    submit = parse_submit(hex_("410105812143f57ff6050102030405"))
    assert submit.destination.digits == "12345"
    assert (submit.reference, submit.user_data) == (1, hex_("0102030405"))
    assert build_submit(submit).hex() == "410105812143f57ff6050102030405"


@pytest.mark.parametrize(("first", "skipped"), [(0x11, 1), (0x09, 7), (0x19, 7)])
def test_a_validity_is_passed_over(first: int, skipped: int) -> None:
    data = bytes((first, 9)) + hex_("05812143f5" + "7ff6") + bytes(skipped) + hex_("0161")
    assert parse_submit(data).user_data == b"a"


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (1, [4]),
        (137, [140]),
        (138, [140, 6 + 6]),
        (132 + 134, [140, 140]),
        (132 + 135, [140, 140, 7]),
        (132 + 254 * 134, [140] * 255),
    ],
)
def test_what_fits(size: int, sizes: list[int]) -> None:
    parts = segment(bytes(size), 0xAA)
    assert [len(part) for part in parts] == sizes


def test_more_than_255_parts() -> None:
    with pytest.raises(ValueError, match="256 short messages"):
        segment(bytes(132 + 254 * 134 + 1), 1)


def test_only_the_first_part_says_what_it_is() -> None:
    first, later = segment(bytes(216), 0xAA)
    assert first[:8] == hex_("070003aa02017000")
    assert later[:6] == hex_("050003aa0202")
    assert parse_user_data(first) == UserData(COMMAND_PACKET, Part(0xAA, 2, 1), bytes(132))
    assert parse_user_data(later) == UserData(None, Part(0xAA, 2, 2), bytes(84))


@given(st.binary(max_size=2_000), st.integers(0, 255), st.sampled_from([COMMAND_PACKET, ANSWER_PACKET]), st.randoms())
def test_parts_in_any_order_with_doubles(packet: bytes, reference: int, kind: int, random) -> None:
    parts = segment(packet, reference, kind)
    order = [*parts, *parts[:-1]] if len(parts) > 1 else parts
    random.shuffle(order)
    assembly = Assembly(4, 1_000)
    results = [assembly.add(b"a", parse_user_data(part), 0) for part in order]
    whole = [result for result in results if result is not None]
    assert whole[:1] == [Packet(kind, packet)]
    assert len(whole) == 1  # doubles that come behind it are not enough for another


def test_senders_references_and_counts_are_kept_apart() -> None:
    assembly = Assembly(8, 1_000)
    first, second = (parse_user_data(part) for part in segment(bytes(200), 7))
    assert assembly.add(b"a", first, 0) is None
    assert assembly.add(b"b", second, 0) is None
    assert assembly.add(b"a", parse_user_data(segment(bytes(200), 8)[1]), 0) is None
    assert assembly.add(b"a", parse_user_data(segment(bytes(300), 7)[1]), 0) is None
    assert assembly.add(b"a", second, 0) == Packet(COMMAND_PACKET, bytes(200))


def test_a_reference_that_comes_round_begins_anew() -> None:
    assembly = Assembly(8, 1_000)
    old, new = segment(b"o" * 200, 7), segment(b"n" * 200, 7)
    assembly.add(b"a", parse_user_data(old[0]), 0)
    assembly.add(b"a", parse_user_data(new[0]), 0)
    assert assembly.add(b"a", parse_user_data(new[1]), 0) == Packet(COMMAND_PACKET, b"n" * 200)
    assert assembly.counts["restarted"] == 1


def test_what_is_never_whole_is_bounded_in_time_and_number() -> None:
    assembly = Assembly(2, 1_000)
    first, second = (parse_user_data(part) for part in segment(bytes(200), 7))
    for sender in (b"a", b"b", b"c"):
        assembly.add(sender, first, 0)
    assert assembly.counts["too_many"] == 1
    assert assembly.add(b"a", second, 1) is None  # and that pushed out the second
    assert assembly.add(b"c", second, 2) == Packet(COMMAND_PACKET, bytes(200))
    assembly.add(b"d", first, 10)
    assert assembly.add(b"d", second, 1_010) is None
    assert assembly.counts["too_late"] >= 1


def test_what_does_not_say_what_it_carries() -> None:
    with pytest.raises(Malformed):
        Assembly(1, 1).add(b"", parse_user_data(hex_("0300017f41")), 0)
    assembly = Assembly(1, 1_000)
    assembly.add(b"", UserData(None, Part(1, 2, 1), b"a"), 0)
    with pytest.raises(Malformed):
        assembly.add(b"", UserData(None, Part(1, 2, 2), b"b"), 0)


@pytest.mark.parametrize("data", ["", "02", "0270", "027001", "0500030102"])
def test_headers_that_are_none(data: str) -> None:
    with pytest.raises(Malformed):
        parse_user_data(hex_(data))


@pytest.mark.parametrize("part", ["050003070200", "050003070203", "050003070000"])
def test_parts_that_are_none_of_their_message(part: str) -> None:
    with pytest.raises(Malformed):
        parse_user_data(hex_(part))


@given(DIGITS, USER_DATA, st.booleans(), st.binary(min_size=7, max_size=7))
def test_delivers_come_back(digits: str, user_data: bytes, has_header: bool, timestamp: bytes) -> None:
    deliver = Deliver(build_address(digits), user_data, has_header, timestamp=timestamp)
    data = build_deliver(deliver)
    assert parse_deliver(data) == deliver
    assert deliver.originator.digits == digits
    for cut in range(len(data)):
        with pytest.raises(Malformed):
            parse_deliver(data[:cut])


@given(DIGITS, USER_DATA, st.booleans(), st.integers(0, 255))
def test_submits_come_back(digits: str, user_data: bytes, has_header: bool, reference: int) -> None:
    submit = Submit(build_address(digits), user_data, has_header, reference)
    data = build_submit(submit)
    assert parse_submit(data) == submit
    for cut in range(len(data)):
        with pytest.raises(Malformed):
            parse_submit(data[:cut])


@given(st.binary(max_size=180))
def test_any_bytes(data: bytes) -> None:
    for parse in (parse_deliver, parse_submit, parse_user_data, parse_download, parse_address_value):
        with contextlib.suppress(Malformed):
            parse(data)


@given(DIGITS)
def test_addresses_come_back(digits: str) -> None:
    value = build_address_value(build_address(digits))
    assert parse_address_value(value).digits == digits


def test_an_address_of_letters_is_carried_and_never_taken_for_a_number() -> None:
    letters = Address(0xD0, hex_("d3e614"), 6)
    deliver = parse_deliver(build_deliver(Deliver(letters, b"")))
    assert deliver.originator == letters
    with pytest.raises(Malformed):
        _ = deliver.originator.digits


@pytest.mark.parametrize("digits", ["", "+49", "1" * 21, "x"])
def test_addresses_that_are_none(digits: str) -> None:
    with pytest.raises(ValueError, match="1 to 20 digits"):
        build_address(digits)


def test_a_message_of_text_is_not_read_as_bytes() -> None:
    for dcs in (0x00, 0x08, 0xF0, 0xE0):
        data = build_deliver(Deliver(build_address("12"), b"ab", dcs=dcs))
        with pytest.raises(Malformed):
            parse_deliver(data)


def test_neither_numbers_nor_packets_show() -> None:
    address = build_address("491701234567")
    deliver = Deliver(address, b"Geheimnis")
    shown = repr(
        (address, deliver, Submit(address, b"Geheimnis"), UserData(1, None, b"Geheimnis"), Packet(1, b"Geheim"))
    )
    assert "Geheim" not in shown
    assert "4917" not in shown
    assert "9471" not in shown


def test_one_sender_drops_its_own_messages_and_nobody_elses() -> None:
    assembly = Assembly(100, 1_000)
    first, second = segment(b"x" * 200, 1, ANSWER_PACKET)
    assert assembly.add(b"card", parse_user_data(first), 0) is None
    for reference in range(1_000):
        part = bytes((6, 0x08, 4)) + reference.to_bytes(2, "big") + bytes((9, 2)) + b"z"
        assert assembly.add(b"other", parse_user_data(part), 1) is None
    assert assembly.counts["too_many_of_one"] == 1_000 - MOST_OF_ONE
    assert assembly.counts["too_many"] == 0
    whole = assembly.add(b"card", parse_user_data(second), 2)
    assert whole is not None
    assert whole.packet == b"x" * 200
