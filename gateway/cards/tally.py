"""Counts of one campaign, each participant once however often and in whatever order it is heard of: a bit a participant
that is over, and a number each for those under way; must never hold an object for one that was not released.
"""

from __future__ import annotations

from gateway.cards.campaign_policy import Order, Standing
from gateway.model.cards import Download, DownloadState

#: different causes that are told apart; further ones count together. One without a cause counts by its state
MOST_CAUSES = 64
OTHER_CAUSE = "other"
GOOD = frozenset({DownloadState.DONE, DownloadState.NOTICED})


class Tally:
    """Participants are named by their index: number minus the campaign's first."""

    __slots__ = (
        "_canaries",
        "_canaries_good",
        "_canaries_over",
        "_counted",
        "_fresh",
        "_order",
        "causes",
        "missed",
        "out",
        "over",
        "participants",
        "results",
    )

    def __init__(self, participants: int, order: Order, canaries: int) -> None:
        self.participants = participants
        self._order = order
        self._canaries = canaries
        self._canaries_over = self._canaries_good = 0
        self._counted = bytearray((participants + 7) // 8)
        #: released and not over
        self.out: set[int] = set()
        #: of those, the ones not seen waiting for another try; in the order in which they are looked at
        self._fresh: dict[int, None] = {}
        self.over = self.missed = 0
        self.results: dict[int, int] = {}
        self.causes: dict[str, int] = {}

    @property
    def held(self) -> int:
        return self.participants - self.over - len(self.out)

    @property
    def under_way(self) -> int:
        return len(self._fresh)

    @property
    def standing(self) -> Standing:
        return Standing(self.over, len(self._fresh), self._canaries, self._canaries_over, self._canaries_good)

    def is_over(self, index: int) -> bool:
        return bool(self._counted[index >> 3] & 1 << (index & 7))

    def release(self, index: int) -> None:
        if not self.is_over(index):
            self.out.add(index)
            self._fresh[index] = None

    def see(self, index: int, download: Download, now_ms: int) -> None:
        """As its row says. Counts one that is over."""
        if download.state.is_final:
            self.end(index, download)
        elif download.state != DownloadState.HELD:
            self.release(index)
            self.look(index, download, now_ms)

    def look(self, index: int, download: Download, now_ms: int) -> None:
        """Is it still under way, or does it wait for another try?"""
        self._fresh.pop(index, None)
        if index in self.out and not (download.state == DownloadState.WAITING and download.due_ms > now_ms):
            self._fresh[index] = None

    def oldest(self, count: int) -> list[int]:
        """Of those under way, to be looked at."""
        return [index for index, _ in zip(self._fresh, range(count), strict=False)]

    def miss(self, index: int) -> None:
        """It has no row, which should not be: it is over, and nothing else is known of it."""
        if not self.is_over(index):
            self._counted[index >> 3] |= 1 << (index & 7)
            self.out.discard(index)
            self._fresh.pop(index, None)
            self.over += 1
            self.missed += 1
            if self._canaries and self._order.place(index) < self._canaries:
                self._canaries_over += 1

    def end(self, index: int, download: Download) -> bool:
        """It is over; False where that was counted already."""
        if self.is_over(index):
            return False
        self._counted[index >> 3] |= 1 << (index & 7)
        self.out.discard(index)
        self._fresh.pop(index, None)
        self.over += 1
        state = int(download.state)
        self.results[state] = self.results.get(state, 0) + 1
        if download.state != DownloadState.DONE:
            cause = download.cause or DownloadState(state).name.lower()
            if cause not in self.causes and len(self.causes) >= MOST_CAUSES:
                cause = OTHER_CAUSE
            self.causes[cause] = self.causes.get(cause, 0) + 1
        if self._canaries and self._order.place(index) < self._canaries:
            self._canaries_over += 1
            self._canaries_good += download.state in GOOD
        return True
