"""Which logins waited in vain between a reactor and the control thread; must never take one for late on a guess, nor
cost a link anything.

A reactor ends a link whose HELLO was not decided in time, and its device comes again. Where the control thread can not
follow a storm, deciding such a HELLO helps nobody, and those behind it become too late as well: the storm feeds itself.
So each reactor is sent echoes over a link that is logged in. One comes back behind all that its mailbox held when it
left: a HELLO that is here before an echo of so long ago has waited for longer than that.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from gateway.edge.plane import REACTOR_SHIFT

#: echoes of one reactor in the time in which a HELLO has to be decided, at most
ECHOES = 20


class _Mailbox:
    """Of one reactor."""

    __slots__ = ("asked", "link")

    def __init__(self, link: int) -> None:
        #: was logged in when it was heard of last; 0: none is known
        self.link = link
        #: when its echoes left that are not back, in seconds
        self.asked: deque[float] = deque()


class LoginQueue:
    """Loop thread only. `echo`: has a link's reactor answer (`on_echo`); False where it can not be asked now."""

    def __init__(
        self, echo: Callable[[int], bool], timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._echo = echo
        self._timeout_s = timeout_s
        self._pause_s = timeout_s / ECHOES
        self._clock = clock
        self._mailboxes: dict[int, _Mailbox] = {}

    def is_late(self, link: int) -> bool:
        """A HELLO of this link is here: its reactor has ended the link by now."""
        mailbox = self._mailboxes.get(link >> REACTOR_SHIFT)
        if mailbox is None or not mailbox.link:
            return False
        now, asked = self._clock(), mailbox.asked
        if (not asked or now - asked[-1] >= self._pause_s) and self._echo(mailbox.link):
            asked.append(now)
        return bool(asked) and now - asked[0] > self._timeout_s

    def welcomed(self, link: int) -> None:
        """This one is logged in, or was: then it is told that it is down."""
        mailbox = self._mailboxes.get(link >> REACTOR_SHIFT)
        if mailbox is None:
            self._mailboxes[link >> REACTOR_SHIFT] = _Mailbox(link)
        elif not mailbox.link:
            mailbox.link = link

    def on_echo(self, link: int) -> bool:
        """True where it was asked for here."""
        mailbox = self._mailboxes.get(link >> REACTOR_SHIFT)
        if mailbox is None or mailbox.link != link or not mailbox.asked:
            return False
        mailbox.asked.popleft()
        return True

    def on_down(self, link: int) -> None:
        """Its echoes do not come back. The next that is logged in is asked."""
        mailbox = self._mailboxes.get(link >> REACTOR_SHIFT)
        if mailbox is not None and mailbox.link == link:
            mailbox.link = 0
            mailbox.asked.clear()
