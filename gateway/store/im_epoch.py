"""Where the cursors of logs go on after something that nobody knows the end of: a commit that failed, or a kill; must
never let a cursor that a reader may have seen become another line's.

A number in the store runs ahead of the epoch that is in use. A clean stop moves it back, so that logs go on without a
gap.
"""

from __future__ import annotations

from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.records import PUT, Db, pack_u64, unpack_u64

_KEY = b"im_epoch"
#: cursors of a log in one epoch before its numbers lap into the next: they still rise
_CURSORS = 1 << 24
#: epochs that may end by failed commits before the number in the store has to be moved
_AHEAD = 16


class Epoch:
    """Control thread only."""

    def __init__(self, environment: Environment, committer: Committer) -> None:
        self._committer = committer
        raw = environment.get(Db.META, _KEY)
        self._epoch = 0 if raw is None else unpack_u64(raw)
        self._asked = self._epoch
        self._is_used = False
        self._move()

    def first(self) -> int:
        """The cursor that is given now may not be below it."""
        self._is_used = True
        return self._epoch * _CURSORS + 1

    def end(self) -> None:
        """Some cursors of this epoch were taken back. The first call after one was given counts."""
        if self._is_used:
            self._epoch += 1
            self._is_used = False
            self._move()

    def _move(self) -> None:
        if self._asked - self._epoch < _AHEAD // 2:
            self._asked = self._epoch + _AHEAD
            self._committer.keep([(PUT, Db.META, _KEY, pack_u64(self._asked))])

    def stop(self) -> None:
        """No cursor is given after this."""
        self._committer.keep([(PUT, Db.META, _KEY, pack_u64(self._epoch))])
