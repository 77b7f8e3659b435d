"""Secured packets (SCP80): commands to a card, and its answers; must never take an answer as true whose check is
missing or wrong.

Source: ETSI TS 102 225 §5, 3GPP TS 31.115 §4 (short messages), ETSI TS 102 226 §9 (CAT_TP). Braces are ciphered, with
padding to whole blocks:

```
command   CPL2 CHL1  SPI2 KIc1 KID1 TAR3 {CNTR5 PCNTR1      check data padding}
answer    RPL2 RHL1                 TAR3 {CNTR5 PCNTR1 STS1 check data padding}
```

The check covers all of it but itself, before ciphering. A short message has the user data header `02 71 00` before an
answer, and the check covers that too; CAT_TP has one byte, 01 or 02, before lengths that are BER's (§4.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import Answer, Check, Counting, Keys, Spi, parse_spi
from gateway.ota.tlv import build_length, parse_length

MOST_COUNTER = (1 << 40) - 1
#: CPL has two bytes
MOST_PACKET_BYTES = 0xFFFF
COMMAND_IDENTIFIER, ANSWER_IDENTIFIER = 0x01, 0x02
_ANSWER_HEADER = bytes((0x02, 0x71, 0x00))
_COMMAND_HEADER_BYTES = 13
_ANSWER_HEADER_BYTES = 10


class Transport(IntEnum):
    SMS = 0
    CAT_TP = 1


class Status(IntEnum):
    """Of an answer (TS 102 225 §5.2, 3GPP TS 31.115 §4.4)."""

    OK = 0x00
    CHECK_FAILED = 0x01
    COUNTER_LOW = 0x02
    COUNTER_HIGH = 0x03
    COUNTER_BLOCKED = 0x04
    CIPHERING = 0x05
    SECURITY = 0x06
    MEMORY = 0x07
    MORE_TIME = 0x08
    TAR_UNKNOWN = 0x09
    SECURITY_TOO_LOW = 0x0A
    #: the data of the answer comes by itself: in a SMS-SUBMIT, in USSD
    DATA_IN_SUBMIT = 0x0B
    DATA_IN_USSD = 0x0C


class Untrusted(Exception):
    """An answer that is whole, but is not what its command asked for: the check is wrong or missing, or it is of
    another application or another command."""


class WrongCheck(Untrusted):
    """Its check is not the one of these keys: it was changed on the way, or its sender has others."""


class Rejected(Exception):
    """A card takes no such command; `status` is what its answer says, `tar` that of the command, which an answer
    repeats (§5.2)."""

    def __init__(self, status: Status, tar: bytes) -> None:
        super().__init__(status.name)
        self.status, self.tar = status, tar


@dataclass(frozen=True, slots=True)
class Command:
    spi: Spi
    #: toolkit application reference, three bytes
    tar: bytes
    counter: int
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.tar) != 3:
            raise ValueError("a TAR has three bytes")
        if not 0 <= self.counter <= MOST_COUNTER:
            raise ValueError("a counter has five bytes")


@dataclass(frozen=True, slots=True)
class PacketAnswer:
    tar: bytes
    counter: int
    #: a status; a number without a name is kept
    status: int
    data: bytes = field(repr=False)
    #: the check was there and right, or none was asked for
    authentic: bool = True


def _frame(transport: Transport, identifier: int, header_bytes: int, rest_bytes: int) -> bytes:
    """What is before the header: lengths, and the identifier of CAT_TP."""
    if transport is Transport.SMS:
        length = 1 + header_bytes + rest_bytes
        if length > MOST_PACKET_BYTES:
            raise ValueError(f"a secured packet has at most {MOST_PACKET_BYTES} bytes")
        return length.to_bytes(2, "big") + bytes((header_bytes,))
    header_length = build_length(header_bytes)
    length = len(header_length) + header_bytes + rest_bytes
    if length > MOST_PACKET_BYTES:
        raise ValueError(f"a secured packet has at most {MOST_PACKET_BYTES} bytes")
    return bytes((identifier,)) + build_length(length) + header_length


def _unframe(transport: Transport, identifier: int, packet: bytes) -> tuple[bytes, int, bytes]:
    """(what is before the header, length of the header, header and the rest). Malformed."""
    if transport is Transport.SMS:
        if len(packet) < 3:
            raise Malformed("a packet begins with two lengths")
        length, start, at = int.from_bytes(packet[:2], "big"), 2, 3
        header_bytes = packet[2]
    else:
        if not packet or packet[0] != identifier:
            raise Malformed("not the identifier of such a packet")
        length, start = parse_length(packet, 1)
        header_bytes, at = parse_length(packet, start)
    if length != len(packet) - start or header_bytes > len(packet) - at:
        raise Malformed("the packet is not as long as it says")
    return packet[:at], header_bytes, packet[at:]


def _protect(
    transport: Transport,
    identifier: int,
    prefix: bytes,
    plain: bytes,
    inner: Callable[[int], bytes],
    data: bytes,
    check: Check,
    ciphers: bool,
    keys: Keys | None,
) -> bytes:
    """The one way of both kinds. `prefix` is covered by the check and not sent; `plain` is the header that is not
    ciphered; `inner` builds what is, given the number of padding bytes."""
    check_bytes = keys.check_bytes(check) if keys is not None else 0
    padding = 0
    if ciphers and keys is not None:
        padding = -(len(inner(0)) + check_bytes + len(data)) % keys.block_bytes
    open_part = inner(padding)
    secret = data + bytes(padding)
    head = _frame(transport, identifier, len(plain) + len(open_part) + check_bytes, len(secret)) + plain
    value = keys.build_check(check, prefix + head + open_part + secret) if keys is not None else b""
    body = open_part + value + secret
    return head + (keys.encrypt(body) if ciphers and keys is not None else body)


def _need_keys(spi: Spi, keys: Keys | None) -> None:
    if keys is None and (spi.check or spi.ciphers or spi.answer_check or spi.answer_ciphers):
        raise ValueError("without keys there is neither a check nor a cipher")


def build_command(command: Command, keys: Keys | None, transport: Transport = Transport.SMS) -> bytes:
    """ValueError where it does not fit."""
    spi = command.spi
    _need_keys(spi, keys)
    key_bytes = bytes((keys.kic_byte(spi), keys.kid_byte(spi))) if keys is not None else bytes(2)
    return _protect(
        transport,
        COMMAND_IDENTIFIER,
        b"",
        spi.build() + key_bytes + command.tar,
        lambda padding: command.counter.to_bytes(5, "big") + bytes((padding,)),
        command.data,
        spi.check,
        spi.ciphers,
        keys,
    )


def parse_command(
    packet: bytes,
    find_keys: Callable[[int, int], Keys | None],
    transport: Transport = Transport.SMS,
) -> Command:
    """The card's side. `find_keys` is told KIc and KID. Malformed; Rejected where the security is wrong."""
    before, header_bytes, rest = _unframe(transport, COMMAND_IDENTIFIER, packet)
    if header_bytes < _COMMAND_HEADER_BYTES:
        raise Malformed("the header is too short")
    spi, kic, kid, tar = parse_spi(rest[:2]), rest[2], rest[3], rest[4:7]
    needs = bool(spi.ciphers or spi.check)
    keys = find_keys(kic, kid) if needs else None
    if needs and (keys is None or (kic, kid) != (keys.kic_byte(spi), keys.kid_byte(spi))):
        raise Rejected(Status.SECURITY, tar)
    body = rest[7:]
    if spi.ciphers and keys is not None:
        if len(body) % keys.block_bytes:
            raise Rejected(Status.CIPHERING, tar)
        body = keys.decrypt(body)
    check_bytes = keys.check_bytes(spi.check) if keys is not None else 0
    if header_bytes != _COMMAND_HEADER_BYTES + check_bytes:
        raise Rejected(Status.SECURITY, tar)
    open_part, value, secret = body[:6], body[6 : 6 + check_bytes], body[6 + check_bytes :]
    if keys is not None and not keys.is_check(spi.check, before + rest[:7] + open_part + secret, value):
        raise Rejected(Status.CHECK_FAILED, tar)
    padding = open_part[5]
    if padding > len(secret):
        raise Rejected(Status.CIPHERING, tar)
    return Command(spi, tar, int.from_bytes(open_part[:5], "big"), secret[: len(secret) - padding])


