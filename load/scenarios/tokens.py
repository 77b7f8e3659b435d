"""Who can be pushed to right now: filled by devices, read by providers; bounded, never older than a device's link."""

from __future__ import annotations

import random
from collections.abc import Callable

#: devices remembered at most; more are on line, but get no directed push
MOST = 100_000


class LiveTokens:
    """Random access to the tokens of devices that are on line."""

    def __init__(self, most: int = MOST, choose: Callable[[int], int] = random.randrange) -> None:
        self._most = most
        self._choose = choose
        self._tokens: list[str] = []
        self._places: dict[str, int] = {}
        #: token → how often its device logged in, to tell one link from the next
        self.links: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._places

    def add(self, token: str) -> bool:
        """False where there is no room for it."""
        if token not in self._places:
            if len(self._tokens) >= self._most:
                return False
            self._places[token] = len(self._tokens)
            self._tokens.append(token)
        self.links[token] = self.links.get(token, 0) + 1
        return True

    def remove(self, token: str) -> None:
        place = self._places.pop(token, None)
        if place is None:
            return
        last = self._tokens.pop()
        if last != token:
            self._tokens[place] = last
            self._places[last] = place
        if token in self.links:
            self.links[token] += 1

    def pick(self) -> str | None:
        return self._tokens[self._choose(len(self._tokens))] if self._tokens else None


#: of all users of this process
LIVE = LiveTokens()
