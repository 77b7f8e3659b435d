"""Takes the named figures one after another; a figure that fails does not keep the others from being taken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.system.figures import Figure, Run, build_failure, build_record
from bench.system.stage import BenchFailed, open_files

#: a short run of one figure ends by itself long before; this is for a program that hangs
MOST_S = 3_600.0


def take_all(figures: Sequence[Figure], *, quick: bool, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """{"P4": {"value": …, …}, …}; `say` gets a line now and then."""
    open_files()
    return {figure.id: _take(figure, quick, say) for figure in figures}


def _take(figure: Figure, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    say(f"{figure.id} {figure.what}")
    began = time.monotonic()
    run = Run(
        quick=quick, say=lambda text: say(f"{figure.id} {time.monotonic() - began:5.1f} s  {text}"), only=figure.id
    )
    try:
        measured = asyncio.run(asyncio.wait_for(figure.load()(run), MOST_S))
    except* (BenchFailed, OSError, TimeoutError) as failed:
        record = build_failure(figure, "; ".join(map(str, failed.exceptions)))
    else:
        record = build_record(figure, measured, quick)
    record["seconds"] = round(time.monotonic() - began, 1)
    return record
