"""Which pushes of one app a device has taken, told as it becomes durable; must never read further back than it began:
what was acked before a start, nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.model.outcome import State
from gateway.model.ports import Receipts

#: receipts read in one turn of the loop
SLICE = 500


class ItemAcks:
    """Control thread only. `on_acked` gets the sequence of the push."""

    def __init__(self, app: str, receipts: Receipts, on_acked: Callable[[int], None]) -> None:
        self._app = app
        self._receipts = receipts
        self._on_acked = on_acked
        self._cursor = 0
        self._reading: asyncio.Handle | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def start(self) -> None:
        self._cursor = self._receipts.last_cursor(self._app)
        self._unsubscribe = self._receipts.subscribe(self._wake)

    def close(self) -> None:
        self._unsubscribe()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _wake(self) -> None:
        if self._reading is None:
            self._reading = asyncio.get_running_loop().call_soon(self._read)

    def _read(self) -> None:
        self._reading = None
        receipts = self._receipts.after(self._app, self._cursor, SLICE)
        for receipt in receipts:
            self._cursor = receipt.cursor
            if receipt.outcome.state == State.ACKED:
                self._on_acked(receipt.outcome.notification)
        if len(receipts) == SLICE:
            self._wake()
