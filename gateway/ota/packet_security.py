"""What a secured packet is protected by: SPI, KIc, KID, keys, checks, ciphers; must never show a key.

Source: ETSI TS 102 225 §5.1.1 to §5.1.3.3, 3GPP TS 31.115 §4. Single DES and ECB are not spoken: they protect nothing.
"""

from __future__ import annotations

import binascii
import hmac
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from gateway.ota.malformed import Malformed

CC_BYTES = 8


class Check(IntEnum):
    """SPI, bits 2 and 1 of the first byte, 4 and 3 of the second."""

    NONE = 0
    #: a sum: against faults, not against people
    RC = 1
    #: cryptographic checksum
    CC = 2


class Counting(IntEnum):
    """SPI, bits 5 and 4 of the first byte: what the card does with the counter."""

    NONE = 0
    #: there is one; nobody looks at it
    IGNORED = 1
    HIGHER = 2
    NEXT = 3


class Answer(IntEnum):
    """SPI, bits 2 and 1 of the second byte: when the card sends a proof of receipt."""

    NONE = 0
    ALWAYS = 1
    ON_ERROR = 2


class Algorithm(IntEnum):
    """KIc and KID, low nibble, for a cipher or a CC."""

    AES = 0x2
    DES3_TWO_KEYS = 0x5
    DES3_THREE_KEYS = 0x9


class Sum(IntEnum):
    """KID, low nibble, for a RC."""

    CRC16 = 0x1
    CRC32 = 0x5


KEY_BYTES = {Algorithm.AES: (16, 24, 32), Algorithm.DES3_TWO_KEYS: (16,), Algorithm.DES3_THREE_KEYS: (24,)}
_BLOCK_BYTES = {Algorithm.AES: 16, Algorithm.DES3_TWO_KEYS: 8, Algorithm.DES3_THREE_KEYS: 8}


@dataclass(frozen=True, slots=True)
class Spi:
    check: Check = Check.CC
    ciphers: bool = True
    counting: Counting = Counting.HIGHER
    answer: Answer = Answer.ALWAYS
    answer_check: Check = Check.CC
    answer_ciphers: bool = True
    #: the proof of receipt comes as a SMS-SUBMIT, not in the delivery report
    answer_in_submit: bool = False

    def build(self) -> bytes:
        return bytes(
            (
                self.counting << 3 | self.ciphers << 2 | self.check,
                self.answer_in_submit << 5 | self.answer_ciphers << 4 | self.answer_check << 2 | self.answer,
            )
        )


def parse_spi(data: bytes) -> Spi:
    """Malformed: also for what is reserved, and for a digital signature, which no algorithm is named for."""
    if len(data) != 2:
        raise Malformed("a SPI has two bytes")
    first, second = data
    if first & 0xE0 or second & 0xC0:
        raise Malformed("SPI: reserved bits")
    checks = (first & 3, second >> 2 & 3)
    if 3 in checks or second & 3 == 3:
        raise Malformed("SPI: a digital signature, or a reserved value")
    return Spi(
        Check(checks[0]),
        bool(first & 4),
        Counting(first >> 3 & 3),
        Answer(second & 3),
        Check(checks[1]),
        bool(second & 0x10),
        bool(second & 0x20),
    )


class KeyByte(NamedTuple):
    """KIc or KID: which key set of the card, which algorithm."""

    key_set: int
    low: int

    def build(self) -> int:
        return self.key_set << 4 | self.low


def parse_key_byte(value: int) -> KeyByte:
    return KeyByte(value >> 4, value & 0x0F)


