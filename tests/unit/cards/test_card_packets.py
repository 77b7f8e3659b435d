"""Commands packed into packets: sizes to the byte, nothing split, nothing lost; what a card says of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cards.packets import (
    Batch,
    Unbringable,
    build_batch,
    check_payload,
    count_parts,
    message_parts,
    pack,
    packet_size,
    parts_bytes,
    room,
)
from gateway.ota.command_string import (
    MOST_COMMANDS,
    build_commands,
    check_command,
    ends_string,
    is_good,
    parse_command_answer,
)
from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import Algorithm, Keys, Spi
from gateway.ota.secured_packet import Command, Transport, build_command
from gateway.ota.sim.commands import split_commands
from gateway.ota.sms_pp import segment

AES = Keys(1, Algorithm.AES, bytes(16), bytes(16))
DES = Keys(1, Algorithm.DES3_TWO_KEYS, bytes(16), bytes(16))


def write(size: int) -> bytes:
    return bytes((0, 0xD6, 0, 0, size)) + bytes(size)


READ = bytes((0, 0xB0, 0, 0, 10))
SELECT = bytes.fromhex("00a40004023f00")
WITH_LE = SELECT + b"\0"

commands = st.lists(
    st.one_of(st.integers(0, 255).map(write), st.just(READ), st.just(WITH_LE), st.just(SELECT)), max_size=60
)


@pytest.mark.parametrize("keys", [AES, DES], ids=["aes", "des"])
@pytest.mark.parametrize("transport", Transport)
def test_a_packet_is_filled_to_the_byte(keys: Keys, transport: Transport) -> None:
    for packet_bytes in [*range(40, 400), 1_024, 4_096]:
        most = room(packet_bytes, keys.block_bytes, transport)
        if most < 1:
            continue
        sizes = [
            len(build_command(Command(Spi(), bytes(3), 1, bytes(data_bytes)), keys, transport))
            for data_bytes in (most, most + 1)
        ]
        assert sizes[0] <= packet_bytes < sizes[1]
        assert sizes[0] == packet_size(most, keys.block_bytes, transport)


@given(commands, st.integers(0, 70), st.integers(1, 600))
def test_all_of_it_once_in_order_and_nothing_split(what: list[bytes], start: int, room_bytes: int) -> None:
    batches: list[Batch] = []
    try:
        batches.extend(pack(what, start, room_bytes))
    except Unbringable:
        assert any(len(command) > room_bytes for command in what)
        return
    assert [at for batch in batches for at in range(batch.start, batch.end)] == list(range(start, len(what)))
    for batch in batches:
        data = build_batch(what, batch)
        assert len(data) <= room_bytes
        assert batch.size <= MOST_COMMANDS
        assert split_commands(data) == what[batch.start : batch.end]
    assert list(pack(what, start, room_bytes)) == batches


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 600))
def test_any_payload_is_packed_or_can_not_be_brought(what: list[bytes], room_bytes: int) -> None:
    try:
        for batch in pack(what, 0, room_bytes):
            assert split_commands(build_batch(what, batch)) == what[batch.start : batch.end]
    except Unbringable as error:
        command = what[error.command - 1]
        refused = check_payload([command], 10_000) is not None
        assert refused or len(command) > room_bytes
    assert count_parts(what, 0, AES, 4) is None or len(what) <= 4 * 255


@given(commands.filter(bool), st.integers(1, 8))
def test_short_messages_are_counted_as_they_are_sent(what: list[bytes], most: int) -> None:
    room_bytes = room(parts_bytes(most), AES.block_bytes, Transport.SMS)
    sent = 0
    try:
        for batch in pack(what, 0, room_bytes):
            packet = build_command(Command(Spi(), bytes(3), 1, build_batch(what, batch)), AES)
            parts = len(segment(packet, 1))
            assert message_parts(len(packet)) == parts <= most
            sent += parts
    except Unbringable:
        sent = most + 1
    assert count_parts(what, 0, AES, most) == (sent if sent <= most else None)


def test_a_packet_holds_no_more_commands_than_its_answer_can_count() -> None:
    what = [write(0)] * 600
    assert [batch.size for batch in pack(what, 0, 100_000)] == [255, 255, 90]


def test_a_command_that_wants_data_is_the_last_of_its_packet() -> None:
    what = [SELECT, READ, SELECT, WITH_LE, SELECT]
    assert [batch.size for batch in pack(what, 0, 1_000)] == [2, 2, 1]
    with pytest.raises(Malformed):
        build_commands([READ, SELECT])
    assert [ends_string(each) for each in (SELECT, READ, WITH_LE, write(0))] == [False, True, True, False]


@pytest.mark.parametrize("command", [b"", b"\0\xa4\0\4", SELECT[:-1], SELECT + b"\0\0", write(5) + write(5)])
def test_what_is_no_command(command: bytes) -> None:
    with pytest.raises(Malformed):
        check_command(command)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_command_or_malformed(data: bytes) -> None:
    try:
        check_command(data)
    except Malformed:
        return
    assert split_commands(data) == [data]


@given(st.binary(max_size=40))
def test_any_answer_of_a_card(data: bytes) -> None:
    try:
        answer = parse_command_answer(data)
    except Malformed:
        assert len(data) < 3
        return
    assert bytes((answer.commands,)) + answer.status_word.to_bytes(2, "big") + answer.data == data
    assert answer.data.hex() not in repr(answer) or len(answer.data) < 4


@pytest.mark.parametrize(
    ("word", "good"),
    [(0x9000, True), (0x910B, True), (0x6132, True), (0x9F10, True), (0x6A82, False), (0x6300, False), (0x9001, False)],
)
def test_status_words(word: int, good: bool) -> None:
    assert is_good(word) is good


def test_a_payload_is_checked_before_it_is_taken() -> None:
    assert check_payload([SELECT, write(255), READ], 1_024) is None
    assert check_payload([], 1_024) == (0, "there is no command")
    assert check_payload([SELECT, b"\0"], 1_024)[0] == 2
    wrong = check_payload([SELECT, write(255)], 256)
    assert wrong is not None
    assert wrong[0] == 2
    assert "ota.packet_bytes" in wrong[1]