def build_answer(answer: PacketAnswer, spi: Spi, keys: Keys | None, transport: Transport = Transport.SMS) -> bytes:
    """What a card answers to a command with this SPI. One that is not authentic goes without check and cipher (§5.2:
    the card has no key that both trust)."""
    is_bare = not answer.authentic
    return _protect(
        transport,
        ANSWER_IDENTIFIER,
        _ANSWER_HEADER if transport is Transport.SMS else b"",
        answer.tar,
        lambda padding: answer.counter.to_bytes(5, "big") + bytes((padding, answer.status)),
        answer.data,
        Check.NONE if is_bare else spi.answer_check,
        spi.answer_ciphers and not is_bare,
        keys,
    )


def parse_answer(
    packet: bytes, command: Command, keys: Keys | None, transport: Transport = Transport.SMS
) -> PacketAnswer:
    """The answer to this command. Malformed; Untrusted.

    An error may come bare where a check was asked for, as the card may know no key for it; it is then not `authentic`:
    a reason to try again, never to conclude. Anything else that comes bare is Untrusted.
    """
    before, header_bytes, rest = _unframe(transport, ANSWER_IDENTIFIER, packet)
    if header_bytes < _ANSWER_HEADER_BYTES:
        raise Malformed("the header is too short")
    spi, tar, body = command.spi, rest[:3], rest[3:]
    check_bytes = keys.check_bytes(spi.answer_check) if keys is not None else 0
    is_bare = bool(check_bytes) and header_bytes == _ANSWER_HEADER_BYTES
    if not is_bare and header_bytes != _ANSWER_HEADER_BYTES + check_bytes:
        raise Untrusted("the answer has another check than was asked for")
    if spi.answer_ciphers and keys is not None and not is_bare:
        if len(body) % keys.block_bytes:
            raise Malformed("what is ciphered is no whole blocks")
        body = keys.decrypt(body)
    check_bytes = 0 if is_bare else check_bytes
    open_part, value, secret = body[:7], body[7 : 7 + check_bytes], body[7 + check_bytes :]
    prefix = _ANSWER_HEADER if transport is Transport.SMS else b""
    if check_bytes and keys is not None:
        covered = prefix + before + rest[:3] + open_part + secret
        if not keys.is_check(spi.answer_check, covered, value):
            raise WrongCheck("the check is wrong")
    padding, status = open_part[5], open_part[6]
    if padding > len(secret):
        raise Malformed("more padding than data")
    answer = PacketAnswer(
        tar, int.from_bytes(open_part[:5], "big"), status, secret[: len(secret) - padding], authentic=not is_bare
    )
    if is_bare and status == Status.OK:
        raise Untrusted("success without the check that was asked for")
    if answer.tar != command.tar:
        raise Untrusted("the answer is of another application")
    if answer.authentic and answer.counter != command.counter:
        raise Untrusted("the answer is to another command")
    return answer


def wants_answer(spi: Spi, status: Status) -> bool:
    return spi.answer is Answer.ALWAYS or (spi.answer is Answer.ON_ERROR and status is not Status.OK)


def check_counter(counting: Counting, last: int, counter: int) -> Status:
    """The card's side (§5.1.4): whether a counter is right behind the last one that was taken."""
    if counting in (Counting.NONE, Counting.IGNORED):
        return Status.OK
    if last >= MOST_COUNTER:
        return Status.COUNTER_BLOCKED
    if counter <= last:
        return Status.COUNTER_LOW
    return Status.COUNTER_HIGH if counting is Counting.NEXT and counter != last + 1 else Status.OK
