"""A bound that many share: nobody takes so much of it that a newcomer finds nothing; must never be passed in all."""

from __future__ import annotations


class Shares:
    """`most` places. A holder may take any until a quarter is left, and of that as long as it has less than what is
    left: alone it has three quarters, and there is always room for who has none, until the last place."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._reserve = most // 4
        self._of: dict[str, int] = {}
        self.taken = 0

    def has_room(self, holder: str) -> bool:
        left = self._most - self.taken
        return left > self._reserve or self._of.get(holder, 0) < left

    def of(self, holder: str) -> int:
        return self._of.get(holder, 0)

    def take(self, holder: str, places: int = 1) -> None:
        self._of[holder] = self._of.get(holder, 0) + places
        self.taken += places

    def give(self, holder: str, places: int = 1) -> None:
        """Back."""
        left = self._of.get(holder, 0) - places
        if left > 0:
            self._of[holder] = left
        else:
            self._of.pop(holder, None)
        self.taken -= places
