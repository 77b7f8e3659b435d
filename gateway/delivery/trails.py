"""What RAM remembers of deliveries that did not go the ordinary way; must never grow past its bounds.

Nothing that is `Remembered` is needed for a delivery to end: what is evicted (oldest first, counted) costs a shorter
back-off, one more FETCH, or a notifier that is asked once more. `UnderWay` has no more entries than the
queues have calls.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from gateway.metrics import Metric, Metrics

_V = TypeVar("_V")


class Remembered(Generic[_V]):
    """A dict that forgets its oldest entry when full, and says which. Consequence and kind are named by its owner."""

    def __init__(
        self, limit: int, metrics: Metrics, kind: str, on_forgotten: Callable[[int], None] = lambda _seq: None
    ) -> None:
        self._items: OrderedDict[int, _V] = OrderedDict()  # its first is at hand however many went before it
        self._limit = limit
        self._metrics = metrics
        self._kind = kind
        self._on_forgotten = on_forgotten

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, seq: int) -> bool:
        return seq in self._items

    def get(self, seq: int) -> _V | None:
        return self._items.get(seq)

    def put(self, seq: int, value: _V) -> None:
        if seq not in self._items and len(self._items) >= self._limit:
            oldest, _ = self._items.popitem(last=False)
            self._metrics.count(Metric.DELIVERY_MEMORY_EVICTED, label=self._kind)
            self._on_forgotten(oldest)
        self._items[seq] = value

    def pop(self, seq: int) -> _V | None:
        return self._items.pop(seq, None)


class Trail:
    """How often a delivery was tried in vain."""

    __slots__ = ("dead", "full", "is_kept", "later", "opened", "retries", "timed_out", "tries")

    def __init__(self) -> None:
        self.retries = 0  # retry timers armed so far
        self.tries = 0  # failures for now that were the message's or the address's
        self.full = ""  # the notifier whose queue had no room, where that was the last to be heard of one
        self.is_kept = False  # a queue remembers it: it waits for room there, and for no timer
        self.later: tuple[str, ...] = ()  # notifiers that failed for now and are used up by that
        self.opened: tuple[str, ...] = ()  # those that may be asked again
        self.dead: tuple[str, ...] = ()  # and those of its chain that are dead for it
        self.timed_out = False  # a link took it and no ack came

    def is_blank(self, name: str) -> bool:
        """Is there nothing in it that a failure for now of this notifier by itself does not say again?"""
        others = any(each != name for each in (*self.later, *self.opened))
        return not (self.retries or self.tries or self.dead or self.timed_out or others)

    def failed(self, name: str, *, dead: bool) -> None:
        self.later = tuple(each for each in self.later if each != name)
        self.opened = tuple(each for each in self.opened if each != name)
        if dead:
            self.dead = (*self.dead, name) if name not in self.dead else self.dead
        else:
            self.later = (*self.later, name)

    def reopen(self, name: str = "") -> int:
        """All that failed for now may be asked again, or one of them; how many that are."""
        names = tuple(each for each in self.later if not name or each == name)
        self.later = tuple(each for each in self.later if each not in names)
        self.opened += names
        return len(names)


class UnderWay:
    """Of each delivery the notifiers whose calls wait or are under way; last the one it was given to last, where its
    call is one of them."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[str, ...]] = {}
        self._forgotten: set[int] = set()  # of these the trail was forgotten meanwhile

    def __len__(self) -> int:
        return len(self._names)

    def note_forgotten(self, seq: int) -> int:
        """How many of its calls wait or are under way."""
        count = len(self.names(seq))
        if count:
            self._forgotten.add(seq)
        return count

    def take_forgotten(self, seq: int) -> bool:
        """Was its trail forgotten while a call was under way? Said once."""
        if seq not in self._forgotten:
            return False
        self._forgotten.remove(seq)
        return True

    def tidy(self, seq: int) -> None:
        """The result of its call is dealt with."""
        if seq not in self._names:
            self._forgotten.discard(seq)

    def names(self, seq: int) -> tuple[str, ...]:
        return tuple(filter(None, self._names.get(seq, ())))

    def is_last(self, seq: int, name: str) -> bool:
        return self._names.get(seq, ())[-1:] == (name,)

    def pass_on(self, seq: int) -> None:
        """It is with one whose call is over: none of these is the last."""
        names = self._names.get(seq, ())
        if names and names[-1]:
            self._names[seq] = (*names, "")

    def begin(self, seq: int, name: str) -> None:
        self._names[seq] = (*(each for each in self.names(seq) if each != name), name)

    def end(self, seq: int, name: str) -> None:
        names = self._names.get(seq, ())
        left = tuple(each for each in names if each != name)
        if not any(left):
            self._names.pop(seq, None)
        elif names[-1] == name:
            self._names[seq] = (*left, "")  # none of the others is the last
        else:
            self._names[seq] = left
