"""One download as it is being carried out, and what of it is written down; must never claim a command that no authentic
answer spoke for.

Progress is written at once where a packet of it could be executed twice otherwise, and at most once a second where a
plan makes sure that none is (gateway.cards.transfer): a crash then loses what was learnt, and not what was done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from gateway.model.cards import Download, DownloadRecords, DownloadStep, Payload
from gateway.model.errors import GatewayError

_log = structlog.get_logger(__name__)

#: lines of history that are kept
MOST_STEPS = 32
#: what is no try, and may come for as long as a download is tried
_PAUSES = ("later", "notice_later")
#: between two answers of a card that is busy
_BETWEEN_BUSY = ("called", "retry", *_PAUSES)
#: progress that a plan covers is written so often
WRITE_EVERY_MS = 1_000


class Progress:
    """Control thread only. `clock`: Unix ms."""

    def __init__(
        self, download: Download, payload: Payload, records: DownloadRecords, clock: Callable[[], int]
    ) -> None:
        self.download = download
        self.payload = payload
        self._records, self._clock = records, clock
        self._written_ms = 0
        #: no further command is to be begun
        self.is_stopping = False

    @property
    def commands(self) -> tuple[bytes, ...]:
        return self.payload.commands

    @property
    def is_done(self) -> bool:
        return self.download.done >= len(self.payload.commands)

    def step(self, what: str, detail: str = "") -> None:
        """One more line. Of a pause that follows the same pause the newer one is kept: an SMSC that is down for a day
        must not push all else out."""
        steps = self.download.steps
        if what in _PAUSES and [step.what for step in steps[-2:]] == [what, "retry"]:
            steps = steps[:-2]
        self.set(steps=(*steps, DownloadStep(self._clock(), what, detail))[-MOST_STEPS:])

    def count_busy(self) -> int:
        """How often in a row the card said that it is, as far back as the history goes."""
        count = 0
        for step in reversed(self.download.steps):
            if step.what == "busy":
                count += 1
            elif step.what not in _BETWEEN_BUSY:
                break
        return count

    def set(self, **changes: Any) -> None:
        """Not written yet."""
        self.download = msgspec.structs.replace(self.download, **changes)

    def write(self) -> asyncio.Future[None] | None:
        """None: the store takes nothing now. It is written with the next change then, or learnt again."""
        self._written_ms = self._clock()
        try:
            written = self._records.change(self.download)
        except GatewayError as error:
            _log.warning("card_download_not_written", error=error.name)
            return None
        written.add_done_callback(_look_at)
        return written

    def executed(self, commands: int, *, planned: bool) -> None:
        """So many further commands, as the card says."""
        if not commands:
            return
        self.set(done=self.download.done + commands, tries=0)
        if not planned or self._clock() - self._written_ms >= WRITE_EVERY_MS:
            self.write()


def _look_at(written: asyncio.Future[None]) -> None:
    if not written.cancelled() and written.exception() is not None:
        _log.warning("card_download_not_written", error=type(written.exception()).__name__)
