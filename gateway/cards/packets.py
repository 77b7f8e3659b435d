"""Commands packed into secured packets of a size; must never split a command, nor pack the same commands in two ways.

The same payload, beginning and room give the same packets: a transfer that goes on after a crash builds the packet that
may have arrived once more, byte by byte (gateway.cards.transfer).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gateway.ota.command_string import MOST_COMMANDS, build_commands, check_command, ends_string
from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import CC_BYTES, Keys
from gateway.ota.secured_packet import Transport
from gateway.ota.sms_pp import FIRST_BYTES, LATER_BYTES, SINGLE_BYTES
from gateway.ota.tlv import build_length

#: SPI, KIc, KID, TAR; counter, number of padding bytes and check, which are ciphered with the data
_OPEN_BYTES, _SECRET_BYTES = 7, 6 + CC_BYTES


class Unbringable(Exception):
    """A command that goes into no packet; `command` counts from 1."""

    def __init__(self, command: int, why: str) -> None:
        super().__init__(f"command {command} {why}")
        self.command = command


class Batch(NamedTuple):
    """Commands of one packet: from `start` up to `end`, which is not in it."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def room(packet_bytes: int, block_bytes: int, transport: Transport) -> int:
    """Bytes of commands in a packet of at most so many; below 1: there is no room for any."""
    head = 3 if transport is Transport.SMS else 2 + len(build_length(packet_bytes))
    whole = (packet_bytes - head - _OPEN_BYTES) // block_bytes * block_bytes
    return whole - _SECRET_BYTES


def packet_size(data_bytes: int, block_bytes: int, transport: Transport) -> int:
    """Of the packet with so many bytes of commands."""
    body = -(-(_SECRET_BYTES + data_bytes) // block_bytes) * block_bytes
    if transport is Transport.SMS:
        return 3 + _OPEN_BYTES + body
    length = 1 + _OPEN_BYTES + body
    return 1 + len(build_length(length)) + length


def message_parts(packet_bytes: int) -> int:
    """Short messages that a packet takes (3GPP TS 31.115 §4)."""
    return 1 if packet_bytes <= SINGLE_BYTES else 1 + -(-(packet_bytes - FIRST_BYTES) // LATER_BYTES)


def parts_bytes(parts: int) -> int:
    """The largest packet in so many short messages."""
    return SINGLE_BYTES if parts == 1 else FIRST_BYTES + (parts - 1) * LATER_BYTES


def pack(commands: Sequence[bytes], start: int, room_bytes: int) -> Iterator[Batch]:
    """Batches from a command on, each as full as it goes. Unbringable."""
    at = start
    while at < len(commands):
        end, used = at, 0
        while end < len(commands) and end - at < MOST_COMMANDS and used + len(commands[end]) <= room_bytes:
            used += len(commands[end])
            end += 1
            if ends_string(commands[end - 1]):
                break
        if end == at:
            raise Unbringable(at + 1, "does not fit one packet")
        yield Batch(at, end)
        at = end


def build_batch(commands: Sequence[bytes], batch: Batch) -> bytes:
    """Unbringable where one is no command: nobody who takes payloads in lets such a one pass."""
    for number, command in enumerate(commands[batch.start : batch.end], batch.start + 1):
        try:
            check_command(command)
        except Malformed:
            raise Unbringable(number, "is none") from None
    return build_commands(commands[batch.start : batch.end])


def count_parts(commands: Sequence[bytes], start: int, keys: Keys, most_parts: int) -> int | None:
    """Short messages that the rest of a payload takes, all packets together; None: more than `most_parts`."""
    room_bytes = room(parts_bytes(most_parts), keys.block_bytes, Transport.SMS)
    parts = 0
    try:
        for batch in pack(commands, start, room_bytes):
            data_bytes = sum(map(len, commands[batch.start : batch.end]))
            parts += message_parts(packet_size(data_bytes, keys.block_bytes, Transport.SMS))
            if parts > most_parts:
                return None
    except Unbringable:
        return None
    return parts


def check_payload(commands: Sequence[bytes], packet_bytes: int, block_bytes: int = 16) -> tuple[int, str] | None:
    """What is wrong with a payload: (command, counted from 1, why), None where it can be brought. `packet_bytes` as
    `ota.packet_bytes` says."""
    if not commands:
        return 0, "there is no command"
    most = room(packet_bytes, block_bytes, Transport.CAT_TP)
    for number, command in enumerate(commands, 1):
        try:
            check_command(command)
        except Malformed as error:
            return number, str(error)
        if len(command) > most:
            return number, f"has {len(command)} bytes, and one packet holds {most} (ota.packet_bytes)"
    return None
