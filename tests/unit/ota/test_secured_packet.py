"""Secured packets: published vectors, round trips of every combination, and what must not be believed (E8)."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import (
    Algorithm,
    Answer,
    Check,
    Counting,
    KeyByte,
    Keys,
    Spi,
    Sum,
    build_crc16,
    build_crc32,
    is_single_des,
    parse_key_byte,
    parse_spi,
)
from gateway.ota.secured_packet import (
    MOST_COUNTER,
    Command,
    PacketAnswer,
    Rejected,
    Status,
    Transport,
    Untrusted,
    build_answer,
    build_command,
    check_counter,
    parse_answer,
    parse_command,
    wants_answer,
)

hex_ = bytes.fromhex
DES = Keys(
    3, Algorithm.DES3_TWO_KEYS, hex_("300102030405060708090a0b0c0d0e0f"), hex_("301102030405060708090a0b0c0d0e0f")
)
AES = Keys(2, Algorithm.AES, hex_("200102030405060708090a0b0c0d0e0f"), hex_("201102030405060708090a0b0c0d0e0f"))
APDU = hex_("00A40004023F00")
TAR = hex_("b00011")
COMMAND = Command(parse_spi(hex_("0619")), TAR, 0, APDU)
VECTORS = [
    (DES, "00201506193535b00011ae733256918d050b87c94fbfe12e4dc402f262c41cf67f2f"),
    (AES, "00281506192222b00011e87cceebb2d93083011ce294f93fc4d8de80da1abae8c37ca3e72ec4432e5058"),
]
AES_ANSWER = hex_("027100002412b00011ebc6b497e2cad7aedf36ace0e3a29b38853f0fe9ccde81913be5702b73abce1f")


@pytest.mark.parametrize(("keys", "packet"), VECTORS, ids=["3des", "aes"])
def test_published_commands(keys: Keys, packet: str) -> None:
    assert build_command(COMMAND, keys).hex() == packet
    assert parse_command(hex_(packet), lambda kic, kid: keys) == COMMAND


def test_the_published_answer() -> None:
    answer = parse_answer(AES_ANSWER[3:], COMMAND, AES)
    assert (answer.status, answer.data, answer.counter, answer.authentic) == (Status.OK, hex_("016132"), 0, True)
    # the padding is what the card chose, so it can be built again
    assert build_answer(answer, COMMAND.spi, AES) == AES_ANSWER[3:]


def test_published_sums() -> None:
    assert build_crc32(hex_("0102030405")) == hex_("470b99f4")
    assert build_crc16(hex_("0102030405")) == hex_("22ec")
    assert build_crc16(b"123456789") == hex_("906e")


SPIS = st.builds(
    Spi,
    st.sampled_from(Check),
    st.booleans(),
    st.sampled_from(Counting),
    st.sampled_from(Answer),
    st.sampled_from(Check),
    st.booleans(),
    st.booleans(),
)
KEYS = st.one_of(
    st.builds(
        Keys,
        st.integers(1, 15),
        st.just(algorithm),
        st.binary(min_size=size, max_size=size),
        st.binary(min_size=size, max_size=size),
        st.sampled_from(Sum),
    )
    for algorithm, size in (
        (Algorithm.AES, 16),
        (Algorithm.AES, 32),
        (Algorithm.DES3_TWO_KEYS, 16),
        (Algorithm.DES3_THREE_KEYS, 24),
    )
)
COMMANDS = st.builds(
    Command, SPIS, st.binary(min_size=3, max_size=3), st.integers(0, MOST_COUNTER), st.binary(max_size=300)
)
TRANSPORTS = st.sampled_from(Transport)


@given(COMMANDS, KEYS, TRANSPORTS)
def test_commands_come_back(command: Command, keys: Keys, transport: Transport) -> None:
    packet = build_command(command, keys, transport)
    assert parse_command(packet, lambda kic, kid: keys, transport) == command
    for cut in range(0, len(packet), 7):
        with pytest.raises(Malformed):
            parse_command(packet[:cut], lambda kic, kid: keys, transport)


@given(COMMANDS, KEYS, TRANSPORTS, st.binary(max_size=200), st.integers(0, 0x0C))
def test_answers_come_back(command: Command, keys: Keys, transport: Transport, data: bytes, status: int) -> None:
    answer = PacketAnswer(command.tar, command.counter, status, data)
    packet = build_answer(answer, command.spi, keys, transport)
    assert parse_answer(packet, command, keys, transport) == answer
    for cut in range(0, len(packet), 5):
        with pytest.raises(Malformed):
            parse_answer(packet[:cut], command, keys, transport)


@given(st.binary(max_size=120), SPIS, TRANSPORTS)
def test_any_bytes(data: bytes, spi: Spi, transport: Transport) -> None:
    for prefixed in (data, (len(data) & 0xFFFF).to_bytes(2, "big") + data, b"\2" + bytes((len(data),)) + data):
        with contextlib.suppress(Malformed, Rejected):
            parse_command(prefixed, lambda kic, kid: AES, transport)
        with contextlib.suppress(Malformed, Untrusted):
            parse_answer(prefixed, Command(spi, TAR, 0, b""), AES, transport)


@pytest.mark.parametrize(("keys", "packet"), VECTORS, ids=["3des", "aes"])
def test_a_command_with_any_byte_changed_is_rejected(keys: Keys, packet: str) -> None:
    whole = hex_(packet)
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 0x10
        with pytest.raises((Malformed, Rejected)):
            parse_command(bytes(broken), lambda kic, kid: keys)


def test_an_answer_with_any_byte_changed_is_not_believed() -> None:
    for place in range(3, len(AES_ANSWER)):
        broken = bytearray(AES_ANSWER)
        broken[place] ^= 0x10
        with pytest.raises((Malformed, Untrusted)):
            parse_answer(bytes(broken[3:]), COMMAND, AES)


def test_a_wrong_key() -> None:
    other = Keys(2, Algorithm.AES, AES.kic, bytes(16))
    with pytest.raises(Rejected) as caught:
        parse_command(hex_(VECTORS[1][1]), lambda kic, kid: other)
    assert caught.value.status is Status.CHECK_FAILED
    with pytest.raises(Untrusted):
        parse_answer(AES_ANSWER[3:], COMMAND, other)
    with pytest.raises(Rejected) as caught:
        parse_command(hex_(VECTORS[1][1]), lambda kic, kid: None)
    assert caught.value.status is Status.SECURITY


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_an_error_without_a_check_is_a_hint_and_no_proof(status: Status) -> None:
    bare = build_answer(PacketAnswer(TAR, 0, status, b"", authentic=False), COMMAND.spi, AES)
    assert bare.hex() == f"000b0ab00011000000000000{status:02x}"
    answer = parse_answer(bare, COMMAND, AES)
    assert answer.status == status
    assert not answer.authentic


def test_success_without_the_check_that_was_asked_for() -> None:
    bare = build_answer(PacketAnswer(TAR, 0, Status.OK, b"\1\x90\0", authentic=False), COMMAND.spi, AES)
    with pytest.raises(Untrusted):
        parse_answer(bare, COMMAND, AES)


def test_an_answer_to_another_command_or_of_another_application() -> None:
    for other in (PacketAnswer(TAR, 1, 0, b""), PacketAnswer(hex_("b00010"), 0, 0, b"")):
        with pytest.raises(Untrusted):
            parse_answer(build_answer(other, COMMAND.spi, AES), COMMAND, AES)


def test_over_cattp_the_identifier_is_in_front_and_under_the_check() -> None:
    packet = build_command(COMMAND, AES, Transport.CAT_TP)
    assert packet[:3] == hex_("012815")
    sms = build_command(COMMAND, AES)
    assert packet[3:10] == sms[3:10]
    assert packet[10:] != sms[10:]
    long = build_command(Command(COMMAND.spi, TAR, 0, bytes(300)), AES, Transport.CAT_TP)
    assert long[:2] == hex_("0182")
    assert parse_command(long, lambda kic, kid: AES, Transport.CAT_TP).data == bytes(300)


def test_without_keys_there_is_no_security_and_none_is_claimed() -> None:
    plain = Spi(Check.NONE, False, Counting.NONE, Answer.ALWAYS, Check.NONE, False)
    packet = build_command(Command(plain, TAR, 0, APDU), None)
    assert packet.hex() == "00150d" + "0001" + "0000" + "b00011" + "000000000000" + APDU.hex()
    assert parse_command(packet, lambda kic, kid: None).data == APDU
    with pytest.raises(ValueError, match="without keys"):
        build_command(COMMAND, None)


def test_a_packet_that_is_too_long() -> None:
    for transport in Transport:
        with pytest.raises(ValueError, match="at most"):
            build_command(Command(COMMAND.spi, TAR, 0, bytes(65_535)), AES, transport)


@pytest.mark.parametrize("value", ["", "06", "8000", "0040", "0300", "000c", "0003", "061900"])
def test_spis_that_are_none(value: str) -> None:
    with pytest.raises(Malformed):
        parse_spi(hex_(value))


@given(SPIS)
def test_spis_come_back(spi: Spi) -> None:
    assert parse_spi(spi.build()) == spi


@given(st.integers(0, 255))
def test_key_bytes_come_back(value: int) -> None:
    assert parse_key_byte(value).build() == value
    assert parse_key_byte(0x35) == KeyByte(3, Algorithm.DES3_TWO_KEYS)


@pytest.mark.parametrize(
    ("counting", "last", "counter", "status"),
    [
        (Counting.NONE, 9, 1, Status.OK),
        (Counting.IGNORED, 9, 1, Status.OK),
        (Counting.HIGHER, 9, 9, Status.COUNTER_LOW),
        (Counting.HIGHER, 9, 10, Status.OK),
        (Counting.HIGHER, 9, 900, Status.OK),
        (Counting.NEXT, 9, 10, Status.OK),
        (Counting.NEXT, 9, 11, Status.COUNTER_HIGH),
        (Counting.NEXT, 9, 9, Status.COUNTER_LOW),
        (Counting.HIGHER, MOST_COUNTER, MOST_COUNTER, Status.COUNTER_BLOCKED),
    ],
)
def test_counters(counting: Counting, last: int, counter: int, status: Status) -> None:
    assert check_counter(counting, last, counter) is status


def test_when_an_answer_is_wanted() -> None:
    wanted = {
        (answer, status): wants_answer(Spi(answer=answer), status)
        for answer in Answer
        for status in (Status.OK, Status.MEMORY)
    }
    assert [key for key, value in wanted.items() if value] == [
        (Answer.ALWAYS, Status.OK),
        (Answer.ALWAYS, Status.MEMORY),
        (Answer.ON_ERROR, Status.MEMORY),
    ]


@pytest.mark.parametrize(
    ("algorithm", "size"), [(Algorithm.AES, 8), (Algorithm.DES3_TWO_KEYS, 24), (Algorithm.DES3_THREE_KEYS, 16)]
)
def test_keys_of_a_wrong_length(algorithm: Algorithm, size: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        Keys(1, algorithm, bytes(size), bytes(size))


def test_neither_keys_nor_data_show() -> None:
    shown = repr(AES) + repr(COMMAND) + repr(PacketAnswer(TAR, 0, 0, APDU)) + str(Rejected(Status.SECURITY, TAR))
    for secret in (AES.kic, AES.kid, APDU):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


@pytest.mark.parametrize(
    ("key", "is_single"),
    [
        ("01020304050607081112131415161718", False),
        ("01020304050607080102030405060708", True),
        ("00020204040606080103030505070709", True),  # but for parity
        ("010203040506070801020304050607082122232425262728", True),
        ("212223242526272801020304050607080102030405060708", True),
        ("010203040506070811121314151617180102030405060708", False),
        ("010203040506070811121314151617182122232425262728", False),
    ],
)
def test_a_key_of_3des_that_is_no_more_than_des(key: str, is_single: bool) -> None:
    assert is_single_des(bytes.fromhex(key)) is is_single
