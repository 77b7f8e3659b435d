"""A tour that is told to end in the middle of a row ends every program that it started, and leaves no folder behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from needs import needs

from gateway.tour.operator import diameter_relay, osmo

pytestmark = [pytest.mark.slow, needs(osmo.NEEDED | diameter_relay.NEEDED)]


def running_in(folder: Path) -> list[str]:
    """Command lines that name something in this folder."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = each.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_nothing_is_left(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway.cli", "tour", "C7", "--devices", "1"]
    with (tmp_path.parent / f"{number.name}.log").open("wb") as log:
        tour = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(tmp_path)}
        )
    async with asyncio.timeout(60):
        # two gateways, the network's servers, and the one that starts last
        while not any("freeDiameterd" in words for words in running_in(tmp_path)):
            assert tour.returncode is None
            await asyncio.sleep(0.02)
        assert len(running_in(tmp_path)) >= 6
        tour.send_signal(number)
        assert await tour.wait() == 128 + number
    assert running_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
