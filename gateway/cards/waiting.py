"""Which download is next: due times in RAM, one download at a time for each card; must never begin two for one card,
nor a second one while a first has packets in doubt there.

What a card executed is told by its counters (gateway.cards.transfer), so while the packets of one download are in doubt
no other takes any. A download whose card is not free waits behind the others of that card, in the order in which they
were due; its own expiry still comes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

from gateway.model.cards import Download


class Waiting:
    """Control thread only; times are Unix ms. `read`: a download as it is in the store, None where it is over."""

    def __init__(self, read: Callable[[int], Download | None]) -> None:
        self._read = read
        self._heap: list[tuple[int, int]] = []
        #: in RAM and not under way
        self._numbers: set[int] = set()
        self._busy: dict[bytes, int] = {}
        #: the download whose packets may be in doubt at this card
        self._begun: dict[bytes, int] = {}
        self._behind: dict[bytes, deque[int]] = {}
        self._is_behind: set[int] = set()
        #: was behind, and is the next of its card: the rest waits for it
        self._woken: dict[int, bytes] = {}
        self._now_ms = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, number: int) -> bool:
        return number in self._numbers

    @property
    def next_ms(self) -> int | None:
        """When the next one is due; it may have been taken out meanwhile."""
        return self._heap[0][0] if self._heap else None

    def note_begun(self, download: Download) -> None:
        if download.plan is not None:
            self._begun[download.card] = download.number

    def add(self, download: Download, due_ms: int) -> None:
        self.note_begun(download)
        self._numbers.add(download.number)
        heapq.heappush(self._heap, (due_ms, download.number))

    def discard(self, number: int) -> None:
        """It is not tried any more; the heap forgets it when its time comes."""
        self._numbers.discard(number)
        self._is_behind.discard(number)
        card = self._woken.pop(number, None)
        if card is not None:
            self._wake(card)

    def take(self, now_ms: int) -> Download | None:
        """The next one that is due and whose card is free; that is busy then, until `release`."""
        while self._heap and self._heap[0][0] <= now_ms:
            _, number = heapq.heappop(self._heap)
            if number not in self._numbers:
                continue
            download = self._read(number)
            if download is None:
                self.discard(number)
                continue
            card = download.card
            is_free = card not in self._busy and self._begun.get(card, number) == number
            if is_free or download.expires_ms <= now_ms:
                self._woken.pop(number, None)
                self.discard(number)
                if is_free:
                    self._busy[card] = number
                return download
            if number not in self._is_behind:
                self._woken.pop(number, None)
                self._is_behind.add(number)
                self._behind.setdefault(card, deque()).append(number)
                heapq.heappush(self._heap, (download.expires_ms, number))
        return None

    def release(self, card: bytes, number: int, now_ms: int, *, is_over: bool) -> None:
        """It is not under way any more; `is_over`: for ever."""
        if self._busy.get(card) == number:
            del self._busy[card]
        if is_over and self._begun.get(card) == number:
            del self._begun[card]
        if card not in self._busy and card not in self._begun:
            self._now_ms = now_ms
            self._wake(card)

    def _wake(self, card: bytes) -> None:
        """The first of those behind is due now."""
        behind = self._behind.get(card)
        while behind:
            number = behind.popleft()
            if number in self._is_behind:
                self._is_behind.discard(number)
                self._woken[number] = card
                heapq.heappush(self._heap, (self._now_ms, number))
                break
        if behind is not None and not behind:
            del self._behind[card]
