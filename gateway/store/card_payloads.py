"""What is brought to cards, each payload once however many cards get it; must never remove one that a download or a
campaign still needs.

What is needed is not counted but looked at: a round marks what open downloads and campaigns name, a slice a call, and
removes the rest. What was asked for lately stays, for its download may be on its way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from gateway.model.cards import Payload
from gateway.store.card_rows import CardRows
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.records import DELETE, PUT, Db, Row

#: a payload stays so long after it was put or a download that needs it was added
GRACE_MS = 3_600_000
#: between two rounds; rows looked at in one call, and payloads removed
ROUND_MS = 600_000
SLICE = 10_000
_REMOVED = 1_000
#: payloads kept open in RAM, and bytes of them; the one used longest ago goes first
_OPEN = 16
_OPEN_BYTES = 32 << 20


class Payloads:
    """Control thread only. `of_campaigns` names digests that campaigns which are not over need."""

    def __init__(
        self, environment: Environment, committer: Committer, rows: CardRows, clock: Callable[[], int]
    ) -> None:
        self._environment = environment
        self._committer = committer
        self._rows = rows
        self._clock = clock
        self.of_campaigns: Callable[[], Iterable[bytes]] = tuple
        self._fresh: dict[bytes, bytes] = {}  # not durable yet: digest → sealed
        self._going: set[bytes] = set()  # their removal is on its way
        self._touched: dict[bytes, int] = {}  # digest → Unix ms
        self._open: OrderedDict[bytes, tuple[Payload, int]] = OrderedDict()
        self._open_bytes = 0
        self._marked: set[bytes] | None = None  # None: no round is under way
        self._place = b""
        self._next_round_ms = 0

    def put(self, payload: Payload) -> bytes:
        digest, plain = self._rows.pack_payload(payload)
        if not self.is_there(digest):
            sealed = self._rows.seal_payload(digest, plain)

            def settled() -> None:
                if self._fresh.get(digest) is sealed:
                    del self._fresh[digest]

            self._committer.accept([(PUT, Db.PAYLOADS, digest, sealed)], undo=settled, done=settled)
            self._fresh[digest] = sealed
        self.touch(digest)
        return digest

    def touch(self, digest: bytes) -> None:
        """Something needs it from now on."""
        self._touched[digest] = self._clock()

    def is_there(self, digest: bytes) -> bool:
        if digest in self._fresh:
            return True
        return digest not in self._going and self._environment.get(Db.PAYLOADS, digest) is not None

    def read(self, digest: bytes) -> Payload | None:
        entry = self._open.get(digest)
        if entry is not None:
            self._open.move_to_end(digest)
            return entry[0]
        raw = self._fresh.get(digest) or self._environment.get(Db.PAYLOADS, digest)
        if raw is None:
            return None
        payload = self._rows.open_payload(digest, raw)
        if len(raw) <= _OPEN_BYTES:
            self._open[digest] = (payload, len(raw))
            self._open_bytes += len(raw)
            while len(self._open) > _OPEN or self._open_bytes > _OPEN_BYTES:
                self._open_bytes -= self._open.popitem(last=False)[1][1]
        return payload

    # --- sweep ----------------------------------------------------------------------------------------------

    def sweep(self, now_ms: int) -> bool:
        """A slice of a round; True where there is more of it."""
        if self._marked is None:
            if now_ms < self._next_round_ms or not self._environment.entries(Db.PAYLOADS):
                return False
            self._marked, self._place = set(), b""
            self._touched = {digest: at for digest, at in self._touched.items() if at > now_ms - GRACE_MS}
        seen = 0
        for key, digest in self._environment.scan(Db.OPEN_DOWNLOADS, self._place, limit=SLICE):
            seen += 1
            self._marked.add(digest)
            self._place = key + b"\0"
        if seen == SLICE:
            return True
        if self._remove(self._marked):
            return True
        self._marked = None
        self._next_round_ms = now_ms + ROUND_MS
        return False

    def _remove(self, marked: set[bytes]) -> bool:
        """True where there are more."""
        marked.update(self.of_campaigns())
        # What came to be needed since the round began was touched. Few are left over, and few are kept at all.
        over = [
            key
            for key in self._environment.keys(Db.PAYLOADS)
            if key not in marked and key not in self._touched and key not in self._fresh and key not in self._going
        ]
        if not over:
            return False
        more = len(over) > _REMOVED
        del over[_REMOVED:]
        for digest in over:
            self._going.add(digest)
            entry = self._open.pop(digest, None)
            if entry is not None:
                self._open_bytes -= entry[1]
        rows: list[Row] = [(DELETE, Db.PAYLOADS, digest, b"") for digest in over]

        def settled() -> None:
            self._going.difference_update(over)

        self._committer.refresh(rows, redo=settled, done=settled)
        return more
