"""Which notifications this device has had and confirmed: dedupe by (source, id); bounded, forgets the oldest.

Past the bound that entry goes which was not touched for longest; a duplicate that comes after that is handed out again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from gateway.client.content import Counters

_log = logging.getLogger("gateway.client")

# flags of an entry
FULL = 1  # had with its body (else the light form only)
ACKED_LIGHT = 2
ACKED_FULL = 4
SHOWN_LIGHT = 8
SHOWN_FULL = 16
LIGHT = 32  # its light form came: that the body is here has to be said
TIPPED = 64  # the app has a tip of it
ASKED = 128  # a FETCH for its body was sent, on whatever link

CONFIRMED_LIGHT = ACKED_LIGHT | SHOWN_LIGHT
CONFIRMED_FULL = ACKED_FULL | SHOWN_FULL


class SeenStore(Protocol):
    """Optional persistence hook, so that a restarted app drops what it confirmed before. Must not block; what `add` or
    `clear` raises is logged and counted.

    `source` is a token or the name of an app; keep it as safe as the credentials.
    """

    def load(self) -> Iterable[tuple[str, int]]: ...

    def add(self, source: str, id: int) -> None:
        """Called when the whole notification was confirmed, just before the confirmation is sent."""
        ...

    def clear(self) -> None:
        """The device has a new id: its gateway may be another, which counts from the start."""
        ...


class Seen:
    def __init__(self, limit: int, store: SeenStore | None = None, counters: Counters | None = None) -> None:
        self._limit = limit
        self._store = store
        self._counters = counters or Counters()
        self._flags: dict[tuple[str, int], int] = {}
        if store is not None:
            for source, id in store.load():
                self._put((source, id), FULL | ACKED_FULL)

    def __len__(self) -> int:
        return len(self._flags)

    def get(self, source: str, id: int) -> int | None:
        """Flags, None where it was never seen (or too long ago)."""
        return self._flags.get((source, id))

    def mark(self, source: str, id: int, flags: int) -> bool:
        """Add flags; False where all were set already."""
        key = (source, id)
        before = self._flags.get(key)
        if before is not None and before & flags == flags:
            return False
        self._put(key, (before or 0) | flags)
        if self._store is not None and flags & CONFIRMED_FULL and not (before or 0) & CONFIRMED_FULL:
            try:
                self._store.add(source, id)
            except Exception:
                self._failed()
        return True

    def clear(self) -> None:
        self._flags.clear()
        if self._store is not None:
            try:
                self._store.clear()
            except Exception:
                self._failed()

    def _failed(self) -> None:
        """A link goes on, and what came is handed out: the store is for a restart alone."""
        self._counters.seen_unsaved += 1
        _log.exception("what was seen could not be saved")

    def forget(self, source: str, id: int) -> None:
        """It was not handed out after all: should it come again, it is new."""
        self._flags.pop((source, id), None)

    def _put(self, key: tuple[str, int], flags: int) -> None:
        self._flags.pop(key, None)  # so that it is the newest
        self._flags[key] = flags
        if len(self._flags) > self._limit:
            del self._flags[next(iter(self._flags))]
