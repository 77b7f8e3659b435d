"""Record keys of AT Protocol that are times (TID: microseconds and a clock's number, base 32 in the order of time)."""

from __future__ import annotations

import hashlib
import re

_ALPHABET = "234567abcdefghijklmnopqrstuvwxyz"
_TID = re.compile(r"[234567abcdefghij][234567abcdefghijklmnopqrstuvwxyz]{12}")


def build_tid(micros: int, clock: int) -> str:
    number = (micros & (1 << 53) - 1) << 10 | clock & 0x3FF
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(60, -1, -5))


def parse_tid(text: str) -> int | None:
    """Microseconds; None where it is none."""
    if _TID.fullmatch(text) is None:
        return None
    number = 0
    for char in text:
        number = number << 5 | _ALPHABET.index(char)
    return number >> 10


def choose_tid(at_ms: int, txn_id: str) -> str:
    """For what is sent: the same for the same time and transaction, so that a second try writes the same record."""
    digest = int.from_bytes(hashlib.blake2b(txn_id.encode("utf-8", "replace"), digest_size=4).digest(), "big")
    return build_tid(at_ms * 1_000 + digest % 1_000, digest >> 10)
