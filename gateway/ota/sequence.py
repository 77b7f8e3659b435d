"""Sequence numbers of 16 bits; must never be compared but by these, for after 65,535 comes 0 (TS 102 127 §4)."""

from __future__ import annotations

_HALF = 0x8000
_MASK = 0xFFFF


def following(number: int) -> int:
    return (number + 1) & _MASK


def distance(start: int, end: int) -> int:
    """How many steps forward from start to end, 0 to 65,535."""
    return (end - start) & _MASK


def is_before(number: int, other: int) -> bool:
    """Whether it is older; of two that are 32,768 apart neither is."""
    return 0 < distance(number, other) < _HALF
