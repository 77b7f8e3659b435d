"""The feed of new opaque ids for each app (C5): an app server learns of a re-allocation unasked; must never show one
app another's.

One sealed row an id and app, written in the commit of the id itself. A cursor is the time in microseconds, or one more
than the app's last where the clock went back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gateway.model.subscriber_records import News, NewsLine
from gateway.store.environment import Environment
from gateway.store.records import DELETE, PUT, Db, Row, receipts_key, unpack_u32, unpack_u64
from gateway.store.subscriber_rows import SubscriberRows

#: rows of one app looked at in one call of `sweep`
SWEEP_ROWS = 1_000


class SubscriberNews:
    """Control thread only."""

    def __init__(self, environment: Environment, rows: SubscriberRows, clock: Callable[[], int]) -> None:
        self._environment = environment
        self._rows = rows
        self._clock = clock
        #: set before use; 0 for an unknown app
        self.app_number: Callable[[str], int] = lambda _: 0
        self._last: dict[int, int] = {}  # app number → its last cursor; read when it is needed first

    def build(self, news: Iterable[News]) -> list[Row]:
        rows: list[Row] = []
        for each in news:
            number = self.app_number(each.app)
            if number:
                key = receipts_key(number, self._next(number))
                rows.append((PUT, Db.OPAQUE_NEWS, key, self._rows.seal_news(key, each)))
        return rows

    def _next(self, number: int) -> int:
        if number not in self._last:
            self._last[number] = 0
            with self._environment.begin() as txn, txn.cursor(self._environment.db(Db.OPAQUE_NEWS)) as cursor:
                there = cursor.prev() if cursor.set_range(receipts_key(number + 1, 0)) else cursor.last()
                if there and unpack_u32(bytes(cursor.key())) == number:
                    self._last[number] = unpack_u64(bytes(cursor.key())[4:])
        self._last[number] = max(self._clock() * 1_000, self._last[number] + 1)
        return self._last[number]

    def after(self, app: str, cursor: int, limit: int) -> list[NewsLine]:
        number = self.app_number(app)
        found: list[NewsLine] = []
        if not number or limit < 1:
            return found
        for key, raw in self._environment.scan(Db.OPAQUE_NEWS, receipts_key(number, cursor + 1), limit=limit):
            if unpack_u32(key) != number:
                break
            news = self._rows.open_news(bytes(key), raw)
            found.append(NewsLine(unpack_u64(key[4:]), news.issued, news.replaces))
        return found

    def sweep(self, app_numbers: Sequence[int], before_ms: int) -> tuple[list[Row], bool]:
        """Rows to remove, and whether there may be more."""
        rows: list[Row] = []
        more = False
        for number in app_numbers:
            seen = 0
            for key, _ in self._environment.scan(Db.OPAQUE_NEWS, receipts_key(number, 0), limit=SWEEP_ROWS):
                if unpack_u32(key) != number or unpack_u64(key[4:]) >= before_ms * 1_000:
                    break
                seen += 1
                rows.append((DELETE, Db.OPAQUE_NEWS, bytes(key), b""))
            more = more or seen == SWEEP_ROWS
        return rows, more
