"""How far the logs of IM users go back: lines that are too old, too many or too much go, a slice at a time, the oldest
first; must never lose a log's last cursor.

A dedupe hash goes with its line: else who is sent enough would fill the store with what is long gone.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.config.im_section import Im
from gateway.metrics import Metric, Metrics
from gateway.store.im_rows import (
    LONG_LOG,
    OLD_LINES,
    build_log_head,
    parse_line_head,
    parse_log_head,
    parse_task_key,
)
from gateway.store.im_unwritten import Unwritten, Values
from gateway.store.records import Db

#: lines that go in one call of `sweep`, about
_SLICE = 1_000


class LogHistory:
    """Control thread only. `part_s`: how long the parts of a log are that have tasks of their own."""

    def __init__(
        self, unwritten: Unwritten, metrics: Metrics, clock: Callable[[], int], part_s: Callable[[], int]
    ) -> None:
        self._unwritten = unwritten
        self._metrics = metrics
        self._clock = clock
        self._part_s = part_s
        self._sweeping = False
        self.configure(Im())

    def configure(self, im: Im) -> None:
        self._history_s = int(im.history_days * 86_400)
        self._max_items, self._max_bytes = im.history_items, im.history_bytes

    def sweep(self) -> bool:
        """A slice, also of a full store; True where there is more."""
        if self._sweeping:
            return True
        before_s = self._clock() // 1_000 - self._history_s
        values: Values = {}
        more = self._sweep_old(values, before_s)
        more = self._sweep_long(values, before_s) or more
        if values:
            self._sweeping = True
            self._unwritten.sweep(values, self._swept)
        return more

    def _swept(self) -> None:
        self._sweeping = False

    def _sweep_old(self, values: Values, before_s: int) -> bool:
        rows = self._unwritten.range(Db.IM_TASKS, OLD_LINES, limit=_SLICE)
        for task, _ in rows:
            at_s, user = parse_task_key(task)
            if at_s + self._part_s() > before_s:
                return False
            if self._remove(values, user, before_s, 0, 0):
                return True
            values[Db.IM_TASKS, task] = None
        return len(rows) == _SLICE

    def _sweep_long(self, values: Values, before_s: int) -> bool:
        rows = self._unwritten.range(Db.IM_TASKS, LONG_LOG, limit=_SLICE)
        for task, _ in rows:
            user = task[1:]
            if (Db.IM_LOGS, user) in values:
                return True  # looked at in this call: its length is known in the next
            raw = self._unwritten.get(Db.IM_LOGS, user)
            if raw is not None:
                log = parse_log_head(raw)
                lines, size = max(log.lines - self._max_items, 0), max(log.size - self._max_bytes, 0)
                if (lines or size) and self._remove(values, user, before_s, lines, size):
                    return True
            values[Db.IM_TASKS, task] = None
        return len(rows) == _SLICE

    def _remove(self, values: Values, user: bytes, before_s: int, lines: int, size: int) -> bool:
        """The oldest lines of a log: those from before then, or so many and so many bytes; True where this slice is
        full."""
        if (Db.IM_LOGS, user) in values:
            return True
        left = _SLICE - len(values)
        if left <= 0:
            return True
        raw = self._unwritten.get(Db.IM_LOGS, user)
        if raw is None:
            return False  # the user is gone
        is_over = bool(lines or size)
        gone = gone_size = 0
        rows = self._unwritten.range(Db.IM_LOG, user, limit=left)
        for key, line in rows:
            head = parse_line_head(line)
            if (gone >= lines and gone_size >= size) if is_over else head.at_s >= before_s:
                break
            gone += 1
            gone_size += len(key) + len(line)
            values[Db.IM_LOG, key] = None
            if head.seen:
                values[Db.IM_SEEN, user + head.seen] = None
        if gone:
            log = parse_log_head(raw)
            left_over = log._replace(lines=max(log.lines - gone, 0), size=max(log.size - gone_size, 0))
            values[Db.IM_LOGS, user] = build_log_head(left_over)
            self._metrics.count(Metric.IM_LINES_SWEPT, gone, label="too_many" if is_over else "too_old")
        return gone == left
