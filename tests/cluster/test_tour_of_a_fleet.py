"""`heliograph tour K`: every row holds, and nothing is left running."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def test_a_fleet_keeps_what_it_promises_whatever_dies() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", "tour", "K", "--devices", "2", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, noise = await process.communicate()
    assert process.returncode == 0, noise.decode()
    rows = json.loads(said)
    assert list(rows) == ["K1", "K2", "K3", "K4", "K5"]
    assert [row["ok"] for row in rows.values()] == [True] * 5
    figures = rows["K3"]["figures"]
    assert [figures[name] for name in ("pending", "lost", "shown twice")] == ["0", "0", "0"]
    assert figures["accepted"] == figures["acked"]
