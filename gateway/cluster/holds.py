"""Which owners wait for a link's READY; must never give one an answer older than its question.

A link is shared by partitions. What a reactor says is in flight is true for all that was sent before it was asked. An
owner that asks after that is asked for again, so what it had sent just before is not taken for missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection


class Holds:
    """Only links that an owner holds have something here. `hold`: gives the reactor the question."""

    def __init__(self, hold: Callable[[int], None]) -> None:
        self._hold = hold
        #: link → who asked before its reactor was asked, and who did after
        self._links: dict[int, tuple[set[int], set[int]]] = {}

    def __len__(self) -> int:
        return len(self._links)

    def ask(self, link: int, partition: int) -> None:
        asked = self._links.get(link)
        if asked is None:
            self._links[link] = ({partition}, set())
            self._hold(link)
        else:
            asked[1].add(partition)

    def take(self, link: int) -> Collection[int]:
        """The reactor has answered: for these partitions."""
        first, then = self._links.pop(link, (set[int](), set[int]()))
        if then:
            self._links[link] = (then, set())
            self._hold(link)
        return first

    def forget(self, link: int) -> None:
        """Nothing is bound there any more, or what is asks again."""
        self._links.pop(link, None)
