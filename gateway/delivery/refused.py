"""Deliveries for whose calls a notifier's queue had no room, until it has; must never hold more than so many numbers.

A number takes 8 bytes. What is not remembered any more waits for its retry timer.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict

from gateway.model.shares import Shares

#: an app and one of its lanes
Key = tuple[str, str]


class _Line:
    """Numbers in the order they came."""

    __slots__ = ("begin", "seqs")

    def __init__(self) -> None:
        self.seqs = array("Q")
        self.begin = 0

    def __len__(self) -> int:
        return len(self.seqs) - self.begin

    def take(self, count: int) -> array[int]:
        taken = self.seqs[self.begin : self.begin + count]
        self.begin += len(taken)
        if 2 * self.begin >= len(self.seqs):
            del self.seqs[: self.begin]
            self.begin = 0
        return taken


class Refused:
    """At most `most` numbers, of which one app leaves a quarter to others, and `most_lines` lanes."""

    def __init__(self, most: int, most_lines: int) -> None:
        self._shares = Shares(most)
        self._most_lines = most_lines
        self._lines: OrderedDict[Key, _Line] = OrderedDict()

    def __len__(self) -> int:
        """Lanes."""
        return len(self._lines)

    def __contains__(self, key: Key) -> bool:
        return key in self._lines

    def put(self, key: Key, seq: int) -> bool:
        line = self._lines.get(key)
        if not self._shares.has_room(key[0]) or (line is None and len(self._lines) >= self._most_lines):
            return False
        if line is None:
            line = self._lines[key] = _Line()
        line.seqs.append(seq)
        self._shares.take(key[0])
        return True

    def turn(self) -> Key:
        """The lane whose turn it is; not to be asked while there is none."""
        key = next(iter(self._lines))
        self._lines.move_to_end(key)
        return key

    def take(self, key: Key, count: int) -> array[int]:
        line = self._lines[key]
        taken = line.take(count)
        self._shares.give(key[0], len(taken))
        if not len(line):
            del self._lines[key]
        return taken

    def clear(self) -> None:
        for key in list(self._lines):
            self.take(key, len(self._lines[key]))
