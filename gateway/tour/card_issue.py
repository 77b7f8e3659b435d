"""Cards that never were: numbers, keys and profiles of simulated ones, and the lines by which they are imported; must
never make a number that somebody has.

ICCIDs are of issuer 99 of the telecommunication prefix 89 with country code 999, which is nobody's (ITU-T E.118, E.164
annex); IMSIs are of the test network 001 01; MSISDNs are of country code 999.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gateway.model.cards import CardRecord, KeySet
from gateway.ota.cattp import Limits
from gateway.ota.check_request import build_check_request, build_iccid
from gateway.ota.packet_security import Algorithm, Keys
from gateway.ota.sim.card import Profile
from gateway.ota.sms_pp import Address

#: as the import calls them, and how long their keys are
ALGORITHMS = {
    Algorithm.AES: ("aes", 16),
    Algorithm.DES3_TWO_KEYS: ("3des2", 16),
    Algorithm.DES3_THREE_KEYS: ("3des3", 24),
}
MESSAGE_KEYS, DATA_KEYS = 1, 2
PUSH_TAR, DATA_TAR = bytes.fromhex("b20100"), bytes.fromhex("b00010")
IMEI_BYTES = 8


@dataclass(frozen=True, slots=True, repr=False)
class IssuedCard:
    """One card as its issuer knows it; `number` counts from 0."""

    number: int
    iccid: str
    imsi: str
    msisdn: str
    #: key set 1 protects messages, key set 2 what comes over a link: each has a counter of its own
    message_keys: Keys
    data_keys: Keys

    @property
    def record(self) -> CardRecord:
        """As the gateway keeps it."""
        sets = (self.message_keys, self.data_keys)
        return CardRecord(
            iccid=self.iccid,
            imsi=self.imsi,
            msisdn=self.msisdn,
            key_sets=tuple(KeySet(keys.key_set, keys.algorithm, keys.kic, keys.kid) for keys in sets),
            push_keys=MESSAGE_KEYS,
            data_keys=DATA_KEYS,
            push_tar=PUSH_TAR,
            tar=DATA_TAR,
            tags=(f"batch-{self.number // 100}",),
        )

    def line(self) -> str:
        """As the import takes it."""
        record = self.record
        fields = {
            "iccid": self.iccid,
            "imsi": self.imsi,
            "msisdn": self.msisdn,
            "key_sets": [
                {
                    "number": keys.key_set,
                    "algorithm": ALGORITHMS[keys.algorithm][0],
                    "kic": keys.kic.hex(),
                    "kid": keys.kid.hex(),
                }
                for keys in (self.message_keys, self.data_keys)
            ],
            "push_keys": record.push_keys,
            "data_keys": record.data_keys,
            "push_tar": record.push_tar.hex(),
            "tar": record.tar.hex(),
            "tags": list(record.tags),
        }
        return json.dumps(fields, separators=(",", ":"))

    def profile(self, centre: Address, server: Address, limits: Limits) -> Profile:
        """What is on it."""
        return Profile(
            iccid=build_iccid(self.iccid),
            keys=self.message_keys,
            tar=DATA_TAR,
            centre=centre,
            server=server,
            check_request=build_check_request(self.iccid, self.message_keys),
            limits=limits,
            more_keys=(self.data_keys,),
            push_tar=PUSH_TAR,
        )


def issue(number: int, seed: bytes, algorithm: Algorithm = Algorithm.AES) -> IssuedCard:
    """The same for the same seed."""

    def key(what: str) -> bytes:
        size = ALGORITHMS[algorithm][1]
        return hashlib.blake2s(f"{what} {number}".encode(), key=seed[:32], digest_size=size).digest()

    def keys(key_set: int) -> Keys:
        return Keys(key_set, algorithm, key(f"kic {key_set}"), key(f"kid {key_set}"))

    return IssuedCard(
        number=number,
        iccid=f"8999999{number:012d}",
        imsi=f"00101{number:010d}",
        msisdn=f"+9991{number:09d}",
        message_keys=keys(MESSAGE_KEYS),
        data_keys=keys(DATA_KEYS),
    )


def build_imei(terminal: int) -> bytes:
    """Of a terminal that never was, as a terminal says it (TS 102 223 §8.20)."""
    digits = f"0{terminal:014d}0"  # TAC 00…: test IMEIs
    nibbles = [0xA, *(int(digit) for digit in digits[:15])]
    return bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))


def write_cards(cards: Iterable[IssuedCard], file: Path) -> None:
    """One a line; whoever reads it can read everything that is sent to the card: mode 600. OSError."""
    file.touch(mode=0o600)
    file.chmod(0o600)
    with file.open("w") as lines:
        for card in cards:
            lines.write(card.line() + "\n")
