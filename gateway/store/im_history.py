"""How far the logs of IM users go back: lines that are too old or too many go, a slice at a time, the oldest first;
must never lose a log's last cursor, nor forget too early what came already.

A dedupe hash goes with its line, but not before the time for which logs are kept.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.config.im_section import Im
from gateway.metrics import Metric, Metrics
from gateway.store.im_rows import (
    LONG_LOG,
    OLD_LINES,
    OLD_SEEN,
    build_log_head,
    parse_line_head,
    parse_log_head,
    parse_task_key,
    task_key,
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
        self._max_items = im.history_items

    def sweep(self) -> bool:
        """A slice, also of a full store; True where there is more."""
        if self._sweeping:
            return True
        before_s = self._clock() // 1_000 - self._history_s
        values: Values = {}
        more = self._sweep_seen(values, before_s)
        more = self._sweep_old(values, before_s) or more
        more = self._sweep_long(values, before_s) or more
        if values:
            self._sweeping = True
            self._unwritten.sweep(values, self._swept)
        return more

    def _swept(self) -> None:
        self._sweeping = False

    def _sweep_seen(self, values: Values, before_s: int) -> bool:
        rows = self._unwritten.range(Db.IM_TASKS, OLD_SEEN, limit=_SLICE)
        for task, _ in rows:
            at_s, seen = parse_task_key(task)
            if at_s >= before_s:
                return False
            values[Db.IM_TASKS, task] = None
            values[Db.IM_SEEN, seen] = None
        return len(rows) == _SLICE

    def _sweep_old(self, values: Values, before_s: int) -> bool:
        rows = self._unwritten.range(Db.IM_TASKS, OLD_LINES, limit=_SLICE)
        for task, _ in rows:
            at_s, user = parse_task_key(task)
            if at_s + self._part_s() > before_s:
                return False
            if self._remove(values, user, before_s, 0):
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
            over = 0 if raw is None else parse_log_head(raw).lines - self._max_items
            if over > 0 and self._remove(values, user, before_s, over):
                return True
            values[Db.IM_TASKS, task] = None
        return len(rows) == _SLICE

    def _remove(self, values: Values, user: bytes, before_s: int, over: int) -> bool:
        """The oldest lines of a log: those from before then, or so many; True where this slice is full."""
        if (Db.IM_LOGS, user) in values:
            return True
        left = _SLICE - len(values)
        if left <= 0:
            return True
        raw = self._unwritten.get(Db.IM_LOGS, user)
        if raw is None:
            return False  # the user is gone
        wanted = min(left, over) if over else left
        gone = 0
        rows = self._unwritten.range(Db.IM_LOG, user, limit=wanted)
        for key, line in rows:
            head = parse_line_head(line)
            is_old = head.at_s < before_s
            if not over and not is_old:
                break
            gone += 1
            values[Db.IM_LOG, key] = None
            if head.seen and is_old:
                values[Db.IM_SEEN, user + head.seen] = None
            elif head.seen:
                values[Db.IM_TASKS, task_key(OLD_SEEN, head.at_s, user + head.seen)] = b""
        if gone:
            log = parse_log_head(raw)
            values[Db.IM_LOGS, user] = build_log_head(log._replace(lines=max(log.lines - gone, 0)))
            self._metrics.count(Metric.IM_LINES_SWEPT, gone, label="too_many" if over else "too_old")
        return gone == wanted and (not over or gone < over)
