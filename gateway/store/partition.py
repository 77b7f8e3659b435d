"""What makes a store a partition of a fleet: its number, the log it commits to and the keys all nodes share; must hold
no state of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gateway.model.cluster import CommitLog
from gateway.store.keys import ServerKeys


def _nothing() -> None:
    pass


class Partition(NamedTuple):
    """`Store.open` with one: the folder is a view of the log, not durable by itself."""

    number: int
    log: CommitLog
    keys: ServerKeys
    #: another node owns it: the store has ended by itself and writes nothing any more; `close` it
    on_fenced: Callable[[], None] = _nothing
    #: its folder lacks what the log has (a disk that failed), and the store has ended: `close` it, and open it again
    #: from the log
    on_behind: Callable[[], None] = _nothing
    #: while it is closed: nothing is written to the log any more, so another node may go on; the folder has yet to sync
    on_quiet: Callable[[], None] = _nothing
    #: everything that is in the folder is on the disk too, and the store is closed
    on_closed: Callable[[], None] = _nothing
