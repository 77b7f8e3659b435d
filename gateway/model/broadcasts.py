"""What delivery may ask of broadcasts (A3, A4): one of the seams in ports.py; must hold no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.model.notification import Notification


class Broadcasts(Protocol):
    """Live broadcasts of each app and how far each registration has come."""

    def live(self, app: str) -> list[int]:
        """Ascending sequences of broadcasts neither expired nor recalled."""
        ...

    def waiting(self, registration: int) -> list[int]:
        """Live broadcasts that match the registration's app and version and which it has not acked, ascending."""
        ...

    def is_waiting(self, seq: int, registration: int) -> bool:
        """Is it among `waiting`?"""
        ...

    def acked(self, seq: int, registrations: Sequence[int], at_ms: int) -> None:
        """Cursors move on; durable with the next commit."""
        ...

    def matches(self, notification: Notification, registration: int) -> bool: ...

    def count(self, seq: int, what: str, registrations: Sequence[int]) -> None:
        """Figures of a broadcast, by version too: targeted, sent, acked, shown, notified."""
        ...

    def count_sent(self, seq: int, group: int, links: int) -> None:
        """The same for so many of a group."""
        ...

    def adopted(self, seq: int, registration: int, *, undone: bool = False) -> None:
        """It is a single delivery for this one now, with `broadcast` set: the journal counts what becomes of that.
        `undone`: it could not be stored."""
        ...

    def counted(self, seq: int) -> None:
        """Its audience was counted to the end."""
        ...

    def recount(self, seq: int) -> bool:
        """False where `counted` was said of it, before a restart too; else "targeted" begins again from nothing."""
        ...

    def count_expired(self, seq: int) -> None:
        """Whom it was meant for and did not reach; single deliveries that grew out of it and are pending count when
        they end."""
        ...

    def is_recalled(self, seq: int) -> bool:
        """It ended so, before a restart too."""
        ...

    def figures(self, seq: int) -> dict[str, int]: ...

    def end(self, seq: int, state: int, at_ms: int) -> None:
        """Expired or recalled."""
        ...
