"""What came on a device's links: finds what is not for it, and what came twice on one link. Sans-IO, without locust."""

from __future__ import annotations

from collections import OrderedDict

from gateway.model import frames

#: ids remembered to find repetitions by
SEEN = 1_000


class Misbehaved(Exception):
    """The gateway did what it must not."""


class Inbox:
    """What came on this device's links: finds what is not for it, and what came twice on one link."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, int], int] = OrderedDict()
        self.link = 0

    def check(self, note: frames.Notify, token: str) -> None:
        """Misbehaved where it should not have come; again on a later link is as documented (at least once)."""
        if note.token and note.token != token:
            raise Misbehaved("a notification for another token")
        key = (note.token or note.app, note.id)
        if self._seen.get(key) == self.link:
            raise Misbehaved("the same notification twice on one link")
        self._seen[key] = self.link
        self._seen.move_to_end(key)
        while len(self._seen) > SEEN:
            self._seen.popitem(last=False)
