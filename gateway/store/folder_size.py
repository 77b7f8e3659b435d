"""Whether a partition's folder is larger than it may be: with a log its map has room to spare, so that what the log has
can always be applied, and this is the bound that accepts know of."""

from __future__ import annotations

import structlog

from gateway.store.environment import Environment

#: it is looked at after so many commits or rows, for a look goes through all databases
_COMMITS, _ROWS = 64, 8_192

log = structlog.get_logger(__name__)


class FolderSize:
    def __init__(self, environment: Environment, max_bytes: int) -> None:
        self._environment = environment
        self._max_bytes = max_bytes
        self._commits = self._rows = 0  # since it was looked at
        self.is_over = False

    def committed(self, rows: int) -> None:
        self._commits += 1
        self._rows += rows
        if self._rows < _ROWS and self._commits < _COMMITS and not self.is_over:
            return
        self._commits = self._rows = 0
        is_over = self._environment.used_bytes() > self._max_bytes
        if is_over == self.is_over:
            return
        self.is_over = is_over
        if is_over:
            log.error("partition_full", setting="store.max_bytes", consequence="pushes get 503 until rows are gone")
        else:
            log.info("partition_has_room")
