"""How long an account rests before its next try: full jitter, so that those who fell together do not rise together;
pure but for the dice."""

from __future__ import annotations

from random import SystemRandom

_dice = SystemRandom()


class Backoff:
    """Pauses of one account. The first is at most `first_s`, each next at most twice the one before, up to `most_s`."""

    __slots__ = ("_failures", "_first_s", "_most_s")

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def next_s(self, at_least_s: float = 0.0) -> float:
        """`at_least_s`: what the network asked for, on top of which comes the first pause's jitter."""
        # 2 ** 40 times any first pause is past any longest one
        most = min(self._first_s * 2.0 ** min(self._failures, 40), self._most_s)
        self._failures += 1
        if at_least_s > 0:
            return at_least_s + _dice.uniform(0.0, min(self._first_s, self._most_s))
        return _dice.uniform(0.0, most)
