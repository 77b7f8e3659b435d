"""The floor of durable accepts: rows a second appended to LMDB by py-lmdb, 100 bytes each, on the same disk, with a
synced commit for every thousand.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import lmdb

ROW_BYTES = 100
ROWS_A_COMMIT = 1_000


def appended_rows_per_s(folder: Path | None = None, *, seconds: float = 3.0) -> float:
    """Of about so many seconds; `folder` on the disk that is meant."""
    value = bytes(range(ROW_BYTES))
    with tempfile.TemporaryDirectory(prefix="heliograph-rows-", dir=folder) as place:
        environment = lmdb.open(place, map_size=1 << 33, meminit=False)
        rows = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            with environment.begin(write=True) as txn:
                put = txn.put
                for number in range(rows, rows + ROWS_A_COMMIT):
                    put(number.to_bytes(8, "big"), value, append=True)
            rows += ROWS_A_COMMIT
        took = time.perf_counter() - began
        environment.close()
    return rows / took