@dataclass(frozen=True, slots=True)
class Keys:
    """One key set of a card. ValueError where a key has not the length that its algorithm wants."""

    #: 1 to 15
    key_set: int
    algorithm: Algorithm
    kic: bytes = field(repr=False)
    kid: bytes = field(repr=False)
    #: what a RC is, where a SPI wants one
    rc: Sum = Sum.CRC32

    def __post_init__(self) -> None:
        if not 1 <= self.key_set <= 15:
            raise ValueError("a key set is 1 to 15")
        allowed = KEY_BYTES[self.algorithm]
        if len(self.kic) not in allowed or len(self.kid) not in allowed:
            raise ValueError(f"a key of {self.algorithm.name} has {' or '.join(map(str, allowed))} bytes")

    @property
    def block_bytes(self) -> int:
        return _BLOCK_BYTES[self.algorithm]

    def kic_byte(self, spi: Spi) -> int:
        return KeyByte(self.key_set, self.algorithm).build() if spi.ciphers or spi.answer_ciphers else 0

    def kid_byte(self, spi: Spi) -> int:
        """One KID speaks for both directions: where either has a CC, it names that (§5.1.3)."""
        if Check.CC in (spi.check, spi.answer_check):
            return KeyByte(self.key_set, self.algorithm).build()
        return KeyByte(self.key_set, self.rc).build() if Check.RC in (spi.check, spi.answer_check) else 0

    def check_bytes(self, check: Check) -> int:
        if check is Check.RC:
            return 2 if self.rc is Sum.CRC16 else 4
        return CC_BYTES if check is Check.CC else 0

    def build_check(self, check: Check, data: bytes) -> bytes:
        if check is Check.NONE:
            return b""
        if check is Check.RC:
            return build_crc16(data) if self.rc is Sum.CRC16 else build_crc32(data)
        if self.algorithm is Algorithm.AES:
            cmac = CMAC(AES(self.kid))
            cmac.update(data)
            return cmac.finalize()[:CC_BYTES]
        padded = data + bytes(-len(data) % 8)
        return _encrypt_des(self.kid, padded)[-CC_BYTES:]

    def is_check(self, check: Check, data: bytes, value: bytes) -> bool:
        """In a time that does not depend on where it differs."""
        return hmac.compare_digest(self.build_check(check, data), value)

    def encrypt(self, data: bytes) -> bytes:
        """Of whole blocks; the vector is 0, for the counter in front differs each time (§5.1.2)."""
        if self.algorithm is Algorithm.AES:
            encryptor = Cipher(AES(self.kic), modes.CBC(bytes(16))).encryptor()
            return encryptor.update(data) + encryptor.finalize()
        return _encrypt_des(self.kic, data)

    def decrypt(self, data: bytes) -> bytes:
        cipher = (
            Cipher(AES(self.kic), modes.CBC(bytes(16)))
            if self.algorithm is Algorithm.AES
            else Cipher(TripleDES(_widen(self.kic)), modes.CBC(bytes(8)))
        )
        decryptor = cipher.decryptor()
        return decryptor.update(data) + decryptor.finalize()


def is_single_des(key: bytes) -> bool:
    """A key of 3DES whose first or last step undoes the second: what is left is one DES. Parity bits do not count."""
    first, second, third = (bytes(byte & 0xFE for byte in _widen(key)[at : at + 8]) for at in (0, 8, 16))
    return second in (first, third)


def _widen(key: bytes) -> bytes:
    """Two keys are three of which the last is the first."""
    return key + key[:8] if len(key) == 16 else key


def _encrypt_des(key: bytes, data: bytes) -> bytes:
    encryptor = Cipher(TripleDES(_widen(key)), modes.CBC(bytes(8))).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def build_crc32(data: bytes) -> bytes:
    """ISO 13239, 32 bits (TS 102 225 §5.1.3.2)."""
    return binascii.crc32(data).to_bytes(4, "big")


def build_crc16(data: bytes) -> bytes:
    """ISO 13239, 16 bits (X.25): reflected 0x1021, begins with and ends by ones; the high byte first."""
    register = 0xFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x8408 if register & 1 else 0)
    return (register ^ 0xFFFF).to_bytes(2, "big")
