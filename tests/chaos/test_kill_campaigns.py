"""`kill -9` of a campaign at random moments, and a start on the same store each time: in the end every card that fits
took part once, was over once, has one line in the receipts feed, and the campaign's counts are those of the rows.

The moments come from a seed, printed with every failure; CHAOS_SEED repeats one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

CARDS = 12_000
KILLS = 12
PROGRAM = Path(__file__).with_name("chaos_campaign.py")


async def run(
    folder: Path, seed: int, commit_ms: float, kill_after_s: float | None, word: str = "go"
) -> list[dict[str, Any]]:
    """What it said. None: until it ends by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        str(folder),
        str(seed),
        str(commit_ms),
        str(CARDS),
        word,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    said: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(kill_after_s if kill_after_s is not None else 120):
            async for line in process.stdout:
                said.append(json.loads(line))
    except TimeoutError:
        assert kill_after_s is not None, "it did not end"
        process.kill()
    _, trouble = await process.communicate()
    if process.returncode != -9:
        assert process.returncode == 0, trouble.decode()
    return said


@pytest.fixture
def rng() -> random.Random:
    given = os.environ.get("CHAOS_SEED")
    seed = int(given) if given else random.SystemRandom().randrange(1 << 32)
    print(f"CHAOS_SEED={seed}")
    return random.Random(seed)


async def kill_until_over(folder: Path, rng: random.Random, word: str, longest_s: float) -> dict[str, Any]:
    """The last thing it said."""
    killed = 0
    said: list[dict[str, Any]] = []
    for _ in range(KILLS):
        # the first one before anybody can be done, however fast the machine is
        kill_after_s = rng.uniform(0.5, longest_s) if killed else rng.uniform(0.2, 0.4)
        said = await run(folder, rng.randrange(1 << 32), rng.choice((0.2, 2, 40)), kill_after_s, word)
        if said and "truth" in said[-1]:
            break
        killed += 1
    else:
        said = await run(folder, 1, 1, None, word)
    print(f"killed {killed} times")
    assert killed > 0
    return said[-1]


def check(end: dict[str, Any]) -> None:
    assert end["results"] == end["truth"]
    assert sum(end["results"].values()) == end["participants"] == end["cards"]
    assert end["receipts"] == [end["participants"], 1, True]


async def test_a_campaign_that_is_killed_again_and_again_loses_nobody_and_counts_nobody_twice(
    tmp_path: Path, rng: random.Random
) -> None:
    end = await kill_until_over(tmp_path / "store", rng, "go", 1.6)
    check(end)
    assert (end["state"], end["participants"]) == ("DONE", CARDS * 3 // 4)


async def test_one_that_is_killed_while_it_is_stopped_ends_stopped(tmp_path: Path, rng: random.Random) -> None:
    folder = tmp_path / "store"
    for _ in range(rng.randrange(1, 4)):
        said = await run(folder, rng.randrange(1 << 32), 2, rng.uniform(0.9, 1.6))
        assert not said or "truth" not in said[-1]
    end = await kill_until_over(folder, rng, "stop", 0.9)
    check(end)
    assert end["state"] == "STOPPED"
