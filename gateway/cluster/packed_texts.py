"""Short texts by number in a few flat arrays: no Python object for any of them."""

from __future__ import annotations

from array import array

#: bytes of a slot, its length in the first two
_SLOTS = (16, 32, 64, 160, 522)
_CLASS_SHIFT = 29
_NONE = 0xFFFFFFFF


class PackedTexts:
    """At most 520 bytes of UTF-8 each; numbers are dense."""

    def __init__(self) -> None:
        self._places = array("I")  # class above bit 29, slot below
        self._slots = tuple(bytearray() for _ in _SLOTS)
        self._free = tuple(array("I") for _ in _SLOTS)

    def __getitem__(self, number: int) -> str:
        """Empty where there is none."""
        place = self._places[number] if number < len(self._places) else _NONE
        if place == _NONE:
            return ""
        kind, slot = place >> _CLASS_SHIFT, place & ((1 << _CLASS_SHIFT) - 1)
        at = slot * _SLOTS[kind]
        slots = self._slots[kind]
        size = slots[at] << 8 | slots[at + 1]
        return slots[at + 2 : at + 2 + size].decode()

    def __setitem__(self, number: int, text: str) -> None:
        """ValueError where it is too long; nothing has changed then."""
        raw = text.encode()
        kind = next((i for i, size in enumerate(_SLOTS) if len(raw) + 2 <= size), -1)
        if kind < 0:
            raise ValueError("too long for a short text")
        self.drop(number)
        missing = number + 1 - len(self._places)
        if missing > 0:
            self._places.extend(array("I", [_NONE]) * (missing + 1024))
        size, slots = _SLOTS[kind], self._slots[kind]
        if self._free[kind]:
            slot = self._free[kind].pop()
        else:
            slot = len(slots) // size
            slots += bytes(size)
        at = slot * size
        slots[at : at + 2] = len(raw).to_bytes(2, "big")
        slots[at + 2 : at + 2 + len(raw)] = raw
        self._places[number] = kind << _CLASS_SHIFT | slot

    def drop(self, number: int) -> None:
        place = self._places[number] if number < len(self._places) else _NONE
        if place != _NONE:
            self._free[place >> _CLASS_SHIFT].append(place & ((1 << _CLASS_SHIFT) - 1))
            self._places[number] = _NONE
